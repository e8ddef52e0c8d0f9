"""A small training, killed at random moments, ends as if nothing had happened.

A trial trains on a few meadow scenes, is killed (kill -9) at a random moment, once or twice, and
then runs to its end. FCN_TRIALS sets how many trials are made: 100 take about twenty minutes.
"""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytestmark = pytest.mark.slow
TRIALS = int(os.environ.get("FCN_TRIALS", "3"))
EPOCHS = 3
SCENES = {"train": 16, "val": 4}


class Times(NamedTuple):
    """Seconds from the start of a process to the end of its first epoch, and to its own end."""

    first: float
    end: float


def train(folder: Path, epochs: int) -> None:
    """Train in this process; what it prints goes into a log beside the folder."""
    sys.stdout = sys.stderr = open(folder.with_suffix(".log"), "a", encoding="utf-8")
    from utils import datasets, recipes, training

    meadow = datasets.load_dataset("meadow")
    few = dataclasses.replace(meadow, splits={split: meadow.split(split)[:count]
                                              for split, count in SCENES.items()})
    recipe = recipes.Recipe(image_size=64, batch_size=4, epochs=epochs, learning_rate=3e-3)
    training.train(few, recipe, folder, precision="float32", seed=1)


def attempt(folder: Path, epochs: int, kill_after: float | None = None,
            trained: bool = False) -> Times | None:
    """Train in a process of its own; returns how long that took, or None if it was killed.

    kill_after: seconds, from the first epoch that this process finishes if `trained`, else from its
    start. Raises RuntimeError, with the end of its log, where the training fails by itself.
    """
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    # once, so that kills do not fall on TensorFlow's start
    context.set_forkserver_preload(["utils.training"])
    process = context.Process(target=train, args=(folder, epochs))
    begin, before = time.monotonic(), _written(folder)
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
    """Return how two trainings differ: files, history without seconds, arrays of the state."""
    found = []
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*")}
             for folder in (one, other)]
    found += [f"{name} is there in one of them only" for name in sorted(names[0] ^ names[1])]
    histories = [[{name: value for name, value in row.items() if name != "seconds"} for row in
                  json.loads((folder / "history.json").read_text(encoding="utf-8"))]
                 for folder in (one, other)]
    if histories[0] != histories[1]:
        found.append("history.json differs")
    with np.load(one / "training" / "state.npz") as first, np.load(other / "training"
                                                                   / "state.npz") as second:
        arrays = [name for name in first.files if name.startswith(("state", "kept"))]
        unequal = [name for name in arrays if not np.array_equal(first[name], second[name])]
    if unequal:
        found.append(f"{len(unequal)} of {len(arrays)} arrays differ: {', '.join(unequal[:5])}")
    return found


def test_kills_at_random_moments_leave_no_trace(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    first, second = tmp_path / "unbroken", tmp_path / "unbroken again"
    times = min(attempt(first, EPOCHS), attempt(second, EPOCHS), key=lambda times: times.end)
    assert differences(first, second) == [], "two undisturbed trainings differ"
    rng, kills = random.Random(4), 0
    for number in range(TRIALS):
        folder = tmp_path / f"trial {number}"
        for _ in range(rng.choice((1, 1, 2))):
            # Otherwise most kills would hit the set-up, which takes longer than the epochs.
            trained = rng.random() < 0.8
            moment = rng.uniform(0, times.end - times.first if trained else times.first)
            kills += attempt(folder, EPOCHS, moment, trained) is None
        attempt(folder, EPOCHS)
        assert differences(first, folder) == [], folder.name
    assert kills >= TRIALS // 2, "most kills came too late"


def test_trials_see_every_difference(tmp_path):
    finished = tmp_path / "finished"
    attempt(finished, epochs=1)

    def differs(change):
        other = shutil.copytree(finished, tmp_path / f"other{len(list(tmp_path.iterdir()))}")
        change(other)
        return " ".join(differences(finished, other))

    def nudge(other):
        with np.load(other / "training" / "state.npz") as file:
            arrays = dict(file)
        arrays["kept0"].flat[0] = np.nextafter(arrays["kept0"].flat[0], np.float32(9))
        np.savez(other / "training" / "state.npz", **arrays)

    def another_loss(other):
        history = json.loads((other / "history.json").read_text(encoding="utf-8"))
        history[0]["loss"] += 1e-9
        (other / "history.json").write_text(json.dumps(history), encoding="utf-8")

    assert differs(lambda other: None) == ""
    assert "arrays differ: kept0" in differs(nudge)
    assert "history.json differs" in differs(another_loss)
    left_over = differs(lambda other: (other / ".part.model.keras").touch())
    assert ".part.model.keras is there in one" in left_over
