"""The Dask side of a sweep: a cluster, its workers, and the points that they work off."""

import collections
import contextlib
import importlib.util
import json
import logging
import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from tools.execute import RunError
from tools.run import NOTEBOOKS, fingerprint
from tools.sweep import point as sweep_point
from tools.sweep.grid import Point
from tools.sweep.progress import Progress, reason
from utils import runs

BYTES = 3 * 10 ** 9  # of memory that a point may need: TensorFlow, the photos, the training
GONE = "The scheduler is gone. Start one; the same command then goes on, and finished points are kept."
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def require() -> None:
    """Raise RunError where dask.distributed is not installed."""
    if importlib.util.find_spec("distributed") is None:
        raise RunError("Sweeps need dask.distributed, which is not installed here: "
                       "python -m pip install -r requirements/extra.txt")


def gpus() -> list[str]:
    """Return the numbers of the NVIDIA GPUs that this process may use, without starting TensorFlow."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name not in ("", "-1")]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
        return re.findall(r"(?m)^GPU (\d+):", listed)
    return []


def cores() -> int:
    """Return the cores that this process, in its container, may use."""
    from dask.system import CPU_COUNT
    return CPU_COUNT


def workers_here(points: int) -> int:
    """Return how many points to run at once on this machine: one per GPU; without any, one per core that has memory."""
    from distributed.system import MEMORY_LIMIT
    return max(1, min(points, len(gpus()) or min(cores(), MEMORY_LIMIT // BYTES)))


def share_of(workers: int) -> dict[str, str]:
    """Return variables that give a process its share of this machine's cores and, of a GPU, what it needs."""
    threads = max(1, cores() // workers)
    return {"TF_FORCE_GPU_ALLOW_GROWTH": "true", **{name: os.environ.get(name, str(threads)) for name in THREADS}}


def check_address(scheduler: str) -> None:
    """Raise RunError unless a Dask client can be given this address; starts no client, and so no thread."""
    from distributed.comm.addressing import parse_address, parse_host_port
    from distributed.comm.registry import get_backend

    try:
        scheme, location = parse_address(scheduler)
        get_backend(scheme)
        parse_host_port(location)
    except ValueError as error:
        raise RunError(f"--scheduler {scheduler}: {error}; expected an address such as tcp://10.0.0.1:8786.") from None


@contextlib.contextmanager
def connect(scheduler: str, workers: int) -> Iterator:
    """Yield a Dask client: of the scheduler at an address, or else of a cluster of `workers` on this machine."""
    from distributed import Client, LocalCluster

    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # what matters, the sweep says itself
    with contextlib.ExitStack() as stack:
        if not scheduler:
            # Ports of the system's choice, and no dashboard: nothing that another sweep could have taken.
            cluster = LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1",
                                   dashboard_address=None, memory_limit=0, silence_logs=logging.CRITICAL + 1)
            yield stack.enter_context(Client(stack.enter_context(cluster)))
            return
        check_address(scheduler)
        try:
            client = stack.enter_context(Client(scheduler, timeout=10))
            client.wait_for_workers(1, timeout=30)
        except (TimeoutError, AssertionError):  # AssertionError: Client's own thread did not start
            raise RunError(f"--scheduler {scheduler}: no scheduler answered within 10 s, or none of its workers within "
                           "30. Start them with `dask scheduler` and `dask worker ADDRESS --nthreads 1`.") from None
        except (OSError, ValueError) as error:
            raise RunError(f"--scheduler {scheduler}: cannot be reached ({error}).") from None
        yield client


def check_workers(client, folder: Path, paths: Iterable[Path]) -> None:
    """Raise RunError that says of each worker why it cannot run points: no repository, other code, no shared folder."""
    token = folder / f".{uuid.uuid4().hex}"
    token.touch()
    try:
        found = client.run(sweep_point.probe, str(folder), token.name,
                           {name_for_workers(path): fingerprint(path) for path in paths}, on_error="return")
    finally:
        token.unlink()
    complaints = []
    for address, said in found.items():
        if isinstance(said, Exception):
            said = f"cannot import this repository ({said}): run `python -m pip install -e .` in its clone there"
        complaints += [f"worker {address} {said}."] if said else []
    if complaints:
        raise RunError("\n".join(complaints))


def name_for_workers(path: Path) -> str:
    """Return what a worker knows a notebook by: its name in the worker's own clone, or where it lies."""
    return path.stem if path.parent == NOTEBOOKS else str(path)


def results(client, points: Iterable[Point], arguments: list[str], environment: dict[str, str], devices: list[str],
            progress: Progress) -> Iterator[tuple[Point, str]]:
    """Yield each point as it ends, and why it failed ("" if it did not); as many run at once as there are workers.

    arguments, environment, devices: see `sweep_point.run_point`. Broken off, the running points are stopped.
    """
    waiting, running, topic = collections.deque(points), {}, f"sweep-{uuid.uuid4().hex}"
    client.subscribe_topic(topic, progress.event)

    def submit(point: Point):
        given = [text for name, value in point.given.items() for text in ("-p", f"{name}={json.dumps(value)}")]
        progress.begin(point)
        return client.submit(sweep_point.run_point, str(point.folder), [*arguments, *given], environment, devices,
                             topic, pure=False)

    try:
        while waiting or running:
            workers = _workers(client)
            # No more than run at once: a point that waited on a lost worker would be blamed with the one that ran.
            while waiting and len(running) < sum(workers.values()):
                future = submit(waiting[0])
                running[future] = waiting.popleft()
            for future in [future for future in running if future.done()]:
                yield running[future], _outcome(future, running[future].folder)
                del running[future]
            progress.show(len(waiting), workers)
            time.sleep(0.2)
    finally:
        _stop(running)


def _workers(client) -> dict[str, int]:
    """Return address -> threads of the workers that are there; raises RunError when the scheduler is not."""
    try:
        return client.nthreads()
    except OSError:
        raise RunError(GONE) from None


def _outcome(future, folder: Path) -> str:
    from distributed import KilledWorker

    if future.status == "cancelled":
        raise RunError(GONE)
    try:
        return reason(folder, *future.result())
    except KilledWorker as error:
        return f"its worker was lost, {error.allowed_failures + 1} times; does it need more memory than there is?"
    except Exception as error:  # of a worker that cannot run it
        return f"{type(error).__name__}: {error}"


def _stop(running: dict) -> None:
    """Cancel the running points and wait until their processes have ended, which frees their folders."""
    for future in running:
        future.cancel()
    end = time.monotonic() + sweep_point.GRACE
    for point in running.values():
        while point.folder.exists() and time.monotonic() < end:
            with contextlib.suppress(RuntimeError), runs.lock(point.folder):
                break
            time.sleep(0.2)
