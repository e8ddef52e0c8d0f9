"""Train one network on several devices: each takes its part of every batch.

Environment variables choose the devices, so that one command runs on one device and on many:

- FCN_DEVICES=all: all GPUs of this machine (or TPU cores, under JAX). Without it, one.
- FCN_PROCESSES=n, FCN_PROCESS=i, FCN_COORDINATOR=host:port, with KERAS_BACKEND=jax: this is
  process i of n, counted from 0, each with all devices of its machine. Every process runs the same
  command on the same data. The address is one of process 0's machine, with a free port.

JAX sees one batch on several devices: loss, gradients and batch normalization are those of one
device, but for rounding. TensorFlow takes the mean of the devices' mean losses and normalizes each
part by itself: not equal. Under both, scores count each photo once. A last batch is filled up as in
`pipeline.fill`, and counts with its filled size in the mean loss of an epoch.
"""

import contextlib
import dataclasses
import os
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from utils import runs, training

CHUNK = 2**26  # bytes that are sent at once


def train(dataset, recipe, run_dir, **options):
    """Call `training.train` with these arguments, on all devices that the environment names.

    Of several processes, process 0 alone keeps files in `run_dir` and prints; the others write to
    a temporary folder (in TMPDIR), which is deleted. Returns the same `Trained` in all of them.
    Raises, beside what `training.train` raises, ValueError for faulty environment variables, and
    RuntimeError if process 0 cannot be reached or another process cannot train.
    """
    join()
    process, processes = processes_together()
    devices = count_devices()
    if processes == 1:
        return training.train(dataset, recipe, run_dir, scope=scope(), devices=devices, **options)
    with contextlib.ExitStack() as stack:
        folder = runs.choose_folder(run_dir)
        path = folder / "model.keras"
        if process > 0:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silence))
        meeting = Meeting(folder / "training" / "state.npz")
        try:
            trained = training.train(dataset, recipe, folder, scope=meeting, devices=devices,
                                     share=lambda batch: part(batch, process, processes), **options)
        except Exception as error:
            meeting.cancel(error)
            raise
        _texts_of_all("")  # process 0 has written its files when the others return
    return dataclasses.replace(trained, path=path)


def join():
    """Make this process one of FCN_PROCESSES, and wait up to 300 seconds for the others.

    Does nothing without that variable. To be called before JAX computes anything. Raises
    ValueError for variables that are missing or wrong, RuntimeError if process 0 cannot be
    reached.
    """
    if not os.environ.get("FCN_PROCESSES"):
        return
    processes, process = _number("FCN_PROCESSES", 1), _number("FCN_PROCESS", 0)
    address = os.environ.get("FCN_COORDINATOR", "")
    host, _, port = address.rpartition(":")
    if process >= processes:
        raise ValueError(f"FCN_PROCESS is {process}; with FCN_PROCESSES={processes} expected 0 to "
                         f"{processes - 1}.")
    if not (host and port.isdecimal()):
        raise ValueError(f"FCN_COORDINATOR is {address!r}; expected host:port, an address of "
                         "process 0's machine with a free port, the same in all processes.")
    if not _on_jax():
        raise ValueError(f"FCN_PROCESSES={processes} needs KERAS_BACKEND=jax; this is "
                         f"{keras.backend.backend()}. All GPUs of one machine work with "
                         "TensorFlow too: FCN_DEVICES=all.")
    import jax

    if jax.distributed.is_initialized():
        return
    try:
        keras.distribution.initialize(address, processes, process)
    except RuntimeError as error:
        raise RuntimeError(f"process {process} of {processes} cannot join the others at {address} "
                           f"({str(error).splitlines()[0]}). Restart all processes.") from None


def processes_together():
    """Return (this process' number, from 0, and how many train together)."""
    if not (_on_jax() and os.environ.get("FCN_PROCESSES")):
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def count_devices():
    """Return how many devices share each batch, those of all processes together."""
    if not _several_devices():
        return 1
    if _on_jax():
        import jax

        return jax.device_count()
    return len(_tensorflow_devices())


def part(batch, process, processes):
    """Return what process `process` of `processes` takes of an array over a batch's photos."""
    return np.array_split(batch, processes)[process]


@contextlib.contextmanager
def scope():
    """Build, compile and fit networks in this context on all devices that the environment names."""
    if count_devices() == 1:
        yield
    elif _on_jax():
        devices = keras.distribution.list_devices()
        mesh = keras.distribution.DeviceMesh((len(devices),), ["batch"], devices)
        with keras.distribution.DataParallel(device_mesh=mesh, auto_shard_dataset=False).scope():
            yield
    else:
        names = [device.name for device in _tensorflow_devices()]
        with tf.distribute.MirroredStrategy(names).scope():
            yield


class Meeting:
    """The scope in which several processes train: entered when all of them are ready.

    state: the path of the state file, which each gets from process 0 on entering. Raises
    RuntimeError on entering if another process has called `cancel`, that is, cannot train.
    """

    def __init__(self, state):
        self.state, self.entered, self._scope = state, False, scope()

    def __enter__(self):
        self.entered = True
        for process, message in enumerate(_texts_of_all("")):
            if message:
                raise RuntimeError(f"process {process} cannot train: {message}")
        _copy_from_first(self.state)
        return self._scope.__enter__()

    def __exit__(self, *error):
        return self._scope.__exit__(*error)

    def cancel(self, error):
        """Tell those that wait to enter that this process never will; once entered, do nothing."""
        if not self.entered:
            _texts_of_all(str(error) or type(error).__name__)


def _texts_of_all(text):
    """Return the texts of all processes, which call this together: 2,000 bytes of each."""
    from jax.experimental import multihost_utils

    own = np.frombuffer(text.encode()[:2000].ljust(2000, b"\0"), np.uint8)
    rows = multihost_utils.process_allgather(own)
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def _copy_from_first(file):
    """Give all processes, which call this together, a copy of process 0's file, if it has one."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    first = processes_together()[0] == 0
    size = file.stat().st_size if first and file.is_file() else 0
    chunks, rest = (int(count) for count in broadcast_one_to_all(np.int32(divmod(size, CHUNK))))
    lengths = [CHUNK] * chunks + ([rest] if rest else [])
    if not lengths:
        return
    with open(file, "rb" if first else "wb") as stream:
        for length in lengths:
            data = stream.read(length) if first else bytes(length)
            received = np.asarray(broadcast_one_to_all(np.frombuffer(data, np.uint8)))
            if not first:
                stream.write(received.tobytes())


def _several_devices():
    devices = os.environ.get("FCN_DEVICES", "")
    if devices not in ("", "one", "all"):
        raise ValueError(f'FCN_DEVICES is {devices!r}; expected "all" or "one".')
    return devices == "all" or bool(os.environ.get("FCN_PROCESSES"))


def _tensorflow_devices():
    return tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")


def _on_jax():
    return keras.backend.backend() == "jax"


def _number(name, least):
    text = os.environ.get(name, "")
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"{name} is {text!r}; expected a whole number from {least}.")
    return int(text)
