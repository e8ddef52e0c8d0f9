"""The networks: sizes, alignment, precision, transplanted VGG16 weights, files from anywhere."""

import dataclasses
import json
import zipfile
from types import SimpleNamespace

import cv2
import h5py
import keras
import numpy as np
import pytest
from keras import layers, ops

from utils import models
from utils.layers import BilinearUpsampling, Im2ColConv2D
from utils.models import fcn, load, receptive_field

SIZES = [(1, 1), (31, 47), (33, 64), (32, 32), (70, 5)]


def photo(height, width, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (1, height, width, 3)).astype(np.float32)


def between(model, start, end):
    """The part of a model between the outputs of layers `start` (None: the images) and `end`."""
    first = model.input if start is None else model.get_layer(start).output
    return keras.Model(first, model.get_layer(end).output)


def resized(scores, factor):
    height, width = scores.shape[:2]
    return cv2.resize(scores, (width * factor, height * factor),
                      interpolation=cv2.INTER_LINEAR).reshape(
        height * factor, width * factor, -1
    )


# Upsampling


@pytest.mark.parametrize("factor", [2, 8, 32])
@pytest.mark.parametrize("height, width", [(1, 1), (3, 5), (4, 1)])
def test_upsampling_equals_keras_and_opencv(factor, height, width):
    x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    y = ops.convert_to_numpy(BilinearUpsampling(factor)(x))
    assert y.shape == (2, height * factor, width * factor, 3) and y.dtype == np.float32
    expected = ops.convert_to_numpy(layers.UpSampling2D(factor, interpolation="bilinear")(x))
    assert np.abs(y - expected).max() < 1e-5
    assert np.abs(y[1] - resized(x[1], factor)).max() < 1e-5


def test_upsampling_keeps_ramps_and_mirrors():
    rows, columns = np.mgrid[:4, :6].astype(np.float32)
    x = np.stack([rows, columns, 3 - rows], axis=2)[None]
    y = ops.convert_to_numpy(BilinearUpsampling(32)(x))[0]
    # in cells: their centres lie half a cell from the border
    at = (np.arange(192) + 0.5) / 32 - 0.5
    assert np.abs(y[:, 16:-16, 1] - at[16:-16]).max() < 1e-5
    assert np.abs(y[16:-16, :, 0] - at[16:112, None]).max() < 1e-5
    assert (y[:16, :, 0] == 0).all() and (y[:, -16:, 1] == 5).all()  # border values are held
    mirrored = ops.convert_to_numpy(BilinearUpsampling(32)(x[:, :, ::-1].copy()))[0]
    assert np.abs(mirrored - y[:, ::-1]).max() < 1e-5


def test_upsampled_impulse_is_centred_on_its_cell():
    x = np.zeros((1, 5, 7, 1), np.float32)
    x[0, 2, 4] = 1
    y = ops.convert_to_numpy(BilinearUpsampling(32)(x))[0, ..., 0]
    rows, columns = np.mgrid[:160, :224]
    assert (y * rows).sum() / y.sum() == pytest.approx(2 * 32 + 15.5, abs=1e-3)
    assert (y * columns).sum() / y.sum() == pytest.approx(4 * 32 + 15.5, abs=1e-3)
    assert y.sum() == pytest.approx(32 * 32, rel=1e-5) and y.min() == 0
    # A transposed convolution with kernel 64 and stride 32, FCN's own way, says the same.
    tent = 1 - np.abs((np.arange(64) - 31.5) / 32)
    assert np.abs(y[48:112, 112:176] - np.outer(tent, tent)).max() < 1e-6


# Sizes and alignment


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_output_has_the_size_of_the_input(random_fcn, stride):
    model = random_fcn(3, stride=stride)
    assert model.output_shape == (None, None, None, 3)
    for height, width in SIZES:
        logits = ops.convert_to_numpy(model(photo(height, width)))
        assert logits.shape == (1, height, width, 3) and logits.dtype == np.float32
        assert np.isfinite(logits).all()


def test_fixed_input_shape(random_fcn):
    model = random_fcn(3, input_shape=(40, 50, 3))
    assert model.output_shape == (None, 40, 50, 3)


@pytest.mark.parametrize("height, width", [(64, 96), (33, 64), (31, 47), (70, 5)])
def test_logits_are_the_scores_upsampled_and_cut(random_fcn, height, width):
    model = random_fcn(3)
    x = photo(height, width)
    scores = ops.convert_to_numpy(between(model, None, "score")(x))[0]
    # no ReLU, no softmax
    assert scores.shape == (-(-height // 32), -(-width // 32), 3) and scores.min() < 0
    logits = ops.convert_to_numpy(model(x))[0]
    scale = np.abs(scores).max()
    assert np.abs(logits - resized(scores, 32)[:height, :width]).max() < 1e-5 * scale
    assert np.abs(logits.sum(axis=2) - 1).max() > 0.1 and logits.min() < 0


def test_strides_16_and_8_add_scores_of_earlier_pools(random_fcn):
    model = random_fcn(3, stride=8)
    x = photo(64, 96)
    score, pool4, pool3, logits = (
        ops.convert_to_numpy(between(model, None, name)(x))[0]
        for name in ("score", "score_pool4", "score_pool3", "logits")
    )
    assert pool4.shape == (4, 6, 3) and pool3.shape == (8, 12, 3)
    expected = resized(resized(resized(score, 2) + pool4, 2) + pool3, 8)
    assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("stride, upsampling", [(32, "bilinear"), (16, "deconv"), (8, "bilinear")])
def test_flipping_the_input_flips_the_output(random_fcn, stride, upsampling):
    model = random_fcn(3, stride=stride, upsampling=upsampling)
    for layer in model.layers:
        # kernels that cannot tell left from right, so that only alignment is left
        if isinstance(layer, layers.Conv2D):
            layer.kernel.assign((layer.kernel + ops.flip(layer.kernel, axis=1)) / 2)
    x = photo(64, 160)
    logits, of_flipped = (ops.convert_to_numpy(model(images))
                          for images in (x, x[:, :, ::-1].copy()))
    assert np.abs(of_flipped[:, :, ::-1] - logits).max() < 1e-4 * np.abs(logits).max()
    assert (np.abs(of_flipped[:, :, ::-1][:, :, 1:] - logits[:, :, :-1]).max() > 1e-3
            * np.abs(logits).max())


def test_an_impulse_in_a_skip_is_centred_on_its_cell(random_fcn):
    model = random_fcn(1, stride=8)
    for name in ("score", "score_pool4", "score_pool3"):
        model.get_layer(name).set_weights([np.zeros_like(w)
                                           for w in model.get_layer(name).get_weights()])
    rows, columns = np.mgrid[:96, :160]
    for stride in (16, 8):
        # What follows the skip, fed with one cell: the sum of the later scores (zero here) and this
        # skip.
        fused = f"fuse{stride}"
        follows = keras.Model([*model.inputs, model.get_layer(fused).output], model.output)
        scores = np.zeros((1, 96 // stride, 160 // stride, 1), np.float32)
        scores[0, 3, 6] = 1
        y = ops.convert_to_numpy(follows([photo(96, 160), scores]))[0, ..., 0]
        assert (y * rows).sum() / y.sum() == pytest.approx(3 * stride + (stride - 1) / 2, abs=1e-3)
        assert ((y * columns).sum() / y.sum()
                == pytest.approx(6 * stride + (stride - 1) / 2, abs=1e-3))


def test_new_skips_start_at_zero(tmp_path, random_fcn):
    coarse = random_fcn(4)
    coarse.save(tmp_path / "model.keras")
    finer = fcn(4, stride=16, backbone="vgg_small", weights=tmp_path / "model.keras")
    x = photo(64, 96)
    scores = keras.Model(coarse.input, coarse.get_layer("score").output)(x)
    expected = layers.UpSampling2D(16, interpolation="bilinear")(
        layers.UpSampling2D(2, interpolation="bilinear")(scores))
    found, expected = map(ops.convert_to_numpy, (finer(x), expected))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(found).max()


def test_vgg16_scales_its_pools_before_scoring_them():
    model = fcn(2, stride=8, backbone="vgg16", input_shape=(32, 32, 3))
    scales = {layer.name: layer.scale for layer in model.layers
              if isinstance(layer, layers.Rescaling)}
    del scales["normalize"]
    assert scales == {"scale_pool4": 0.01, "scale_pool3": pytest.approx(0.0001)}


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_learned_upsampling_starts_as_the_bilinear_one(random_fcn, stride):
    fixed = random_fcn(3, stride=stride)
    learned = fcn(3, stride=stride, backbone="vgg_small", upsampling="deconv")
    assert all(name.startswith("upsample") for name in models.transfer(fixed, learned))
    x = photo(70, 101)
    expected = ops.convert_to_numpy(fixed(x))
    assert np.abs(ops.convert_to_numpy(learned(x)) - expected).max() < 1e-5 * np.abs(expected).max()
    kernels = [weight for weight in learned.trainable_weights if "upsample" in weight.path]
    assert len(kernels) == {32: 1, 16: 2, 8: 3}[stride]


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_ladder_reaches_every_pixel_by_five_doublings(stride):
    model = fcn(3, stride=stride, backbone="vgg_small", upsampling="ladder")
    assert model(photo(33, 70)).shape == (1, 33, 70, 3)
    steps = [layer for layer in model.layers if isinstance(layer, layers.Conv2DTranspose)]
    assert [layer.strides for layer in steps] == [(2, 2)] * 5
    assert [layer.filters for layer in steps] == [64, 48, 32, 32, 32]
    assert (sum(isinstance(layer, layers.Add) for layer in model.layers)
            == {32: 0, 16: 1, 8: 2}[stride])
    assert (model.get_layer("score").output.shape[1:] == (None, None, 3)
            == model.get_layer("logits").output.shape[1:])


@pytest.mark.parametrize("upsampling", ["deconv", "ladder"])
def test_other_upsamplings_come_back_from_a_file(tmp_path, random_fcn, upsampling):
    model = random_fcn(3, stride=16, upsampling=upsampling)
    model.save(tmp_path / "m.keras")
    x = photo(40, 33)
    assert (ops.convert_to_numpy(load(tmp_path / "m.keras")(x))
            == ops.convert_to_numpy(model(x))).all()


def test_padding_lies_at_the_bottom_and_right_and_says_nothing(random_fcn):
    model = random_fcn(3)
    x = photo(33, 50)
    padded = np.broadcast_to(np.float32(models.MEAN), (1, 64, 64, 3)).copy()
    padded[:, :33, :50] = x
    logits = ops.convert_to_numpy(model(x))
    expected = ops.convert_to_numpy(model(padded))[:, :33, :50]
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_pixels_are_normalised_once_and_channels_keep_their_order(random_fcn):
    model = random_fcn(2)
    x = photo(32, 32)
    kernel, bias = model.get_layer("block1_conv1").get_weights()
    normal = (x[0] - models.MEAN) / models.SPREAD
    expected = (
        sum(
            np.stack(
                [
                    cv2.filter2D(
                        normal[..., c],
                        -1,
                        kernel[:, :, c, k].astype(np.float64),
                        borderType=cv2.BORDER_CONSTANT,
                    )
                    for k in range(kernel.shape[3])
                ],
                axis=2,
            )
            for c in range(3)
        )
        + bias
    )
    found = ops.convert_to_numpy(between(model, None, "block1_conv1")(x))[0]
    assert np.abs(found - expected.clip(0)).max() < 1e-4


def test_what_is_beyond_the_receptive_field_has_no_influence(random_fcn):
    model = between(random_fcn(2), None, "score")
    field = receptive_field(model)
    x = np.zeros((1, 64, 32 * (field // 32 + 4), 3), np.float32)
    near = x.copy()
    # Cell 0 is centred at pixel 15.5.
    x[:, :, 16 + field // 2 + 1 :] = 255
    near[:, :, 8 + field // 4 :] = 255
    cell, far_cell, near_cell = (ops.convert_to_numpy(model(image))[0, 0, 0]
                                 for image in (x * 0, x, near))
    assert (cell == far_cell).all() and np.abs(cell - near_cell).max() > 0


# Before training


def test_untrained_scores_are_zero_so_that_the_loss_is_log_c():
    model = fcn(7, backbone="vgg_small")
    logits = model(photo(40, 40))
    truth = np.random.default_rng(0).integers(0, 7, (1, 40, 40))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(truth, logits)
    assert float(loss) == pytest.approx(np.log(7), abs=1e-5)


def test_half_precision_stops_before_the_scores(random_fcn):
    model = random_fcn(3, stride=8, precision="mixed_bfloat16")
    assert model.get_layer("fc7").compute_dtype == "bfloat16"
    for name in ("score", "score_pool4", "score_pool3", "logits"):
        values = ops.convert_to_numpy(between(model, None, name)(photo(64, 64)))
        # A bfloat16 number has its lower 16 bits empty.
        assert values.dtype == np.float32 and (values.view(np.uint32) & 0xFFFF != 0).mean() > 0.5


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"backbone": "vgg61"}, "backbone is 'vgg61'; did you mean 'vgg16'.*vgg_small"),
        ({"stride": 5}, "stride is 5.*32, 16, 8, 4, 2"),
        ({"stride": 4, "upsampling": "ladder"}, r"stride is 4.*32, 16, 8\."),
        ({"upsampling": "bilinaer"}, "upsampling is 'bilinaer'; did you mean 'bilinear'"),
        (
            {"weights": "imagenet", "backbone": "vgg_small"},
            "weights='imagenet' needs backbone vgg16 or mobilenet_v2, found 'vgg_small'",
        ),
    ],
)
def test_wrong_arguments_get_a_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        fcn(**{"num_classes": 3, **arguments})


# VGG16


@pytest.mark.parametrize("kernel", [1, 2, 3, 7, (3, 5)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_im2col_is_the_convolution_of_keras(kernel, use_bias):
    arguments = {"filters": 5, "kernel_size": kernel, "use_bias": use_bias, "activation": "relu",
                 "padding": "same"}
    ours, keras_own = Im2ColConv2D(**arguments), layers.Conv2D(**arguments)
    x = np.random.default_rng(0).normal(size=(2, 6, 9, 4)).astype(np.float32)
    keras_own(x)
    ours.build(x.shape)
    ours.set_weights([np.random.default_rng(1).normal(size=w.shape) for w in keras_own.weights])
    keras_own.set_weights(ours.get_weights())
    expected, found = (ops.convert_to_numpy(layer(x)) for layer in (keras_own, ours))
    assert found.shape == (2, 6, 9, 5) and expected.min() == 0 < expected.max()
    assert np.abs(found - expected).max() < 1e-5 * expected.max()


def test_im2col_has_the_gradients_of_keras(one_step):
    x = np.random.default_rng(0).normal(size=(2, 6, 9, 4)).astype(np.float32)
    weights = [np.random.default_rng(1).normal(size=shape) for shape in ((3, 3, 4, 5), (5,))]
    found = []
    for layer in (layers.Conv2D(5, 3, padding="same"), Im2ColConv2D(5, 3)):
        layer.build(x.shape)
        layer.set_weights(weights)
        found.append(one_step(lambda _, y_pred: ops.sum(y_pred ** 2), x, layers=[layer])[1])
        assert len(found[-1]) == 3
    for expected, gradient in zip(*found):
        assert np.abs(gradient - expected).max() < 1e-5 * np.abs(expected).max()


def test_im2col_is_kept_in_files_and_computes_in_its_precision(tmp_path):
    images = keras.Input((None, None, 3))
    model = keras.Model(images, Im2ColConv2D(4, 3, dtype="mixed_bfloat16")(images), name="fcn")
    assert model.output.dtype == "bfloat16" and model.layers[1].kernel.dtype == "float32"
    model.save(tmp_path / "model.keras")
    again = models.load(tmp_path / "model.keras")
    assert type(again.layers[1]) is Im2ColConv2D
    x = photo(40, 33)
    assert (ops.convert_to_numpy(again(x)) == ops.convert_to_numpy(model(x))).all()


@pytest.mark.parametrize("change", [{"strides": 2}, {"padding": "valid"}, {"dilation_rate": 2},
                                    {"groups": 2}])
def test_im2col_refuses_what_it_does_not_compute(change):
    with pytest.raises(ValueError, match='fc6 has .*; expected padding "same"'):
        Im2ColConv2D(4, 3, name="fc6", **change)


def test_vgg16_classifier_becomes_convolutions(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (1, 224, 224, 3)).astype(np.float32)
    classifier = keras.applications.VGG16(weights=None)
    for layer in classifier.layers:
        if layer.weights:
            layer.kernel.assign(layer.kernel * 1.5)  # else the signal fades over sixteen layers
            layer.bias.assign(
                rng.normal(0, 0.5, layer.bias.shape)
            )  # new ones are zero: losing them would not show
    taps = keras.Model(classifier.input,
                       [classifier.get_layer(name).output for name in ("fc1", "fc2")])
    bgr = keras.applications.vgg16.preprocess_input(image.copy())
    expected = [ops.convert_to_numpy(y)[0] for y in taps(bgr)]
    wrong_order = ops.convert_to_numpy(taps(bgr[..., ::-1])[1])[0]
    classifier.save_weights(tmp_path / "vgg16.weights.h5")
    del classifier, taps

    model = fcn(3, backbone="vgg16", weights=tmp_path / "vgg16.weights.h5")
    assert receptive_field(model) == 404
    outputs = [model.get_layer(name).output for name in ("block5_pool", "fc6", "fc7")]
    pool5, fc6, fc7 = keras.Model(model.input, outputs)(image)
    same = [ops.convert_to_numpy(y)[0] for y in (fc6, fc7)]
    assert same[0].shape == same[1].shape == (7, 7, 4096)
    layer = model.get_layer("fc6")
    valid = ops.relu(ops.conv(pool5, layer.kernel, padding="valid") + layer.bias)
    assert valid.shape == (1, 1, 1, 4096)
    scale = np.abs(expected[1]).max()
    assert np.abs(wrong_order - expected[1]).max() > 0.01 * scale
    assert (np.abs(ops.convert_to_numpy(valid)[0, 0, 0] - expected[0]).max() < 1e-4
            * np.abs(expected[0]).max())
    assert np.abs(same[0][3, 3] - expected[0]).max() < 1e-4 * np.abs(expected[0]).max()
    assert np.abs(same[1][3, 3] - expected[1]).max() < 1e-4 * scale
    (tmp_path / "vgg16.weights.h5").unlink()


def write_as_keras_2(model, path):
    """Write weights in the older layout of the files that Keras' applications are published in."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.get_weights()):
                group[name] = weight


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_vgg16_without_its_classifier_gives_its_convolutions(tmp_path, monkeypatch, suffix):
    keras.utils.set_random_seed(0)
    plain = keras.applications.VGG16(weights=None, include_top=False)
    for layer in plain.layers:
        if layer.weights:
            layer.bias.assign(np.random.default_rng(0).normal(0, 0.5, layer.bias.shape))
    if suffix == ".h5":
        write_as_keras_2(plain, tmp_path / "vgg16.h5")
    else:
        plain.save_weights(tmp_path / "vgg16.weights.h5")
    # Narrower than the paper's, which would take half a gigabyte.
    narrow = dataclasses.replace(models.BACKBONES["vgg16"], fc_kernel=1, fc_width=8)
    monkeypatch.setitem(models.BACKBONES, "vgg16", narrow)
    model = fcn(3, backbone="vgg16", weights=tmp_path / f"vgg16{suffix}")
    image = np.random.default_rng(0).uniform(0, 255, (1, 64, 96, 3)).astype(np.float32)
    expected = plain(keras.applications.vgg16.preprocess_input(image.copy()))
    found = keras.Model(model.input, model.get_layer("block5_pool").output)(image)
    expected, found = ops.convert_to_numpy(expected), ops.convert_to_numpy(found)
    assert found.shape == (1, 2, 3, 512)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert model.get_layer("fc6").kernel.numpy().std() > 0


@pytest.mark.parametrize("stride", [4, 2])
def test_the_pattern_of_skips_is_carried_on(random_fcn, stride):
    model = fcn(3, stride=stride, backbone="vgg_small")
    skips = [layer.name for layer in model.layers if layer.name.startswith("score_pool")]
    assert (skips == ["score_pool4", "score_pool3", "score_pool2",
                      "score_pool1"][: int(np.log2(32 / stride))])
    assert model(np.zeros((1, 37, 50, 3), np.float32)).shape == (1, 37, 50, 3)
    # New skips begin at zero: with the weights of a coarser network it gives that network's scores.
    coarse = random_fcn(3)
    transferred = models.transfer(coarse, model)
    assert transferred == skips
    image = np.random.default_rng(1).uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    cell = keras.Model(coarse.input, coarse.get_layer("score").output)(image)
    same = keras.Model(model.input, model.get_layer("score").output)(image)
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (cell, same)))


@pytest.mark.parametrize("content", [None, b"", b"not an HDF5 file"])
def test_weights_files_that_cannot_be_used_are_named(tmp_path, monkeypatch, content):
    # A stand-in for the classifier: building the real one takes 2 GB.
    monkeypatch.setattr(
        keras.applications, "VGG16",
        lambda weights, **more: keras.Sequential([keras.Input((3,)), layers.Dense(2)]),
    )
    monkeypatch.setitem(models.BACKBONES, "vgg16", models.BACKBONES["vgg_small"])
    path = tmp_path / "vgg16.weights.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((FileNotFoundError, ValueError)) as error:
        fcn(3, backbone="vgg16", weights=path)
    said = str(error.value)
    assert str(path) in said and "Keras VGG16" in said and "\n" not in said


# Starting from a trained model


def test_trained_model_gives_its_weights_to_other_classes_and_strides(tmp_path, random_fcn):
    trained = random_fcn(3)
    trained.save(tmp_path / "model.keras")
    same = fcn(3, backbone="vgg_small", weights=tmp_path / "model.keras")
    assert all((a == b).all()
               for a, b in zip(same.get_weights(), trained.get_weights(), strict=True))
    finer = fcn(3, stride=8, backbone="vgg_small", weights=str(tmp_path / "model.keras"))
    assert not finer.get_layer("score_pool4").kernel.numpy().any()
    others = fcn(5, backbone="vgg_small", weights=tmp_path / "model.keras")
    for model, new in ((finer, ["score_pool4", "score_pool3"]), (others, ["score"])):
        assert models.transfer(trained, model) == new
        for layer in model.layers:
            if layer.weights and layer.name not in new:
                expected = trained.get_layer(layer.name).get_weights()
                assert all((a == b).all()
                           for a, b in zip(layer.get_weights(), expected, strict=True)), layer.name


def test_kept_weights_with_their_card_start_another_model():
    started = fcn(4, backbone="vgg_small", weights=models.KEPT_MODEL)
    kept = load(models.KEPT_MODEL)
    assert (started.get_layer("fc6").kernel.numpy() == kept.get_layer("fc6").kernel.numpy()).all()


def test_weights_of_another_backbone_are_refused(tmp_path, random_fcn, monkeypatch):
    random_fcn(3).save(tmp_path / "model.keras")
    monkeypatch.setitem(models.BACKBONES, "other", models.Backbone(((4,),) * 5, 1, 8, 0.5))
    with pytest.raises(ValueError, match="does not fit fcn32s_other: block1_conv1, .* differ"):
        fcn(3, backbone="other", weights=tmp_path / "model.keras")


def test_a_model_that_refuses_weights_keeps_its_own(random_fcn, monkeypatch):
    monkeypatch.setitem(models.BACKBONES, "other",
                        dataclasses.replace(models.BACKBONES["vgg_small"], fc_width=8))
    target = fcn(3, backbone="other")
    before = target.get_weights()
    with pytest.raises(ValueError, match="fc6"):
        models.transfer(random_fcn(3), target)
    assert all((a == b).all() for a, b in zip(target.get_weights(), before, strict=True))


# Model files


def card(path, arguments):
    path.write_text(json.dumps({"fcn": arguments}), encoding="utf-8")


def test_saved_models_come_back_the_same(tmp_path, random_fcn):
    model = random_fcn(3, stride=16)
    x = photo(40, 33)
    expected = ops.convert_to_numpy(model(x))
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    card(tmp_path / "m.json", {"num_classes": 3, "stride": 16, "backbone": "vgg_small"})
    for name in ("m.keras", "m.weights.h5"):
        loaded = load(tmp_path / name)
        assert (ops.convert_to_numpy(loaded(x)) == expected).all()
        assert {layer.dtype_policy.name for layer in loaded.layers} == {"float32"}


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5", "m.h5"])
@pytest.mark.parametrize("content", [None, b"", b"no model at all", b"PK\x03\x04 and then nothing"])
def test_missing_and_damaged_model_files_are_named(tmp_path, name, content):
    path = tmp_path / name
    card(tmp_path / "m.json", {"num_classes": 3, "backbone": "vgg_small"})
    if content is not None:
        path.write_bytes(content)
    kind, sentence = (
        (FileNotFoundError, "there is no such model file")
        if content is None
        else (ValueError, "cannot be opened as a model")
    )
    with pytest.raises(kind, match=sentence) as error:
        load(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_truncated_model_file_is_named(tmp_path, random_fcn):
    random_fcn(2).save(tmp_path / "m.keras")
    whole = (tmp_path / "m.keras").read_bytes()
    (tmp_path / "m.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"m\.keras: cannot be opened as a model .*\.keras"):
        load(tmp_path / "m.keras")


def test_weights_without_or_with_another_card_are_refused(tmp_path, random_fcn):
    random_fcn(2).save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match=r"m\.weights\.h5: cannot be opened .*m\.json"):
        load(tmp_path / "m.weights.h5")
    card(tmp_path / "m.json", {"num_classes": 5, "backbone": "vgg_small"})
    with pytest.raises(ValueError, match=r"m\.weights\.h5: cannot be opened"):
        load(tmp_path / "m.weights.h5")


def other_network(kind):
    photos = keras.Input((None, None, 3))
    features = layers.Conv2D(3, 3, strides=2 if kind == "half the size" else 1,
                             padding="same")(photos)
    if kind == "classifier":
        return keras.Model(photos, layers.Dense(1000)(layers.GlobalAveragePooling2D()(features)))
    if kind == "two outputs":
        return keras.Model(photos, [features, features])
    if kind == "grey photos":
        grey = keras.Input((None, None, 1))
        return keras.Model(grey, layers.Conv2D(3, 3, padding="same")(grey))
    return keras.Model(photos, features)


@pytest.mark.parametrize("kind", ["classifier", "half the size", "two outputs", "grey photos"])
def test_networks_that_do_not_score_pixels_are_refused(tmp_path, kind):
    other_network(kind).save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"m\.keras: is no network of this project"):
        load(tmp_path / "m.keras")


# MobileNetV2


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """Return Keras' MobileNetV2 as if trained, and its weights, with and without top."""
    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNetV2(weights=None)
    folder = tmp_path_factory.mktemp("mobilenet")
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape)
                               for weight in layer.get_weights()])
    network.save_weights(folder / "top.weights.h5")
    features = keras.applications.MobileNetV2(weights=None, include_top=False)
    features.set_weights(network.get_weights()[:-2])
    features.save_weights(folder / "plain.weights.h5")
    return features, folder


@pytest.mark.parametrize("file", ["top.weights.h5", "plain.weights.h5"])
def test_mobilenet_computes_what_keras_own_computes(mobilenet, file):
    features, folder = mobilenet
    model = fcn(3, stride=8, backbone="mobilenet_v2", weights=folder / file)
    image = photo(64, 96)
    scaled = keras.applications.mobilenet_v2.preprocess_input(image.copy())
    # With random weights little of a photo is left at the end: look at the beginning, too.
    for name, shape in (("Conv1_relu", (1, 32, 48, 32)), ("out_relu", (1, 2, 3, 1280))):
        expected = ops.convert_to_numpy(between(features, None, name)(scaled))
        found = ops.convert_to_numpy(between(model, None, name)(image))
        assert found.shape == shape and expected.std() > 0.1
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_mobilenet_refuses_the_weights_of_another_network(mobilenet, tmp_path):
    keras.Sequential([keras.Input((3,)), layers.Dense(2)]).save_weights(tmp_path
                                                                        / "other.weights.h5")
    with pytest.raises(ValueError, match="other.weights.h5: .*Keras MobileNetV2"):
        fcn(3, backbone="mobilenet_v2", weights=tmp_path / "other.weights.h5")


@pytest.mark.parametrize("stride", [32, 16, 8, 4, 2])
def test_mobilenet_scores_every_pixel_at_every_stride(stride):
    model = fcn(3, stride=stride, backbone="mobilenet_v2")
    assert model(photo(37, 50)).shape == (1, 37, 50, 3)
    pooled = [layer.name for layer in model.layers if layer.name.startswith("score_pool")]
    assert len(pooled) == {32: 0, 16: 1, 8: 2, 4: 3, 2: 4}[stride]
    sides = [between(model, None, name)(photo(64, 64)).shape[1] for name in pooled]
    assert sorted(sides) == [64 // at for at in (16, 8, 4, 2) if at >= stride]


def test_statistics_of_pretrained_weights_are_kept_and_others_are_learned(mobilenet):
    for weights in (None, mobilenet[1] / "top.weights.h5"):
        model = fcn(3, backbone="mobilenet_v2", weights=weights)
        norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
        before = [layer.get_weights() for layer in norms]
        model.compile("sgd", lambda y_true, y_pred: ops.mean(y_pred ** 2))
        model.train_on_batch(photo(32, 32), np.zeros((1, 32, 32), np.uint8))
        changed = [any((a != b).any() for a, b in zip(old, layer.get_weights()))
                   for old, layer in zip(before, norms)]
        assert not any(changed) if weights else all(changed)


def test_mobilenet_in_bfloat16_leaves_the_policy_of_keras_alone():
    model = fcn(3, stride=16, backbone="mobilenet_v2", precision="mixed_bfloat16")
    assert model.get_layer("Conv1").compute_dtype == "bfloat16" and model.output.dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"


def test_mobilenet_from_a_file_gives_the_same_logits(tmp_path):
    model = fcn(3, stride=8, backbone="mobilenet_v2")
    for layer in model.layers:
        if layer.name.startswith("score"):
            layer.set_weights([np.random.default_rng(0).normal(size=w.shape)
                               for w in layer.get_weights()])
    model.save(tmp_path / "model.keras")
    again = load(tmp_path / "model.keras")
    image = photo(45, 70)
    np.testing.assert_array_equal(*(ops.convert_to_numpy(network(image))
                                    for network in (model, again)))
    assert models.backbone_for(tmp_path / "model.keras") == "mobilenet_v2"
    copy = fcn(3, stride=32, backbone="mobilenet_v2", weights=tmp_path / "model.keras")
    same = [ops.convert_to_numpy(between(network, None, "out_relu")(image))
            for network in (model, copy)]
    np.testing.assert_array_equal(*same)


# Model files


def test_a_file_exchanged_under_its_card_is_refused(tmp_path, random_fcn):
    names = [f"class {i}" for i in range(8)]
    written = {"dataset": "voc", "class_names": names, "fcn": {"num_classes": 8, "stride": 32}}
    (tmp_path / "model.json").write_text(json.dumps(written), encoding="utf-8")
    random_fcn(8).save(tmp_path / "model.keras")
    assert load(tmp_path / "model.keras").output_shape[-1] == 8
    random_fcn(3).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"model\.keras has 3 classes, .*card.* 8"):
        load(tmp_path / "model.keras")
    random_fcn(9).save(tmp_path / "nine.keras")
    (tmp_path / "nine.json").write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(ValueError, match=r"nine\.keras has 9 classes, .*card.* 8"):
        load(tmp_path / "nine.keras")
    dataset = SimpleNamespace(name="voc", class_names=names)
    with pytest.raises(ValueError, match=r"model\.keras has 3 classes, .* 8"):
        models.load_trained(tmp_path, dataset)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_code_inside_a_model_file_is_not_run(tmp_path, monkeypatch, suffix):
    marker = tmp_path / "the code ran"
    monkeypatch.setenv("MARKER", str(marker))
    images = keras.Input((8, 8, 3))
    code = layers.Lambda(
        lambda x: (__import__("os").makedirs(__import__("os").environ["MARKER"],
                                             exist_ok=True), x)[1]
    )
    keras.Model(images, code(images)).save(tmp_path / f"m{suffix}")
    marker.rmdir()
    keras.saving.load_model(tmp_path / f"m{suffix}", safe_mode=False)
    marker.rmdir()  # so the file does carry code
    with pytest.raises(
        ValueError, match="cannot be opened as a model .*code"
    ):
        load(tmp_path / f"m{suffix}")
    assert not marker.exists()


def test_functions_named_in_a_model_file_are_not_called(tmp_path, random_fcn):
    random_fcn(2).save(tmp_path / "m.keras")
    marker = tmp_path / "called"
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    config["config"]["layers"].append(
        {
            "module": "os",
            "class_name": "mkdir",
            "registered_name": None,
            "name": "x",
            "config": {"path": str(marker)},
            "inbound_nodes": [],
        }
    )
    with zipfile.ZipFile(tmp_path / "bad.keras", "w") as archive:
        for name, content in {**members, "config.json": json.dumps(config).encode()}.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="cannot be opened as a model"):
        load(tmp_path / "bad.keras")
    assert not marker.exists()
