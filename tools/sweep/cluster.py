"""The Dask side of a sweep: workers, here or elsewhere, and the points that they run.

Each point is a process, `python -m tools.sweep.cluster ...`: it does what `python -m tools.run ...`
does, and stops with its kernel when its worker ends, in whatever way.
"""

import _thread
import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools import run
from tools.execute import RunError
from tools.sweep.grid import Point
from tools.sweep.halving import score_at
from utils import runs

try:
    from dask.system import CPU_COUNT
    from distributed import Client, Event, as_completed, get_worker
    from distributed.system import MEMORY_LIMIT
except ImportError as missing:
    sys.exit(f"Sweeps need dask.distributed ({missing}): "
             "python -m pip install -r requirements/extra.txt")

BYTES = 3 * 10**9  # of memory that a point may need: TensorFlow, the photos, the training
GRACE = 20.0  # seconds that a notebook gets to stop by itself
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def run_point(folder: str, arguments: list[str], environment: dict[str, str], gpus: list[str],
              stop: str, share: float = 1) -> str:
    """Run notebooks into `folder` as a task of a Dask worker; return why that failed, or "".

    arguments: of `python -m tools.run`, without the folder. environment: variables of the process.
    gpus: those that the workers, which are then numbered, divide among them. stop: name of a Dask
    event. Once it is set, or `share`, if below 1, of the epochs trained, the process is stopped.
    """
    if not Path(folder).is_dir():
        return f"a worker does not see {folder}: sweep into a folder that all share (--run-dir)"
    if gpus:
        number = int(get_worker().name) % len(gpus)
        environment = environment | {"CUDA_VISIBLE_DEVICES": gpus[number]}
    wait_until_free(folder)  # the process of a lost worker may still be ending
    command = [sys.executable, "-m", "tools.sweep.cluster", *arguments, "--run-dir", folder]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"} | environment
    with open(Path(folder) / "sweep.log", "ab+") as log:
        before = log.seek(0, os.SEEK_END)
        # Leaving the block closes the process's input and waits for its end.
        with subprocess.Popen(command, cwd=runs.ROOT, env=environment, stdin=subprocess.PIPE,
                              stdout=log, stderr=log, start_new_session=True) as process:
            stopped, reached = Event(stop), None
            while process.poll() is None and not (reached or stopped.wait(timeout=1)):
                reached = share < 1 and score_at(Path(folder), share)
        log.seek(before)
        said = log.read().decode(errors="replace")
    return "" if reached else reason(process.returncode, said)


def wait_until_free(folder: str | Path, seconds: float = 2 * GRACE) -> None:
    """Wait until no process writes into a run folder, or so many seconds have passed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(RuntimeError), runs.lock(folder):
            return
        time.sleep(0.2)


def reason(code: int, text: str) -> str:
    """Return why a process that printed `text` failed, with notebook and cell; "" for code 0."""
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
    # Background jobs ignore SIGINT, and so would their kernels.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    return run.main()


def gpus() -> list[str]:
    """Return the numbers of the NVIDIA GPUs that this process may use; starts no TensorFlow."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is not None:
        return [name for name in names.split(",") if name not in ("", "-1")]
    with contextlib.suppress(OSError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
        return re.findall(r"(?m)^GPU (\d+):", listed.stdout)
    return []


def workers_here(points: int) -> int:
    """Return how many points to run at once: one per GPU, else one per core with memory."""
    return max(1, min(points, len(gpus()) or min(CPU_COUNT, MEMORY_LIMIT // BYTES)))


def share_of(workers: int) -> dict[str, str]:
    """Return variables that give a process its share of the cores, and of a GPU what it needs."""
    threads = str(max(1, CPU_COUNT // workers))
    share = {name: os.environ.get(name, threads) for name in THREADS}
    return share | {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}


@contextlib.contextmanager
def connect(scheduler: str, workers: int) -> Iterator:
    """Yield a Dask client: of the scheduler at an address, or of `workers` on this machine."""
    for name in logging.root.manager.loggerDict:
        if name.split(".")[0] == "distributed":  # the sweep reports what matters
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    if not scheduler:
        # Free ports: nothing that another sweep could have taken.
        with Client(n_workers=workers, threads_per_worker=1, host="127.0.0.1", memory_limit=0,
                    dashboard_address=":0", silence_logs=logging.CRITICAL + 1) as client:
            yield client
        return
    if not re.fullmatch(r"((tcp|tls|wss?|ucxx?)://)?[^/]+:\d+", scheduler):  # starts no thread
        raise RunError(f"--scheduler {scheduler}: expected an address such as tcp://10.0.0.1:8786.")
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(Client(scheduler, timeout=10))
            client.wait_for_workers(1, timeout=30)
        except (OSError, AssertionError):  # AssertionError: Client's own thread did not start
            raise RunError(f"--scheduler {scheduler}: no scheduler answered within 10 s, or none "
                           "of its workers within 30; how to start them: --help.") from None
        yield client


def results(client, points: Sequence[Point], arguments: list[str], environment: dict[str, str],
            devices: list[str], share: float = 1) -> Iterator[tuple[Point, str]]:
    """Yield each point as it ends, and why it failed, or "": see `run_point`.

    A point whose worker is lost runs again. Closed early, the generator stops those that run.
    """
    stop, futures = Event(client=client), {}
    try:
        for point in points:
            point.folder.mkdir(exist_ok=True)
            future = client.submit(run_point, str(point.folder), [*arguments, *point.options()],
                                   environment, devices, stop.name, share, pure=False)
            futures[future] = point
        for future in as_completed(futures):
            if future.status in ("cancelled", "lost"):
                raise RunError("The scheduler is gone. Start one; the same command then continues.")
            error = future.exception()  # several lost workers, or one that cannot run it
            yield futures[future], f"{type(error).__name__}: {error}" if error else future.result()
    finally:
        running = [future for future in futures if future.status == "pending"]
        if running:
            with contextlib.suppress(Exception):  # without a scheduler, workers stop them
                client.cancel(running)
                stop.set()
            for future in running:
                wait_until_free(futures[future].folder)


if __name__ == "__main__":
    sys.exit(main())
