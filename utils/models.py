"""Fully convolutional networks (Long, Shelhamer & Darrell 2015) on VGG and MobileNetV2."""

from dataclasses import dataclass
from pathlib import Path

import keras
from keras import layers

from utils import runs
from utils.layers import CropLike, PadToMultiple, enlarge, ladder, mobilenet, score, transfer, vgg
from utils.recipes import STRIDES, check_name

# ImageNet's mean colour (RGB) and the spread of pixel values around it.
MEAN = (123.68, 116.779, 103.939)
SPREAD = 58.0
KEPT_MODEL = Path(__file__).resolve().parent.parent / "results" / "model" / "model.weights.h5"
CLASSIFIERS = {"vgg16": "VGG16", "mobilenet_v2": "MobileNetV2"}  # of `keras.applications`
UPSAMPLINGS = ("bilinear", "deconv", "ladder")


@dataclass(frozen=True)
class Backbone:
    """A VGG. convs: widths of the 3x3 convolutions in five blocks. normalized: first block with
    batch normalization, or 0. skip_scale: factor on pool4 before it is scored, squared on pool3."""

    convs: tuple
    fc_kernel: int
    fc_width: int
    dropout: float
    normalized: int = 0
    skip_scale: float = 1.0
    im2col: bool = False


BACKBONES = {
    # VGG16's pools hold numbers in the hundreds; the authors' FCN-8s "at once" scales them so.
    "vgg16": Backbone(((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3), 7, 4096, 0.5,
                      skip_scale=0.01, im2col=True),
    "vgg_small": Backbone(((16,), (32,), (48,), (64, 64), (128, 128)), 3, 192, 0.0, normalized=4),
    "mobilenet_v2": None,  # not a VGG: see `layers.mobilenet`
}


def fcn(num_classes, stride=32, backbone="vgg16", weights=None, upsampling="bilinear",
        input_shape=(None, None, 3), precision="float32"):
    """Build an FCN-32s, 16s, 8s, 4s or 2s, from RGB in 0..255 to float32 logits (B, H, W, C).

    backbone: a key of `BACKBONES`. weights: None, "imagenet", or the path of the backbone's weights
    in Keras or a model of this project. upsampling: "bilinear" (fixed), "deconv" (learned) or
    "ladder" (five learned doublings of the features). precision: the backbone's dtype policy.
    Raises ValueError for an unknown name, FileNotFoundError for missing weights.
    """
    check_name("backbone", backbone, BACKBONES)
    check_name("upsampling", upsampling, UPSAMPLINGS)
    check_name("stride", stride, STRIDES if upsampling != "ladder" else STRIDES[:3])
    plan = BACKBONES[backbone]
    images = keras.Input(input_shape, name="images")
    mean, spread = (MEAN, SPREAD) if plan else ((127.5,) * 3, 127.5)
    x = layers.Rescaling(1 / spread, [-value / spread for value in mean], dtype="float32",
                         name="normalize")(images)
    x = PadToMultiple(32, dtype="float32", name="pad")(x)
    if plan:
        x, pools = vgg(x, plan, precision)
    else:
        x, pools = mobilenet(x, precision, trained=weights is not None)
    if upsampling == "ladder":
        widths = [pools[at].shape[-1] for at in (16, 8, 4, 2)]
        # At least 32, as VGG16 has, and scores that start at random: few channels learn slowly.
        widths = [max(width, 32) for width in (*widths, widths[-1] // 2)]
        x = ladder(x, pools, widths, stride, precision)
        logits = score(x, num_classes, start="glorot_uniform")
    else:
        scale = plan.skip_scale if plan else 1.0
        logits = _scores_and_skips(x, pools, num_classes, stride, scale, upsampling)
    logits = CropLike(dtype="float32", name="logits")([logits, images])
    model = keras.Model(images, logits, name=f"fcn{stride}s_{backbone}")
    if weights is not None:
        _start_from(model, backbone, weights)
    return model


def _scores_and_skips(x, pools, num_classes, stride, skip_scale, upsampling):
    """Score `x` and the pools down to `stride` and add them, coarse to fine (section 4.2)."""
    scores = score(x, num_classes)
    at = 32
    while at > stride:
        at //= 2
        pool, block = pools[at], at.bit_length() - 1
        if skip_scale != 1:
            pool = layers.Rescaling(skip_scale ** (5 - block), dtype="float32",
                                    name=f"scale_pool{block}")(pool)
        skip = score(pool, num_classes, f"score_pool{block}")
        doubled = enlarge(scores, 2, upsampling, f"upsample2_{at}")
        scores = layers.Add(dtype="float32", name=f"fuse{at}")([doubled, skip])
    return enlarge(scores, stride, upsampling, f"upsample{stride}")


def receptive_field(model):
    """Return how many pixels, along one side, a cell of the last convolution sees of the image."""
    size, step = 1, 1
    for layer in model.layers:
        if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.MaxPooling2D)):
            sides = getattr(layer, "kernel_size", None) or layer.pool_size
            size += (sides[0] - 1) * step
            step *= layer.strides[0]
    return size


def load(path):
    """Open a float32 model of this project, without running code that the file may carry.

    path: a `.keras` file, or a `.weights.h5` file with its card, a JSON file of the same name.
    Raises FileNotFoundError; ValueError if the file is damaged, does not score pixels, or has
    another number of classes than its card.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such model file.")
    card = runs.read_json(runs.card_of(path))
    try:
        if path.name.endswith(".weights.h5"):
            model = fcn(**card["fcn"])
            model.load_weights(path)
        else:
            model = keras.saving.load_model(path, safe_mode=True, compile=False)
    except Exception as error:  # Keras raises many kinds for damaged and unsafe files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: cannot be opened as a model ({reason[:200]}). Expected a "
                         ".keras file of this project, or .weights.h5 with "
                         f"{runs.card_of(path).name}; models with own code are refused.") from None
    if not model.name.startswith("fcn"):
        raise ValueError(f"{path}: is no network of this project. Give a run's model.keras.")
    names, classes = card.get("class_names"), model.output_shape[-1]
    if isinstance(names, list) and len(names) != classes:
        raise ValueError(f"{path} has {classes} classes, its card {runs.card_of(path).name} names "
                         f"{len(names)}: bring both files from the same run, or train again.")
    return model


def load_trained(run_dir, dataset):
    """Return (model, card, which one it is) of a run folder; for meadow, else the kept model.

    Raises FileNotFoundError for no model, ValueError for one of another data set.
    """
    file = Path(run_dir) / "model.keras"
    card = runs.read_json(runs.card_of(file))
    if dataset.name == "meadow" and not file.is_file() and not runs.card_of(file).is_file():
        kept = runs.read_json(runs.card_of(KEPT_MODEL))
        return load(KEPT_MODEL), kept, "kept in results/model, since this run has trained none"
    if not file.is_file():
        raise FileNotFoundError(f"{run_dir} holds no model for {dataset.name}: run notebook 03 "
                                "with the same dataset and run_dir first.")
    if not {"dataset", "class_names", "fcn"} <= card.keys():
        raise ValueError(f"{file} needs its card, model.json, which is missing or damaged: copy "
                         "both from one run, or run notebook 03 there again.")
    found = f"{card['dataset']} with classes {card['class_names']}"
    wanted = f"{dataset.name} with classes {list(dataset.class_names)}"
    if found != wanted:
        raise ValueError(f"{run_dir} holds a model trained on {found}, not on {wanted}: give "
                         "another run_dir, or run notebook 03 there first.")
    return load(file), card, "trained by notebook 03 in this run"


def backbone_for(weights, usual=""):
    """Return the backbone that `weights`, as in `fcn`, have, "" for none. usual: of Keras' own."""
    path = Path(weights or "").expanduser()
    if runs.is_own(path):
        return load(path).name.partition("_")[2]
    return (usual if usual in CLASSIFIERS else "vgg16") if weights else ""


def _start_from(model, backbone, weights):
    """Start `model` from a model of this project, or from Keras' own of the same backbone."""
    path = Path(weights).expanduser()
    if runs.is_own(path):
        return transfer(load(path), model)
    if backbone not in CLASSIFIERS:
        raise ValueError(f"weights={str(weights)!r} needs backbone vgg16 or mobilenet_v2, found "
                         f"{backbone!r}, which starts from the model.keras of a run.")
    kind = CLASSIFIERS[backbone]
    make = getattr(keras.applications, kind)
    if weights == "imagenet":
        return convolutionalize(make(weights="imagenet"), model)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such weights file of a Keras {kind}.")
    for top in (True, False):
        classifier = make(weights=None, include_top=top, input_shape=(224, 224, 3))
        try:
            classifier.load_weights(path)
        except Exception:  # Keras and HDF5 raise many kinds
            continue
        return convolutionalize(classifier, model)
    raise ValueError(f"{path}: cannot be read; expected the weights file of a Keras {kind} "
                     "(.weights.h5 or .h5), or the model.keras of a run.")


def convolutionalize(classifier, model):
    """Copy a Keras classifier's weights, a VGG16's or MobileNetV2's, into an FCN of that backbone.

    VGG16's dense kernels become convolutions (Long et al. 2015, section 3.1): fc6's, (25088, 4096),
    is reshaped to (7, 7, 512, 4096). Keras' VGG16 takes mean-subtracted, unscaled BGR: the first
    kernel is reversed and scaled to fit.
    """
    names = {"fc1": "fc6", "fc2": "fc7"}
    targets = {layer.name: layer for layer in model.layers}
    for layer in classifier.layers:
        target, weights = targets.get(names.get(layer.name, layer.name)), layer.get_weights()
        if target and weights:
            if layer.name == "block1_conv1":
                weights[0] = weights[0][:, :, ::-1] * SPREAD
            target.set_weights([values.reshape(old.shape)
                                for values, old in zip(weights, target.weights)])
