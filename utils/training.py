"""Training: precision, loss, optimiser, metric, and all of it in one call."""

import contextlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

import keras
from keras import ops

from utils import models, pipeline, runs
from utils.callbacks import Checkpoint, Progress, StopOnNaN
from utils.labels import VOID
from utils.recipes import OPTIMIZERS, check_name, check_numbers, class_weights, resolve_precision


@dataclass(frozen=True)
class Trained:
    """model: in float32. history: a dict per epoch. seconds: training time. path: model.keras."""

    model: keras.Model
    history: list
    seconds: float
    path: Path


def train(dataset, recipe, run_dir, *, stride=0, weights=None, upsampling="bilinear",
          precision="auto", seed=0, loss=None, callbacks=(), scope=contextlib.nullcontext(),
          devices=1, share=None):
    """Train an FCN into a run folder; the same call again resumes after the last finished epoch.

    stride: 0 for the recipe's. weights, upsampling: see `models.fcn`; weights of another backbone
    bring it along, unless the recipe was given one. loss: of (ids, logits), without void, in place
    of `cross_entropy` and class weights. callbacks: more of Keras', as EarlyStopping. scope,
    devices, share: from `tools.scale`. Returns a `Trained`. Raises ValueError for faulty data or
    other parameters than before, FileExistsError for a user's folder, FloatingPointError for NaN.
    """
    check_numbers(seed=seed)
    precision = resolve_precision(precision)
    keras.utils.set_random_seed(seed)
    recipe = recipe.override(stride=stride)
    if recipe.reasons.get("backbone") != "given":
        recipe = recipe.override(backbone=models.backbone_for(weights, recipe.backbone))
    arguments = {"num_classes": dataset.num_classes, "stride": recipe.stride,
                 "backbone": recipe.backbone, "upsampling": upsampling}
    parameters = {**arguments, **recipe.values(), **dataset.identity(),
                  "weights": str(weights or ""), "precision": precision, "seed": seed,
                  "loss": getattr(loss or cross_entropy, "__name__", type(loss).__name__)}
    run_dir = runs.run_folder(run_dir)
    with runs.lock(run_dir / "training"):
        checkpoint = Checkpoint(run_dir / "training", parameters, keep=recipe.keep)
        pairs, val_pairs = (pipeline.DecodedPairs(dataset.split(split), dataset.read, split)
                            for split in ("train", "val"))
        runs.save_recipe(recipe, run_dir)
        last = run_dir / "history.json"  # of the files written: if it exists, all are whole
        with scope:
            model = models.fcn(**arguments, weights=weights, precision=precision)
            _fit(model, pairs, val_pairs, recipe, checkpoint, loss, callbacks, last, seed,
                 {"multiple_of": devices, "share": share})
        exportable = models.fcn(**arguments)
        checkpoint.load_kept(exportable)
        if not all((run_dir / name).is_file() for name in runs.MODEL):
            runs.save(exportable, run_dir, dataset, fcn=arguments, parameters=parameters,
                      given=None, seconds=checkpoint.seconds)
            runs.write_json(last, checkpoint.history)
    return Trained(exportable, checkpoint.history, checkpoint.seconds, run_dir / "model.keras")


def _fit(model, pairs, val_pairs, recipe, checkpoint, loss, callbacks, last, seed, shared):
    """Compile `model` and train it from the checkpoint's epoch to the recipe's last."""
    steps, num_classes = math.ceil(len(pairs) / recipe.batch_size), model.output.shape[-1]
    weights = class_weights(recipe.class_weights, pairs, num_classes)
    compile_model(model, num_classes, recipe.learning_rate, steps * recipe.epochs, weights,
                  recipe.optimizer, loss)
    done = checkpoint.restore(model)
    if done == recipe.epochs or done and last.is_file():  # or a callback ended it
        return
    last.unlink(missing_ok=True)
    batches = pipeline.batches(
        pairs, image_size=recipe.image_size, batch_size=recipe.batch_size, augment=True,
        shuffle=True, seed=seed, scale=recipe.scale, epochs=recipe.epochs - done,
        first_epoch=done, **shared)
    model.fit(batches, initial_epoch=done, epochs=recipe.epochs, steps_per_epoch=steps,
              validation_data=pipeline.whole_images(val_pairs, recipe.batch_size, **shared),
              validation_freq=recipe.validation_epochs, shuffle=False, verbose=0,
              callbacks=[StopOnNaN(recipe.learning_rate), checkpoint, Progress(), *callbacks])


def compile_model(model, num_classes, learning_rate, steps, weights=None, optimizer="adam",
                  loss=None):
    """Give a model "adam" or "muon" on `schedule`, `loss` or `cross_entropy`, and `Scores`."""
    check_name("optimizer", optimizer, OPTIMIZERS)

    def loss_fn(y_true, y_pred):
        value = loss(y_true, y_pred) if loss else cross_entropy(y_true, y_pred, weights)
        # Not a scalar: Keras would not divide it by the number of TensorFlow's devices.
        return ops.expand_dims(value, 0)

    rule = (Muon if optimizer == "muon" else keras.optimizers.Adam)(schedule(learning_rate, steps))
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        rule = keras.optimizers.LossScaleOptimizer(rule)  # small gradients would become zero
    model.compile(rule, loss=loss_fn, metrics=[Scores(num_classes)])
    model.optimizer.build(model.trainable_variables)  # else `fit` traces the step twice


@keras.saving.register_keras_serializable("fcn")
class Muon(keras.optimizers.Muon):
    """Keras' Muon (K. Jordan et al. 2024) for convolutions: kernels count as (h * w * in, out).

    Adam updates biases, the layers of `exclude_layers` (scores and their upsampling), and kernels
    wider than `MAX_WIDTH` both ways, for which Muon is slow. With `rms_rate`, weights move about as
    far as under Adam, so that both take the same learning rate.
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
    return keras.optimizers.schedules.CosineDecay(learning_rate / 100, max(1, steps - warmup),
                                                  warmup_target=learning_rate, warmup_steps=warmup)


def cross_entropy(y_true, y_pred, weights=None):
    """Return the mean over non-void pixels of -log softmax(logits)[true class], a float32 scalar.

    y_true: ids (B, H, W). y_pred: float32 logits (B, H, W, C). weights: float (C,), of the classes.
    Keras' `SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)`, faster; 0 for void.
    """
    truth = ops.cast(y_true, "int32")
    known = ops.not_equal(truth, VOID)
    target = ops.one_hot(ops.where(known, truth, -1), ops.shape(y_pred)[-1])  # zeros for void
    per_pixel = ops.logsumexp(y_pred, axis=-1) - ops.sum(target * y_pred, axis=-1)
    counted = ops.cast(known, "float32")
    if weights is not None:
        counted = ops.sum(target * ops.cast(weights, "float32"), axis=-1)
    total = ops.sum(counted)
    return ops.sum(per_pixel * counted) / ops.where(total > 0, total, 1.0)


class Scores(keras.metrics.Metric):
    """The four scores of `metrics.scores`, of logits (B, H, W, C), inside `fit` and `evaluate`.

    All come from `confusion`, integers (C, C), rows are truth. `result` returns a dict of them.
    """

    def __init__(self, num_classes, name="scores", **kwargs):
        # JAX has no 64-bit numbers by default, and torch none on Apple's GPUs.
        wide = "int64" if keras.backend.backend() == "tensorflow" else "int32"
        super().__init__(name=name, **{"dtype": wide, **kwargs})
        self.num_classes = num_classes
        self.confusion = self.add_variable((num_classes, num_classes), "zeros", dtype=self.dtype,
                                           name="confusion")

    def update_state(self, y_true, y_pred, sample_weight=None):
        classes = self.num_classes
        truth = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        # On a CPU three times as fast as `ops.argmax`, which looks for negative zeros first.
        prediction = ops.reshape(ops.top_k(y_pred, 1)[1], (-1,))
        counts = _count(truth * classes + prediction, (VOID + 1) * classes)  # last rows: void
        self.confusion.assign_add(ops.reshape(counts[:classes * classes], (classes, classes)))

    def result(self):
        confusion = ops.cast(self.confusion, "float64" if self.dtype == "int64" else "float32")
        truth, predicted = ops.sum(confusion, axis=1), ops.sum(confusion, axis=0)
        correct = ops.diagonal(confusion)
        iou = correct / (truth + predicted - correct)  # NaN for an absent class
        return {"pixel_accuracy": ops.sum(correct) / ops.sum(truth),
                "mean_accuracy": _mean_of_defined(correct / truth),
                "mean_iou": _mean_of_defined(iou),
                "frequency_weighted_iou": ops.sum(truth * ops.nan_to_num(iou)) / ops.sum(truth)}


def _mean_of_defined(values):
    return ops.sum(ops.nan_to_num(values)) / ops.sum(ops.cast(~ops.isnan(values), values.dtype))


def _count(values, length):
    """Return how often each of 0..length-1 occurs."""
    if keras.backend.backend() == "tensorflow":
        return ops.cast(ops.bincount(values, minlength=length), "int32")
    # JAX cannot trace bincount; in TensorFlow this is ten times slower.
    return ops.segment_sum(ops.ones_like(values), values, num_segments=length)
