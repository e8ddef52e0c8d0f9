"""How far a long job is, for people who wait."""

import sys
import time

CELLS = 24  # of the bar


def bar(label, delay=0.0, stream=None):
    """Return a function of (done, total) that reports the progress of a job to `stream` (stderr).

    A job that takes less than `delay` seconds reports nothing. Not on a terminal, it prints a line
    every ten seconds and a last one.
    """
    stream = stream or sys.stderr
    live, started = stream.isatty(), time.monotonic()
    reported, pause = started, 0.1 if live else 10.0

    def report(done, total):
        nonlocal reported
        now = time.monotonic()
        if now - started < delay or (done < total and now - reported < pause):
            return
        reported = now
        filled = "#" * (CELLS * done // max(total, 1))
        start, cells = ("\r", f"[{filled:.<{CELLS}}] ") if live else ("", "")
        print(f"{start}{label}: {cells}{done} of {total}, {now - started:.0f} s",
              end="" if live and done < total else "\n", file=stream, flush=True)

    return report
