"""TensorBoard's files, read back with its own reader: what they hold, and what a resumed training adds to them."""

import importlib.util
import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from utils import callbacks, inference, pipeline, tensorboard, training
from utils.datasets import load_dataset
from utils.labels import VOID

EPOCHS, STEPS = 4, 2
COLORS = np.uint8([[40, 160, 40], [200, 40, 40], [40, 60, 220]])


@pytest.fixture(scope="module")
def pairs(shared_voc):
    data = load_dataset("voc", shared_voc)
    return pipeline.DecodedPairs(data.split("val"), data.read)


def fit(folder, pairs, epochs, board=True):
    """Train a layer of 1x1 convolution up to an epoch, validated after every second one; return model and history."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(3, 1)])
    training.compile_model(model, 3, 0.1, STEPS * EPOCHS)
    checkpoint = callbacks.Checkpoint(folder / "training", {})
    boards = [tensorboard.Board(folder / "tensorboard", checkpoint, pairs, COLORS)] if board else []
    done = checkpoint.restore(model)
    model.fit(pipeline.batches(pairs, image_size=32, batch_size=1, epochs=epochs - done), steps_per_epoch=STEPS,
              validation_data=pipeline.whole_images(pairs), validation_freq=2, initial_epoch=done, epochs=epochs,
              callbacks=[checkpoint, *boards], verbose=0)
    return model, checkpoint.history


def steps(folder, part):
    """Return {tag: list of steps} of all event files in a part, in the order of the reader."""
    reader = EventAccumulator(str(folder / "tensorboard" / part), {"tensors": 0}, purge_orphaned_data=False)
    reader.Reload()
    return {tag: [event.step for event in reader.Tensors(tag)] for tag in reader.Tags()["tensors"]}


def values(folder, part, tag):
    reader = EventAccumulator(str(folder / "tensorboard" / part), size_guidance={"tensors": 0})
    reader.Reload()
    return [tf.make_ndarray(event.tensor_proto) for event in reader.Tensors(tag)]


@pytest.fixture(scope="module")
def unbroken(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, *fit(folder, pairs, EPOCHS)


def test_files_hold_the_history(unbroken):
    folder, _, history = unbroken
    for part, prefix, at in (("train", "", [1, 2, 3, 4]), ("validation", "val_", [2, 4])):
        found = steps(folder, part)
        assert {"loss", "mean_iou"} <= found.keys() and set(map(tuple, found.values())) == {tuple(at)}
        for tag in ("loss", "mean_iou"):
            expected = [history[step - 1][prefix + tag] for step in at]
            assert np.float64(values(folder, part, tag)) == pytest.approx(expected, rel=1e-6)
    schedule = training.schedule(0.1, STEPS * EPOCHS)
    rates = [float(schedule(STEPS * epoch)) for epoch in (1, 2, 3, 4)]
    assert np.float64(values(folder, "train", "learning_rate")) == pytest.approx(rates, rel=1e-5)
    assert not {"epoch", "seconds"} & steps(folder, "train").keys()


def test_examples_show_photo_truth_and_prediction(unbroken, pairs):
    folder, model, _ = unbroken
    width, height, *pictures = values(folder, "validation", "example_1")[-1]  # of the last epoch
    shown = np.array(Image.open(io.BytesIO(pictures[0])))
    image, truth = pairs[0]
    assert (int(width), int(height)) == (3 * truth.shape[1], truth.shape[0])
    photo, with_truth, with_prediction = np.hsplit(shown, 3)
    assert (photo == image).all() and (with_truth[truth == VOID] == image[truth == VOID]).all()
    for ids, picture in ((truth, with_truth), (inference.predict(model, image), with_prediction)):
        known = ids != VOID
        expected = 0.4 * image[known] + 0.6 * COLORS[ids[known]]
        assert np.abs(picture[known] - expected).max() <= 1


def test_large_photos_are_thinned_out(tmp_path):
    pair = np.zeros((40, 3 * tensorboard.SIDE, 3), np.uint8), np.zeros((40, 3 * tensorboard.SIDE), np.uint8)
    board = tensorboard.Board(tmp_path, callbacks.Checkpoint(tmp_path, {}), [pair], COLORS)
    board.set_model(keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(3, 1)]))
    assert board._picture(*pair).shape == (1, 14, 3 * tensorboard.SIDE, 3)


def test_resumed_training_writes_each_step_once(unbroken, pairs, tmp_path):
    """Also what a kill between checkpoint and board has kept out of the files, or has cut off in them."""
    fit(tmp_path, pairs, 1)
    fit(tmp_path, pairs, 2, board=False)
    file, = (tmp_path / "tensorboard" / "train").glob("events.*")
    file.write_bytes(file.read_bytes()[:-7])
    fit(tmp_path, pairs, 2)
    assert steps(tmp_path, "validation")["example_1"] == [2]
    fit(tmp_path, pairs, EPOCHS)
    for part in ("train", "validation"):
        assert {tag: sorted(at) for tag, at in steps(tmp_path, part).items()} == steps(unbroken[0], part)


def test_without_the_package_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="tensorboard=True needs .* pip install tensorboard"):
        tensorboard.Board(tmp_path, None, [], COLORS)
