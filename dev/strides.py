"""Measure what skip connections bring: FCN-32s, 16s and 8s on one data set, over several seeds.

Trains each variant once per seed, scores it on the data set's test split (camvid: val), whole photos, and writes
results/strides_DATASET.json, where other variants stay as they are. Interrupted, the same command goes on where it was.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from tools import fetch
from utils import datasets, metrics, runs
from utils.oracles import bilinear_oracle, majority_oracle

FOLDER = runs.ROOT / "results" / "runs" / "reference"
WIDTHS = (1, 2, 4, 8, 12, 20)
SCORES = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")


@dataclass(frozen=True)
class Variant:
    """start: the variant whose weights it goes on from, or None. share: of the recipe's epochs."""

    stride: int
    upsampling: str = "bilinear"
    start: str | None = None
    share: float = 1.0


# After the first, all are trained equally long, 4/3 of the recipe's epochs, so that only the network differs; by way
# of 16s a third more.
VARIANTS = {
    "32s": Variant(32),
    "32s, trained on": Variant(32, start="32s", share=1 / 3),
    "16s": Variant(16, start="32s", share=1 / 3),
    "8s": Variant(8, start="32s", share=1 / 3),
    "8s by way of 16s": Variant(8, start="16s", share=1 / 3),
    "8s at once": Variant(8, share=4 / 3),
    "8s at once, deconv": Variant(8, "deconv", share=4 / 3),
    "8s at once, ladder": Variant(8, "ladder", share=4 / 3),
}


def train_variant(name: str, data: datasets.Dataset, seed: int) -> Path:
    """Train a variant, and first what it starts from; return its run folder. What is there already is kept."""
    from utils import training  # starts TensorFlow, which --help must not wait for

    variant = VARIANTS[name]
    weights = train_variant(variant.start, data, seed) / "model.keras" if variant.start else None
    recipe = data.recipe.override(epochs=max(1, round(variant.share * data.recipe.epochs)))
    prefix = "" if data.name == "meadow" else f"{data.name}-"
    # The reference trainings of dev.reference are the 32s of meadow.
    kind = data.recipe.class_weights if name == "32s" else name.replace(", ", "-").replace(" ", "-")
    folder = FOLDER / f"{prefix}float32-{seed}-{kind}"
    print(f"{data.name}, {name}, seed {seed}", flush=True)
    training.train(data, recipe, folder, stride=variant.stride, weights=weights and str(weights),
                   upsampling=variant.upsampling, precision="float32", seed=seed)
    return folder


def score(folder: Path, data: datasets.Dataset) -> dict[str, object]:
    """Return scores, the IoU of each class, and mean IoU in bands around borders; kept in `strides.json` there."""
    if (folder / "strides.json").is_file():
        return json.loads((folder / "strides.json").read_text(encoding="utf-8"))
    from utils import inference, models

    model, total, bands = models.load(folder / "model.keras"), 0, {width: 0 for width in WIDTHS}
    for sample in data.split(data.test_split):
        image, mask = data.read(sample)
        ids = inference.predict(model, image)
        total += metrics.confusion_matrix(mask, ids, data.num_classes)
        for width in WIDTHS:
            inside = metrics.boundary_band(mask, width)
            bands[width] += metrics.confusion_matrix(mask[inside], ids[inside], data.num_classes)
    result = metrics.scores(total)
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    row = {**{name: result[name] for name in SCORES}, "iou": dict(zip(data.class_names, result["iou"])),
           "boundary_band_mean_iou": {width: metrics.scores(bands[width])["mean_iou"] for width in WIDTHS},
           "parameters": model.count_params(), "seconds": round(card["seconds"], 1)}
    runs.write_json(folder / "strides.json", row)
    return json.loads((folder / "strides.json").read_text(encoding="utf-8"))


def oracles(data: datasets.Dataset) -> dict[str, dict[int, float]]:
    """Return the mean IoU of both oracles on the test split, by stride."""
    found = {}
    for name, oracle in (("majority", majority_oracle), ("bilinear", bilinear_oracle)):
        total = {32: 0, 16: 0, 8: 0}
        for sample in data.split(data.test_split):
            mask = data.read(sample)[1]
            for stride in total:
                total[stride] += metrics.confusion_matrix(mask, oracle(mask, stride, data.num_classes),
                                                          data.num_classes)
        found[name] = {stride: metrics.scores(confusion)["mean_iou"] for stride, confusion in total.items()}
    return found


def summary(rows: list[dict]) -> dict[str, object]:
    """Return mean and, from two trainings on, standard deviation of each score, and the means of the rest."""
    values = {name: [row[name] for row in rows] for name in SCORES}
    scores = {name: {"mean": fmean(v), "std": stdev(v) if len(v) > 1 else None} for name, v in values.items()}
    means = {name: {key: fmean(row[name][key] for row in rows) if None not in [row[name][key] for row in rows] else None
                    for key in rows[0][name]} for name in ("iou", "boundary_band_mean_iou")}
    return {**scores, **means, "parameters": rows[0]["parameters"], "trainings": len(rows)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.strides", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="meadow", help="default: meadow")
    parser.add_argument("--data-dir", default="", help="where the data set lies")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant (default 3)")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="VARIANT",
                        help=f"default: all of {', '.join(map(repr, VARIANTS))}")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        data_dir = fetch.ensure(arguments.dataset, arguments.data_dir)
        data = datasets.load_dataset(arguments.dataset, data_dir)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    rows = {name: [] for name in arguments.variants}
    for seed in range(arguments.seeds):
        for name in rows:
            rows[name].append({"seed": seed, **score(train_variant(name, data, seed), data)})
            print(f"{name}, seed {seed}: mean IoU {rows[name][-1]['mean_iou']:.4f}", flush=True)
    file = runs.ROOT / "results" / f"strides_{data.name}.json"
    if file.is_file():
        rows = json.loads(file.read_text(encoding="utf-8"))["trainings"] | rows
    rows = {name: rows[name] for name in VARIANTS if name in rows}
    runs.write_json(file, {"dataset": data.name, "split": data.test_split, "oracles": oracles(data),
                           "variants": {name: summary(found) for name, found in rows.items()}, "trainings": rows,
                           "machine": runs.machine(), "versions": runs.versions()})
    print(f"wrote {file.relative_to(runs.ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
