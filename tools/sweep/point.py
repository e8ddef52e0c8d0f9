"""One point of a sweep: what a Dask worker does with it, and the process that it does it in.

`python -m tools.sweep.point ...` is `python -m tools.run ...` that stops, with its kernel, when its standard input is
closed: the worker holds the other end, and the system closes it however the worker ends.
"""

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from utils import runs

IN_USE = "is in use: another process writes there"  # as runs.lock says it
GRACE = 20.0  # seconds that a notebook gets to stop by itself
PATIENCE = 60.0  # seconds that a point waits for the process that had it before


def probe(folder: str, token: str, fingerprints: dict[str, str]) -> str:
    """Return why this worker cannot run points in `folder`, "" if it can.

    token: a file that the sweep has just written there. fingerprints: notebook -> hash of its code and of utils/.
    """
    if not (Path(folder) / token).is_file():
        return f"does not see {folder}: sweep into a folder that all machines share, under the same path (--run-dir)"
    from tools import run  # starts papermill, which the process of a point does for itself

    try:
        here = {name: run.fingerprint(run.find_notebooks([name])[0]) for name in fingerprints}
    except run.RunError as error:
        return str(error)
    differs = ", ".join(name for name in here if here[name] != fingerprints[name])
    return differs and f"has another version of {differs} or of utils/: bring its clone of the repository up to date"


def run_point(folder: str, arguments: list[str], environment: dict[str, str], gpus: list[str],
              topic: str) -> tuple[int, list[str]]:
    """Run notebooks into `folder`, in a process of their own, as a task of a Dask worker.

    arguments: of `python -m tools.run`, without the folder. environment: variables set for the process. gpus: those
    that the workers, numbered from 0, share out among them. topic: where an event {folder, begins} names the worker as
    it begins, and an event {folder, line} tells each line that the process prints. Returns the exit code and all lines.
    A task that is cancelled stops its process.
    """
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()
    if gpus:
        environment = environment | {"CUDA_VISIBLE_DEVICES": gpus[int(worker.name) % len(gpus)]}

    def report(line: str) -> None:
        worker.log_event(topic, {"folder": folder, "line": line})

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state in ("executing", "long-running", "resumed")

    worker.log_event(topic, {"folder": folder, "begins": worker.address})
    started = time.monotonic()
    while True:
        code, lines = attempt(folder, arguments, environment, report, wanted)
        # The lost worker's process ends in its own time; this one takes over.
        held = code and any(IN_USE in line for line in lines) and time.monotonic() - started < PATIENCE
        if not held or not wanted():
            return code, lines
        time.sleep(1)


def attempt(folder: str, arguments: Iterable[str], environment: dict[str, str], report: Callable[[str], None],
            wanted: Callable[[], bool]) -> tuple[int, list[str]]:
    """Run the process of a point while `wanted` says so; return its exit code and what it printed."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tools.sweep.point", *arguments, "--run-dir", folder]
    lines: list[str] = []
    with subprocess.Popen(command, cwd=runs.ROOT, env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          encoding="utf-8", errors="replace", start_new_session=True) as process:
        reader = threading.Thread(target=_read, args=(process.stdout, Path(folder) / "sweep.log", lines, report))
        reader.start()
        while _runs_on(process, 0.5) and wanted():
            pass
        process.stdin.close()
        if _runs_on(process, GRACE + 5):
            process.kill()
        reader.join()
    return process.returncode, lines


def _runs_on(process: subprocess.Popen, seconds: float) -> bool:
    """Return whether the process still runs after `seconds`, or False as soon as it has ended."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def _read(stream, log: Path, lines: list[str], report: Callable[[str], None]) -> None:
    with open(log, "a", encoding="utf-8") as file:
        for line in stream:
            lines.append(line.rstrip("\n"))
            file.write(line)
            file.flush()
            report(lines[-1])


def _stop_with_parent() -> None:
    """Wait until standard input is closed, then interrupt the run, and end it where that does not help."""
    os.read(0, 1)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # nobody reads them any more, and writing would fail
        os.dup2(silence, stream)
    _thread.interrupt_main()
    time.sleep(GRACE)
    os._exit(1)


def main() -> int:
    """Run notebooks as tools.run does, until they end or standard input is closed."""
    from tools import run

    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it, and so would their kernels
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    return run.main()


if __name__ == "__main__":
    sys.exit(main())
