"""Training: loss and metric against Keras and numpy, and runs broken off and taken up again."""

import contextlib
import dataclasses
import importlib
import io
import json
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from PIL import Image

from dev import study
from utils import callbacks, metrics, models, pipeline, runs, training
from utils.datasets import load_dataset
from utils.inference import evaluate
from utils.labels import VOID
from utils.recipes import Recipe
from utils.training import Scores, cross_entropy, resolve_precision, train

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Recipe(
    image_size=32,
    batch_size=2,
    epochs=3,
    learning_rate=1e-3,
    backbone="vgg_small",
    scale=(0.8, 1.25),
    keep="last",
    optimizer="muon",
)


BACKEND = keras.backend.backend()
DIGITS = 1e-15 if BACKEND == "tensorflow" else 1e-6  # `Scores` divides in float64 or float32


def labels(seed, shape, num_classes, void=0.2):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, num_classes, shape).astype(np.uint8)
    y[rng.random(shape) < void] = VOID
    return y


@pytest.fixture(scope="module")
def dataset(shared_voc):
    return load_dataset("voc", shared_voc)


@pytest.fixture(scope="module")
def unbroken_and_progress(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        trained = train(dataset, RECIPE, folder, precision="float32", seed=1)
    return trained, folder, printed.getvalue().splitlines()


@pytest.fixture(scope="module")
def unbroken(unbroken_and_progress):
    """A training of three epochs that nothing disturbs, and its run folder."""
    return unbroken_and_progress[:2]


@pytest.fixture(scope="module")
def progress(unbroken_and_progress):
    """What that training printed, line by line."""
    return unbroken_and_progress[2]


@pytest.fixture
def eager():
    """Step without building graphs, which takes longer than the few steps of a test."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def same_weights(first, second):
    return (
        max(np.abs(a - b).max()
            for a, b in zip(first.get_weights(), second.get_weights(), strict=True))
        < 1e-6
    )


def losses(trained):
    return [epoch["loss"] for epoch in trained.history]


# Loss


def test_loss_and_gradient_equal_keras_own(one_step):
    y_true = labels(0, (2, 8, 9), 5)
    logits = np.random.default_rng(1).normal(0, 3, (2, 8, 9, 5)).astype(np.float32)
    known = y_true != VOID
    keras_loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=VOID, reduction=None
    )
    loss, (gradient,) = one_step(cross_entropy, logits, y_true)
    expected, (keras_gradient,) = one_step(lambda *given: ops.sum(keras_loss(*given)) / known.sum(),
                                           logits, y_true)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert np.abs(gradient - keras_gradient).max() < 1e-8
    assert not gradient[~known].any() and gradient[known].all()


def test_loss_by_hand():
    logits = np.log(np.float32([[[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]]]])) + 5
    y_true = np.array([[[0, 1, VOID]]])
    assert (float(cross_entropy(y_true, logits))
            == pytest.approx(-(np.log(0.7) + np.log(0.1)) / 2, abs=1e-6))


def test_weighted_loss_and_gradient_equal_a_weighted_mean(one_step):
    weights = np.array([0.5, 3.0, 1.0, 0.0, 2.0])
    y_true = labels(0, (2, 8, 9), 5)
    logits = np.random.default_rng(1).normal(0, 3, (2, 8, 9, 5)).astype(np.float32)
    pixel_weights = np.append(weights, np.zeros(VOID + 1 - 5))[y_true]
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=VOID,
                                                            reduction=None)

    def weighted_mean(y_true, y_pred):
        weighted = ops.multiply(keras_loss(y_true, y_pred), pixel_weights.astype(np.float32))
        return ops.sum(weighted) / pixel_weights.sum()

    loss, (gradient,) = one_step(lambda *given: cross_entropy(*given, weights), logits, y_true)
    expected, (keras_gradient,) = one_step(weighted_mean, logits, y_true)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert np.abs(gradient - keras_gradient).max() < 1e-8
    nothing = np.where(y_true == 3, y_true, VOID)  # only pixels of weight 0, and void
    assert float(cross_entropy(nothing, logits, weights)) == 0


def test_median_frequency_weights_by_hand():
    photo = np.zeros((2, 4, 3), np.uint8)
    pairs = [(photo, np.uint8([[0, 0, 0, 1], [0, 0, 0, VOID]])),
             (photo, np.uint8([[0, 0, 2, 2], [0, 0, 2, 2]])),
             (photo, np.full((2, 4), VOID, np.uint8))]
    # Shares in the images that show the class: 10 of 15 pixels, 1 of 7, 4 of 8, and class 3
    # nowhere.
    weights = training.class_weights("median", pairs, 4)
    assert weights == pytest.approx([0.5 / (10 / 15), 0.5 / (1 / 7), 1, 0])
    assert training.class_weights("root_median", pairs, 4) ** 2 == pytest.approx(weights)
    assert training.class_weights("none", pairs, 4) is None
    sentence = "class_weights is 'medium'; did you mean 'median'.*none, median, root_median"
    with pytest.raises(ValueError, match=sentence):
        training.class_weights("medium", pairs, 4)


def test_class_weights_reach_the_training(tmp_path, dataset, unbroken):
    recipe = dataclasses.replace(RECIPE, class_weights="median")
    weighted = train(dataset, recipe, tmp_path, precision="float32", seed=1)
    differences = [abs(a - b) for a, b in zip(losses(weighted), losses(unbroken[0]), strict=True)]
    assert min(differences[1:]) > 1e-5  # a training that is repeated gives the same losses


def test_class_weights_come_from_the_training_masks_alone(tmp_path, dataset, monkeypatch):
    counted = []

    def weights_of(rule, pairs, num_classes):
        counted.extend(mask for _, mask in pairs)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "class_weights", weights_of)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, dataclasses.replace(RECIPE, class_weights="median"), tmp_path)
    expected = [dataset.read(sample)[1] for sample in dataset.split("train")]
    np.testing.assert_array_equal(counted, expected)


def test_another_loss_is_handed_in(tmp_path, dataset, unbroken):
    arguments = {"precision": "float32", "seed": 1}
    same = train(dataset, RECIPE, tmp_path / "same", loss=cross_entropy, **arguments)
    assert losses(same) == losses(unbroken[0])
    short = dataclasses.replace(RECIPE, epochs=1)
    with_dice = study.other_losses()["with dice"]  # cross-entropy, and 0 to 1 for Dice
    other = train(dataset, short, tmp_path / "dice", loss=with_dice, **arguments)
    assert losses(same)[0] < losses(other)[0] < losses(same)[0] + 1
    with pytest.raises(ValueError, match="loss was 'with_dice'"):
        train(dataset, short, tmp_path / "dice", **arguments)


def test_early_stopping_is_handed_in(tmp_path, dataset):
    stop = keras.callbacks.EarlyStopping("loss", patience=0, min_delta=100.0)
    recipe = dataclasses.replace(RECIPE, epochs=9)
    trained = train(dataset, recipe, tmp_path, precision="float32", callbacks=[stop])
    assert len(trained.history) == 2 and trained.path.is_file()
    (tmp_path / "model.json").unlink()
    again = train(dataset, recipe, tmp_path, precision="float32", callbacks=[stop])
    assert again.history == trained.history, "what a callback ended is finished"
    assert (tmp_path / "model.json").is_file(), "what is missing is written again"


def test_upsampling_reaches_the_training_and_the_card(tmp_path, dataset):
    recipe = dataclasses.replace(RECIPE, epochs=1)
    trained = train(dataset, recipe, tmp_path, stride=16, upsampling="deconv", precision="float32")
    assert [layer.name for layer in trained.model.layers
            if isinstance(layer, keras.layers.Conv2DTranspose)] == ["upsample2_16", "upsample16"]
    assert json.loads((tmp_path / "model.json").read_text())["fcn"]["upsampling"] == "deconv"
    with pytest.raises(ValueError, match="upsampling was 'deconv' and is now 'bilinear'"):
        train(dataset, recipe, tmp_path, stride=16, precision="float32")


def test_callbacks_are_handed_in_such_as_tensorboard(tmp_path, dataset, unbroken, eager):
    folder = tmp_path / "tensorboard"
    recipe = dataclasses.replace(RECIPE, epochs=1)
    train(dataset, recipe, tmp_path, precision="float32",
          callbacks=[keras.callbacks.TensorBoard(folder)])
    for part in ("train", "validation"):
        events, = (folder / part).glob("events.*")
        tags = [value.tag for record in tf.data.TFRecordDataset(str(events))
                for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value]
        assert {"epoch_loss", "epoch_mean_iou"} <= set(tags)


def test_loss_survives_void_alone_and_large_logits(one_step):
    logits = np.random.default_rng(0).normal(0, 1e4, (1, 4, 4, 3)).astype(np.float32)
    loss, (gradient,) = one_step(cross_entropy, logits, np.full((1, 4, 4), VOID, np.uint8))
    assert loss == 0 and not gradient.any()
    assert np.isfinite(float(cross_entropy(labels(0, (1, 4, 4), 3), logits)))


def test_untrained_network_has_the_loss_log_c():
    model = models.fcn(5, backbone="vgg_small")
    training.compile_model(model, 5, 1e-3, 10)
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    loss = model.evaluate(x, labels(0, (2, 32, 32), 5), verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(np.log(5), abs=1e-5)


@pytest.mark.skipif(BACKEND == "torch",
                    reason="Keras takes torch's steps one by one, without a graph")
def test_the_step_is_traced_once(monkeypatch):
    model, traced = models.fcn(2, backbone="vgg_small"), []
    training.compile_model(model, 2, 1e-3, 2)
    step = model.train_step
    monkeypatch.setattr(model, "train_step", lambda *given: traced.append(1) or step(*given))
    model.fit(np.zeros((4, 32, 32, 3), np.float32), labels(0, (4, 32, 32), 2),
              batch_size=2, verbose=0)
    assert len(traced) == 1


def test_muon_turns_a_kernel_along_the_nearest_orthogonal_matrix():
    rng = np.random.default_rng(0)
    kernel = keras.Variable(rng.normal(size=(3, 3, 16, 24)).astype(np.float32), name="kernel")
    bias = keras.Variable(np.zeros(24, np.float32), name="bias")
    # Singular values from 1 to 1e-2, as gradients have them, and worse.
    u, _, vt = np.linalg.svd(rng.normal(size=(144, 24)), full_matrices=False)
    gradient = (u * np.geomspace(1, 1e-2, 24)) @ vt
    before = ops.convert_to_numpy(kernel)
    # the default is coarser, which is enough to train with
    optimizer = training.Muon(0.01, ns_steps=5)
    optimizer.build([kernel, bias])
    optimizer.apply([ops.convert_to_tensor(gradient.reshape(3, 3, 16, 24), "float32"),
                     ops.ones(24)], [kernel, bias])
    step = (before - ops.convert_to_numpy(kernel)).reshape(144, 24)
    # In the singular vectors' own axes the update is nearly a multiple of the unit matrix.
    turned = u.T @ step @ vt.T
    along = np.diag(turned) / (0.01 * 2 / 3 * np.sqrt(144))
    assert along.min() > 0.6 and along.max() < 1.3
    assert np.abs(turned - np.diag(np.diag(turned))).max() < 0.01 * along.max()
    assert np.sqrt(np.mean(step ** 2)) == pytest.approx(0.01 * 2 / 3, rel=0.2)
    # Adam's first step
    assert ops.convert_to_numpy(bias) == pytest.approx(np.full(24, -0.01), rel=1e-3)


@pytest.mark.parametrize("backbone, upsampling, left_to_adam", [
    ("vgg_small", "deconv", {"score", "score_pool4", "upsample2_16", "upsample16"}),
    ("vgg16", "deconv", {"score", "score_pool4", "upsample2_16", "upsample16", "fc6", "fc7"}),
    ("vgg_small", "ladder", {"score"})])
def test_muon_takes_all_kernels_but_those_of_scores_and_very_wide_ones(backbone, upsampling,
                                                                       left_to_adam):
    model = models.fcn(2, 16, backbone, upsampling=upsampling)
    training.compile_model(model, 2, 1e-3, 10, optimizer="muon")
    kernels = {layer.name: layer.kernel for layer in model.layers if hasattr(layer, "kernel")}
    assert left_to_adam < kernels.keys()
    optimizer = model.optimizer
    adam = {variable.path for variable in model.trainable_variables
            if optimizer.adam_velocities[optimizer._get_variable_index(variable)] is not None}
    others = ({variable.path for variable in model.trainable_variables}
              - {kernel.path for kernel in kernels.values()})
    assert adam == others | {kernels[name].path for name in left_to_adam}


def test_muon_comes_back_from_its_config():
    again = training.Muon.from_config(training.Muon(0.2, ns_steps=4,
                                                    exclude_layers=("head",)).get_config())
    assert ((float(again.learning_rate), again.ns_steps, again.exclude_layers)
            == (pytest.approx(0.2), 4, ["head"]))
    assert (again.weight_decay is None and again.adam_weight_decay is None
            and again.rms_rate == 2 / 3)


def test_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match="optimizer is 'sgd'.*adam, muon"):
        training.compile_model(models.fcn(2, backbone="vgg_small"), 2, 1e-3, 10, optimizer="sgd")
    with pytest.raises(ValueError, match="optimizer is 'mion'.*muon"):
        RECIPE.override(optimizer="mion")


def test_learning_rate_rises_peaks_and_falls_to_zero():
    model = models.fcn(2, backbone="vgg_small")
    training.compile_model(model, 2, 0.1, 200)
    rates = [float(model.optimizer._learning_rate(step)) for step in range(201)]
    assert max(rates) == pytest.approx(0.1, rel=1e-3) and 5 <= np.argmax(rates) <= 15
    assert rates[0] < 0.01 and rates[-1] < 1e-4


# Metric


def test_metric_equals_numpy_to_the_last_digit_over_batches():
    y_true, logits = labels(2, (7, 6, 5),
                            4), np.random.default_rng(3).normal(size=(7, 6, 5, 4)).astype(
        np.float32
    )
    metric = Scores(6)  # two classes occur in neither
    logits = np.concatenate([logits, np.full((7, 6, 5, 2), -9, np.float32)], axis=3)
    confusion = np.zeros((6, 6), np.int64)
    for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
        metric.update_state(y_true[part], logits[part])
        confusion += metrics.confusion_matrix(y_true[part], logits[part].argmax(axis=3), 6)
    assert (ops.convert_to_numpy(metric.confusion) == confusion).all()
    expected = metrics.scores(confusion)
    del expected["iou"]
    assert ({name: float(value) for name, value in metric.result().items()}
            == pytest.approx(expected, rel=DIGITS))
    metric.reset_state()
    assert not ops.convert_to_numpy(metric.confusion).any()
    assert all(np.isnan(float(value)) for value in metric.result().values())  # as in metrics.scores


@pytest.mark.parametrize("seed", range(5))
def test_metric_agrees_with_numpy_on_any_confusion(seed):
    rng = np.random.default_rng(seed)
    confusion = (rng.integers(0, 10 ** rng.integers(1, 8), (21, 21))
                 * (rng.random((21, 21)) < 0.5)).astype(np.int32)
    # absent, only predicted, never predicted
    confusion[3] = confusion[:, 3] = confusion[8] = confusion[:, 9] = 0
    metric = Scores(21)
    metric.confusion.assign(confusion)
    expected = metrics.scores(confusion)
    for name, value in metric.result().items():
        assert float(value) == pytest.approx(expected[name], rel=DIGITS)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others count in 32 bits")
def test_metric_counts_more_pixels_than_32_bits_hold():
    metric = Scores(2)
    metric.confusion.assign([[2 ** 31 - 10, 300], [50, 100]])
    metric.update_state(np.zeros((1, 5, 5)), np.float32([[[[1, 0]] * 5] * 5]))
    assert (ops.convert_to_numpy(metric.confusion) == [[2 ** 31 + 15, 300], [50, 100]]).all()
    assert float(metric.result()["pixel_accuracy"]) < 1


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_float16_scales_its_loss(optimizer):
    """Gradients of many pixels would become zero; Keras does so for models of that policy."""
    model = models.fcn(3, backbone="vgg_small", precision="mixed_float16")
    training.compile_model(model, 3, 1e-3, 10, optimizer=optimizer)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    x, y = np.full((1, 32, 32, 3), 99, np.float32), np.zeros((1, 32, 32), np.uint8)
    assert np.isfinite(model.train_on_batch(x, y)[0])
    assert float(model.optimizer.learning_rate) > 0


def test_metric_inside_fit_and_evaluate_equals_numpy():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 127.5, -1), keras.layers.Conv2D(3, 1)]
    )
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 255, (5, 32, 32, 3)).astype(np.float32), labels(4, (5, 32, 32), 3)
    # Rate 0: the weights stay, so that every batch is labelled by the same network.
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss=cross_entropy, metrics=[Scores(3)])
    history = model.fit(x, y, batch_size=2, validation_data=(x, y), verbose=0).history
    confusion = metrics.confusion_matrix(y, ops.convert_to_numpy(model(x)).argmax(axis=3), 3)
    expected = metrics.scores(confusion)
    evaluated = model.evaluate(x, y, batch_size=2, verbose=0, return_dict=True)
    for name in ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"):
        assert (history[f"val_{name}"][0] == evaluated[name]
                == pytest.approx(expected[name], rel=DIGITS))
    per_batch = [
        metrics.scores(
            metrics.confusion_matrix(y[i:i + 2],
                                     ops.convert_to_numpy(model(x[i:i + 2])).argmax(3), 3)
        )
        for i in (0, 2, 4)
    ]
    assert abs(np.mean([batch["mean_iou"] for batch in per_batch]) - expected["mean_iou"]) > 1e-4


# Training


def test_training_leaves_a_float32_model_and_its_history(unbroken, dataset):
    trained, folder = unbroken
    assert {path.name for path in folder.iterdir()} >= {
        "model.keras",
        "model.weights.h5",
        "model.json",
        "history.json",
    }
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
    assert trained.path == folder / "model.keras" and trained.seconds > 0
    history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    assert history == trained.history and [epoch["epoch"] for epoch in history] == [1, 2, 3]
    assert {"loss", "mean_iou", "val_loss", "val_mean_iou", "seconds"} <= set(history[0])
    assert all(0 < loss < 1.5 * np.log(3) for loss in losses(trained))
    for name in ("model.keras", "model.weights.h5"):
        assert same_weights(models.load(folder / name), trained.model)
    confusion = evaluate(trained.model, dataset, "val")
    assert (metrics.scores(confusion)["mean_iou"]
            == pytest.approx(history[-1]["val_mean_iou"], abs=1e-6))
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert card["dataset"] == "voc" and card["class_names"] == ["ground", "block", "disc"]


def test_history_holds_the_rate_at_the_end_of_each_epoch(unbroken):
    rates = [row["learning_rate"] for row in unbroken[0].history]
    steps = 3 * np.arange(1, 4) - 1  # the cosine begins after one step of warm-up
    expected = RECIPE.learning_rate * (1 + np.cos(np.pi * steps / 8)) / 2
    assert rates == pytest.approx(expected, abs=1e-9)


def test_training_equals_a_hand_written_loop(unbroken, dataset):
    trained, _ = unbroken
    keras.utils.set_random_seed(1)
    model = models.fcn(3, backbone="vgg_small")
    batches = pipeline.batches(
        dataset.split("train"),
        image_size=32,
        batch_size=2,
        augment=True,
        shuffle=True,
        seed=1,
        scale=RECIPE.scale,
        epochs=2,
    )
    keras_loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=VOID, reduction=None
    )

    def loss(y_true, y_pred):
        return ops.sum(keras_loss(y_true, y_pred)) / ops.sum(ops.cast(y_true != VOID, "float32"))

    training.compile_model(model, 3, RECIPE.learning_rate, 3 * 3,
                           optimizer=RECIPE.optimizer, loss=loss)
    found = []
    for images, masks in batches.as_numpy_iterator():
        model.reset_metrics()
        found.append((float(model.train_on_batch(images, masks)[0]), len(images)))
    assert [size for _, size in found] == [2, 2, 1] * 2
    # What Keras reports for an epoch: the batches' losses, weighted by their size.
    expected = [sum(loss * size for loss, size in found[start:start + 3]) / 5 for start in (0, 3)]
    assert losses(trained)[:2] == pytest.approx(expected, rel=1e-4)


def test_broken_off_training_goes_on_as_if_unbroken(unbroken, dataset, tmp_path,
                                                    monkeypatch, capsys):
    trained, _ = unbroken
    steps = iter(range(100))

    def interrupt(self, batch, logs=None):
        if next(steps) == 4:  # the second step of the second epoch
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(callbacks.StopOnNaN, "on_train_batch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, RECIPE, tmp_path, precision="float32", seed=1)
    assert not (tmp_path / "model.keras").exists()
    capsys.readouterr()
    resumed = train(dataset, RECIPE, tmp_path, precision="float32", seed=1)
    assert "resumed after epoch 1" in capsys.readouterr().out
    assert same_weights(resumed.model, trained.model)
    assert losses(resumed) == pytest.approx(losses(trained), abs=1e-6)


KILLED = """
import os, signal, sys
from utils import training
from utils.datasets import load_dataset
from utils.recipes import Recipe
replace, left = os.replace, [2]
def kill_before_the_second_state(source, target):
    left[0] -= str(target).endswith("state.npz")
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = kill_before_the_second_state
dataset, recipe = load_dataset("voc", sys.argv[1]), Recipe(**eval(sys.argv[2]))
training.train(dataset, recipe, sys.argv[3], precision="float32", seed=1)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.slow
def test_killed_training_goes_on_as_if_unbroken(unbroken, dataset, shared_voc, tmp_path):
    trained, _ = unbroken
    # Killed between the two files that an epoch writes.
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, shared_voc, repr(dataclasses.asdict(RECIPE)), tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    resumed = train(dataset, RECIPE, tmp_path, precision="float32", seed=1)
    assert same_weights(resumed.model, trained.model)
    assert losses(resumed) == pytest.approx(losses(trained), abs=1e-6)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


def test_a_finished_training_is_not_run_again(unbroken, dataset, monkeypatch):
    trained, folder = unbroken
    monkeypatch.setattr(keras.Model, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    again = train(dataset, RECIPE, folder, precision="float32", seed=1)
    assert same_weights(again.model, trained.model) and again.history == trained.history


@pytest.mark.parametrize("changes, sentence", [
    ({"class_names": ("ground", "block", "tumour")},
     "class_names was .*disc.* and is now .*tumour"),
    ({"splits": "one photo fewer"}, "photos was 'train .* and is now 'train "),
])
def test_another_data_set_of_the_same_name_is_refused(unbroken, dataset, changes, sentence):
    if "splits" in changes:
        changes = {"splits": {**dataset.splits, "train": dataset.split("train")[1:]}}
    with pytest.raises(ValueError, match=f"other parameters: {sentence}"):
        train(dataclasses.replace(dataset, **changes), RECIPE, unbroken[1],
              precision="float32", seed=1)


def test_a_path_will_do_as_weights(tmp_path, dataset, unbroken):
    recipe = dataclasses.replace(RECIPE, epochs=1)
    recipe = dataclasses.replace(recipe, learning_rate=1e-12)  # so that it stays where it starts
    given = {"weights": unbroken[1] / "model.keras", "precision": "float32"}
    trained = train(dataset, recipe, tmp_path, **given)
    for layer in trained.model.layers:
        if hasattr(layer, "kernel"):
            expected = unbroken[0].model.get_layer(layer.name).kernel
            np.testing.assert_allclose(layer.kernel, expected, atol=1e-6)
            assert np.ptp(expected) > 0
    with pytest.raises(ValueError, match="weights was '.*model.keras' and is now ''"):
        train(dataset, recipe, tmp_path, precision="float32")


@pytest.mark.parametrize(
    "changes, arguments, sentence",
    [
        ({"epochs": 5}, {}, "epochs was 3 and is now 5"),
        ({"learning_rate": 0.1}, {}, "learning_rate was 0.001 and is now 0.1"),
        ({}, {"seed": 2}, "seed was 1 and is now 2"),
        ({}, {"stride": 16}, "stride was 32 and is now 16"),
    ],
)
def test_other_parameters_are_refused_and_nothing_is_lost(unbroken, dataset, changes,
                                                          arguments, sentence):
    _, folder = unbroken
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=f"other parameters: {sentence}"):
        train(
            dataset,
            dataclasses.replace(RECIPE, **changes),
            folder,
            precision="float32",
            **{"seed": 1, **arguments},
        )
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_in_use_is_refused(dataset, tmp_path):
    (tmp_path / "training").mkdir()
    with runs.lock(tmp_path / "training"):
        with pytest.raises(RuntimeError, match="is in use: another process writes there"):
            train(dataset, RECIPE, tmp_path, precision="float32", seed=1)
    assert not (tmp_path / "recipe.json").exists(), "the record is that of the other process"


def test_faulty_data_stop_before_the_first_step_and_can_be_mended(voc, tmp_path, eager):
    faulty = load_dataset("voc", voc)
    (voc / "JPEGImages" / "train0.png").write_bytes(b"")
    with pytest.raises(ValueError,
                       match=r"1 of 5 pairs cannot be used(?s:.*)train0\.png: the file is empty"):
        train(faulty, RECIPE, tmp_path / "run", precision="float32")
    (voc / "ImageSets/Segmentation/train.txt").write_text("train1\ntrain2\n", encoding="utf-8")
    # No epoch was trained, so that other parameters are no change of mind.
    trained = train(
        load_dataset("voc", voc), dataclasses.replace(RECIPE, epochs=1), tmp_path / "run",
        precision="float32"
    )
    assert len(trained.history) == 1


def test_loss_that_is_no_number_stops_with_likely_causes(dataset, tmp_path, monkeypatch, eager):
    monkeypatch.setattr(training, "cross_entropy", lambda y_true, y_pred,
                        weights: ops.sum(y_pred) * float("nan"))
    with pytest.raises(
        FloatingPointError,
        match=r"the loss became nan at step 1\..*learning_rate .*now 0\.001.*float16"
    ):
        train(dataset, RECIPE, tmp_path, precision="float32")
    assert not (tmp_path / "model.keras").exists()


@pytest.mark.parametrize("loss", [np.inf, -np.inf, np.nan])
def test_an_infinite_loss_is_no_number_either(loss):
    guard = callbacks.StopOnNaN(0.5)
    guard.on_train_batch_end(0, {"loss": 1e30})
    with pytest.raises(FloatingPointError, match=f"became {loss} at step 4.*now 0.5"):
        guard.on_train_batch_end(3, {"loss": loss})


def test_best_epoch_is_kept_and_another_seed_gives_another_model(unbroken, dataset,
                                                                 tmp_path, monkeypatch):
    scores = iter([0.2, 0.9, 0.1])
    weights = []
    on_epoch_end = callbacks.Checkpoint.on_epoch_end

    def with_given_score(self, epoch, logs=None):
        weights.append(self.model.get_weights())
        on_epoch_end(self, epoch, {**logs, "val_mean_iou": next(scores)})

    monkeypatch.setattr(callbacks.Checkpoint, "on_epoch_end", with_given_score)
    trained = train(dataset, dataclasses.replace(RECIPE, keep="best"), tmp_path,
                    precision="float32", seed=2)
    assert all((a == b).all() for a, b in zip(trained.model.get_weights(), weights[1], strict=True))
    assert not all((a == b).all()
                   for a, b in zip(trained.model.get_weights(), weights[2], strict=True))
    assert losses(trained)[0] != losses(unbroken[0])[0]


def test_mixed_precision_leaves_a_float32_model(dataset, tmp_path, eager):
    recipe = dataclasses.replace(RECIPE, epochs=3, validate_every=2, keep="best")
    trained = train(dataset, recipe, tmp_path, precision="mixed_bfloat16")
    # The last epoch is scored, too.
    assert ["val_mean_iou" in epoch for epoch in trained.history] == [False, True, True]
    for model in (trained.model, models.load(trained.path),
                  models.load(tmp_path / "model.weights.h5")):
        assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
        assert {weight.dtype for weight in model.weights} == {"float32"}
        assert same_weights(model, trained.model)


def test_progress_says_where_it_is_and_what_is_left(progress):
    lines = [line for line in progress if " step " not in line]
    assert lines[0].startswith("epoch 1/3  loss ") and lines[-1].startswith("epoch 3/3  loss ")
    assert all(line.startswith("epoch ") and "val mean IoU 0." in line and line.endswith(" left")
               for line in lines)
    assert lines[-1].endswith("0:00 left")


def printed_lines(monkeypatch, capsys, epochs, steps, seconds, first=0, validated=()):
    """What Progress prints of a training whose steps take so many seconds each."""
    clock = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock[0])
    progress = callbacks.Progress()
    progress.set_params({"epochs": epochs, "steps": steps})
    progress.on_train_begin()
    for epoch in range(first, epochs):
        progress.on_epoch_begin(epoch)
        for step in range(steps):
            clock[0] += seconds
            progress.on_train_batch_end(step, {"loss": 1.0})
        progress.on_epoch_end(epoch, {"loss": 1.0,
                                      **({"val_mean_iou": 0.5} if epoch + 1 in validated else {})})
    return capsys.readouterr().out.splitlines()


def test_progress_of_short_epochs_takes_few_lines(monkeypatch, capsys):
    lines = printed_lines(monkeypatch, capsys, epochs=300, steps=1, seconds=0.125, validated=(150,))
    numbers = [int(line.split("/")[0].removeprefix("epoch ")) for line in lines]
    assert numbers[0] == 1 and 150 in numbers and numbers[-1] == 300
    assert len(numbers) == 9  # in 37.5 seconds
    assert ["val mean IoU 0.500" in line for line in lines] == [number == 150 for number in numbers]


def test_progress_of_long_epochs_shows_the_time_left(monkeypatch, capsys):
    lines = printed_lines(monkeypatch, capsys, epochs=4, steps=10, seconds=3.0, first=2)
    assert [line.split("  ")[0] for line in lines] == ["epoch 3/4"] * 3 + ["epoch 4/4"] * 3
    assert lines[0].endswith("step 4/10  loss 1.000  0:48 left")  # 16 more steps of 3 seconds
    assert lines[-1].endswith("0:00 left")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_that_no_generator_takes_is_refused_first(dataset, tmp_path, seed):
    with pytest.raises(ValueError, match=f"seed is {seed}"):
        train(dataset, RECIPE, tmp_path / "run", seed=seed)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_that_are_all_void_are_refused_with_their_split(make_voc, tmp_path, split):
    root = make_voc(tmp_path / "voc")
    for mask in (root / "SegmentationClass").glob(f"{split}*.png"):
        Image.fromarray(np.full((48, 64), VOID, np.uint8)).save(mask)
    with pytest.raises(ValueError, match=f"split {split}: .*void"):
        train(load_dataset("voc", root), RECIPE, tmp_path / "run", precision="float32")


def test_files_of_the_users_are_never_replaced(dataset, tmp_path, monkeypatch):
    """README's own call: train(data, recipe, "my_run")."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "my_run"
    for name in ("model.keras", "history.json", "masks/one.png", "notes.txt"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_bytes(b"the user's")
    before = {path: path.is_dir() or path.read_bytes() for path in own.rglob("*")}
    with pytest.raises(FileExistsError, match="my_run .*model.keras"):
        train(dataset, RECIPE, "my_run", precision="float32")
    assert {path: path.is_dir() or path.read_bytes() for path in own.rglob("*")} == before


def test_folder_of_a_training_is_taken_by_the_next_notebook(unbroken):
    assert runs.run_folder(unbroken[1]) == unbroken[1] and (unbroken[1] / "run.json").is_file()


# The model of a run, or the kept one


def test_trained_model_is_found_in_its_run(unbroken, dataset, tmp_path, shared_voc):
    trained, folder = unbroken
    model, *_, source = models.load_trained(folder, dataset)
    assert same_weights(model, trained.model) and "this run" in source
    with pytest.raises(ValueError, match="trained on voc .*not on meadow"):
        models.load_trained(folder, load_dataset("meadow", shared_voc))
    with pytest.raises(ValueError, match="trained on .*disc.*not on .*tumour"):
        models.load_trained(folder,
                            dataclasses.replace(dataset, class_names=("ground", "block", "tumour")))
    shutil.copy(folder / "model.keras", tmp_path)
    for text in ("", '{"fcn"', "[" * 100_000, '{"dataset": "voc", "class_names": []}'):
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(ValueError, match="model.keras .*model.json"):
            models.load_trained(tmp_path, dataset)
    (tmp_path / "model.json").unlink()
    for data in (dataset, load_dataset("meadow")):  # not the kept model in its place
        with pytest.raises(ValueError, match="model.keras .*model.json"):
            models.load_trained(tmp_path, data)
    (tmp_path / "model.keras").unlink()
    with pytest.raises(FileNotFoundError, match="no model for voc.*notebook 03"):
        models.load_trained(tmp_path, dataset)


# Precision


@pytest.mark.parametrize("name", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_named_precisions_are_taken(name):
    assert resolve_precision(name) == name


@pytest.mark.parametrize(
    "name, hint", [("bfloat16", "mixed_bfloat16"), ("float23", "float32"), ("Auto", "auto")]
)
def test_precision_names_get_a_hint(name, hint):
    with pytest.raises(
        ValueError, match=f"precision is '{name}'; did you mean '{hint}'"
    ):
        resolve_precision(name)


@pytest.mark.parametrize("capability, expected", [
    ((7, 5), "float32"), ((8, 0), "mixed_bfloat16"), ((9, 0), "mixed_bfloat16"), (None, "float32")])
def test_auto_asks_the_first_gpu(monkeypatch, capability, expected):
    if BACKEND == "torch":
        cuda = importlib.import_module("torch").cuda
        monkeypatch.setattr(cuda, "is_available", lambda: True)
        monkeypatch.setattr(cuda, "get_device_capability", lambda: capability or (0, 0))
    elif BACKEND == "jax":
        found = {"compute_capability": ".".join(map(str, capability))} if capability else {}
        gpu = types.SimpleNamespace(platform="gpu", **found)
        monkeypatch.setattr(importlib.import_module("jax"), "devices", lambda: [gpu])
    else:
        details = {"compute_capability": capability} if capability else {}
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["a gpu"])
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    assert resolve_precision("auto") == expected


@pytest.mark.parametrize(
    "cpuinfo, expected",
    [
        ("processor : 0\nflags : fpu sse avx2 avx512f\nbugs :\n", "float32"),
        ("processor : 0\nflags : fpu amx_bf16 amx_tile\nbugs :\n", "mixed_bfloat16"),
        ("vendor_id : AuthenticAMD\nflags : fpu avx512_bf16\nbugs :\n", "mixed_bfloat16"),
        ("vendor_id : GenuineIntel\nflags : fpu avx512_bf16\nbugs : amx_bf16\n", "float32"),
        ("vendor_id : AuthenticAMD\nflags : fpu avx512f\nbugs :\n", "float32"),
        ("flags : fpu sse\nbugs : amx_bf16\n", "float32"),
        ("Features : neon\n", "float32"),
        ("", "float32"),
        (None, "float32"),
    ],
)
def test_auto_takes_bfloat16_only_where_it_is_faster(monkeypatch, cpuinfo, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])
    if BACKEND == "torch":
        monkeypatch.setattr(importlib.import_module("torch").cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda self: cpuinfo is not None)  # as on macOS, Windows
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: cpuinfo)
    assert resolve_precision("auto") == resolve_precision() == expected
