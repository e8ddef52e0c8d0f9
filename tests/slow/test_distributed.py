"""Training on several devices: two JAX processes against one, two TensorFlow devices."""

import dataclasses
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils import metrics, models
from utils.datasets import load_dataset
from utils.inference import predict
from utils.recipes import Recipe

ROOT = Path(__file__).resolve().parents[2]
# Cells of 64 pixels see enough of a photo for batch normalization to be more than noise, which Adam
# would blow up.
RECIPE = Recipe(image_size=64, batch_size=4, epochs=2, learning_rate=1e-3, backbone="vgg_small",
                scale=(0.8, 1.25),
                keep="last")

# Trainings of five photos, four of them in the first batch

TRAIN = """
import json, sys
import numpy as np
voc, recipe, run_dir, found, devices, broken_off = sys.argv[1:]
if int(devices) > 1:
    import tensorflow as tf
    cpu, parts = tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()]
    tf.config.set_logical_device_configuration(cpu, parts * int(devices))
from tools import scale
from utils import callbacks
from utils.datasets import load_dataset
from utils.recipes import Recipe
def keep(self, epoch, logs):
    confusion, = (variable for variable in self.model.metrics_variables
                  if variable.name == "confusion")
    confusions.append(np.array(confusion))
def interrupt(self, batch, logs=None):
    steps.append(batch)
    if len(steps) == 3:  # the first of the second epoch
        raise KeyboardInterrupt
def note(self, batch, logs=None):
    if batch == 0:
        first_losses.append(float(logs["loss"]))
    step(self, batch, logs)
confusions, steps, first_losses = [], [], []
end, step = callbacks.Progress.on_epoch_end, callbacks.Progress.on_train_batch_end
callbacks.Progress.on_epoch_end = lambda *given: (keep(*given), end(*given))
callbacks.Progress.on_train_batch_end = note
dataset, recipe = load_dataset("voc", voc), Recipe(**eval(recipe))
if broken_off == "True":
    check = callbacks.StopOnNaN.on_train_batch_end
    callbacks.StopOnNaN.on_train_batch_end = interrupt
    try:
        scale.train(dataset, recipe, run_dir, precision="float32", seed=1)
    except KeyboardInterrupt:
        callbacks.StopOnNaN.on_train_batch_end = check
trained = scale.train(dataset, recipe, run_dir, precision="float32", seed=1)
if broken_off == "True":  # in the end, process 0 alone has something to complain about
    try:
        scale.train(dataset, recipe, run_dir, precision="float32", seed=2)
    except (ValueError, RuntimeError) as error:
        print(type(error).__name__, error)
np.savez(found, *trained.model.get_weights(), history=json.dumps(trained.history),
         confusion=confusions[-1], first_losses=first_losses,
         share=[*scale.processes_together(), scale.count_devices()])
"""

pytestmark = pytest.mark.slow


def start(folder, voc, process, devices=1, broken_off=False, **variables):
    """Start a process that trains in `folder/process`; its results go to `folder/process.npz`."""
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, voc, repr(dataclasses.asdict(RECIPE)), folder / process,
         folder / f"{process}.npz", str(devices), str(broken_off)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Without its optimizations JAX builds these small networks in a fraction of the time.
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
             "TF_NUM_INTRAOP_THREADS": "1", **variables})


def finish(*processes):
    """Wait for trainings to end well, and return what each printed."""
    try:
        ended = [process.communicate(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, ended):
        assert process.returncode == 0, errors
    return [printed for printed, _ in ended]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def results(file):
    with np.load(file) as arrays:
        weights = [arrays[f"arr_{i}"]
                   for i in range(sum(name.startswith("arr_") for name in arrays))]
        history = [{**row, "first_loss": loss}
                   for row, loss in zip(json.loads(str(arrays["history"])),
                                        arrays["first_losses"], strict=True)]
        return weights, history, arrays["confusion"], arrays["share"].tolist()


needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None,
                               reason="JAX is not installed")


@pytest.fixture(scope="module")
def on_jax(shared_voc, tmp_path_factory):
    """The folder of trainings by one process and by two, and what each printed.

    The two are broken off and taken up again, and have no folder in common.
    """
    folder = tmp_path_factory.mktemp("jax")
    together = {"FCN_PROCESSES": "2", "FCN_COORDINATOR": f"127.0.0.1:{free_port()}"}
    started = {"alone": start(folder, shared_voc, "alone", KERAS_BACKEND="jax")}
    for i in ("0", "1"):
        started[i] = start(folder, shared_voc, i, broken_off=True, KERAS_BACKEND="jax",
                           FCN_PROCESS=i, **together)
    return folder, dict(zip(started, finish(*started.values())))


@needs_jax
def test_two_processes_end_with_the_weights_and_scores_of_one(on_jax):
    folder, _ = on_jax
    weights, history, confusion, share = results(folder / "alone.npz")
    assert share == [0, 1, 1]
    for process in (0, 1):
        found, rows, counts, share = results(folder / f"{process}.npz")
        assert share == [process, 2, 2]
        assert max(np.abs(a - b).max() for a, b in zip(weights, found, strict=True)) < 1e-5
        assert (counts == confusion).all()
        for row, expected in zip(rows, history, strict=True):
            for name in expected.keys() - {"seconds", "loss", "first_loss"}:
                assert row[name] == pytest.approx(expected[name], abs=1e-5), name


@needs_jax
def test_losses_are_those_of_one_process_but_for_the_weight_of_a_filled_batch(on_jax):
    folder, _ = on_jax
    alone, together = (results(folder / f"{name}.npz")[1] for name in ("alone", "0"))
    for row, expected in zip(together, alone, strict=True):
        assert row["first_loss"] == pytest.approx(expected["first_loss"], rel=1e-5)
        # Keras weights the batches of 4 photos and 1 so; the second, filled up, has 2.
        second = 5 * expected["loss"] - 4 * expected["first_loss"]
        assert row["loss"] == pytest.approx((4 * expected["first_loss"] + 2 * second) / 6, rel=1e-5)


@needs_jax
def test_only_process_0_writes_and_prints(on_jax):
    folder, printed = on_jax
    assert ((folder / "0" / "model.keras").is_file()
            and (folder / "0" / "training" / "state.npz").is_file())
    assert not (folder / "1").exists()
    assert "resumed after epoch 1" in printed["0"] and "epoch 2/2" in printed["0"]
    assert "epoch" not in printed["1"]


@needs_jax
def test_scores_over_all_shards_are_numpys(on_jax, shared_voc):
    folder, _ = on_jax
    dataset = load_dataset("voc", shared_voc)
    _, history, counts, _ = results(folder / "1.npz")
    model = models.load(folder / "0" / "model.keras")
    confusion = sum(metrics.confusion_matrix(mask, predict(model, image), 3)
                    for image, mask in map(dataset.read, dataset.split("val")))
    assert counts.sum() == confusion.sum()
    # Here the same network runs under TensorFlow: single pixels between two classes may fall
    # otherwise.
    assert np.abs(counts - confusion).sum() <= 10
    scores = metrics.scores(counts)
    for name in scores.keys() - {"iou"}:
        assert history[-1][f"val_{name}"] == pytest.approx(scores[name], abs=1e-6)


@needs_jax
def test_all_stop_where_one_cannot_train(on_jax):
    _, printed = on_jax
    reason = "seed was 1 and is now 2"
    assert "ValueError" in printed["0"] and reason in printed["0"]
    assert "RuntimeError process 0 cannot train: " in printed["1"] and reason in printed["1"]


def test_two_tensorflow_devices_train_about_as_well_as_one(shared_voc, tmp_path):
    started = [start(tmp_path, shared_voc, "one"),
               start(tmp_path, shared_voc, "two", 2, True, FCN_DEVICES="all")]
    _, printed = finish(*started)
    weights, history, confusion, share = results(tmp_path / "one.npz")
    found, rows, counts, devices = results(tmp_path / "two.npz")
    assert share == [0, 1, 1] and devices == [0, 1, 2]
    assert "resumed after epoch 1" in printed
    assert counts.sum() == confusion.sum()
    for row, expected in zip(rows, history, strict=True):
        # That of four photos. The fifth's is halved: the other device has its copy, whose loss is
        # 0, all void.
        assert row["first_loss"] == pytest.approx(expected["first_loss"], rel=0.15)
    assert all(np.isfinite(array).all() for array in found)
    differences = [np.abs(a - b).max() for a, b in zip(weights, found, strict=True)]
    assert max(differences) > 0  # not the same training: each device normalizes its own share
