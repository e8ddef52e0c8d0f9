"""Data-parallel training: each device takes its share of every batch, and all keep the same weights.

Chosen by environment variables, so that the same notebook or command runs on one device and on many:

- FCN_DEVICES=all: all GPUs of this machine (or TPU cores, under JAX). Without it, one.
- FCN_PROCESSES=n, FCN_PROCESS=i, FCN_COORDINATOR=host:port, with KERAS_BACKEND=jax: this is process i of n, counted
  from 0, that train together, each with all devices of its machine. Every process runs the same code on the same data
  with the same parameters. The address is one of process 0's machine, with a free port, that the others reach.

What is equal to one device. JAX sees one batch that lies on several devices: loss, gradients and batch normalization
are those of the whole batch, equal but for rounding. TensorFlow takes the mean of the devices' mean losses, which is
not the mean over all non-void pixels where shares differ in their number, and normalizes each share by its own
statistics: not equal. Under both, scores count each photo once, and last batches are filled up as `pipeline.Share`
says; in the mean loss of an epoch, which Keras weights by the batches' sizes, such a batch counts with its filled size.
"""

import contextlib
import os

import keras
import numpy as np
import tensorflow as tf

from utils.pipeline import Share


def join():
    """Make this process one of FCN_PROCESSES, which waits up to 300 seconds for the others; else do nothing.

    To be called before all computations. Raises ValueError for variables that are missing or wrong, RuntimeError if
    process 0 cannot be reached.
    """
    if _backend() == "jax":
        tf.config.set_visible_devices([], "GPU")  # the input pipeline needs none, and would take all their memory
    if not os.environ.get("FCN_PROCESSES"):
        return
    processes, process = _number("FCN_PROCESSES", 1), _number("FCN_PROCESS", 0)
    address = os.environ.get("FCN_COORDINATOR", "")
    host, _, port = address.rpartition(":")
    if process >= processes:
        raise ValueError(f"FCN_PROCESS is {process}; with FCN_PROCESSES={processes} expected 0 to {processes - 1}.")
    if not (host and port.isdecimal()):
        raise ValueError(f"FCN_COORDINATOR is {address!r}; expected host:port, an address of process 0's machine with "
                         "a free port, the same in all processes.")
    if _backend() != "jax":
        raise ValueError(f"FCN_PROCESSES={processes} needs KERAS_BACKEND=jax; this is {_backend()}. All GPUs of one "
                         "machine work with both: FCN_DEVICES=all.")
    import jax

    if jax.distributed.is_initialized():
        return
    try:
        keras.distribution.initialize(address, processes, process)
    except RuntimeError as error:
        raise RuntimeError(f"process {process} of {processes} cannot join the others at {address} "
                           f"({str(error).splitlines()[0]}). Restart all processes.") from None


def share():
    """Return the `pipeline.Share` of this process: all of every batch, unless it is one of several."""
    if _backend() == "jax" and _spread():
        import jax

        return Share(jax.process_index(), jax.process_count(), jax.device_count())
    return Share(devices=len(_gpus_or_cpus()) if _spread() else 1)


def scope():
    """Return a context in which models are built, compiled and fitted on all devices that the variables name."""
    if share().devices == 1:
        return contextlib.nullcontext()
    if _backend() != "jax":
        return tf.distribute.MirroredStrategy([device.name for device in _gpus_or_cpus()]).scope()
    devices = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((len(devices),), ["batch"], devices)
    return keras.distribution.DataParallel(device_mesh=mesh, auto_shard_dataset=False).scope()


def is_first():
    """Return whether this process writes and prints: process 0, or the only one."""
    return share().process == 0


def from_first(arrays):
    """Return process 0's arrays in all processes, which call it together with arrays of the same shapes and dtypes."""
    if share().processes == 1:
        return arrays
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(arrays)


def text_from_first(text):
    """Return process 0's text in all processes, which call it together, each with a text of its own."""
    given = np.frombuffer(text.encode(), np.uint8)
    length = int(from_first(np.int32(given.size)))
    return from_first(np.resize(given, length)).tobytes().decode()


@contextlib.contextmanager
def failing_together():
    """Around what all processes do before they train: where one raises ValueError or OSError there, all stop.

    The others raise RuntimeError with its message, instead of waiting for it in vain.
    """
    error = None
    try:
        yield
    except (ValueError, OSError) as raised:
        error = raised
    if share().processes > 1:
        from jax.experimental import multihost_utils

        own = np.frombuffer(str(error or "").encode()[:2000].ljust(2000, b"\0"), np.uint8)
        for process, message in enumerate(multihost_utils.process_allgather(own)):
            text = message.tobytes().rstrip(b"\0").decode(errors="ignore")
            if text and error is None:
                error = RuntimeError(f"process {process} cannot train: {text}")
    if error is not None:
        raise error


def wait():
    """Wait until all processes have come here."""
    if share().processes > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("utils.distributed.wait")


def _spread():
    devices = os.environ.get("FCN_DEVICES", "")
    if devices not in ("", "one", "all"):
        raise ValueError(f'FCN_DEVICES is {devices!r}; expected "all" or "one".')
    return devices == "all" or bool(os.environ.get("FCN_PROCESSES"))


def _gpus_or_cpus():
    return tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")


def _backend():
    return keras.backend.backend()


def _number(name, least):
    text = os.environ.get(name, "")
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"{name} is {text!r}; expected a whole number from {least}.")
    return int(text)
