"""The Dask side of a sweep: a cluster of workers, here or elsewhere, that run its points."""

import contextlib
import importlib.util
import json
import logging
import os
import re
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.execute import RunError
from tools.run import NOTEBOOKS
from tools.sweep.grid import Point
from tools.sweep.point import run_point, wait_until_free

BYTES = 3 * 10**9  # of memory that a point may need: TensorFlow, the photos, the training
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def gpus() -> list[str]:
    """Return the numbers of the NVIDIA GPUs that this process may use; starts no TensorFlow."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        names = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        return [name for name in names if name not in ("", "-1")]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30,
                                check=True)
        return re.findall(r"(?m)^GPU (\d+):", listed.stdout)
    return []


def cores() -> int:
    """Return the cores that this process, in its container, may use."""
    from dask.system import CPU_COUNT
    return CPU_COUNT


def workers_here(points: int) -> int:
    """Return how many points to run at once: one per GPU, else one per core with memory."""
    from distributed.system import MEMORY_LIMIT
    return max(1, min(points, len(gpus()) or min(cores(), MEMORY_LIMIT // BYTES)))


def share_of(workers: int) -> dict[str, str]:
    """Return variables that give a process its share of the cores, and of a GPU what it needs."""
    threads = str(max(1, cores() // workers))
    return {"TF_FORCE_GPU_ALLOW_GROWTH": "true",
            **{name: os.environ.get(name, threads) for name in THREADS}}


def check_address(scheduler: str) -> None:
    """Raise RunError unless a Dask client can be given this address; starts no thread."""
    from distributed.comm.addressing import parse_address, parse_host_port
    from distributed.comm.registry import get_backend

    try:
        scheme, location = parse_address(scheduler)
        get_backend(scheme)
        parse_host_port(location)
    except ValueError as error:
        raise RunError(f"--scheduler {scheduler}: {error}; expected an address such as "
                       "tcp://10.0.0.1:8786.") from None


@contextlib.contextmanager
def connect(scheduler: str, workers: int) -> Iterator:
    """Yield a Dask client: of the scheduler at an address, or of `workers` on this machine."""
    if importlib.util.find_spec("distributed") is None:
        raise RunError("Sweeps need dask.distributed, which is not installed here: "
                       "python -m pip install -r requirements/extra.txt")
    from distributed import Client, LocalCluster

    for name in logging.root.manager.loggerDict:
        if name.split(".")[0] == "distributed":  # the sweep reports what matters
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    if not scheduler:
        # Free ports and no dashboard: nothing that another sweep could have taken.
        with LocalCluster(n_workers=workers, threads_per_worker=1, host="127.0.0.1", memory_limit=0,
                          dashboard_address=None, silence_logs=logging.CRITICAL + 1) as cluster:
            with Client(cluster) as client:
                yield client
        return
    check_address(scheduler)
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(Client(scheduler, timeout=10))
            client.wait_for_workers(1, timeout=30)
        except (OSError, AssertionError):  # AssertionError: Client's own thread did not start
            raise RunError(f"--scheduler {scheduler}: no scheduler answered within 10 s, or none "
                           "of its workers within 30. Start them with `dask scheduler` and "
                           "`dask worker ADDRESS --nthreads 1`.") from None
        yield client


def results(points: Sequence[Point], paths: Sequence[Path], scheduler: str, workers: int,
            timeout: int | None) -> Iterator[tuple[Point, str]]:
    """Yield each point as it ends, and why it failed, or ""; as many run at once as workers.

    A point whose worker is lost runs again on another. Closed before its end, or interrupted,
    the generator stops the running points.
    """
    workers = workers or (0 if scheduler else workers_here(len(points)))
    environment, devices = ({}, []) if scheduler else (share_of(workers), gpus())
    # A worker elsewhere has its own clone of the repository.
    arguments = [path.stem if path.parent == NOTEBOOKS else str(path) for path in paths]
    if timeout:
        arguments += ["--timeout", str(timeout)]
    with connect(scheduler, workers) as client:
        from distributed import Event, as_completed

        stop = Event(f"stop-{uuid.uuid4().hex}", client=client)
        futures = {}
        try:
            for point in points:
                point.folder.mkdir(exist_ok=True)
                given = [f"{name}={json.dumps(value)}" for name, value in point.given.items()]
                words = [word for text in given for word in ("-p", text)]
                future = client.submit(run_point, str(point.folder), [*arguments, *words],
                                       environment, devices, stop.name, pure=False)
                futures[future] = point
            for future in as_completed(futures):
                yield futures[future], _outcome(future)
        finally:
            _stop(stop, futures)


def _outcome(future) -> str:
    """Return what `run_point` has returned, or why no worker could run it."""
    from distributed import KilledWorker

    if future.status in ("cancelled", "lost"):
        raise RunError("The scheduler is gone. Start one; the same command then continues, and "
                       "finished points are kept.")
    try:
        return future.result()
    except KilledWorker as error:
        return (f"its worker was lost, {error.allowed_failures + 1} times; does it need more "
                "memory than there is?")
    except Exception as error:  # of a worker that cannot run it
        return f"{type(error).__name__}: {error}"


def _stop(event, futures: dict) -> None:
    """Stop the points that still run, and wait until their folders are free."""
    running = [point for future, point in futures.items() if future.status == "pending"]
    if not running:
        return
    with contextlib.suppress(Exception):  # the scheduler may be gone: then its workers stop them
        event.client.cancel([future for future in futures if future.status == "pending"])
        event.set()
    for point in running:
        wait_until_free(point.folder)
