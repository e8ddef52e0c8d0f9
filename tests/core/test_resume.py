"""Trainings that are killed, moved and damaged: they go on as if unbroken, or say what is wrong."""

import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from utils import callbacks, runs, training
from utils.datasets import load_dataset
from utils.recipes import Recipe

RECIPE = Recipe(image_size=32, batch_size=4, epochs=1, learning_rate=1e-3, backbone="vgg_small")


@pytest.fixture(scope="module")
def dataset(shared_voc):
    return load_dataset("voc", shared_voc)


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """The folder of a finished training."""
    folder = tmp_path_factory.mktemp("finished")
    tf.config.run_functions_eagerly(True)
    training.train(dataset, RECIPE, folder, precision="float32")
    tf.config.run_functions_eagerly(False)
    return folder


@pytest.fixture
def run_dir(finished, tmp_path):
    """A copy of that folder."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("damage, reason", [
    (lambda state: state.write_bytes(state.read_bytes()[:5000]), "not a zip file"),
    (lambda state: state.write_bytes(b""), "No data left"),
    (lambda state: np.savez(state, history="[]"), "parameters is not a file"),
])
def test_damaged_state_is_named_with_the_remedy(run_dir, dataset, damage, reason):
    damage(run_dir / "training" / "state.npz")
    with pytest.raises(ValueError,
                       match=rf"state\.npz cannot be used \(.*{reason}.*Delete .*training"):
        training.train(dataset, RECIPE, run_dir, precision="float32")


def test_state_of_another_network_is_refused(tmp_path):
    def checkpoint_and_model(filters):
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(filters, 1)])
        model.compile(optimizer="sgd", loss="mse")
        checkpoint = callbacks.Checkpoint(tmp_path, {})
        checkpoint.set_model(model)
        return checkpoint, model

    first, _ = checkpoint_and_model(2)
    first.on_epoch_begin(0)
    first.on_epoch_end(0, {"loss": 1.0})
    second, other = checkpoint_and_model(3)
    with pytest.raises(ValueError, match="its arrays do not fit the network"):
        second.restore(other)


@pytest.mark.parametrize("scores, best", [
    ((0.2, 0.9, 0.1, 0.5), 1), ((0.2, 0.9, 0.9, 0.9), 1),  # of equals the first
    ((None, 0.2, None, 0.1), 1), ((None, None, 0.0, None), 2), ((0.3, None, None, 0.4), 3)])
def test_best_epoch_survives_the_resume(tmp_path, scores, best):
    def resumed():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 1)])
        model.compile(optimizer=keras.optimizers.Adam(0.1), loss="mse")
        checkpoint = callbacks.Checkpoint(tmp_path, {}, keep="best")
        checkpoint.set_model(model)
        return checkpoint, model, checkpoint.restore(model)

    weights = []
    for epoch, score in enumerate(scores):
        checkpoint, model, done = resumed()
        assert done == epoch
        model.set_weights([weight + epoch for weight in model.get_weights()])
        weights.append(model.get_weights())
        checkpoint.on_epoch_begin(epoch)
        checkpoint.on_epoch_end(epoch, {} if score is None else {"val_mean_iou": score})
    checkpoint, model, _ = resumed()
    assert all((a == b).all() for a, b in zip(model.get_weights(), weights[3], strict=True))
    checkpoint.load_kept(model)
    assert all((a == b).all() for a, b in zip(model.get_weights(), weights[best], strict=True))


def test_each_epoch_has_its_own_seconds_and_the_run_their_sum(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock[0])
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 1)])
    model.compile(optimizer="sgd", loss="mse")
    checkpoint = callbacks.Checkpoint(tmp_path, {})
    checkpoint.set_model(model)
    for epoch, seconds in enumerate((5.0, 2.5, 1.25)):
        checkpoint.on_epoch_begin(epoch)
        clock[0] += seconds
        checkpoint.on_epoch_end(epoch, {"loss": 1.0})
        clock[0] += 60  # between two epochs, or before the run is resumed
    again = callbacks.Checkpoint(tmp_path, {})
    again.restore(model)
    for one in (checkpoint, again):
        assert [row["seconds"] for row in one.history] == [5, 2.5, 1.25]
        assert one.seconds == 8.75


def test_a_state_broken_off_while_it_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 1)])
    model.compile(optimizer="sgd", loss="mse")
    checkpoint = callbacks.Checkpoint(tmp_path, {})
    checkpoint.set_model(model)
    checkpoint.on_epoch_begin(0)
    checkpoint.on_epoch_end(0, {"loss": 1.0})
    before = checkpoint.state.read_bytes()

    def broken_off(file, **arrays):
        Path(file).write_bytes(before[:1000])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(callbacks.np, "savez", broken_off)
        checkpoint.on_epoch_end(1, {"loss": 0.5})
    assert checkpoint.state.read_bytes() == before
    assert callbacks.Checkpoint(tmp_path, {}).restore(model) == 1
    # No half file stays beside it.
    assert list(tmp_path.iterdir()) == [checkpoint.state]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_whole_state_is_resumed_in_every_precision(policy, tmp_path):
    """Dropout's seeds, moving means, moments, step count, loss scale: to the last bit."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (16, 8, 8, 3)).astype(np.float32)
    y = rng.integers(0, 2, (16, 8, 8)).astype(np.uint8)

    def fit(folder, epochs):
        keras.utils.set_random_seed(1)
        layers = keras.layers
        model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, dtype=policy),
                                  layers.BatchNormalization(dtype=policy),
                                  layers.Dropout(0.5, dtype=policy),
                                  layers.Conv2DTranspose(2, 3)])
        optimizer = keras.optimizers.Adam()
        if policy == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, dynamic_growth_steps=3)
        model.compile(loss=training.cross_entropy, optimizer=optimizer)
        checkpoint = callbacks.Checkpoint(folder, {}, keep="last")
        done = checkpoint.restore(model)
        model.fit(x, y, batch_size=4, shuffle=False, initial_epoch=done, epochs=epochs, verbose=0,
                  callbacks=[checkpoint])
        return [keras.ops.convert_to_numpy(variable)
                for variable in [*model.variables, *model.optimizer.variables]]

    unbroken = fit(tmp_path / "unbroken", 4)
    for epochs in (1, 3, 4):
        resumed = fit(tmp_path / "broken", epochs)
    assert (len(unbroken) > 15
            and all((a == b).all() for a, b in zip(unbroken, resumed, strict=True)))


def test_training_killed_while_its_results_are_written_writes_them_again(run_dir,
                                                                         dataset, monkeypatch):
    for name in ("model.json", "history.json"):  # the last two
        (run_dir / name).unlink()
    (run_dir / ".part.model.keras").write_bytes(b"half")
    monkeypatch.setattr(keras.Model, "fit", lambda *args, **kwargs: pytest.fail("trained again"))
    training.train(dataset, RECIPE, run_dir, precision="float32")
    names = {path.name for path in run_dir.iterdir()}
    assert names >= {"model.keras", "model.weights.h5", "model.json", "history.json"}
    assert not list(run_dir.glob(".part.*"))


def test_results_of_an_earlier_training_are_not_taken_for_a_later_ones(run_dir,
                                                                       dataset, monkeypatch):
    shutil.rmtree(run_dir / "training")
    before = (run_dir / "model.keras").read_bytes()
    tf.config.run_functions_eagerly(True)
    changed = dataclasses.replace(RECIPE, learning_rate=1e-2)
    with monkeypatch.context() as patched:
        patched.setattr(runs, "save", lambda *args,
                        **card: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            training.train(dataset, changed, run_dir, precision="float32")
    tf.config.run_functions_eagerly(False)
    assert (run_dir / "model.keras").read_bytes() == before
    training.train(dataset, changed, run_dir, precision="float32")
    assert json.loads((run_dir / "model.json").read_text())["parameters"]["learning_rate"] == 1e-2
