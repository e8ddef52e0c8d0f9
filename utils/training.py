"""Training: precision, loss, metric, and all of it in one line.

Notebook 03 writes the same loop out in cells.
"""

import contextlib
import difflib
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
from utils.recipes import CLASS_WEIGHTS, OPTIMIZERS

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class Trained:
    """model: float32 `keras.Model`. history: one dict per epoch. seconds: training time. path: the .keras file."""

    model: keras.Model
    history: list
    seconds: float
    path: Path


def train(dataset, recipe, run_dir, *, stride=0, weights=None, upsampling="bilinear", precision="auto", seed=0,
          callbacks=(), scope=contextlib.nullcontext(), devices=1, share=None):
    """Train an FCN on a data set's training split and keep it in a run folder.

    dataset: from `load_dataset`. recipe: its `recipe`, overridden or not. run_dir: the run's folder;
    `run_dir/training` holds the state after each epoch. The same call on the same folder goes on after
    the last finished epoch, or returns at once when all are done. stride: 0 for the recipe's. weights, upsampling: as
    in `models.fcn`; weights of another backbone than the recipe's bring that backbone and its learning rate along.
    precision: one of `PRECISIONS`. seed: of the weights, the order of samples and the augmentation.
    callbacks: more Keras callbacks. scope: a context in which the network is built and fitted, such as
    `tf.distribute.MirroredStrategy().scope()`; devices: how many it spreads a batch over; share: as in
    `pipeline.batches`. `tools.scale.train` hands in the last three.

    Returns a `Trained`. Raises ValueError, before the first step, for faulty data, a batch size that the devices cannot
    share, or if the folder holds a training with other parameters; FileExistsError if it holds files of the user's that
    would be replaced; FloatingPointError if the loss stops being a number.
    """
    recipes.check_numbers(seed=seed)
    precision = resolve_precision(precision)
    keras.utils.set_random_seed(seed)
    recipe = recipe.override(stride=stride)
    if recipe.reasons.get("backbone") != "given":
        recipe = recipe.override(backbone=models.backbone_for(weights))
    arguments = {"num_classes": dataset.num_classes, "stride": recipe.stride, "backbone": recipe.backbone,
                 "upsampling": upsampling}
    parameters = {**arguments, **recipe.values(), **dataset.identity(), "weights": str(weights or ""),
                  "precision": precision, "seed": seed}
    run_dir = runs.run_folder(run_dir)
    checkpoint = Checkpoint(run_dir / "training", parameters, keep=recipe.keep)
    pairs = {split: pipeline.DecodedPairs(dataset.split(split), dataset.read, split) for split in ("train", "val")}
    save_recipe(recipe, run_dir)
    path, last = run_dir / "model.keras", run_dir / "history.json"
    with runs.lock(checkpoint.folder):
        with scope:
            model = models.fcn(**arguments, weights=weights, precision=precision)
            shared = {"multiple_of": devices, "share": share}
            _fit(model, pairs, recipe, checkpoint, callbacks, last, seed, shared)
        portable = models.fcn(**arguments)
        checkpoint.load_kept(portable)
        if not (path.is_file() and last.is_file()):
            save(portable, run_dir, dataset, fcn=arguments, parameters=parameters, given=None,
                 seconds=checkpoint.seconds)
            runs.write_json(last, checkpoint.history)
    return Trained(portable, checkpoint.history, checkpoint.seconds, path)


def _fit(model, pairs, recipe, checkpoint, callbacks, last, seed, shared):
    """Compile `model` and train it from the checkpoint's epoch to the end. last: the file that says all is done."""
    steps = math.ceil(len(pairs["train"]) / recipe.batch_size)
    num_classes = model.output.shape[-1]
    weights_of_classes = class_weights(recipe.class_weights, pairs["train"], num_classes)
    compile_model(model, num_classes, recipe.learning_rate, steps * recipe.epochs, weights_of_classes,
                  recipe.optimizer)
    done = checkpoint.restore(model)
    if done == recipe.epochs:
        return
    train_batches = pipeline.batches(
        pairs["train"], image_size=recipe.image_size, batch_size=recipe.batch_size, augment=True, shuffle=True,
        seed=seed, scale=recipe.scale, epochs=recipe.epochs - done, first_epoch=done, **shared)
    last.unlink(missing_ok=True)  # written last: where it is, all files of this training are
    model.fit(train_batches, validation_data=pipeline.whole_images(pairs["val"], recipe.batch_size, **shared),
              validation_freq=recipe.validation_epochs, steps_per_epoch=steps, initial_epoch=done,
              epochs=recipe.epochs, shuffle=False, verbose=0,
              callbacks=[StopOnNaN(recipe.learning_rate), checkpoint, Progress(), *callbacks])


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


def save_recipe(recipe, run_dir):
    """Write a recipe to `recipe.json` in a run folder: each value with its reason."""
    rows = {name: {"value": value, "reason": recipe.reasons.get(name, "")} for name, value in recipe.values().items()}
    runs.write_json(Path(run_dir) / "recipe.json", rows)


def save(model, run_dir, dataset, **card):
    """Write a model to a run folder: `model.keras`, and its weights with a card, `model.weights.h5` and `model.json`.

    model: float32 `keras.Model`. dataset: what it was trained on. card: what else the card says; `fcn`, the
    arguments of `models.fcn` that build the model, must be there. Each file is replaced in one step.
    Returns the path of `model.keras`.
    """
    folder = Path(run_dir)
    card |= {"dataset": dataset.name, "class_names": dataset.class_names, "colors": dataset.colors}
    runs.replace(folder / "model.weights.h5", model.save_weights)
    runs.replace(folder / "model.keras", model.save)
    runs.write_json(folder / "model.json", card)
    return folder / "model.keras"


def _mean_of_defined(values):
    return ops.sum(ops.nan_to_num(values)) / ops.sum(ops.cast(~ops.isnan(values), values.dtype))


def _count(values, length):
    """Return how often each of 0..length-1 occurs."""
    if keras.backend.backend() == "tensorflow":
        return ops.cast(ops.bincount(values, minlength=length), "int32")
    # JAX cannot trace bincount; in TensorFlow this is ten times slower.
    return ops.segment_sum(ops.ones_like(values), values, num_segments=length)


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
