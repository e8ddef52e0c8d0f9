"""Train variants of a network over several seeds, and write what they score into results/.

  reference       meadow's recipe: reference/meadow.json, with tolerances
  class_weights   meadow's recipe beside median class weights: class_weights.json
  optimizers      meadow's recipe (Muon) beside Adam: optimizers.json
  losses          cross-entropy beside Dice and focal loss, of any data set: losses_DATASET.json
  strides         FCN-32s, 16s and 8s: strides_DATASET.json, where other variants stay as they are

Interrupted, the same command continues where it was.
"""

import argparse
import itertools
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from tools import fetch
from utils import datasets, labels, metrics, runs
from utils.oracles import by_stride, majority_oracle

FOLDER = runs.ROOT / "results" / "runs" / "reference"
SCORES = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")
WIDTHS = (1, 2, 4, 8, 12, 20)  # of bands around borders, in pixels


@dataclass(frozen=True)
class Variant:
    """changes: of the recipe. epochs: times as many. start: the variant that it continues. loss: a
    key of `other_losses`, or "" for cross-entropy."""

    changes: dict = field(default_factory=dict)
    epochs: float = 1.0
    stride: int = 0
    upsampling: str = "bilinear"
    start: str | None = None
    loss: str = ""


# The first of each comparison is the recipe itself.
COMPARISONS = {
    "reference": {"default": Variant()},
    "class_weights": {"none": Variant(), "median": Variant({"class_weights": "median"})},
    "optimizers": {"muon": Variant(), "adam": Variant({"optimizer": "adam"}),
                   "adam, twice as long": Variant({"optimizer": "adam"}, epochs=2)},
    "losses": {"cross-entropy": Variant(), "with dice": Variant(loss="with dice"),
               "focal": Variant(loss="focal")},
}
# After the first, all are trained equally long, 4/3 of the recipe's epochs, so that only the
# network differs; via 16s a third more.
STRIDES = {
    "32s": Variant(stride=32),
    "32s, trained on": Variant(stride=32, start="32s", epochs=1 / 3),
    "16s": Variant(stride=16, start="32s", epochs=1 / 3),
    "8s": Variant(stride=8, start="32s", epochs=1 / 3),
    "8s via 16s": Variant(stride=8, start="16s", epochs=1 / 3),
    "8s at once": Variant(stride=8, epochs=4 / 3),
    "8s at once, deconv": Variant(stride=8, upsampling="deconv", epochs=4 / 3),
    "8s at once, ladder": Variant(stride=8, upsampling="ladder", epochs=4 / 3),
}


def other_losses() -> dict:
    """Return name -> a function of (ids, logits): Keras' losses over all pixels but void ones."""
    import keras
    from keras import ops

    from utils.training import cross_entropy

    def known(ids, logits):
        seen = ops.not_equal(ids, labels.VOID)
        classes = ops.where(seen, ops.cast(ids, "int32"), -1)
        return ops.cast(seen, "float32"), ops.one_hot(classes, logits.shape[-1])

    def with_dice(ids, logits):
        seen, truth = known(ids, logits)
        dice = keras.losses.Dice(axis=(0, 1, 2))
        return cross_entropy(ids, logits) + dice(truth, ops.softmax(logits) * seen[..., None])

    def focal(ids, logits):
        seen, truth = known(ids, logits)
        loss = keras.losses.CategoricalFocalCrossentropy(1.0, from_logits=True, reduction=None)
        return ops.sum(loss(truth, logits) * seen) / ops.maximum(ops.sum(seen), 1.0)

    return {"with dice": with_dice, "focal": focal}


def train(variants: dict[str, Variant], name: str, data: datasets.Dataset, seed: int,
          precision: str):
    """Train a variant, and first what it starts from; what is there already is kept."""
    from utils import training  # starts TensorFlow, which --help must not wait for

    variant, weights = variants[name], None
    if variant.start:
        weights = str(train(variants, variant.start, data, seed, precision).path)
    epochs = max(1, round(variant.epochs * data.recipe.epochs))
    recipe = data.recipe.override(**variant.changes, epochs=epochs, stride=variant.stride)
    # The recipe itself is trained once for all studies, into the folder of its class weights.
    same = name == "32s" or variant == Variant()
    label = data.recipe.class_weights if same else name.replace(", ", "-").replace(" ", "-")
    prefix = "" if data.name == "meadow" else f"{data.name}-"
    print(f"{data.name}, {precision}, seed {seed}, {name}", flush=True)
    return training.train(data, recipe, FOLDER / f"{prefix}{precision}-{seed}-{label}",
                          weights=weights, upsampling=variant.upsampling, precision=precision,
                          seed=seed, loss=other_losses().get(variant.loss))


def score(trained, data: datasets.Dataset) -> dict[str, object]:
    """Return scores on the test split, per class, and in bands around borders; kept beside."""
    file = trained.path.with_name("study.json")
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    from utils import inference

    total, bands = 0, dict.fromkeys(WIDTHS, 0)
    for sample in data.split(data.test_split):
        image, mask = data.read(sample)
        ids = inference.predict(trained.model, image)
        total += metrics.confusion_matrix(mask, ids, data.num_classes)
        for width in WIDTHS:
            inside = metrics.boundary_band(mask, width)
            bands[width] += metrics.confusion_matrix(mask[inside], ids[inside], data.num_classes)
    result = metrics.scores(total)
    row = {name: result[name] for name in SCORES}
    row |= {"iou": dict(zip(data.class_names, result["iou"])),
            "boundary_band_mean_iou": {width: metrics.scores(band)["mean_iou"]
                                       for width, band in bands.items()},
            "parameters": trained.model.count_params(), "epochs": len(trained.history),
            "seconds": round(trained.seconds, 1),
            "val_mean_iou": max(row.get("val_mean_iou", 0.0) for row in trained.history)}
    runs.write_json(file, row)
    return json.loads(file.read_text(encoding="utf-8"))


def spread(values: list[float]) -> dict[str, float | None]:
    """Return the mean and the standard deviation, None for one value alone."""
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else None}


def tolerances(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Return mean, standard deviation and tolerance (three of those) of each score."""
    found = {name: spread([row[name] for row in rows]) for name in ("val_mean_iou", *SCORES)}
    return {name: both | {"tolerance": 3 * both["std"]} for name, both in found.items()}


def summary(rows: list[dict]) -> dict[str, object]:
    """Return mean and standard deviation of each score, and the means of the others."""
    found = {name: spread([row[name] for row in rows]) for name in SCORES}
    for name in ("iou", "boundary_band_mean_iou"):
        found[name] = {}
        for key in rows[0][name]:
            values = [row[name][key] for row in rows]
            found[name][key] = None if None in values else fmean(values)
    return found | {"parameters": rows[0]["parameters"], "trainings": len(rows)}


def oracles(data: datasets.Dataset) -> dict[str, dict[int, float]]:
    """Return the mean IoU of both oracles on the test split, by stride."""
    masks = [data.read(sample)[1] for sample in data.split(data.test_split)]
    classes, strides = data.num_classes, (32, 16, 8)
    found = {"majority": {}, "bilinear": by_stride(masks, classes, strides)}
    for stride in strides:
        confusion = sum(metrics.confusion_matrix(mask, majority_oracle(mask, stride, classes),
                                                 classes) for mask in masks)
        found["majority"][stride] = metrics.scores(confusion)["mean_iou"]
    return found


def compare(study: str, data: datasets.Dataset, seeds: int, precisions: list[str]) -> dict:
    """Return the scores of a study of one recipe, with tolerances, and all trainings."""
    variants, rows = COMPARISONS[study], []
    for name, precision, seed in itertools.product(variants, precisions, range(seeds)):
        found = score(train(variants, name, data, seed, precision), data)
        rows.append({"name": name, "precision": precision, "seed": seed, **found})
        print(f"test mean IoU {found['mean_iou']:.4f}", flush=True)
    scores = {name: tolerances([row for row in rows if row["name"] == name]) for name in variants}
    return {"scores": scores["default"] if study == "reference" else scores, "trainings": rows}


def compare_strides(data: datasets.Dataset, seeds: int, names: list[str], file: Path) -> dict:
    """Return what skip connections bring; variants that are only in `file` stay."""
    rows = {name: [] for name in names}
    for seed, name in itertools.product(range(seeds), names):
        found = score(train(STRIDES, name, data, seed, "float32"), data)
        rows[name].append({"seed": seed, **found})
        print(f"{name}, seed {seed}: mean IoU {found['mean_iou']:.4f}", flush=True)
    if file.is_file():
        rows = json.loads(file.read_text(encoding="utf-8"))["trainings"] | rows
    rows = {name: rows[name] for name in STRIDES if name in rows}
    return {"dataset": data.name, "split": data.test_split, "oracles": oracles(data),
            "variants": {name: summary(found) for name, found in rows.items()}, "trainings": rows}


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 2 no such data."""
    parser = argparse.ArgumentParser("python -m dev.study", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=[*COMPARISONS, "strides"])
    parser.add_argument("--seeds", type=int, help="default: 5, or 3 for strides")
    parser.add_argument("--precisions", nargs="+", default=["float32", "mixed_bfloat16"],
                        help="default: both; strides are trained in float32")
    parser.add_argument("--dataset", default="meadow", help="of strides and losses")
    parser.add_argument("--data-dir", default="", help="where that data set is")
    parser.add_argument("--variants", nargs="+", default=list(STRIDES), choices=list(STRIDES),
                        metavar="VARIANT", help=f"of strides: {', '.join(map(repr, STRIDES))}")
    parser.add_argument("--out", type=Path, help="write another file than the usual one")
    options = parser.parse_args(argv)
    usual, least = (3, 1) if options.study == "strides" else (5, 2)
    seeds = usual if options.seeds is None else options.seeds
    if seeds < least:
        parser.error(f"--seeds is {seeds}; expected at least {least}.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    name = options.dataset if options.study in ("strides", "losses") else "meadow"
    try:
        data = datasets.load_dataset(name, fetch.ensure(name, options.data_dir))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    files = {"reference": "reference/meadow.json", "strides": f"strides_{data.name}.json",
             "losses": f"losses_{Path(data.root).name}.json"}
    file = options.out or runs.ROOT / "results" / files.get(options.study, f"{options.study}.json")
    if options.study == "strides":
        found = compare_strides(data, seeds, options.variants, file)
    else:
        found = compare(options.study, data, seeds, options.precisions)
    file.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(file, found | {"machine": runs.machine(), "versions": runs.versions(),
                                   "commit": os.popen("git rev-parse --short HEAD").read().strip()})
    print(f"wrote {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
