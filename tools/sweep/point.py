"""One point of a sweep, as a Dask worker runs it: in a process that ends with the worker.

`python -m tools.sweep.point ...` is `python -m tools.run ...` that also stops, with its kernel,
when its standard input is closed: the system closes it however the worker ends.
"""

import _thread
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from utils import runs

GRACE = 20.0  # seconds that a notebook gets to stop by itself


def run_point(folder: str, arguments: list[str], environment: dict[str, str], gpus: list[str],
              stop: str) -> str:
    """Run notebooks into `folder` as a task of a Dask worker; return why that failed, or "".

    arguments: of `python -m tools.run`, without the folder. environment: variables of the process.
    gpus: those that the workers, which are then numbered, divide among them. stop: the name of a
    Dask event; once it is set, the process is stopped. Its output is added to sweep.log.
    """
    from distributed import Event, get_worker

    if not Path(folder).is_dir():
        return (f"a worker does not see {folder}: sweep into a folder that all machines share, "
                "under the same path (--run-dir)")
    if gpus:
        number = int(get_worker().name) % len(gpus)
        environment = environment | {"CUDA_VISIBLE_DEVICES": gpus[number]}
    wait_until_free(folder)  # the process of a lost worker may still be ending
    command = [sys.executable, "-m", "tools.sweep.point", *arguments, "--run-dir", folder]
    variables = os.environ | {"PYTHONIOENCODING": "utf-8"} | environment
    log = Path(folder) / "sweep.log"
    before = log.stat().st_size if log.exists() else 0
    # Leaving the block closes the process's input and waits for its end.
    with open(log, "ab") as file, subprocess.Popen(
            command, cwd=runs.ROOT, env=variables, stdin=subprocess.PIPE, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True) as process:
        stopped = Event(stop)
        while process.poll() is None and not stopped.wait(timeout=1):
            pass
    return reason(process.returncode, log.read_bytes()[before:].decode(errors="replace"))


def wait_until_free(folder: str | Path, seconds: float = 2 * GRACE) -> None:
    """Wait until no process writes into a run folder, or so many seconds have passed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(RuntimeError), runs.lock(folder):
            return
        time.sleep(0.2)


def reason(code: int, text: str) -> str:
    """Return why a run failed, in a sentence with notebook and cell; "" if it did not.

    code, text: the exit code of its process and what it printed.
    """
    if code == 0:
        return ""
    if code < 0:
        return f"its process was killed (signal {-code}); often the machine ran out of memory"
    report = re.search(r"(?s)Notebook (\S+) failed in ([^\n]+):\n\n.*?\n\n([^\n]+)", text)
    if report:
        return "notebook {}, {}: {}".format(*report.groups())
    said = text.strip().rpartition("\n\n")[2]
    if "Traceback" in said:
        said = said.splitlines()[-1]
    return " ".join(said.split()) or f"its process ended with exit code {code}"


def _stop_with_parent() -> None:
    """Wait until standard input is closed; then interrupt the run, and end it if it goes on."""
    os.read(0, 1)
    _thread.interrupt_main()
    time.sleep(GRACE)
    os._exit(1)


def main() -> int:
    """Run notebooks as tools.run does, until they end or standard input is closed."""
    from tools import run

    # Background jobs ignore SIGINT, and so would their kernels.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    return run.main()


if __name__ == "__main__":
    sys.exit(main())
