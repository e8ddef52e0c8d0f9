"""How each data set is trained when nobody says otherwise."""

import difflib
from dataclasses import dataclass, replace

CLASS_WEIGHTS = ("none", "median", "root_median")
OPTIMIZERS = ("adam", "muon")


@dataclass(frozen=True)
class Recipe:
    """How a data set is trained when nobody says otherwise.

    image_size: side of the square training crops, in pixels. batch_size: crops per step. epochs: passes
    over the training split. learning_rate: the schedule's peak. backbone: see `utils.models.BACKBONES`.
    scale: smallest and largest random zoom of the crops. keep: "best" keeps the epoch with the best
    validation mean IoU, "last" the last one. test_split: the split that scores are reported on.
    validate_every: epochs from one validation to the next. class_weights: "none", or "median" or, milder,
    "root_median" to let pixels of rare classes count more in the loss (see `utils.training.class_weights`).
    optimizer: "adam", or "muon", which needs half as many epochs from random weights (see `utils.training.Muon`).
    """

    image_size: int = 256
    batch_size: int = 8
    epochs: int = 40
    learning_rate: float = 1e-3
    backbone: str = "vgg_small"
    scale: tuple = (0.75, 1.5)
    keep: str = "best"
    test_split: str = "val"
    validate_every: int = 1
    class_weights: str = "none"
    optimizer: str = "adam"

    @property
    def validation_epochs(self):
        """Return the epochs, counted from 1, after which the validation split is scored; the last one always is."""
        return sorted({*range(self.validate_every, self.epochs + 1, self.validate_every), self.epochs})

    def override(self, **values):
        """Return a copy with the given values, where 0, 0.0 and "" mean: as the recipe says.

        Raises ValueError for a negative number, or a rule of class weights or an optimiser that there is not.
        """
        for name in ("image_size", "batch_size", "epochs", "learning_rate"):
            if values.get(name, 0) < 0:
                raise ValueError(f"{name} is {values[name]}; expected a positive number, or 0 for the recipe's "
                                 f"{getattr(self, name)}.")
        for name, known in (("class_weights", CLASS_WEIGHTS), ("optimizer", OPTIMIZERS)):
            if values.get(name) and values[name] not in known:
                raise ValueError(f"{name} is {values[name]!r}{nearest(values[name], known)}")
        return replace(self, **{name: value for name, value in values.items() if value})


# What VGG16 is usually fine-tuned with from weights="imagenet". Not measured here: these data sets were not at hand.
_FINE_TUNING = Recipe(image_size=256, batch_size=8, epochs=30, learning_rate=1e-4, backbone="vgg16", scale=(0.5, 1.5))
RECIPES = {
    "meadow": Recipe(image_size=192, batch_size=4, epochs=12, learning_rate=3e-3, scale=(0.7, 1.4), test_split="test",
                     validate_every=2, optimizer="muon"),
    "voc2007": replace(_FINE_TUNING, test_split="test"),
    "voc2012": _FINE_TUNING,
    "oxford_pets": replace(_FINE_TUNING, epochs=10, test_split="test"),
    # Val is one clip from a drive that train shows too: choosing an epoch on it would flatter what is reported on it.
    # Chosen on a drive held out of train, not on val: results/camvid_experiments.md.
    "camvid": Recipe(image_size=256, batch_size=4, epochs=40, learning_rate=3e-3, scale=(0.6, 1.6), keep="last",
                     test_split="test", validate_every=10, class_weights="root_median", optimizer="muon"),
    "voc": Recipe(),
}


def nearest(name, names):
    """Return the end of a sentence about an unknown name: the one most like it, and all there are."""
    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} There are: {', '.join(names)}."
