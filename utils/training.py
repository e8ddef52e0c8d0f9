"""Training: precision, loss, metric, and all of it in one call.

Notebook 03 writes the same loop in cells.
"""

import contextlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from utils import models, pipeline, recipes, runs
from utils.callbacks import Checkpoint, Progress, StopOnNaN
from utils.labels import VOID
from utils.recipes import OPTIMIZERS, check_name, class_weights

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class Trained:
    """model: in float32. history: a dict per epoch. seconds: training time. path: model.keras."""

    model: keras.Model
    history: list
    seconds: float
    path: Path


def train(dataset, recipe, run_dir, *, stride=0, weights=None, upsampling="bilinear",
          precision="auto", seed=0, callbacks=(), scope=contextlib.nullcontext(), devices=1,
          share=None):
    """Train an FCN into a run folder; the same call again resumes after the last finished epoch.

    stride: 0 for the recipe's. weights, upsampling: see `models.fcn`; weights of another backbone
    bring it along, unless the recipe was given one. callbacks: more of Keras'. scope, devices,
    share: for several devices, from `tools.scale`. Returns a `Trained`. Raises ValueError for
    faulty data and other parameters than the folder's, FileExistsError for a folder of the user's,
    FloatingPointError if the loss becomes NaN.
    """
    recipes.check_numbers(seed=seed)
    precision = resolve_precision(precision)
    keras.utils.set_random_seed(seed)
    recipe = recipe.override(stride=stride)
    if recipe.reasons.get("backbone") != "given":
        recipe = recipe.override(backbone=models.backbone_for(weights))
    arguments = {"num_classes": dataset.num_classes, "stride": recipe.stride,
                 "backbone": recipe.backbone, "upsampling": upsampling}
    parameters = {**arguments, **recipe.values(), **dataset.identity(),
                  "weights": str(weights or ""), "precision": precision, "seed": seed}
    run_dir = runs.run_folder(run_dir)
    checkpoint = Checkpoint(run_dir / "training", parameters, keep=recipe.keep)
    pairs, val_pairs = (pipeline.DecodedPairs(dataset.split(split), dataset.read, split)
                        for split in ("train", "val"))
    save_recipe(recipe, run_dir)
    steps = math.ceil(len(pairs) / recipe.batch_size)
    path, last = run_dir / "model.keras", run_dir / "history.json"
    with runs.lock(checkpoint.folder):
        with scope:
            model = models.fcn(**arguments, weights=weights, precision=precision)
            compile_model(model, dataset.num_classes, recipe.learning_rate, steps * recipe.epochs,
                          class_weights(recipe.class_weights, pairs, dataset.num_classes),
                          recipe.optimizer)
            done = checkpoint.restore(model)
            if done < recipe.epochs:
                last.unlink(missing_ok=True)  # written last: if it exists, all files are whole
                shared = {"multiple_of": devices, "share": share}
                model.fit(
                    pipeline.batches(pairs, image_size=recipe.image_size,
                                     batch_size=recipe.batch_size, augment=True, shuffle=True,
                                     seed=seed, scale=recipe.scale, epochs=recipe.epochs - done,
                                     first_epoch=done, **shared),
                    validation_data=pipeline.whole_images(val_pairs, recipe.batch_size, **shared),
                    validation_freq=recipe.validation_epochs, steps_per_epoch=steps,
                    initial_epoch=done, epochs=recipe.epochs, shuffle=False, verbose=0,
                    callbacks=[StopOnNaN(recipe.learning_rate), checkpoint, Progress(), *callbacks])
        exportable = models.fcn(**arguments)
        checkpoint.load_kept(exportable)
        if not (path.is_file() and last.is_file()):
            save(exportable, run_dir, dataset, fcn=arguments, parameters=parameters, given=None,
                 seconds=checkpoint.seconds)
            runs.write_json(last, checkpoint.history)
    return Trained(exportable, checkpoint.history, checkpoint.seconds, path)


def compile_model(model, num_classes, learning_rate, steps, weights=None, optimizer="adam"):
    """Give a model an optimiser on `schedule`, the loss `cross_entropy`, and the metric `Scores`.

    learning_rate, steps: see `schedule`. weights: the classes' in the loss, float (C,), or None.
    optimizer: "adam" or "muon"; ValueError for another.
    """
    check_name("optimizer", optimizer, OPTIMIZERS)

    def loss(y_true, y_pred):
        # Not a scalar: Keras would not divide it by the number of TensorFlow's devices.
        return ops.expand_dims(cross_entropy(y_true, y_pred, weights), 0)

    rule = Muon if optimizer == "muon" else keras.optimizers.Adam
    model.compile(rule(schedule(learning_rate, steps)), loss=loss, metrics=[Scores(num_classes)])
    model.optimizer.build(model.trainable_variables)  # else `fit` traces the step twice


@keras.saving.register_keras_serializable("fcn")
class Muon(keras.optimizers.Muon):
    """Keras' Muon for convolutions: kernels (h, w, in, out) count as matrices (h * w * in, out).

    Adam updates biases, the layers of `exclude_layers` (scores and their upsampling), and kernels
    wider than `MAX_WIDTH` both ways, for which Muon is slow. It moves a weight by about `rms_rate`
    of what Adam does, so that both take the same learning rate. Source: K. Jordan et al., Muon: An
    optimizer for hidden layers in neural networks, 2024.
    """

    MAX_WIDTH = 512

    def __init__(self, learning_rate=1e-3, weight_decay=None, adam_weight_decay=None,
                 exclude_layers=("score", r"upsample\d"), ns_steps=3, rms_rate=2 / 3, **kwargs):
        super().__init__(learning_rate, weight_decay=weight_decay, ns_steps=ns_steps,
                         adam_weight_decay=adam_weight_decay, rms_rate=rms_rate,
                         exclude_layers=list(exclude_layers), **kwargs)

    def _should_use_adamw(self, variable):
        *sides, out = variable.shape
        return (len(sides) != 3 or min(math.prod(sides), out) > self.MAX_WIDTH
                or any(re.search(layer, variable.path) for layer in self.exclude_layers))

    def zeropower_via_newtonschulz5(self, x, steps):
        matrix = super().zeropower_via_newtonschulz5(ops.reshape(x, (-1, x.shape[-1])), steps)
        return ops.reshape(matrix, x.shape)

    def lr_adjust(self, x):
        return x * (self.rms_rate * max(math.prod(x.shape[:-1]), x.shape[-1]) ** 0.5)


def schedule(learning_rate, steps):
    """Return a learning rate that rises for a twentieth of the steps, then a cosine to 0."""
    warmup = max(1, steps // 20)
    return keras.optimizers.schedules.CosineDecay(
        learning_rate / 100, max(1, steps - warmup), warmup_target=learning_rate,
        warmup_steps=warmup)


def cross_entropy(y_true, y_pred, weights=None):
    """Return the mean over non-void pixels of -log softmax(logits)[true class], a float32 scalar.

    y_true: integer ids (B, H, W). y_pred: float32 logits (B, H, W, C). weights: float (C,), what a
    pixel of each class counts. Equal to Keras' `SparseCategoricalCrossentropy(from_logits=True,
    ignore_class=255)`, and three times as fast on a CPU; 0 if all is void.
    """
    truth = ops.cast(y_true, "int32")
    target = ops.one_hot(truth, ops.shape(y_pred)[-1])  # zeros for void
    per_pixel = ops.logsumexp(y_pred, axis=-1) - ops.sum(target * y_pred, axis=-1)
    counted = ops.cast(ops.not_equal(truth, VOID), "float32")
    if weights is not None:
        counted = ops.sum(target * ops.cast(weights, "float32"), axis=-1)
    total = ops.sum(counted)
    return ops.sum(per_pixel * counted) / ops.where(total > 0, total, 1.0)


def resolve_precision(name="auto"):
    """Return a Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".

    "auto" takes mixed_bfloat16 if the hardware multiplies it (processors with AMX or AVX512-BF16,
    NVIDIA Ampere and newer, TPU), else float32. Raises ValueError for other names.
    """
    check_name("precision", name, PRECISIONS)
    if name != "auto":
        return name
    return "mixed_bfloat16" if _has_bfloat16() else "float32"


def _has_bfloat16():
    if keras.backend.backend() == "jax":
        import jax
        device = jax.devices()[0]
        if device.platform != "cpu":
            capability = float(getattr(device, "compute_capability", 0))
            return device.platform == "tpu" or capability >= 8
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        for gpu in tf.config.list_physical_devices("GPU"):
            details = tf.config.experimental.get_device_details(gpu)
            return details.get("compute_capability", (0, 0)) >= (8, 0)
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        flags = text.partition("flags")[2].partition("\n")[0].split()
        return "amx_bf16" in flags or "avx512_bf16" in flags
    return False


class Scores(keras.metrics.Metric):
    """The four scores of `metrics.scores`, of logits (B, H, W, C), inside `fit` and `evaluate`.

    All come from `confusion`, int32 (C, C), rows are truth, over all batches. `result` returns a
    dict: logs and history hold `mean_iou`, `pixel_accuracy`, ... NaN without any pixel.
    """

    def __init__(self, num_classes, name="scores", **kwargs):
        super().__init__(name=name, **{"dtype": "int32", **kwargs})
        self.num_classes = num_classes
        self.confusion = self.add_variable((num_classes, num_classes), "zeros", dtype="int32",
                                           name="confusion")

    def update_state(self, y_true, y_pred, sample_weight=None):
        classes = self.num_classes
        truth = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        # On a CPU three times as fast as `ops.argmax`, which looks for negative zeros first.
        prediction = ops.reshape(ops.top_k(y_pred, 1)[1], (-1,))
        counts = _count(truth * classes + prediction, (VOID + 1) * classes)  # last rows: void
        self.confusion.assign_add(ops.reshape(counts[:classes * classes], (classes, classes)))

    def result(self):
        # JAX has no 64-bit numbers by default.
        precise = "float32" if keras.backend.backend() == "jax" else "float64"
        confusion = ops.cast(self.confusion, precise)
        truth, predicted = ops.sum(confusion, axis=1), ops.sum(confusion, axis=0)
        correct = ops.diagonal(confusion)
        iou = correct / (truth + predicted - correct)  # NaN for an absent class
        weighted = ops.sum(truth * ops.nan_to_num(iou))
        return {"pixel_accuracy": ops.sum(correct) / ops.sum(truth),
                "mean_accuracy": _mean_of_defined(correct / truth),
                "mean_iou": _mean_of_defined(iou),
                "frequency_weighted_iou": weighted / ops.sum(truth)}

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}


def _mean_of_defined(values):
    return ops.sum(ops.nan_to_num(values)) / ops.sum(ops.cast(~ops.isnan(values), values.dtype))


def _count(values, length):
    """Return how often each of 0..length-1 occurs."""
    if keras.backend.backend() == "tensorflow":
        return ops.cast(ops.bincount(values, minlength=length), "int32")
    # JAX cannot trace bincount; in TensorFlow this is ten times slower.
    return ops.segment_sum(ops.ones_like(values), values, num_segments=length)


def save_recipe(recipe, run_dir):
    """Write a recipe to `recipe.json` in a run folder: each value with its reason."""
    rows = {name: {"value": value, "reason": recipe.reasons.get(name, "")}
            for name, value in recipe.values().items()}
    runs.write_json(Path(run_dir) / "recipe.json", rows)


def save(model, run_dir, dataset, **card):
    """Write a float32 model, trained on `dataset`, to a run folder; return the path of model.keras.

    card: what `model.json` says beside the data set, with `fcn`, the arguments of `models.fcn`.
    """
    folder = Path(run_dir)
    card |= {"dataset": dataset.name, "class_names": dataset.class_names, "colors": dataset.colors}
    runs.replace(folder / "model.weights.h5", model.save_weights)
    runs.replace(folder / "model.keras", model.save)
    runs.write_json(folder / "model.json", card)
    return folder / "model.keras"
