"""Measure how fast this project is, beside what people use otherwise: results/bench.json.

Each section runs in a separate process, and alone where you like: `python -m dev.bench scores`.
Both sides of a row take turns in one run on one machine, after a warm-up that is not counted; rows
hold medians, with the smallest and largest of all repeats. A ratio above 1 is in our favour. Rows
of sections that are not run stay as they were measured before.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from utils import datasets, images, metrics, runs

FILE = runs.ROOT / "results" / "bench.json"
TIMES = 10  # so often the quickest work is repeated in a turn


def row(name: str, unit: str, ours: list[float], baseline: list[float] = (),
        better: str = "lower") -> dict[str, object]:
    """Return a row of the table; ours, baseline: measurements in `unit`, "lower" or "higher"."""
    mine, other, ratio, other_range = median(ours), None, None, None
    if baseline:
        other, other_range = median(baseline), [min(baseline), max(baseline)]
        ratio = other / mine if better == "lower" else mine / other
    return {"name": name, "unit": unit, "ours": mine, "baseline": other, "ratio": ratio,
            "ours_range": [min(ours), max(ours)], "baseline_range": other_range,
            "repeats": len(ours)}


def take_turns(repeats: int, *sides: Callable[[], object]) -> list[list[float]]:
    """Return the seconds that each side's calls took: one call each not counted, then by turns."""
    seconds = [[] for _ in sides]
    for turn in range(repeats + 1):
        for side, found in zip(sides, seconds):
            start = time.perf_counter()
            side()
            if turn:
                found.append(time.perf_counter() - start)
    return seconds


def line(found: dict[str, object]) -> str:
    """Return a row as text."""
    def number(value):
        return "" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"

    low, high = map(number, found["ours_range"])
    return (f"{found['name']:<58}{number(found['ours']):>8} ({low} to {high}) {found['unit']:<10}"
            f"{number(found['baseline']):>9}{number(found['ratio']):>8}x")


def step(options):
    """milliseconds an image in a training step, at 256x256."""
    import keras

    from utils import training

    rng = np.random.default_rng(0)
    photos = rng.uniform(0, 255, (4, 256, 256, 3)).astype(np.float32)
    masks = rng.integers(0, 8, (4, 256, 256)).astype(np.uint8)

    def ours(backbone, precision, **changes):
        model = network(backbone, 8, precision=precision, **changes)
        optimizer = "muon" if backbone == "vgg_small" else "adam"
        training.compile_model(model, 8, 1e-3, 1000, optimizer=optimizer)
        return partial(model.train_on_batch, photos, masks)

    precision = training.resolve_precision("auto")
    other = "float32" if precision != "float32" else "mixed_bfloat16"
    for name, backbone, changes in (("small network", "vgg_small", {}),
                                    ("VGG16, fc6 1x1", "vgg16", {"fc_kernel": 1}),
                                    ("VGG16, the paper's fc6 7x7", "vgg16", {})):
        sides = ours(backbone, precision, **changes), ours(backbone, other, **changes)
        yield row(f"training step, {name}, precision auto ({precision}); baseline: {other}",
                  "ms/image", *_per_image(4, options.repeats, *sides))
        keras.backend.clear_session()
    for at in dict.fromkeys(("float32", precision)):
        sides = ours("vgg16", at), ours("vgg16", at, im2col=False)
        yield row(f"training step, VGG16, the paper's fc6 7x7, {at}; "
                  "baseline: fc6 and fc7 as Keras' own convolutions",
                  "ms/image", *_per_image(4, options.repeats, *sides))
        keras.backend.clear_session()


def _per_image(count, repeats, *sides):
    """Take turns, and return the milliseconds an image of sides whose calls do `count` images."""
    return [[1000 * value / count for value in side] for side in take_turns(repeats, *sides)]


def pipeline(options):
    """photos a second from files to batches, 256x256, on the machine's cores."""
    from utils.pipeline import DecodedPairs, batches

    data = datasets.load_dataset("meadow")
    with tempfile.TemporaryDirectory() as folder:
        samples = 2 * _larger_scenes(data, Path(folder))

        def epochs(pairs, count):
            for _ in batches(pairs, image_size=256, batch_size=10, augment=True, shuffle=True,
                             epochs=count):
                pass

        pairs = DecodedPairs(samples)
        first, later = take_turns(options.repeats, lambda: epochs(DecodedPairs(samples), 1),
                                  lambda: epochs(pairs, 2))
        yield row("pipeline, first epoch: decode, augment", "images/s",
                  [len(samples) / seconds for seconds in first], better="higher")
        yield row("pipeline, later epochs: flip, scale, turn, crop, colour", "images/s",
                  [2 * len(samples) / seconds for seconds in later], better="higher")


def _larger_scenes(data, folder):
    """Write meadow's training scenes at 500x375, the usual size in VOC; return the samples."""
    samples = []
    for photo, mask in data.split("train"):
        image, ids = data.read((photo, mask))
        paths = folder / f"{photo.stem}.jpg", folder / f"{photo.stem}.png"
        image = cv2.resize(image, (500, 375), interpolation=cv2.INTER_CUBIC)
        ids = cv2.resize(ids, (500, 375), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(paths[0]), image[..., ::-1])
        images.write_mask(paths[1], ids, data.colors)
        samples.append(paths)
    return samples


def scores(options):
    """milliseconds an image to score 256x256 pixels of 21 classes; baseline: scikit-learn."""
    import sklearn.metrics

    rng = np.random.default_rng(0)
    cells = rng.integers(0, 21, (10, 8, 8)).astype(np.uint8)
    truth = cells.repeat(32, axis=1).repeat(32, axis=2)
    prediction = np.roll(truth, 5, axis=2)

    def ours():
        for _ in range(TIMES):
            metrics.scores(sum(metrics.confusion_matrix(t, p, 21)
                               for t, p in zip(truth, prediction)))

    def theirs():
        sum(sklearn.metrics.confusion_matrix(t.ravel(), p.ravel(), labels=np.arange(21))
            for t, p in zip(truth, prediction))

    mine, other = _per_image(len(truth), 4 * options.repeats, ours, theirs)
    yield row("scores of 21 classes", "ms/image", [value / TIMES for value in mine], other)


def label(options):
    """milliseconds to label a photo of 256x256 with the kept model; baseline: the model called."""
    from utils import inference, models

    model = models.load(models.KEPT_MODEL)
    photo = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)

    def ours():
        return [inference.predict(model, photo) for _ in range(TIMES)]

    def called():
        pixels = photo[None].astype(np.float32)
        return [model(pixels, training=False).numpy()[0].argmax(axis=2).astype(np.uint8)
                for _ in range(TIMES)]

    yield row("label a photo, small network; baseline: the model called", "ms/image",
              *_per_image(TIMES, options.repeats, ours, called))


def network(backbone, num_classes, stride=32, precision="float32", **changes):
    """Return the FCN on a backbone with some of its fields changed, see `models.Backbone`."""
    from utils import models

    models.BACKBONES["changed"] = replace(models.BACKBONES[backbone], **changes)
    try:
        return models.fcn(num_classes, stride, "changed", precision=precision)
    finally:
        del models.BACKBONES["changed"]


def whole(options):
    """the command as a user meets it, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "tools.run", "--run-dir", folder]
        subprocess.check_output(command, cwd=runs.ROOT)
        yield row("make run: notebooks 01 to 05, installed", "min",
                  [(time.perf_counter() - start) / 60])


SECTIONS = {function.__name__: function for function in (step, label, pipeline, scores, whole)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = list(SECTIONS)
    parser.add_argument("sections", nargs="*", metavar="SECTION",
                        help=f"of {', '.join(sections)}; default: all")
    parser.add_argument("--repeats", type=int, default=5, help="of all but trainings (default 5)")
    parser.add_argument("--out", type=Path, default=FILE, help="default: results/bench.json")
    options = parser.parse_args(argv)
    unknown = [name for name in options.sections if name not in sections]
    if unknown:
        parser.error(f"there is no section {', '.join(unknown)}; "
                     f"expected some of {', '.join(sections)}.")
    names = options.sections or sections
    if len(names) > 1:  # each in a process of its own, so that none has the memory of others
        given = ["--repeats", str(options.repeats), "--out", str(options.out)]
        codes = [subprocess.run([sys.executable, "-m", "dev.bench", name, *given]).returncode
                 for name in names]
        return int(any(codes))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    name, section = names[0], SECTIONS[names[0]]
    before = json.loads(options.out.read_text("utf-8")) if options.out.is_file() else []
    rows = [old for old in before if old["section"] != name]
    print(f"\n{name}: {section.__doc__.splitlines()[0]}", flush=True)
    for measured in section(options):
        rows.append({"section": name, **measured, "machine": runs.machine(),
                     "versions": runs.versions()})
        print(line(rows[-1]), flush=True)
    rows.sort(key=lambda old: [*sections, old["section"]].index(old["section"]))
    runs.write_json(options.out, rows)
    print(f"\nwrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
