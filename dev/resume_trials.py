"""Kill a small training again and again at random moments, and see whether it ends as if nothing had happened.

A trial starts a training on a few meadow scenes, kills it (kill -9) at a random moment, once or twice, and lets the
same call run to its end. Weights, optimiser, history and files must then equal, to the last bit, those of a
training that nobody disturbed.
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools import progress

SCENES = {"train": 16, "val": 4}
UNBROKEN = ("unbroken", "unbroken again")


class Times(NamedTuple):
    """Seconds from the start of a process to the end of its first epoch, and to its own end."""

    first: float
    end: float


def train(folder: Path, epochs: int) -> None:
    """Train in this process; what it prints goes into a log beside the folder."""
    sys.stdout = sys.stderr = open(folder.with_suffix(".log"), "a", encoding="utf-8")
    from utils import datasets, recipes, training

    meadow = datasets.load_dataset("meadow")
    few = dataclasses.replace(meadow, splits={split: meadow.split(split)[:count] for split, count in SCENES.items()})
    recipe = recipes.Recipe(image_size=64, batch_size=4, epochs=epochs, learning_rate=3e-3)
    training.train(few, recipe, folder, precision="float32", seed=1)


def attempt(folder: Path, epochs: int, kill_after: float | None = None, trained: bool = False) -> Times | None:
    """Train in a process of its own; returns how long that took, or None if it was killed before its end.

    kill_after: seconds, from the first epoch that this process finishes if `trained`, else from its start. Raises
    RuntimeError, with the end of its log, where the training fails by itself.
    """
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    context.set_forkserver_preload(["utils.training"])  # once, so that kills do not fall on TensorFlow's start
    process, begin, before = context.Process(target=train, args=(folder, epochs)), time.monotonic(), _written(folder)
    process.start()
    if trained or kill_after is None:
        while process.is_alive() and _written(folder) == before:
            time.sleep(0.005)
    first = time.monotonic() - begin
    process.join(kill_after)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    if process.exitcode:
        log = folder.with_suffix(".log").read_text(encoding="utf-8")
        raise RuntimeError(f"the training in {folder.name} failed:\n{log[-2000:]}")
    return Times(first, time.monotonic() - begin)


def _written(folder: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return (folder / "training" / "state.npz").stat().st_mtime_ns
    return None


def differences(one: Path, other: Path) -> list[str]:
    """Return in what two finished trainings differ: files, history without seconds, and arrays of the state."""
    found = []
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (one, other)]
    found += [f"{name} is there in one of them only" for name in sorted(names[0] ^ names[1])]
    histories = [[{name: value for name, value in row.items() if name != "seconds"} for row in
                  json.loads((folder / "history.json").read_text(encoding="utf-8"))] for folder in (one, other)]
    found += ["history.json differs"] * (histories[0] != histories[1])
    with np.load(one / "training" / "state.npz") as first, np.load(other / "training" / "state.npz") as second:
        arrays = [name for name in first.files if name.startswith(("state", "kept"))]
        unequal = [name for name in arrays if not np.array_equal(first[name], second[name])]
    return found + [f"{len(unequal)} of {len(arrays)} arrays differ: {', '.join(unequal[:5])}"] * bool(unequal)


def trial(folder: Path, epochs: int, times: Times, rng: random.Random, kills: Counter) -> None:
    """Train in `folder` to the end, killed once or twice before; counts in `kills` what the kills hit."""
    for _ in range(rng.choice((1, 1, 2))):
        trained = rng.random() < 0.8  # else most kills would hit the set-up, which takes longer than the epochs
        moment = rng.uniform(0, times.end - times.first if trained else times.first)
        if attempt(folder, epochs, moment, trained) is not None:
            kills["too late, the training had ended"] += 1
            return
        state = folder / "training" / "state.npz"
        writing = state.with_name(f".{state.name}.tmp").exists()
        ended = state.exists() and len(json.loads(str(np.load(state)["history"]))) == epochs
        kills["while the state was written" if writing else "while the model was saved" if ended else
              "in a later epoch" if state.exists() else "before the end of the first epoch"] += 1
    attempt(folder, epochs)


def run(folder: Path, trials: int, epochs: int, seed: int) -> int:
    """Run all trials in `folder`, print what they found, and return how many ended otherwise than undisturbed."""
    times = min((attempt(folder / name, epochs) for name in UNBROKEN), key=lambda times: times.end)
    apart = differences(*(folder / name for name in UNBROKEN))
    same = f"no: {'; '.join(apart)}" if apart else "yes"
    print(f"undisturbed: {times.end:.1f} s; twice the same, to the last bit: {same}", flush=True)
    rng, kills, failed = random.Random(seed), Counter(), 0
    report = progress.bar("trials")
    for number in range(trials):
        place = folder / f"trial {number}"
        trial(place, epochs, times, rng, kills)
        found = differences(folder / UNBROKEN[0], place)
        if found:
            failed += 1
            print(f"{place.name} differs: {'; '.join(found)}", flush=True)
        report(number + 1, trials)
    hits = ", ".join(f"{count} {name}" for name, count in kills.most_common())
    print(f"{sum(kills.values())} kills: {hits}\n{trials - failed} of {trials} trials ended as if undisturbed")
    return failed


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 all trials ended as if undisturbed, 1 one did not."""
    parser = argparse.ArgumentParser("python -m dev.resume_trials", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, help="default 100, some ten seconds each")
    parser.add_argument("--epochs", type=int, default=6, help="of each training (default 6)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default 0)")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's log lines of a hundred processes
    with tempfile.TemporaryDirectory(prefix="trials-") as folder:
        return int(run(Path(folder), arguments.trials, arguments.epochs, arguments.seed) > 0)


if __name__ == "__main__":
    sys.exit(main())
