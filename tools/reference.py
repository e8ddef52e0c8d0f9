"""Measure the reference scores of meadow's default training, and how much they vary: results/reference/meadow.json.

Trains once per seed and precision with the recipe's defaults. Interrupted, the same command goes on where it was.
"""

import argparse
import sys
from statistics import fmean, stdev

from utils import datasets, runs

REFERENCE = runs.ROOT / "results" / "reference" / "meadow.json"
FOLDER = runs.ROOT / "results" / "runs" / "reference"


def measure(precision: str, seed: int) -> dict[str, object]:
    """Train with one seed and precision; return its scores on val (best epoch) and test, and the seconds it took."""
    from utils import inference, metrics, training  # starts TensorFlow, which --help must not wait for

    data = datasets.load_dataset("meadow")
    trained = training.train(data, data.recipe, FOLDER / f"{precision}-{seed}", precision=precision, seed=seed)
    test = metrics.scores(inference.evaluate(trained.model, data, data.recipe.test_split))
    scores = {name: value for name, value in test.items() if name != "iou"}
    val = max(row.get("val_mean_iou", 0.0) for row in trained.history)
    return {"precision": precision, "seed": seed, "seconds": round(trained.seconds, 1), "val_mean_iou": val, **scores}


def summarise(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Return mean, standard deviation and tolerance (three of those) of each score over all rows."""
    summary = {}
    for name in rows[0]:
        if name not in ("precision", "seed", "seconds"):
            values = [row[name] for row in rows]
            summary[name] = {"mean": fmean(values), "std": stdev(values), "tolerance": 3 * stdev(values)}
    return summary


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.reference", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="trainings per precision (default 5)")
    parser.add_argument("--precisions", nargs="+", default=["float32", "mixed_bfloat16"], help="default: both")
    arguments = parser.parse_args(argv)
    rows = []
    for precision in arguments.precisions:
        for seed in range(arguments.seeds):
            print(f"{precision}, seed {seed}", flush=True)
            rows.append(measure(precision, seed))
            print(f"test mean IoU {rows[-1]['mean_iou']:.4f} after {rows[-1]['seconds']:.0f} s", flush=True)
    REFERENCE.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(REFERENCE, {"scores": summarise(rows), "trainings": rows, "machine": runs.machine(),
                                "versions": runs.versions()})
    print(f"wrote {REFERENCE.relative_to(runs.ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
