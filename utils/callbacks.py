"""Keras callbacks: keep the state after each epoch, stop at NaN, print progress."""

import json
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
from keras import ops

from utils import runs


class Checkpoint(keras.callbacks.Callback):
    """Keep the whole state of a training run after each epoch, so that it can be killed any time.

    folder: of `state.npz`. parameters: JSON-like dict. keep: "best" keeps the epoch with best
    `val_mean_iou`, "last" the last one. `history` holds a dict per finished epoch. Raises
    ValueError if the folder's state has other parameters or cannot be read.
    """

    def __init__(self, folder, parameters, keep="best"):
        super().__init__()
        self.folder, self.keep = Path(folder), keep
        self.history, self._kept = [], []
        self.parameters = json.loads(json.dumps(parameters, default=lambda number: number.item()))
        self.state = self.folder / "state.npz"
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.state.is_file():
            before = json.loads(str(self._read("parameters")[0]))
            changed = runs.differences(before, self.parameters)
            if changed:
                raise ValueError(f"{self.folder} holds a training run with other parameters: "
                                 f"{changed}. Give another run_dir, or delete that folder.")

    @property
    def seconds(self):
        """Return the seconds that all finished epochs took."""
        return sum(epoch["seconds"] for epoch in self.history)

    def restore(self, model):
        """Put a compiled model into the last finished epoch's state; return the epochs done."""
        if not self.state.is_file():
            return 0
        variables, weights = _state_of(model), model.weights
        history, *arrays = self._read("history", *_numbered("state", variables),
                                      *_numbered("kept", weights))
        shapes = [tuple(variable.shape) for variable in [*variables, *weights]]
        if [array.shape for array in arrays] != shapes:
            raise self._damaged("its arrays do not fit the network")
        self.history, self._kept = json.loads(str(history)), arrays[len(variables):]
        for variable, array in zip(variables, arrays):
            variable.assign(array)
        print(f"resumed after epoch {len(self.history)}", flush=True)
        return len(self.history)

    def load_kept(self, model):
        """Give `model`, of the same layers, the kept weights."""
        model.set_weights(self._kept)

    def on_epoch_begin(self, epoch, logs=None):
        if keras.backend.backend() == "torch":  # its dropout has no seeds that could be kept
            keras.utils.set_random_seed(self.parameters.get("seed", 0) ^ epoch)
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}}
        row["learning_rate"] = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row["seconds"] = round(time.perf_counter() - self._begin, 3)
        best = max((old.get("val_mean_iou", -1.0) for old in self.history), default=-1.0)
        if self.keep == "last" or row.get("val_mean_iou", -1.0) > best or not self.history:
            self._kept = _copies(self.model.weights)
        self.history.append(row)
        # One file: of two, a kill between them would leave one of the epoch before.
        arrays = {"history": json.dumps(self.history), "parameters": json.dumps(self.parameters),
                  **_numbered("state", _copies(_state_of(self.model))),
                  **_numbered("kept", self._kept)}
        runs.replace(self.state, lambda temporary: np.savez(temporary, **arrays))

    def _read(self, *names):
        try:
            with np.load(self.state) as file:
                return [file[name] for name in names]
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise self._damaged(error) from None

    def _damaged(self, reason):
        return ValueError(f"{self.state} cannot be used ({reason}): it is damaged, or from another "
                          f"version. Delete {self.folder} to train again, or give another run_dir.")


class StopOnNaN(keras.callbacks.Callback):
    """End training with FloatingPointError and the likely causes if the loss is not a number."""

    def __init__(self, learning_rate):
        super().__init__()
        self.learning_rate = learning_rate

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"the loss became {float(logs['loss'])} at step {batch + 1}. Likely causes: a "
                f"learning_rate too high (now {self.learning_rate:g}; try a tenth), mixed_float16 "
                "(try float32), or masks with ids of no class. The last finished epoch is kept.")


class Progress(keras.callbacks.Callback):
    """Print loss, validation score and time left: after each validated epoch, and now and then."""

    def on_train_begin(self, logs=None):
        self._steps, self._printed = 0, time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self._step = batch + 1
        self._steps += 1
        if self._steps == 1:  # it includes building the graph, so it predicts nothing
            self._begin = time.perf_counter()
        elif time.perf_counter() - self._printed > 10:
            self._print(f"step {self._step}/{self.params['steps']}  loss {logs['loss']:.3f}")

    def on_epoch_end(self, epoch, logs=None):
        first, last = self._steps == self._step, epoch + 1 == self.params["epochs"]
        if "val_mean_iou" in logs:
            self._print(f"loss {logs['loss']:.3f}  val mean IoU {logs['val_mean_iou']:.3f}")
        elif first or last or time.perf_counter() - self._printed > 5:
            self._print(f"loss {logs['loss']:.3f}")

    def _print(self, text):
        self._printed = time.perf_counter()
        epochs, steps = self.params["epochs"], self.params["steps"]
        remaining = (epochs - self._epoch) * steps - self._step
        left = round((self._printed - self._begin) / max(self._steps - 1, 1) * remaining)
        print(f"epoch {self._epoch + 1}/{epochs}  {text}  {left // 60}:{left % 60:02d} left",
              flush=True)


def _state_of(model):
    """Return all variables that a step changes: weights, dropout seeds, optimiser, step count."""
    if not model.optimizer.built:  # a second time, mixed_float16's optimiser would start again
        model.optimizer.build(model.trainable_variables)
    return [v for layer in model.layers for v in layer.variables] + list(model.optimizer.variables)


def _numbered(name, values):
    return {f"{name}{number}": value for number, value in enumerate(values)}


def _copies(variables):
    """Return the variables' values as numpy arrays that later steps leave alone."""
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]
