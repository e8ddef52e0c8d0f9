"""Fully convolutional networks (Long, Shelhamer & Darrell 2015) on VGG backbones.

Backend-neutral Keras 3. Images go in as 0..255 RGB, of any height and width; float32 logits of the
same height and width come out.
"""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

import keras
from keras import layers

from utils.layers import BilinearUpsampling, CropLike, Im2ColConv2D, PadEdges, PadToMultiple, bilinear_kernel

# ImageNet's mean colour (RGB) and the spread of pixel values around it.
MEAN = (123.68, 116.779, 103.939)
SPREAD = 58.0
KEPT_MODEL = Path(__file__).resolve().parent.parent / "results" / "model" / "model.weights.h5"


@dataclass(frozen=True)
class Backbone:
    """convs: the widths of the 3x3 convolutions in each of five blocks; fc_kernel, fc_width: those of fc6, fc7.

    normalized: the first block whose convolutions are followed by batch normalization, to the end of fc7; 0 for none.
    skip_scale: what pool4 is multiplied by before it is scored, and pool3 twice. im2col: whether fc6 and fc7 are
    `Im2ColConv2D`; with hundreds of channels instead of thousands it does not pay.
    """

    convs: tuple
    fc_kernel: int
    fc_width: int
    dropout: float
    normalized: int = 0
    skip_scale: float = 1.0
    im2col: bool = False


BACKBONES = {
    # VGG16's pools hold numbers in the hundreds; the authors' FCN-8s "at once" scales them so.
    "vgg16": Backbone(((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3), 7, 4096, 0.5, skip_scale=0.01,
                      im2col=True),
    "vgg_small": Backbone(((16,), (32,), (48,), (64, 64), (128, 128)), 3, 192, 0.0, normalized=4),
}
UPSAMPLINGS = ("bilinear", "deconv", "ladder")


def fcn(num_classes, stride=32, backbone="vgg16", weights=None, upsampling="bilinear",
        input_shape=(None, None, 3), precision="float32"):
    """Build an FCN-32s, FCN-16s or FCN-8s, or with the same pattern carried on, FCN-4s or FCN-2s.

    num_classes: C. stride: 32, 16, 8, 4 or 2, the pixels per cell of the finest score map. backbone: a key of
    `BACKBONES`. weights: None (random), "imagenet" (vgg16: Keras' classifier, fc6 and fc7 included), the path of a
    Keras VGG16 weights file (without classifier, fc6 and fc7 start random), or of a model of this project (see
    `transfer`). upsampling: "bilinear" (fixed),
    "deconv" (transposed convolutions that start bilinear and are learned) or "ladder" (five of them, doubling the
    features of fc7, each with batch normalization, and the scores at the end). input_shape: (H, W, 3), None for any.
    precision: a Keras dtype policy for the backbone; scores and logits are float32 in any case.

    Returns a `keras.Model` from (B, H, W, 3) RGB in 0..255 to float32 logits (B, H, W, C).
    Raises ValueError, with the nearest valid name, for anything else; FileNotFoundError for a
    weights file that is not there.
    """
    _one_of("backbone", backbone, BACKBONES)
    _one_of("upsampling", upsampling, UPSAMPLINGS)
    _one_of("stride", stride, (32, 16, 8, 4, 2) if upsampling != "ladder" else (32, 16, 8))
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; expected at least 1.")
    plan = BACKBONES[backbone]
    images = keras.Input(input_shape, name="images")
    x = layers.Rescaling(1 / SPREAD, [-mean / SPREAD for mean in MEAN], dtype="float32", name="normalize")(images)
    x = PadToMultiple(32, dtype="float32", name="pad")(x)
    pools = {}
    for block, widths in enumerate(plan.convs, start=1):
        for number, width in enumerate(widths, start=1):
            x = _conv(x, width, 3, f"block{block}_conv{number}", precision, 0 < plan.normalized <= block)
        x = pools[2 ** block] = layers.MaxPooling2D(2, dtype=precision, name=f"block{block}_pool")(x)
    for name, kernel in (("fc6", plan.fc_kernel), ("fc7", 1)):
        x = _conv(x, plan.fc_width, kernel, name, precision, plan.normalized > 0,
                  Im2ColConv2D if plan.im2col else layers.Conv2D)
        x = layers.Dropout(plan.dropout, dtype=precision, name=f"{name}_dropout")(x)
    build = _ladder if upsampling == "ladder" else _scores_and_skips
    logits = build(x, pools, num_classes, stride, plan, upsampling, precision)
    logits = CropLike(dtype="float32", name="logits")([logits, images])
    model = keras.Model(images, logits, name=f"fcn{stride}s_{backbone}")
    if weights is not None:
        _give_weights(model, backbone, weights)
    return model


def load(path):
    """Open a model that was saved by this project.

    path: a `.keras` file, or a `.weights.h5` file with its card, a JSON file of the same name that
    holds the arguments of `fcn`. Returns a `keras.Model` with the float32 policy. No code that the file may
    carry is run. Raises FileNotFoundError, or ValueError that names the file, if it cannot be opened,
    does not score pixels, or has another number of classes than its card names.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such model file.")
    try:
        if path.name.endswith(".weights.h5"):
            model = fcn(**json.loads(_card(path).read_text(encoding="utf-8"))["fcn"])
            model.load_weights(path)
        else:
            model = keras.saving.load_model(path, safe_mode=True, compile=False)
    except Exception as error:  # Keras raises many kinds for damaged and unsafe files
        raise ValueError(f"{path}: cannot be opened as a model ({_first_line(error)}). Expected a .keras file of this "
                         "project; models that bring their own code are refused.") from None
    _check_output(model, path)
    return model


def _check_output(model, path):
    """Raise ValueError where a model does not score pixels, or not as many classes as its card names."""
    try:
        sides = [side or odd for side, odd in zip(model.input_shape[1:3], (40, 72))]
        found = model.compute_output_shape((1, *sides, 3))
        fits = model.input_shape[-1] == 3 and found[:-1] == (1, *sides)
    except Exception as error:  # whatever the layers of another network raise
        found, fits = _first_line(error), False
    if not fits:
        raise ValueError(f"{path}: is no network of this project: from {getattr(model, 'input_shape', '?')} it gives "
                         f"{found}; expected (1, height, width, classes) from RGB. Give a run's model.keras.")
    try:
        names = json.loads(_card(path).read_text(encoding="utf-8"))["class_names"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return
    if isinstance(names, list) and len(names) != found[-1]:
        raise ValueError(f"{path} has {found[-1]} classes, and {_card(path).name} beside it names "
                         f"{len(names)}: it is the card of another model. Train again, or bring both files "
                         "from the same run.")


def load_trained(run_dir, dataset):
    """Open the model that notebook 03 left in a run folder, or for meadow, where there is none, the kept one.

    dataset: from `load_dataset`. Returns (`keras.Model`, its card as a dict, text that says which one it is).
    Raises FileNotFoundError if there is neither, ValueError if the run's model belongs to another data
    set, or is not the one of its card.
    """
    run_dir = Path(run_dir)
    if (run_dir / "model.json").is_file():
        try:
            card = json.loads((run_dir / "model.json").read_text(encoding="utf-8"))
            trained_on, classes = card["dataset"], [str(name) for name in card["class_names"]]
            card["fcn"]["stride"]  # which notebooks ask for
        except (ValueError, LookupError, TypeError, RecursionError):
            raise ValueError(f"{run_dir / 'model.json'} is damaged: run notebook 03 there again.") from None
        if (trained_on, classes) != (dataset.name, list(dataset.class_names)):
            found, wanted = ((trained_on, dataset.name) if trained_on != dataset.name else
                             (", ".join(classes), ", ".join(dataset.class_names)))
            raise ValueError(f"{run_dir} holds a model trained on {found}, not on {wanted}: give another run_dir, or "
                             "run notebook 03 there first.")
        return load(run_dir / "model.keras"), card, "trained by notebook 03 in this run"
    if (run_dir / "model.keras").is_file():
        raise FileNotFoundError(f"{run_dir / 'model.keras'} lacks its card, model.json: copy that too, or run "
                                "notebook 03 there again.")
    if dataset.name != "meadow":
        raise FileNotFoundError(f"{run_dir} holds no model for {dataset.name}: run notebook 03 with the same dataset "
                                "and run_dir first.")
    card = json.loads(KEPT_MODEL.with_name("model.json").read_text(encoding="utf-8"))
    return load(KEPT_MODEL), card, "kept in results/model, since this run has trained none"


def receptive_field(model):
    """Return how many pixels, along one side, a cell of the last convolution sees of the image."""
    size, step = 1, 1
    for layer in model.layers:
        if isinstance(layer, (layers.Conv2D, layers.MaxPooling2D)):
            kernel = layer.kernel_size[0] if isinstance(layer, layers.Conv2D) else layer.pool_size[0]
            size += (kernel - 1) * step
            step *= layer.strides[0]
    return size


def _conv(x, width, kernel, name, precision, normalize, kind=layers.Conv2D):
    if not normalize:
        return kind(width, kernel, padding="same", activation="relu", kernel_initializer="he_normal",
                    dtype=precision, name=name)(x)
    x = kind(width, kernel, padding="same", use_bias=False, kernel_initializer="he_normal", dtype=precision,
             name=name)(x)
    # With Keras' momentum of 0.99 the averages lag some hundred steps behind, too many for a short training.
    x = layers.BatchNormalization(momentum=0.9, dtype=precision, name=f"{name}_norm")(x)
    return layers.ReLU(dtype=precision, name=f"{name}_relu")(x)


def _scores_and_skips(x, pools, num_classes, stride, plan, upsampling, precision):
    """Score `x` and the pools down to `stride`, add coarse to fine (section 4.2), and return logits (B, H, W, C)."""
    scores = _score(num_classes, "score")(x)
    at = 32
    while at > stride:
        at //= 2
        block = at.bit_length() - 1
        pool = pools[at]
        if plan.skip_scale != 1:
            pool = layers.Rescaling(plan.skip_scale ** (5 - block), dtype="float32", name=f"scale_pool{block}")(pool)
        skip = _score(num_classes, f"score_pool{block}")(pool)
        doubled = _enlarge(scores, 2, upsampling, f"upsample2_{at}")
        scores = layers.Add(dtype="float32", name=f"fuse{at}")([doubled, skip])
    return _enlarge(scores, stride, upsampling, f"upsample{stride}")


def _enlarge(scores, factor, upsampling, name):
    if upsampling == "bilinear":
        return BilinearUpsampling(factor, name=name)(scores)
    # A cell more on each side, cut off again afterwards: else the outermost half cells would mix with zeros.
    x = PadEdges(dtype="float32", name=f"{name}_pad")(scores)
    x = layers.Conv2DTranspose(scores.shape[-1], 2 * factor, strides=factor, padding="same", use_bias=False,
                               kernel_initializer=bilinear_kernel, dtype="float32", name=name)(x)
    return layers.Cropping2D(factor, dtype="float32", name=f"{name}_crop")(x)


def _ladder(x, pools, num_classes, stride, plan, upsampling, precision):
    """Double `x` five times by transposed convolutions with batch normalization, adding the pools down to `stride`."""
    widths = [block[-1] for block in plan.convs[3::-1]]
    for number, width in enumerate((*widths, widths[-1] // 2), start=1):
        width = max(width, 32)  # the narrowest of VGG16's ladder: with fewer, the classes do not come apart
        x = layers.Conv2DTranspose(width, 3, strides=2, padding="same", activation="relu", dtype=precision,
                                   kernel_initializer="he_normal", name=f"upsample_step{number}")(x)
        x = layers.BatchNormalization(momentum=0.9, dtype=precision, name=f"upsample_norm{number}")(x)
        at = 32 >> number
        if at >= stride:
            x = layers.Add(dtype=precision, name=f"fuse{at}")([x, pools[at]])
    # Not zero: so few channels would take hundreds of steps to grow scores from nothing.
    return layers.Conv2D(num_classes, 1, dtype="float32", name="score")(x)


def _score(num_classes, name):
    # Zero, as in the paper: the first step then treats all classes alike.
    return layers.Conv2D(num_classes, 1, kernel_initializer="zeros", dtype="float32", name=name)


def backbone_for(weights):
    """Return the backbone that `weights`, as in `fcn`, belong to; "" for none.

    Raises FileNotFoundError or ValueError where a model of this project cannot be opened.
    """
    if not weights:
        return ""
    path = Path(weights).expanduser()
    if _is_own(path):
        return load(path).name.partition("_")[2]
    return "vgg16"


def _is_own(path):
    return path.suffix == ".keras" or (path.name.endswith(".weights.h5") and _card(path).is_file())


def _give_weights(model, backbone, weights):
    """Start `model` from a model of this project, or from Keras' VGG16."""
    path = Path(weights).expanduser()
    if _is_own(path):
        transfer(load(path), model)
        return
    if backbone != "vgg16":
        raise ValueError(f'weights={str(weights)!r} needs backbone="vgg16", found {backbone!r}. For {backbone}, give '
                         "the model.keras of a run.")
    if weights == "imagenet":
        source = keras.applications.VGG16(weights="imagenet")
    else:
        source = _read_vgg16(path)
    convolutionalize(source, model)


def _read_vgg16(path):
    """Return Keras' VGG16 with the weights of a file, without its classifier where the file has none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such weights file; expected that of a Keras VGG16, the "
                                'model.keras of a run, or weights="imagenet".')
    reasons = []
    for classifier in (True, False):
        source = keras.applications.VGG16(weights=None, include_top=classifier, input_shape=(224, 224, 3))
        try:
            source.load_weights(path)
            return source
        except Exception as error:  # Keras and HDF5 raise many kinds
            reasons.append(_first_line(error))
    raise ValueError(f"{path}: {reasons[0]}. Expected the weights file of a Keras VGG16, with or without its "
                     "classifier (.weights.h5 or .h5); download it again.")


def transfer(source, target):
    """Copy the weights of `source` into the layers of `target` that have the same name and shapes.

    The two may differ in classes, stride or upsampling: layers that only `target` has keep their first weights.
    Returns the names of the layers of `target` that were given none. Raises ValueError if the backbones differ;
    `target` is left as it was.
    """
    given = {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
    shapes = {layer.name: [tuple(weight.shape) for weight in layer.weights] for layer in target.layers if layer.weights}
    new = [name for name in shapes if [weight.shape for weight in given.get(name, ())] != shapes[name]]
    differing = [name for name in new if not name.startswith(("score", "upsample"))]
    if differing:
        raise ValueError(f"{source.name} does not fit {target.name}: {', '.join(differing[:3])} differ. Both need the "
                         "same backbone.")
    for name in shapes.keys() - set(new):
        target.get_layer(name).set_weights(given[name])
    return new


def convolutionalize(classifier, model):
    """Copy a Keras VGG16 classifier's weights into an FCN of backbone "vgg16".

    The dense kernel of fc6, (25088, 4096), becomes a convolution kernel (7, 7, 512, 4096), that of fc7
    (1, 1, 4096, 4096) (Long et al. 2015, section 3.1); without them in `classifier`, fc6 and fc7 are left as they
    are. Keras' VGG16 was trained on BGR pixels with the
    mean taken off and no scaling; the first kernel is turned and scaled, so that it fits RGB pixels over SPREAD.
    """
    for layer in classifier.layers:
        if layer.name.endswith(("conv1", "conv2", "conv3")):
            kernel, bias = layer.get_weights()
            if layer.name == "block1_conv1":
                kernel = kernel[:, :, ::-1] * SPREAD
            model.get_layer(layer.name).set_weights([kernel, bias])
    names = {layer.name for layer in classifier.layers}
    for dense, name in (("fc1", "fc6"), ("fc2", "fc7")):
        if dense not in names:
            continue
        kernel, bias = classifier.get_layer(dense).get_weights()
        target = model.get_layer(name)
        target.set_weights([kernel.reshape(target.kernel.shape), bias])


def _card(model_file):
    stem = model_file.name.removesuffix(".weights.h5").removesuffix(".keras")
    return model_file.with_name(f"{stem}.json")


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__


def _one_of(name, value, valid):
    if value not in valid:
        near = difflib.get_close_matches(str(value), [str(v) for v in valid], n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, valid))}.{hint}")
