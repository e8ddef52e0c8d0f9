"""Label maps and scores from a model."""

import numpy as np
import pytest
import sklearn.metrics
from keras import ops

from utils import inference, models
from utils.datasets import load_dataset
from utils.inference import evaluate, predict
from utils.labels import VOID


def photo(height, width):
    """Patches of colour, of which the model labels some this way and some that."""
    colors = np.random.default_rng(0).integers(0, 256, (-(-height // 15), -(-width // 15), 3),
                                               dtype=np.uint8)
    return colors.repeat(15, axis=0).repeat(15, axis=1)[:height, :width]


@pytest.fixture(scope="module")
def model(random_fcn):
    return random_fcn(4)


@pytest.mark.parametrize("height, width", [(1, 1), (31, 47), (5, 90), (33, 64), (64, 32)])
def test_every_size_is_labelled_whole(model, height, width):
    image = photo(height, width)
    ids = predict(model, image)
    assert ids.shape == (height, width) and ids.dtype == np.uint8
    logits = inference.logits(model, image)
    assert logits.shape == (height, width, 4) and logits.dtype == np.float32
    assert (ids == logits.argmax(axis=2)).all()
    called = ops.convert_to_numpy(model(image[None].astype("float32"), training=False))[0]
    # compiled, it may add in another order
    assert np.abs(logits - called).max() <= 1e-5 * np.abs(called).max()


def test_compiled_by_xla_or_not_it_is_inference(random_fcn, monkeypatch):
    """With XLA, as on GPUs, the network is called; its averages must not become the photo's."""
    model = random_fcn(3)
    expected = inference.logits(model, photo(40, 50))
    monkeypatch.setattr(type(model), "jit_compile", True)
    before = model.get_weights()
    found = inference.logits(model, photo(40, 50))
    assert found.shape == (40, 50, 3)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert all((a == b).all() for a, b in zip(model.get_weights(), before, strict=True))


def test_logits_follow_the_weights(random_fcn):
    model = random_fcn(3)
    before = inference.logits(model, photo(40, 50))
    model.set_weights([2 * weight for weight in model.get_weights()])
    called = ops.convert_to_numpy(model(photo(40, 50)[None].astype("float32"), training=False))[0]
    after = inference.logits(model, photo(40, 50))
    assert (np.abs(after - called).max() <= 1e-5 * np.abs(called).max()
            < np.abs(after - before).max())


def test_predictions_repeat_and_take_floats_and_views(model):
    image = photo(40, 300)
    ids = predict(model, image)
    assert len(np.unique(ids)) > 1
    assert (predict(model, image) == ids).all()  # no dropout
    assert (predict(model, image.astype(np.float64)) == ids).all()
    assert (predict(model, image[::-1]) == predict(model, image[::-1].copy())).all()


@pytest.mark.parametrize("tile, stride, upsampling",
                         [(50, 32, "bilinear"), (128, 16, "bilinear"), (64, 8, "deconv"),
                                                      (32, 8, "ladder")])
def test_tiles_give_the_same_as_the_whole(random_fcn, tile, stride, upsampling):
    model = random_fcn(4, stride=stride, upsampling=upsampling)
    margin = models.receptive_field(model) // 2
    image = photo(45, 2 * margin + 300)
    whole = predict(model, image)
    assert len(np.unique(whole)) > 1
    assert (predict(model, image, tile=tile) == whole).all()
    turned = np.ascontiguousarray(image.swapaxes(0, 1))
    assert (predict(model, turned, tile=tile) == predict(model, turned)).all()


def test_tiles_give_the_same_with_mobilenet(random_fcn):
    """Its padding is not symmetric, so a cell sees further to one side than to the other."""
    model = random_fcn(4, stride=8, backbone="mobilenet_v2")
    image = photo(1000, 40)
    for turned in (image, np.ascontiguousarray(image.swapaxes(0, 1))):
        whole = predict(model, turned)
        assert len(np.unique(whole)) > 1
        assert (predict(model, turned, tile=64) == whole).all()


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (1, 8, 8, 3), (0, 8, 3)])
def test_other_shapes_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"image has shape .*; expected \(H, W, 3\) RGB"):
        predict(model, np.zeros(shape, np.uint8))


@pytest.mark.parametrize("tile", [0, -32])
def test_tile_must_be_positive(model, tile):
    with pytest.raises(ValueError, match=f"tile is {tile}; expected at least 1 pixel, or None"):
        predict(model, photo(8, 8), tile=tile)


def test_evaluation_counts_every_pixel_of_every_image_once(tmp_path, make_voc, random_fcn):
    model = random_fcn(3)
    make_voc(tmp_path / "voc", {"train": 1, "val": 3}, size=(45, 70))
    dataset = load_dataset("voc", tmp_path / "voc")
    confusion = evaluate(model, dataset, "val")
    assert confusion.dtype == np.int64
    pairs = [dataset.read(sample) for sample in dataset.split("val")]
    truth = np.concatenate([mask.ravel() for _, mask in pairs])
    labels = np.concatenate([predict(model, image).ravel() for image, _ in pairs])
    known = truth != VOID
    assert confusion.sum() == known.sum() == 3 * 45 * 69
    assert (confusion
            == sklearn.metrics.confusion_matrix(truth[known], labels[known], labels=range(3))).all()
    with pytest.raises(ValueError, match="voc .*split 'tset'"):
        evaluate(model, dataset, "tset")
