"""Measure the reference scores of meadow's default training, and how much they vary: results/reference/meadow.json.

Trains once per seed and precision with the recipe's defaults. Interrupted, the same command goes on where it was.
"""

import argparse
import sys
from pathlib import Path
from statistics import fmean, stdev

from utils import datasets, runs

REFERENCE = runs.ROOT / "results" / "reference" / "meadow.json"
FOLDER = runs.ROOT / "results" / "runs" / "reference"
# What notebook 03 compares: file in results -> name -> what differs from the recipe. The first is the recipe itself.
COMPARISONS = {"class_weights": {"none": {}, "median": {"class_weights": "median"}},
               "optimizers": {"muon": {}, "adam": {"optimizer": "adam"},
                              "adam, twice as long": {"optimizer": "adam", "epochs": 2},
                              "adam, 1e-3": {"optimizer": "adam", "learning_rate": 1e-3},
                              "adam, 1e-2": {"optimizer": "adam", "learning_rate": 1e-2}}}


def measure(precision: str, seed: int, name: str, changes: dict) -> dict[str, object]:
    """Train once; return the scores on val (best epoch) and test, the IoU of each class, and the seconds it took.

    changes: what differs from meadow's recipe; of `epochs`, how many times as many.
    """
    from utils import (  # starts TensorFlow, which --help must not wait for
        inference,
        metrics,
        training,
    )

    data = datasets.load_dataset("meadow")
    recipe = data.recipe.override(**changes | {"epochs": changes.get("epochs", 1) * data.recipe.epochs})
    print(f"{precision}, seed {seed}, {name}", flush=True)
    folder = FOLDER / f"{precision}-{seed}-{name.replace(', ', '-').replace(' ', '-') if changes else 'none'}"
    trained = training.train(data, recipe, folder, precision=precision, seed=seed)
    test = metrics.scores(inference.evaluate(trained.model, data, data.test_split))
    print(f"test mean IoU {test['mean_iou']:.4f} after {trained.seconds:.0f} s", flush=True)
    val = max(row.get("val_mean_iou", 0.0) for row in trained.history)
    return {"name": name, "precision": precision, "seed": seed, "epochs": recipe.epochs,
            "seconds": round(trained.seconds, 1), "val_mean_iou": val, **test,
            "iou": dict(zip(data.class_names, test["iou"]))}


def summarise(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Return mean, standard deviation and tolerance (three of those) of each score over all rows."""
    summary = {}
    for name in ("val_mean_iou", "pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"):
        values = [row[name] for row in rows]
        summary[name] = {"mean": fmean(values), "std": stdev(values), "tolerance": 3 * stdev(values)}
    return summary


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.reference", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="trainings of a kind (default 5; at least 2)")
    parser.add_argument("--precisions", nargs="+", default=["float32", "mixed_bfloat16"], help="default: both")
    parser.add_argument("--compare", choices=list(COMPARISONS),
                        help="also train with these changed, and write results/COMPARE.json instead")
    parser.add_argument("--out", help="default: results/reference/meadow.json, or results/COMPARE.json")
    arguments = parser.parse_args(argv)
    if arguments.seeds < 2:
        parser.error(f"--seeds is {arguments.seeds}; a spread needs at least 2.")
    kinds = COMPARISONS[arguments.compare] if arguments.compare else {"default": {}}
    rows = [measure(precision, seed, name, changes) for name, changes in kinds.items()
            for precision in arguments.precisions for seed in range(arguments.seeds)]
    scores = {name: summarise([row for row in rows if row["name"] == name]) for name in kinds}
    usual = runs.ROOT / "results" / f"{arguments.compare}.json" if arguments.compare else REFERENCE
    file = Path(arguments.out or usual)
    file.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(file, {"scores": scores if arguments.compare else scores["default"], "trainings": rows,
                           "machine": runs.machine(), "versions": runs.versions()})
    print(f"wrote {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
