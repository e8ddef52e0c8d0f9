"""Training: precision, loss, metric, callbacks, and all of it in one line.

Notebook 03 writes the same loop out in cells.
"""

import contextlib
import difflib
import json
import math
import os
import re
import shutil
import tempfile
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from utils import datasets, distributed, models, pipeline, runs
from utils.datasets import CLASS_WEIGHTS, OPTIMIZERS
from utils.labels import VOID
from utils.tensorboard import Board

# JAX wants this before its first computation, so before anything that a notebook does with what it imports from here.
distributed.join()

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class Trained:
    """model: float32 `keras.Model`. history: one dict per epoch. seconds: training time. path: the .keras file."""

    model: keras.Model
    history: list
    seconds: float
    path: Path


def train(dataset, recipe, run_dir, *, stride=32, weights=None, upsampling="bilinear", precision="auto", seed=0,
          tensorboard=False):
    """Train an FCN on a data set's training split and keep it in a run folder.

    dataset: from `load_dataset`. recipe: its `recipe`, overridden or not. run_dir: the run's folder;
    `run_dir/training` holds the state after each epoch. The same call on the same folder goes on after
    the last finished epoch, or returns at once when all are done. stride, weights, upsampling: as in `models.fcn`.
    precision: one of `PRECISIONS`. seed: of the weights, the order of samples and the augmentation. tensorboard: also
    write losses, scores and example overlays to `run_dir/tensorboard`.
    On several devices or machines, see `utils.distributed`; process 0 alone writes there, and reads what it wrote.

    Returns a `Trained`. Raises ValueError, before the first step, for faulty data, a batch size that the devices cannot
    share, or if the folder holds a training with other parameters; FileExistsError if it holds files of the user's that
    would be replaced; FloatingPointError if the loss stops being a number.
    """
    datasets.check_numbers(seed=seed)
    share = distributed.share()
    share.check(recipe.batch_size)
    precision = resolve_precision(precision)
    keras.utils.set_random_seed(seed)
    arguments = {"num_classes": dataset.num_classes, "stride": stride, "backbone": recipe.backbone,
                 "upsampling": upsampling}
    parameters = {**arguments, **asdict(recipe), **dataset.identity(), "weights": str(weights or ""),
                  "precision": precision, "seed": seed}
    with distributed.failing_together():
        if distributed.is_first():
            run_dir = runs.run_folder(run_dir)
        checkpoint = Checkpoint(Path(run_dir) / "training", parameters, keep=recipe.keep)
        pairs = {split: pipeline.DecodedPairs(dataset.split(split), dataset.read, split) for split in ("train", "val")}
    boards = []
    if tensorboard and distributed.is_first():
        shown = pairs["val"] if share.processes == 1 else []  # several processes compute together, or not at all
        boards = [Board(Path(run_dir) / "tensorboard", checkpoint, shown, dataset.colors)]
    with runs.lock(checkpoint.folder) if distributed.is_first() else contextlib.nullcontext():
        path, last = Path(run_dir) / "model.keras", Path(run_dir) / "history.json"
        with distributed.scope():
            model = models.fcn(**arguments, weights=weights, precision=precision)
            _fit(model, pairs, recipe, checkpoint, boards, last, seed, share)
        portable = models.fcn(**arguments)
        checkpoint.load_kept(portable)
        if distributed.is_first() and not (path.is_file() and last.is_file()):
            save(portable, run_dir, dataset, fcn=arguments, parameters=parameters, given=None,
                 seconds=checkpoint.seconds)
            runs.write_json(last, checkpoint.history)
        distributed.wait()
    return Trained(portable, checkpoint.history, checkpoint.seconds, path)


def _fit(model, pairs, recipe, checkpoint, boards, last, seed, share):
    """Compile `model` and train it from the checkpoint's epoch to the end. last: the file that says all is done."""
    steps = -(-len(pairs["train"]) // recipe.batch_size)
    num_classes = model.output.shape[-1]
    weights_of_classes = class_weights(recipe.class_weights, pairs["train"], num_classes)
    compile_model(model, num_classes, recipe.learning_rate, steps * recipe.epochs, weights_of_classes,
                  recipe.optimizer)
    done = checkpoint.restore(model)
    if done == recipe.epochs:
        return
    if distributed.is_first():
        last.unlink(missing_ok=True)  # written last: where it is, all files of this training are
    train_batches = pipeline.batches(
        pairs["train"], image_size=recipe.image_size, batch_size=recipe.batch_size, augment=True, shuffle=True,
        seed=seed, scale=recipe.scale, epochs=recipe.epochs - done, first_epoch=done, share=share)
    model.fit(train_batches, validation_data=pipeline.whole_images(pairs["val"], recipe.batch_size, share=share),
              validation_freq=recipe.validation_epochs, steps_per_epoch=steps, initial_epoch=done,
              epochs=recipe.epochs, shuffle=False, verbose=0,
              callbacks=[StopOnNaN(recipe.learning_rate), checkpoint, Progress(), *boards])


def compile_model(model, num_classes, learning_rate, steps, weights=None, optimizer="adam"):
    """Give a model this project's optimiser, Adam or `Muon` on `schedule`, its loss, and its metric `Scores`.

    learning_rate: the schedule's peak. steps: its length. weights: float (C,), the classes' weights in the loss, or
    None. optimizer: one of `OPTIMIZERS`. Raises ValueError for another one.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer is {optimizer!r}; expected one of {', '.join(map(repr, OPTIMIZERS))}.")

    def loss(y_true, y_pred):
        # Not a scalar: those Keras does not divide by the number of TensorFlow's devices, whose losses it adds up.
        return ops.expand_dims(cross_entropy(y_true, y_pred, weights), 0)

    rule = Muon if optimizer == "muon" else keras.optimizers.Adam
    model.compile(optimizer=rule(schedule(learning_rate, steps)), loss=loss, metrics=[Scores(num_classes)])
    model.optimizer.build(model.trainable_variables)  # else `fit` traces the step twice, which takes seconds


@keras.saving.register_keras_serializable("fcn")
class Muon(keras.optimizers.Muon):
    """Keras' Muon, which is for matrices, on convolutions: their kernels (h, w, in, out) count as (h * w * in, out).
    (Of a transposed convolution, Keras has `in` last.)

    Adam changes what is no kernel, the layers of `exclude_layers` (scores, and their upsampling), and kernels wider
    than `MAX_WIDTH` both ways: the matrix products of an update would take longer than the rest of the step.
    Adam moves a weight by about the learning rate in a step, Muon by about two thirds of it (`rms_rate`), so that
    both do with the same one. Source: K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
    """

    MAX_WIDTH = 512

    def __init__(self, learning_rate=1e-3, weight_decay=None, adam_weight_decay=None,
                 exclude_layers=("score", r"upsample\d"), ns_steps=3, rms_rate=2 / 3, **kwargs):
        super().__init__(learning_rate, weight_decay=weight_decay, adam_weight_decay=adam_weight_decay,
                         exclude_layers=list(exclude_layers), ns_steps=ns_steps, rms_rate=rms_rate, **kwargs)

    def _should_use_adamw(self, variable):
        shape = variable.shape
        return (len(shape) != 4 or min(math.prod(shape[:-1]), shape[-1]) > self.MAX_WIDTH
                or any(re.search(layer, variable.path) for layer in self.exclude_layers))

    def zeropower_via_newtonschulz5(self, x, steps):
        matrix = super().zeropower_via_newtonschulz5(ops.reshape(x, (-1, x.shape[-1])), steps)
        return ops.reshape(matrix, x.shape)

    def lr_adjust(self, x):
        return x * (self.rms_rate * max(math.prod(x.shape[:-1]), x.shape[-1]) ** 0.5)


def schedule(learning_rate, steps):
    """Return a Keras schedule: a rise to `learning_rate` over the first twentieth of `steps`, then a cosine to 0."""
    warmup = max(1, steps // 20)
    return keras.optimizers.schedules.CosineDecay(learning_rate / 100, max(1, steps - warmup),
                                                  warmup_target=learning_rate, warmup_steps=warmup)


def cross_entropy(y_true, y_pred, weights=None):
    """Return the mean over non-void pixels of -log softmax(logits)[true class], a float32 scalar.

    y_true: integer ids (B, H, W). y_pred: float32 logits (B, H, W, C). weights: float (C,), what a pixel of each
    class counts in the mean; None for one each. Equal to Keras' `SparseCategoricalCrossentropy(from_logits=True,
    ignore_class=255)`, three times faster on a CPU; 0 if all is void.
    """
    truth = ops.cast(y_true, "int32")
    target = ops.one_hot(truth, ops.shape(y_pred)[-1])
    per_pixel = ops.logsumexp(y_pred, axis=-1) - ops.sum(target * y_pred, axis=-1)
    counted = ops.cast(ops.not_equal(truth, VOID), "float32")
    if weights is not None:
        counted = ops.sum(target * ops.cast(weights, "float32"), axis=-1)  # void has no class, so it weighs nothing
    total = ops.sum(counted)
    return ops.sum(per_pixel * counted) / ops.where(total > 0, total, 1.0)


def class_weights(rule, pairs, num_classes):
    """Return float64 (C,) weights for the loss, or None for the rule "none".

    rule: "none", or "median" for median frequency balancing (Eigen & Fergus 2015, on semantic labels): a class's
    frequency is its share of the pixels, void left out, in those images that show it; its weight is the median of all
    frequencies over its own. "root_median": the square roots of these weights, half way between the two. Classes that
    no image shows get 0. pairs: (photo, mask (H, W)) of the training split. Raises ValueError for another rule.
    """
    if rule not in CLASS_WEIGHTS:
        raise ValueError(f"class_weights is {rule!r}; expected one of {', '.join(map(repr, CLASS_WEIGHTS))}.")
    if rule == "none":
        return None
    counts = np.stack([np.bincount(mask.ravel(), minlength=VOID + 1)[:num_classes] for _, mask in pairs])
    shown = counts.sum(axis=0) > 0
    in_their_images = ((counts > 0) * counts.sum(axis=1, keepdims=True)).sum(axis=0)
    frequency = counts.sum(axis=0) / np.maximum(in_their_images, 1)
    weights = np.where(shown, np.median(frequency[shown]) / np.where(shown, frequency, 1), 0.0)
    return np.sqrt(weights) if rule == "root_median" else weights


def resolve_precision(name="auto"):
    """Return the Keras dtype policy to train with: "float32", "mixed_bfloat16" or "mixed_float16".

    "auto" takes mixed_bfloat16 where the processor or GPU multiplies bfloat16 in hardware (AMX or AVX512-BF16;
    NVIDIA Ampere and newer; TPU), else float32. Raises ValueError with the nearest name for others.
    """
    if name not in PRECISIONS:
        near = difflib.get_close_matches(str(name), PRECISIONS, n=1, cutoff=0)
        raise ValueError(f"precision is {name!r}; expected one of {', '.join(PRECISIONS)}. Did you mean {near[0]!r}?")
    if name != "auto":
        return name
    return "mixed_bfloat16" if _has_bfloat16() else "float32"


class Scores(keras.metrics.Metric):
    """The four scores of `metrics.scores`, of logits (B, H, W, C) against ids (B, H, W), inside `fit` and `evaluate`.

    All come from one confusion matrix over all batches: `confusion`, int32 (C, C), rows are truth, exact up to 2
    billion pixels of a kind. Void and other ids of no class are not counted, absent classes are left out, and without
    any pixel scores are NaN, as in `metrics`. `result` returns a dict, so that logs and history hold `mean_iou`,
    `pixel_accuracy`, ...
    """

    def __init__(self, num_classes, name="scores", **kwargs):
        super().__init__(name=name, **{"dtype": "int32", **kwargs})
        self.num_classes = num_classes
        self.confusion = self.add_variable((num_classes, num_classes), "zeros", dtype="int32", name="confusion")

    def update_state(self, y_true, y_pred, sample_weight=None):
        classes = self.num_classes
        truth = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        # On a CPU three times as fast as `ops.argmax`, which looks for negative zeros first.
        prediction = ops.reshape(ops.top_k(y_pred, 1)[1], (-1,))
        counts = _count(truth * classes + prediction, (VOID + 1) * classes)  # the last rows are void's
        self.confusion.assign_add(ops.reshape(counts[:classes * classes], (classes, classes)))

    def result(self):
        # JAX has no 64-bit numbers unless it is told to before it starts.
        confusion = ops.cast(self.confusion, "float32" if keras.backend.backend() == "jax" else "float64")
        correct, truth, predicted = ops.diagonal(confusion), ops.sum(confusion, axis=1), ops.sum(confusion, axis=0)
        iou = correct / (truth + predicted - correct)  # NaN where a class is absent
        return {"pixel_accuracy": ops.sum(correct) / ops.sum(truth),
                "mean_accuracy": _mean_of_defined(correct / truth),
                "mean_iou": _mean_of_defined(iou),
                "frequency_weighted_iou": ops.sum(truth * ops.nan_to_num(iou)) / ops.sum(truth)}

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}


class Checkpoint(keras.callbacks.Callback):
    """Keep the state of a training after each epoch, so that it can be killed at any moment.

    folder: where `state.npz` goes: weights, optimiser, seeds, history, parameters and the weights to use in the end.
    It is replaced in one step, never half written. parameters: JSON-like dict; a folder that holds a training with
    other parameters, or a state that cannot be read, is refused with ValueError. keep: "best" keeps the epoch with the
    highest `val_mean_iou`, "last" the last one. `history` holds one dict per finished epoch. Of several processes that
    train together the first alone reads and writes; the others get from it what it read.
    """

    def __init__(self, folder, parameters, keep="best"):
        super().__init__()
        self.folder, self.keep = Path(folder), keep
        self.history, self._kept = [], []
        self.parameters = json.loads(json.dumps(parameters))
        self.state = self.folder / "state.npz"
        if not distributed.is_first():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.state.is_file():
            changed = runs.differences(json.loads(str(self._read("parameters")[0])), self.parameters)
            if changed:
                raise ValueError(f"{self.folder} holds a training with other parameters: {changed}. Give another "
                                 "run_dir, or delete that folder to start afresh.")

    @property
    def seconds(self):
        """Return the seconds that all finished epochs took."""
        return sum(epoch["seconds"] for epoch in self.history)

    def restore(self, model):
        """Put a compiled model back into the last finished epoch's state; return the number of epochs done."""
        variables = [*_state_of(model), *model.weights]
        stored, arrays = self._stored(model) if distributed.is_first() and self.state.is_file() else ("[]", None)
        self.history = json.loads(distributed.text_from_first(stored))
        if not self.history:
            return 0
        arrays = distributed.from_first(arrays or _copies(variables))
        self._kept = arrays[-len(model.weights):]
        for variable, array in zip(variables[:-len(model.weights)], arrays):
            variable.assign(array)
        if distributed.is_first():
            print(f"resumed after epoch {len(self.history)}", flush=True)
        return len(self.history)

    def load_kept(self, model):
        """Give `model`, of the same layers, the kept weights."""
        model.set_weights(self._kept)

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}}
        row["learning_rate"] = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row["seconds"] = round(time.perf_counter() - self._begin, 3)
        best = max((old.get("val_mean_iou", -1.0) for old in self.history), default=-1.0)
        self.history.append(row)
        if self.keep == "last" or row.get("val_mean_iou", -1.0) > best or epoch == 0:
            self._kept = _copies(self.model.weights)
        if not distributed.is_first():
            return
        # One file: of two, a mounted drive that breaks off may have stored the later one alone.
        _save_arrays(self.state, history=json.dumps(self.history), parameters=json.dumps(self.parameters),
                     **_numbered("state", _copies(_state_of(self.model))), **_numbered("kept", self._kept))

    def _stored(self, model):
        """Return the history as JSON, and the arrays of all variables and of the kept weights."""
        variables, weights = _state_of(model), model.weights
        history, *arrays = self._read("history", *_numbered("state", variables), *_numbered("kept", weights))
        if [array.shape for array in arrays] != [tuple(variable.shape) for variable in [*variables, *weights]]:
            raise self._damaged("its arrays do not fit the network")
        return str(history), arrays

    def _read(self, *names):
        try:
            with np.load(self.state) as file:
                return [file[name] for name in names]
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise self._damaged(error) from None

    def _damaged(self, reason):
        return ValueError(f"{self.state} cannot be used ({reason}): it is damaged, or another version of this code "
                          f"wrote it. Delete {self.folder} to start this training afresh, or choose another run_dir.")


class StopOnNaN(keras.callbacks.Callback):
    """End the training with FloatingPointError, naming the likely causes, when the loss is no longer a number."""

    def __init__(self, learning_rate):
        super().__init__()
        self.learning_rate = learning_rate

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"the loss became {float(logs['loss'])} at step {batch + 1}. Likely causes: a learning_rate too "
                f"high (now {self.learning_rate:g}; try a tenth), mixed_float16 (try precision=\"float32\"), or masks "
                "with ids that stand for no class. The state of the last finished epoch is kept.")


class Progress(keras.callbacks.Callback):
    """Print a line per epoch with scores and the time left; in long epochs also every ten seconds.

    Of several processes that train together the first alone prints.
    """

    def on_train_begin(self, logs=None):
        self._printed = time.perf_counter()
        self._steps_done = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._in_epoch = epoch, False  # whether a line has told of a step of this epoch

    def on_train_batch_end(self, batch, logs=None):
        if self._steps_done == 0:
            self._begin = time.perf_counter()  # the first step also builds the graph: it says nothing about the others
        self._steps_done += 1
        if time.perf_counter() - self._printed > 10 and self._steps_done > 1:
            self._in_epoch = True
            self._print(f"step {batch + 1}/{self.params['steps']}  loss {logs['loss']:.3f}")

    def on_epoch_end(self, epoch, logs=None):
        if self._in_epoch or time.perf_counter() - self._printed > 1.5 or epoch + 1 in (1, self.params["epochs"]):
            validation = f"  val mean IoU {logs['val_mean_iou']:.3f}" if "val_mean_iou" in logs else ""
            self._print(f"loss {logs['loss']:.3f}{validation}")

    def _print(self, text):
        self._printed = time.perf_counter()
        if not distributed.is_first():
            return
        epochs, steps = self.params["epochs"], self.params["steps"]
        steps_now = self._steps_done
        first = self._epoch * steps - (steps_now - 1) // steps * steps
        left = (epochs * steps - first - steps_now) * (self._printed - self._begin) / max(steps_now - 1, 1)
        print(f"epoch {self._epoch + 1}/{epochs}  {text}  {int(left) // 60}:{int(left) % 60:02d} left", flush=True)


def save(model, run_dir, dataset, **card):
    """Write a model to a run folder: `model.keras`, and its weights with a card, `model.weights.h5` and `model.json`.

    model: float32 `keras.Model`. dataset: what it was trained on. card: what else the card says; `fcn`, the
    arguments of `models.fcn` that build the model, must be there. Each file is replaced in one step.
    Returns the path of `model.keras`.
    """
    folder = Path(run_dir)
    card |= {"dataset": dataset.name, "class_names": dataset.class_names, "colors": dataset.colors}
    for name, write in (("model.weights.h5", model.save_weights), ("model.keras", model.save)):
        temporary = folder / f".part.{name}"  # what a killed training leaves, the next one overwrites
        try:
            _write_without_locks(write, temporary)
            os.replace(temporary, folder / name)
        finally:
            temporary.unlink(missing_ok=True)
    runs.write_json(folder / "model.json", card)
    return folder / "model.keras"


def _mean_of_defined(values):
    return ops.sum(ops.nan_to_num(values)) / ops.sum(ops.cast(~ops.isnan(values), values.dtype))


def _write_without_locks(write, path):
    """Call `write` with a path, also on mounted drives that have no file locks, on which HDF5 insists."""
    try:
        write(path)
    except OSError as error:
        if error.errno not in runs.NO_LOCKS:
            raise
        with tempfile.TemporaryDirectory() as local:
            write(Path(local) / path.name)
            shutil.copyfile(Path(local) / path.name, path)


def _count(values, length):
    """Return how often each of 0..length-1 occurs."""
    if keras.backend.backend() == "tensorflow":
        return ops.cast(ops.bincount(values, minlength=length), "int32")
    # JAX cannot trace bincount; in TensorFlow this is ten times slower.
    return ops.segment_sum(ops.ones_like(values), values, num_segments=length)


def _state_of(model):
    """Return all variables a training step changes: weights, dropout seeds, optimiser with its step count."""
    if not model.optimizer.built:  # a second time, the optimiser of mixed_float16 begins anew
        model.optimizer.build(model.trainable_variables)
    return [v for layer in model.layers for v in layer.variables] + list(model.optimizer.variables)


def _numbered(name, values):
    return {f"{name}{number}": value for number, value in enumerate(values)}


def _copies(variables):
    """Return the variables' values as numpy arrays that later steps leave alone."""
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def _save_arrays(path, **arrays):
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())  # else a power cut can leave the new name without its content
    os.replace(temporary, path)


def _has_bfloat16():
    if keras.backend.backend() == "jax":
        import jax
        device = jax.devices()[0]
        if device.platform != "cpu":
            return device.platform == "tpu" or float(getattr(device, "compute_capability", 0)) >= 8
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        for gpu in tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= (8, 0)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("flags")[2].partition("\n")[0].split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
