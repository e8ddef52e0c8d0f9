"""Recipes: how a data set is trained when nobody says otherwise.

Those of published data sets are written down in `RECIPES`; `derive` makes one from your own data.
"""

import difflib
import math
import numbers
from dataclasses import asdict, dataclass, field, replace

CLASS_WEIGHTS = ("none", "median", "root_median")
OPTIMIZERS = ("adam", "muon")
STRIDES = (32, 16, 8, 4, 2)
# Taken with a backbone, unless given. Both rates are peaks for all layers: of vgg_small from random
# weights with Muon (results/optimizers.json), and the customary one of VGG16 from ImageNet's weights.
BACKBONE_VALUES = {
    "vgg_small": {"learning_rate": 3e-3, "optimizer": "muon"},
    "vgg16": {"learning_rate": 1e-4, "optimizer": "adam"},
}
# Numbers that a user may give: the smallest, the largest, and in words what is expected.
LIMITS = {
    "image_size": (32, 4096, "32 to 4096 pixels: a smaller crop is less than one cell of FCN-32s' "
                             "scores, and a larger one needs more memory than machines have"),
    "batch_size": (1, 10 ** 6, "a whole number from 1 to 1000000"),
    "epochs": (1, 10 ** 6, "a whole number from 1 to 1000000"),
    "learning_rate": (1e-12, 1e6, "a positive number, such as 0.001"),
    "seed": (0, 2 ** 32 - 1, f"a whole number from 0 to {2 ** 32 - 1}"),
    "calibration": (1, 10 ** 6, "a whole number from 1 to 1000000"),
    "scored": (0, 10 ** 6, "a whole number from 1 to 1000000, or 0 for all"),
}
ENOUGH = 0.9  # of mean IoU: a stride that can draw this much of the masks is fine enough
RARE = 0.02  # share of all pixels below which a class gets more weight
STEPS = 1500, 6000  # the shortest and the longest training run that `derive` asks for
PASSES = 40  # over the training photos, between those two


@dataclass(frozen=True)
class Recipe:
    """Values of a training run.

    image_size: side of the square crops, in pixels. batch_size: crops per step. epochs: passes over
    the training photos. learning_rate: the schedule's peak. backbone, stride: see `utils.models.fcn`.
    scale: smallest and largest random zoom. keep: "best" keeps the epoch with the best validation
    mean IoU, "last" the last one. validate_every: epochs from one validation to the next.
    class_weights: see `utils.training.class_weights`. optimizer: "adam" or "muon".
    reasons: name of a value -> why it is so, in a few words.
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
        rows = [(name, str(value), self.reasons.get(name, "")) for name, value in self.values().items()]
        return "\n".join(f"{name:<15} {value:<11} {reason}".rstrip() for name, value, reason in rows)

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
        """Return a copy with the given values, where 0, 0.0 and "" mean: as the recipe says.

        Another backbone brings its own learning rate and optimizer (`BACKBONE_VALUES`), unless they
        are given. Raises ValueError for numbers outside `LIMITS` and unknown names.
        """
        given = {name: value for name, value in values.items() if value}
        known = {"class_weights": CLASS_WEIGHTS, "optimizer": OPTIMIZERS, "backbone": BACKBONE_VALUES}
        for name, names in known.items():
            if name in given and given[name] not in names:
                raise ValueError(f"{name} is {given[name]!r}{nearest(given[name], names)}")
        changed, reasons = {}, dict(self.reasons)
        if given.get("backbone", self.backbone) != self.backbone:
            for name, value in BACKBONE_VALUES[given["backbone"]].items():
                if self.reasons.get(name) != "given":
                    changed[name], reasons[name] = value, f"usual with {given['backbone']}"
        return replace(self, **{**changed, **given}, reasons=reasons | dict.fromkeys(given, "given"))


def check_numbers(**values):
    """Raise ValueError that names the first of these parameters, of `LIMITS`, whose value cannot be."""
    for name, value in values.items():
        smallest, largest, expected = LIMITS[name]
        kinds = (numbers.Real,) if name == "learning_rate" else (numbers.Integral,)
        if not (isinstance(value, kinds) and smallest <= value <= largest):
            raise ValueError(f"{name} is {value!r}; expected {expected}.")


def derive(photos, side, shares, oracles):
    """Return the `Recipe` for a data set of your own, each value with its reason.

    photos: number of training photos. side: the shorter side of a typical one, in pixels.
    shares: float (C,), the share of the known pixels that each class has. oracles: stride -> mean
    IoU of the training masks drawn at that stride (`oracles.by_stride`).
    """
    stride = next((stride for stride in STRIDES if oracles[stride] >= ENOUGH), STRIDES[-1])
    drawn = ", ".join(f"{stride}: {oracles[stride]:.2f}" for stride in STRIDES)
    reasons = {"stride": f"mean IoU that each stride can draw: {drawn}"}

    image_size = min(256, max(64, math.ceil(side / 32) * 32))
    reasons["image_size"] = f"the shorter side of a typical photo has {side} pixels"
    widest = max(0.25, min(0.7, 2 * image_size / side))
    reasons["scale"] = f"the widest crop shows {min(1.0, image_size / widest / side):.0%} of a side"

    batch_size = 4
    per_epoch = math.ceil(photos / batch_size)
    steps = min(max(PASSES * per_epoch, STEPS[0]), STEPS[1])
    epochs = max(1, round(steps / per_epoch))
    reasons["epochs"] = f"{photos} training photos, {epochs * per_epoch} steps"
    reasons["validate_every"] = "about ten times in all"

    shown = [share for share in shares if share > 0]
    rarest = min(shown, default=1.0)
    reasons["class_weights"] = f"the rarest class has {rarest:.1%} of all pixels"
    reasons |= dict.fromkeys(("learning_rate", "optimizer"), "measured with vgg_small from random weights")
    return Recipe(
        image_size=image_size, batch_size=batch_size, epochs=epochs, stride=stride,
        scale=(round(widest, 2), 1.4), validate_every=max(1, round(epochs / 10)),
        class_weights="root_median" if rarest < RARE else "none", reasons=reasons)


# Not measured: these data sets and ImageNet's weights were not available to the authors.
_FINE_TUNING = Recipe(image_size=256, batch_size=8, epochs=30, learning_rate=1e-4, backbone="vgg16",
                      scale=(0.5, 1.5), optimizer="adam")
RECIPES = {
    "meadow": Recipe(image_size=192, batch_size=4, epochs=12, learning_rate=3e-3, scale=(0.7, 1.4),
                     validate_every=2, optimizer="muon"),
    "voc2007": _FINE_TUNING,
    "voc2012": _FINE_TUNING,
    "oxford_pets": replace(_FINE_TUNING, epochs=10),
    # Chosen on a drive held out of train (results/camvid_experiments.md). Val is one clip from a
    # drive that train shows too: choosing an epoch on it would flatter what is reported on it.
    "camvid": Recipe(image_size=256, batch_size=4, epochs=40, learning_rate=3e-3, scale=(0.6, 1.6),
                     keep="last", validate_every=10, class_weights="root_median", optimizer="muon"),
}


def nearest(name, names):
    """Return the end of a sentence about an unknown name: the one most like it, and all there are."""
    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} There are: {', '.join(names)}."
