"""How far a long job is, for people who wait."""

import sys
import time

CELLS = 24  # of the bar
# from one report to the next: on a terminal, and where lines pile up
SECONDS = {True: 0.1, False: 10.0}


def bar(label, delay=0.0, stream=None):
    """Return a function of (done, total) that reports the progress of a job to `stream` (stderr).

    label: such as "reading pairs". delay: seconds; a job that takes less reports nothing. Not on a
    terminal, it prints a line every ten seconds and a last one.
    """
    stream = stream or sys.stderr
    live, started = stream.isatty(), time.monotonic()
    reported = started

    def report(done, total):
        nonlocal reported
        now = time.monotonic()
        if now - started < delay or (done < total and now - reported < SECONDS[live]):
            return
        reported = now
        filled = CELLS * done // max(total, 1)
        cells = f"[{'#' * filled}{'.' * (CELLS - filled)}] " if live else ""
        start, end = ("\r", "" if done < total else "\n") if live else ("", "\n")
        print(f"{start}{label}: {cells}{done} of {total}, {now - started:.0f} s", end=end,
              file=stream, flush=True)

    return report
