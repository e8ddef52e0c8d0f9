"""Recipes: how a data set is trained unless a user says otherwise.

Those of published data sets are listed in `RECIPES`; `derive` makes one from your own data.
"""

import difflib
import math
import numbers
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from utils.labels import VOID

CLASS_WEIGHTS = ("none", "median", "root_median")
OPTIMIZERS = ("adam", "muon")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
STRIDES = (32, 16, 8, 4, 2)
# Peak rates for all layers: of vgg_small from random weights with Muon (results/optimizers.json),
# and the usual ones from ImageNet's weights.
BACKBONE_VALUES = {
    "vgg_small": {"learning_rate": 3e-3, "optimizer": "muon"},
    "vgg16": {"learning_rate": 1e-4, "optimizer": "adam"},
    "mobilenet_v2": {"learning_rate": 1e-3, "optimizer": "adam"},
}
COUNT = (1, 10 ** 6, "a whole number from 1 to 1000000")
# Numbers that a user may give: the smallest, the largest, and in words what is expected.
LIMITS = {
    "image_size": (32, 4096, "32 to 4096 pixels: one cell of FCN-32s' scores, or what fits memory"),
    "batch_size": COUNT,
    "epochs": COUNT,
    "learning_rate": (1e-12, 1e6, "a positive number, such as 0.001"),
    "seed": (0, 2 ** 32 - 1, f"a whole number from 0 to {2 ** 32 - 1}"),
    "calibration": COUNT,
    "scored": (0, 10 ** 6, "a whole number from 1 to 1000000, or 0 for all"),
}
ENOUGH = 0.9  # of mean IoU: a stride that can draw this much of the masks is fine enough
RARE = 0.02  # share of all pixels below which a class gets more weight
STEPS = 1500, 6000  # the shortest and the longest training run that `derive` asks for
PASSES = 40  # over the training photos, between those two


@dataclass(frozen=True)
class Recipe:
    """Values of a training run; sizes in pixels, learning_rate the schedule's peak.

    scale: smallest and largest random zoom. keep: "best" keeps the epoch with the best validation
    mean IoU, "last" the last one. validate_every: in epochs. class_weights, optimizer: see
    `utils.training`. reasons: name of a value -> why, in a few words.
    """

    image_size: int = 256
    batch_size: int = 4
    epochs: int = 40
    learning_rate: float = 3e-3
    backbone: str = "vgg_small"
    stride: int = 32
    scale: tuple = (0.7, 1.4)
    keep: str = "best"
    validate_every: int = 1
    class_weights: str = "none"
    optimizer: str = "muon"
    reasons: dict = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self):
        check_numbers(image_size=self.image_size, batch_size=self.batch_size, epochs=self.epochs,
                      learning_rate=self.learning_rate)

    def __str__(self):
        return "\n".join(f"{name:<15} {str(value):<11} {self.reasons.get(name, '')}".rstrip()
                         for name, value in self.values().items())

    def values(self):
        """Return all values as a dict, without their reasons."""
        values = asdict(self)
        del values["reasons"]
        return values

    @property
    def validation_epochs(self):
        """Return the epochs, counted from 1, after which the validation split is scored."""
        every = range(self.validate_every, self.epochs + 1, self.validate_every)
        return sorted({*every, self.epochs})

    def override(self, **values):
        """Return a copy with the given values; 0, 0.0 and "" keep the recipe's.

        Another backbone brings its own learning rate and optimizer (`BACKBONE_VALUES`), unless they
        are given. Raises ValueError for numbers outside `LIMITS` and unknown names.
        """
        given = {name: value for name, value in values.items() if value}
        check_name("backbone", given.get("backbone", self.backbone), BACKBONE_VALUES)
        check_name("optimizer", given.get("optimizer", self.optimizer), OPTIMIZERS)
        check_name("class_weights", given.get("class_weights", self.class_weights), CLASS_WEIGHTS)
        reasons, brought = self.reasons | dict.fromkeys(given, "given"), {}
        if given.get("backbone", self.backbone) != self.backbone:
            brought = {name: value for name, value in BACKBONE_VALUES[given["backbone"]].items()
                       if reasons.get(name) != "given"}
            reasons |= dict.fromkeys(brought, f"usual with {given['backbone']}")
        return replace(self, **brought, **given, reasons=reasons)


def check_numbers(**values):
    """Raise ValueError for the first of these parameters whose value is outside `LIMITS`."""
    for name, value in values.items():
        smallest, largest, expected = LIMITS[name]
        kind = numbers.Real if name == "learning_rate" else numbers.Integral
        if not (isinstance(value, kind) and smallest <= value <= largest):
            raise ValueError(f"{name} is {value!r}; expected {expected}.")


def check_name(parameter, value, names):
    """Raise ValueError with the nearest name if the value of a parameter is none of `names`."""
    if value not in names:
        raise ValueError(f"{parameter} is {value!r}{nearest(value, names)}")


def nearest(name, names):
    """Return the end of a sentence about an unknown name: the nearest one, and up to 20."""
    names = [str(known) for known in names]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    more = ", ..." if len(names) > 20 else ""
    return f"{hint} There are: {', '.join(names[:20])}{more}."


def class_weights(rule, pairs, num_classes):
    """Return float64 (C,) weights for the loss, or None for the rule "none".

    rule: "median" for median frequency balancing (Eigen & Fergus 2015): the median frequency over
    the class's own, its share of the pixels of the images that show it; "root_median" for the
    square roots. pairs: (photo, mask) of the training split. Classes in no mask get 0.
    """
    check_name("class_weights", rule, CLASS_WEIGHTS)
    if rule == "none":
        return None
    counts = np.stack([np.bincount(mask.ravel(), minlength=VOID + 1)[:num_classes]
                       for _, mask in pairs])
    shown = counts.sum(axis=0) > 0
    in_their_images = ((counts > 0) * counts.sum(axis=1, keepdims=True)).sum(axis=0)
    frequency = counts.sum(axis=0) / np.maximum(in_their_images, 1)
    weights = np.where(shown, np.median(frequency[shown]) / np.where(shown, frequency, 1), 0.0)
    return np.sqrt(weights) if rule == "root_median" else weights


def resolve_precision(name="auto"):
    """Return one of `PRECISIONS` as a Keras dtype policy; ValueError for other names.

    "auto" takes mixed_bfloat16 on processors with AMX, AMD's with AVX512-BF16 (Intel's are slower
    with it, see results/README.md), NVIDIA Ampere and newer, TPU; else float32.
    """
    check_name("precision", name, PRECISIONS)
    if name == "auto":
        return "mixed_bfloat16" if _has_bfloat16() else "float32"
    return name


def _has_bfloat16():
    import keras

    if keras.backend.backend() == "jax":
        import jax
        device = jax.devices()[0]
        if device.platform != "cpu":
            return device.platform == "tpu" or float(getattr(device, "compute_capability", 0)) >= 8
    elif keras.backend.backend() == "torch":
        import torch
        if torch.cuda.is_available():
            return torch.cuda.get_device_capability() >= (8, 0)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        for gpu in tf.config.list_physical_devices("GPU"):
            details = tf.config.experimental.get_device_details(gpu)
            return details.get("compute_capability", (0, 0)) >= (8, 0)
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    flags = text.partition("flags")[2].partition("\n")[0].split()
    return "amx_bf16" in flags or "avx512_bf16" in flags and "AuthenticAMD" in text


def derive(photos, side, shares, oracles):
    """Return the `Recipe` for a data set of your own, each value with its reason.

    photos: number of training photos. side: the shorter side of a typical one, in pixels.
    shares: float (C,), each class's share of the known pixels. oracles: stride -> mean IoU of the
    training masks drawn at that stride (`oracles.by_stride`).
    """
    stride = next((stride for stride in STRIDES if not oracles[stride] < ENOUGH), STRIDES[-1])
    drawn = ", ".join(f"{stride}: {oracles[stride]:.2f}" for stride in STRIDES)
    image_size = min(256, max(64, math.ceil(side / 32) * 32))
    widest = max(0.25, min(0.7, 2 * image_size / side))
    batch_size = 4
    per_epoch = math.ceil(photos / batch_size)
    epochs = max(1, round(min(max(PASSES * per_epoch, STEPS[0]), STEPS[1]) / per_epoch))
    rarest = min((share for share in shares if share > 0), default=1.0)
    amount = f"{rarest:.1%}" if rarest >= 0.001 else "less than 0.1%"
    measured = "measured with vgg_small from random weights"
    values = {
        "stride": (stride, f"mean IoU that each stride can draw: {drawn}"),
        "image_size": (image_size, f"the shorter side of a typical photo has {side} pixels"),
        "scale": ((round(widest, 2), 1.4), "the widest crop shows "
                  f"{min(1.0, image_size / widest / side):.0%} of a side"),
        "batch_size": (batch_size, "as for meadow and CamVid"),
        "epochs": (epochs, f"{photos} training photos, {epochs * per_epoch} steps"),
        "validate_every": (max(1, round(epochs / 10)), "about ten times in all"),
        "class_weights": ("root_median" if rarest < RARE else "none",
                          f"the rarest class has {amount} of all pixels"),
        "backbone": ("vgg_small", "learns from random weights"),
        "keep": ("best", "val chooses the epoch"),
        "learning_rate": (3e-3, measured),
        "optimizer": ("muon", measured),
    }
    return Recipe(**{name: value for name, (value, _) in values.items()},
                  reasons={name: reason for name, (_, reason) in values.items()})


# Not measured: these data sets and ImageNet's weights were not available to the authors.
_FINE_TUNING = Recipe(batch_size=8, epochs=30, learning_rate=1e-4, backbone="vgg16",
                      scale=(0.5, 1.5), optimizer="adam")
RECIPES = {
    "meadow": Recipe(image_size=192, epochs=12, validate_every=2),
    "voc2007": _FINE_TUNING,
    "voc2012": _FINE_TUNING,
    "oxford_pets": replace(_FINE_TUNING, epochs=10),
    # Chosen on a drive held out of train (results/camvid_experiments.md). Val is a clip of a drive
    # that train shows too: choosing an epoch on it would flatter the scores reported on it.
    "camvid": Recipe(scale=(0.6, 1.6), keep="last", validate_every=10, class_weights="root_median"),
}
