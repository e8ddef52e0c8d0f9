"""What the blocks of the networks do to numbers: normalisation, ReLU, averages, dropout."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers, ops

from utils import models

PHOTOS = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype(np.float32)


def outputs(model, *names):
    """The part of a model that gives the outputs of these layers."""
    return keras.Model(model.input, [model.get_layer(name).output for name in names])


@pytest.fixture
def narrow_vgg16(monkeypatch):
    """VGG16 with a classifier of 64 channels; the paper's would take half a gigabyte."""
    narrow = dataclasses.replace(models.BACKBONES["vgg16"], fc_kernel=1, fc_width=64)
    monkeypatch.setitem(models.BACKBONES, "vgg16", narrow)
    keras.utils.set_random_seed(0)
    return models.fcn(3, backbone="vgg16")


def test_the_mean_colour_of_imagenet_becomes_zero():
    """Red, green, blue: the mean of ImageNet's training photos, and nearly its deviation, 58."""
    model = models.fcn(2, backbone="vgg_small")
    mean = np.float32([123.68, 116.779, 103.939])
    colors = np.stack([mean, mean + 58, mean - [58, 0, 0], mean + [0, 116, 0]])[None, None]
    found = ops.convert_to_numpy(outputs(model, "normalize")(colors))[0, 0]
    expected = [[0, 0, 0], [1, 1, 1], [-1, 0, 0], [0, 2, 0]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("upsampling", ["bilinear", "ladder"])
def test_no_feature_is_negative(random_fcn, upsampling):
    model = random_fcn(3, stride=16, upsampling=upsampling)
    names = [f"block{number}_pool" for number in range(1, 6)] + ["fc6_dropout", "fc7_dropout"]
    names += [layer.name for layer in model.layers if layer.name.startswith("upsample_step")]
    assert len(names) == {"bilinear": 7, "ladder": 12}[upsampling]
    for name, features in zip(names, outputs(model, *names)(PHOTOS)):
        features = ops.convert_to_numpy(features)
        assert features.min() == 0 < features.max(), name


@pytest.mark.parametrize("upsampling, count", [("bilinear", 6), ("ladder", 11)])
def test_thirty_steps_are_enough_for_the_averages(upsampling, count):
    """Batch normalization's, which inference uses in the place of the batch's own."""
    model = models.fcn(3, backbone="vgg_small", upsampling=upsampling)
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    assert len(norms) == count
    for norm in norms:
        x = np.random.default_rng(0).normal(3, 2, (64, 1, 1, norm.gamma.shape[0]))
        for _ in range(30):
            norm(x.astype(np.float32), training=True)
        np.testing.assert_allclose(norm.moving_mean, x.mean(axis=(0, 1, 2)), rtol=0.1)
        np.testing.assert_allclose(norm.moving_variance, x.var(axis=(0, 1, 2)), rtol=0.1)


def test_kernels_start_with_the_spread_that_keeps_signals_alive(narrow_vgg16):
    """He et al. 2015, equation 10: a variance of 2 / fan-in."""
    kernels = {layer.name: ops.convert_to_numpy(layer.kernel) for layer in narrow_vgg16.layers
               if isinstance(layer, layers.Conv2D) and not layer.name.startswith("score")}
    assert len(kernels) == 15
    for name, kernel in kernels.items():
        fan_in = kernel[..., 0].size
        assert kernel.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.1), name


def test_vgg16_drops_half_of_its_classifier_in_training_only(narrow_vgg16):
    parts = outputs(narrow_vgg16, "fc6", "fc6_dropout", "fc7", "fc7_dropout")
    for before, after in zip(*[iter(parts(PHOTOS, training=True))] * 2):
        before, after = ops.convert_to_numpy(before), ops.convert_to_numpy(after)
        alive = before > 0
        assert 0.35 < (after[alive] == 0).mean() < 0.65
        kept = alive & (after > 0)
        np.testing.assert_allclose(after[kept], 2 * before[kept], rtol=1e-5)
    for before, after in zip(*[iter(parts(PHOTOS, training=False))] * 2):
        np.testing.assert_array_equal(ops.convert_to_numpy(before), ops.convert_to_numpy(after))


@pytest.mark.parametrize("upsampling", ["bilinear", "ladder"])
def test_all_blocks_compute_in_half_precision(upsampling):
    model = models.fcn(2, 16, "vgg_small", upsampling=upsampling, precision="mixed_bfloat16")
    kinds = layers.Conv2D, layers.Conv2DTranspose, layers.BatchNormalization, layers.MaxPooling2D
    blocks = [layer for layer in model.layers
              if isinstance(layer, kinds) and not layer.name.startswith("score")]
    assert len(blocks) > 15
    assert {layer.compute_dtype for layer in blocks} == {"bfloat16"}
