"""What is wrong with a data set: every pair is read once; faults name file, finding and remedy."""

import re
import textwrap
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.check.faults import look_at
from utils.datasets import Dataset
from utils.images import PHOTO_SUFFIXES, THREADS, Problem
from utils.labels import VOID

SEVERITIES = ("error", "warning", "note")


class Report(NamedTuple):
    """problems: list of `Problem`, worst first. pixels: split -> int64 (C + 1,), void last."""

    problems: list
    pixels: dict


def check_dataset(dataset, progress=None):
    """Return what `survey` finds: a list of `Problem`s, worst first."""
    return survey(dataset, progress).problems


def survey(dataset, progress=None):
    """Read every photo and mask of a `Dataset` once; returns a `Report`.

    progress: a function of (done, total), such as `tools.progress.bar` makes.
    """
    samples = list(dict.fromkeys(sample for split in dataset.splits.values() for sample in split))
    missing = {path for sample in samples for path in sample if not Path(path).is_file()}
    whole, looks = [sample for sample in samples if missing.isdisjoint(sample)], {}
    with ThreadPoolExecutor(THREADS) as pool:
        for look in pool.map(lambda sample: look_at(sample, dataset), whole):
            looks[whole[len(looks)]] = look
            if progress:
                progress(len(looks), len(whole))
    pixels = {name: sum((looks[sample].pixels for sample in split if sample in looks),
                        np.zeros(VOID + 1, np.int64)) for name, split in dataset.splits.items()}
    problems = [problem for look in looks.values() for problem in look.problems]
    problems += [*_missing(missing), *_unlisted(dataset), *_lists(dataset),
                 *_copies(dataset, looks)]
    # What unread masks show is unknown.
    if len(looks) == len(samples) and all(look.mask for look in looks.values()):
        problems += [*_numbering(sum(pixels.values()), dataset.num_classes),
                     *_classes(dataset, pixels)]
    problems.sort(key=lambda one: (SEVERITIES.index(one.severity), one.file, one.found))
    classes = [*range(dataset.num_classes), VOID]
    return Report(problems, {name: count[classes] for name, count in pixels.items()})


def table(problems, root="", width=110):
    """Return problems as text, `width` characters wide; `root` is left off file names.

    Problems that differ in file names, sizes and counts only are listed together, with three files.
    """
    differs = r"(\[.*?\]|\(\d.*?\))|[^\s,]+\.\w{3,4}\b|\d+"  # all but ids and colours, the group
    groups, rows = {}, []
    for problem in problems:
        kind = problem.severity, problem.remedy, re.sub(differs, r"\1", problem.found)
        groups.setdefault(kind, []).append(problem)
    for group in groups.values():
        paths = [Path(problem.file) for problem in group[:3]]
        names = [(path.relative_to(root) if root and path.is_relative_to(root) else path).as_posix()
                 for path in paths]
        more = f" and {len(group) - 3} more" if len(group) > 3 else ""
        text = f"{', '.join(names)}{more}: {group[0].found} {group[0].remedy}"
        rows.append(textwrap.fill(text, width, initial_indent=f"{group[0].severity:<9}",
                                  subsequent_indent=" " * 9, break_on_hyphens=False))
    return "\n".join(rows) or "no problems"


def shares(dataset: Dataset, report: Report) -> str:
    """Return a table: pairs per split, and the share of its pixels that each class has."""
    splits = sorted(dataset.splits, key=["train", "val", "test", *dataset.splits].index)
    parts = [report.pixels[split] / max(report.pixels[split].sum(), 1) for split in splits]
    rows = [["", *splits], ["pairs", *(str(len(dataset.splits[split])) for split in splits)]]
    rows += [[name, *(f"{part[i]:.2%}" for part in parts)]
             for i, name in enumerate([*dataset.class_names, "void"])]
    first, *widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join([f"{name:<{first}}", *map(str.rjust, cells, widths)])
                     for name, *cells in rows)


def verdict(problems: list) -> str:
    """Return how many problems of which severity there are, and what that means, in one line."""
    counts = Counter(problem.severity for problem in problems)
    found = ", ".join(f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}"
                      for severity in SEVERITIES if counts[severity])
    if counts["error"]:
        return f"{found}: training would go wrong."
    return f"{found or 'Nothing to complain about'}: training can start."


def _missing(paths):
    """Yield the files that a list names and that are not there."""
    there = {(file.parent, file.stem.casefold()): file.name
             for folder in {path.parent for path in paths} for file in folder.glob("*")}
    for path in paths:
        near = there.get((path.parent, path.stem.casefold()))
        found = f"the file is called {near}" if near else "there is no such file"
        yield Problem(str(path), f"is in a list, but {found}.",
                      "Rename or add it, or correct the list.")


def _unlisted(dataset):
    """Yield the photos and masks beside the listed ones that are in no list."""
    samples = {sample for split in dataset.splits.values() for sample in split}
    for homes in {(photo.parent, mask.parent) for photo, mask in samples}:
        photos, masks = ({file.stem: file for file in sorted(home.glob("[!.]*"))
                          if file.suffix.lower() in PHOTO_SUFFIXES} for home in homes)
        listed = {photo.stem for photo, _ in samples if photo.parent == homes[0]}
        for stem in masks.keys() - listed:
            found, remedy = "a mask without a photo, in no list.", "Add its photo."
            if stem in photos:
                found, remedy = "photo and mask are in no list.", "Add them to one."
            yield Problem(str(photos.get(stem, masks[stem])), found, remedy, "warning")


def _lists(dataset):
    """Yield what is wrong with the split lists themselves."""
    for name in {"train", "val"} - dataset.splits.keys():
        yield Problem(f"split {name}", f"there is no such split; there are "
                      f"{', '.join(dataset.splits)}.", "Training needs train and val.")
    for name, samples in dataset.splits.items():
        if not samples:
            needed = name in ("train", "val")  # without test, val is scored
            yield Problem(f"split {name}", "the list is empty.", "Add photos to it.",
                          "error" if needed else "warning")
        for sample, times in Counter(samples).items():
            if times > 1:
                yield Problem(str(sample[0]), f"is in the list of {name} {times} times.",
                              "Keep one line.", "warning")
    for one, other in combinations(dataset.splits, 2):
        for photo, _ in set(dataset.splits[one]) & set(dataset.splits[other]):
            yield Problem(str(photo), f"is in the lists of both {one} and {other}.",
                          "Keep it in one: scores on photos seen in training mean nothing.",
                          "error" if "train" in (one, other) else "warning")


def _copies(dataset, looks):
    """Yield photos that are pixel for pixel equal to another one."""
    first = {}
    for split in sorted(dataset.splits, key=lambda name: name != "train"):
        for sample in [one for one in dataset.splits[split] if one in looks and looks[one].photo]:
            look = looks[sample]
            original, home, mask = first.setdefault(look.photo, (sample, split, look.mask))
            if sample != original:
                masks = "" if look.mask == mask else ", with another mask"
                yield Problem(str(sample[0]), f"is in {split} and equals {original[0].name} in "
                              f"{home}{masks}.", "Keep one of them.",
                              "error" if home == "train" != split else "warning")


def _numbering(pixels, num_classes):
    """Yield what the ids of all masks together say about how they were numbered."""
    used = np.flatnonzero(pixels).tolist()
    if used == [VOID]:
        yield Problem("all masks", "they hold nothing but void.", "Draw the classes.")
    if used == [0, VOID] and num_classes > 1:
        yield Problem("all masks", f"they hold 0 and {VOID} only, as black and white pictures do; "
                      f"{VOID} means void.", f"Turn {VOID} into the id of a class, such as 1.")
    if num_classes in used and set(used) <= {*range(1, num_classes + 1), VOID}:
        yield Problem("all masks", f"their ids run from {used[0]} to {num_classes}, none is 0: "
                      "they count from 1.", "Subtract 1 from every id, or add a class 0.")


def _classes(dataset, pixels):
    """Yield the classes that all masks, or those of one split, never show."""
    seen = {split: set(np.flatnonzero(count[:dataset.num_classes]))
            for split, count in pixels.items()}
    names = np.array(dataset.class_names)
    never = set(range(dataset.num_classes)).difference(*seen.values())
    if never:
        yield Problem("all masks", f"none shows {names[sorted(never)].tolist()}.",
                      "Does classes.txt name this data set's classes?", "warning")
    for split, shown in seen.items():
        train = seen.get("train", shown)
        new, lost = (names[sorted(ids)].tolist() for ids in (shown - train, train - shown))
        if dataset.splits[split] and not shown and any(seen.values()):
            yield Problem(f"split {split}", f"the masks of {split} hold nothing but void.",
                          "Draw classes in them, list other photos, or delete the list.")
        if new:
            yield Problem(f"split {split}", f"{split} shows {new}, and train never does.",
                          "Move photos between the lists: what training never shows cannot be "
                          "found.")
        if lost:
            yield Problem(f"split {split}", f"{split} never shows {lost}.",
                          "None: its mean IoU leaves them out.", "note")
