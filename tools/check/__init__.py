"""What is wrong with a data set: every pair is read once, and each fault gets a file, a finding and a remedy."""

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
    """problems: list of `Problem`, worst first. pixels: split -> int64 (C + 1,), per class, void last."""

    problems: list
    pixels: dict


def check_dataset(dataset, progress=None):
    """Read every photo and mask once, in parallel, and return a sorted list of `Problem`s, empty if all is well.

    dataset: a `utils.datasets.Dataset`. progress: function called with (done, total), such as `tools.progress.bar`
    makes. Finds files that are missing or cannot be read, sizes and EXIF rotations that do not fit, ids and colours
    of no class, smoothed and JPEG masks, masks of void or in black and white, photos in two splits, files in none,
    classes that a split never shows, and formats worth knowing about.
    """
    return survey(dataset, progress).problems


def survey(dataset, progress=None):
    """Do what `check_dataset` does, and return a `Report`, which also holds the pixels per split and class."""
    samples = list(dict.fromkeys(sample for split in dataset.splits.values() for sample in split))
    missing = {path for sample in samples for path in sample if not Path(path).is_file()}
    looks = {}
    with ThreadPoolExecutor(THREADS) as pool:
        whole = [sample for sample in samples if missing.isdisjoint(sample)]
        for sample, look in zip(whole, pool.map(lambda sample: look_at(sample, dataset), whole)):
            looks[sample] = look
            if progress:
                progress(len(looks), len(whole))
    pixels = {name: sum((looks[sample].pixels for sample in split if sample in looks), np.zeros(VOID + 1, np.int64))
              for name, split in dataset.splits.items()}
    problems = [problem for look in looks.values() for problem in look.problems]
    problems += [*_missing(missing), *_unlisted(dataset), *_lists(dataset), *_copies(dataset, looks)]
    # What unread masks show, nobody knows.
    if len(looks) == len(samples) and all(look.mask for look in looks.values()):
        problems += [*_numbering(looks, dataset.num_classes), *_classes(dataset, pixels)]
    problems.sort(key=lambda problem: (SEVERITIES.index(problem.severity), problem.file, problem.found))
    return Report(problems, {name: np.append(count[:dataset.num_classes], count[VOID])
                             for name, count in pixels.items()})


def table(problems, root="", width=110):
    """Return problems as text: severity, file, finding and remedy in columns, `width` characters wide.

    Problems that differ in nothing but file, sizes and counts share a row. root: a folder that is left off file names.
    """
    if not problems:
        return "no problems"
    groups = {}
    for problem in problems:
        groups.setdefault(_kind(problem), []).append(problem)
    rows = [("", "file", "found", "what to do")]
    for group in groups.values():
        names = [_short(problem.file, root) for problem in group]
        more = f"\nand {len(names) - 3} more" if len(names) > 3 else ""
        rows.append((group[0].severity, ",\n".join(names[:3]) + more, _summed(group), group[0].remedy))
    longest = max(len(line) for _, names, *_ in rows for line in names.split("\n"))
    wide = width - len("warning") - 6
    first = min(longest, wide * 2 // 5)
    widths = len("warning"), first, (wide - first) * 5 // 9, (wide - first) * 4 // 9
    lines = []
    for row in rows:
        cells = [[part for line in cell.split("\n") for part in textwrap.wrap(line, size)]
                 for cell, size in zip(row, widths)]
        for i in range(max(map(len, cells))):
            parts = [cell[i] if i < len(cell) else "" for cell in cells]
            lines.append("  ".join(f"{part:<{size}}" for part, size in zip(parts, widths)).rstrip())
        lines.append("")
    return "\n".join(lines).rstrip()


def shares(dataset: Dataset, report: Report) -> str:
    """Return a table: pairs per split, and the share of its pixels that each class has."""
    splits = sorted(dataset.splits, key=lambda name: (*"train val test".split(), name).index(name))
    shares = [report.pixels[split] / max(report.pixels[split].sum(), 1) for split in splits]
    rows = [["", *splits], ["pairs", *(str(len(dataset.splits[split])) for split in splits)]]
    rows += [[name, *(f"{share[i]:.2%}" for share in shares)] for i, name in enumerate([*dataset.class_names, "void"])]
    first, *others = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(f"{name:<{first}}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, others))
                     for name, *cells in rows)


def verdict(problems: list) -> str:
    """Return how many problems of which severity there are, and what that means, in one line."""
    counts = Counter(problem.severity for problem in problems)
    found = ", ".join(f"{counts[severity]} {severity}{'s' * (counts[severity] != 1)}" for severity in SEVERITIES
                      if counts[severity])
    if counts["error"]:
        return f"{found}: training would go wrong."
    return f"{found}: training can start." if found else "Nothing to complain about: training can start."


def _kind(problem):
    """Return what the problems of one row share: all but file names, sizes and counts. Ids and colours matter."""
    names = rf"{re.escape(Path(problem.file).stem)}\.\w+|[^\s,]+\.[A-Za-z]{{3,4}}\b"
    found = re.sub(r"\[.*?\]|\(\d.*?\)|\d+", lambda match: "" if match[0].isdigit() else match[0],
                   re.sub(names, "", problem.found))
    return problem.severity, problem.remedy, found


def _summed(problems):
    """Return the finding of the first problem; the pixels it starts with are those of all problems."""
    pixels = [re.match(r"\d+(?= pixels)", problem.found) for problem in problems]
    if not all(pixels):
        return problems[0].found
    return f"{sum(int(number[0]) for number in pixels)}{problems[0].found[pixels[0].end():]}"


def _short(file, root):
    path = Path(file)
    return (path.relative_to(root) if root and path.is_relative_to(root) else path).as_posix()


def _missing(paths):
    """Yield the files that a list names and that are not there."""
    stems = {folder: {file.stem.casefold(): file.name for file in folder.glob("*")}
             for folder in {path.parent for path in paths}}
    for path in paths:
        near = stems[path.parent].get(path.stem.casefold())
        if near:
            yield Problem(str(path), f"is in a list, but the file is called {near}.", "Make them agree, to the letter.")
        else:
            yield Problem(str(path), "is in a list, but there is no such file.", "Add it, or take it out of the list.")


def _unlisted(dataset):
    """Yield the photos and masks beside the listed ones that are in no list."""
    samples = {sample for split in dataset.splits.values() for sample in split}
    for folders in {(photo.parent, mask.parent) for photo, mask in samples if photo.parent != mask.parent}:
        photos, masks = ([file for file in sorted(folder.glob("[!.]*")) if file.suffix.lower() in PHOTO_SUFFIXES]
                         for folder in folders)
        listed = {photo.stem: photo for photo, mask in samples if photo.parent == folders[0]}
        with_photo, with_mask = {file.stem for file in photos}, {file.stem for file in masks}
        for photo in photos:
            if photo.stem not in listed and photo.stem in with_mask:
                yield Problem(str(photo), "photo and mask are in no list.", "Add them to one.", "warning")
            elif photo.stem not in listed:
                yield Problem(str(photo), "a photo without a mask, in no list.", "None: it is not used.", "note")
            elif photo != listed[photo.stem]:
                yield Problem(str(photo), f"has the name of {listed[photo.stem].name}, which is read instead.",
                              "Remove or rename one of the two.", "warning")
        for mask in masks:
            if mask.stem not in listed and mask.stem not in with_photo:
                yield Problem(str(mask), "a mask without a photo, in no list.", "Add its photo.", "warning")


def _lists(dataset):
    """Yield what is wrong with the split lists themselves."""
    for name in ("train", "val"):
        if name not in dataset.splits:
            yield Problem(f"split {name}", f"there is no such split; there are {', '.join(dataset.splits)}.",
                          "Training needs train and val.")
    for name, samples in dataset.splits.items():
        if not samples:
            yield Problem(f"split {name}", "the list is empty.", "Add photos to it.",
                          "error" if name in ("train", "val", dataset.test_split) else "warning")
        for sample, times in Counter(samples).items():
            if times > 1:
                yield Problem(str(sample[0]), f"is in the list of {name} {times} times.", "Keep one line.", "warning")
    for one, other in combinations(_train_first(dataset), 2):
        for photo, _ in sorted(set(dataset.splits[one]) & set(dataset.splits[other])):
            yield Problem(str(photo), f"is in the lists of both {one} and {other}.",
                          "Keep it in one: scores on photos seen in training mean nothing.",
                          "error" if one == "train" else "warning")


def _train_first(dataset):
    return sorted(dataset.splits, key=lambda name: name != "train")


def _copies(dataset, looks):
    """Yield photos that are pixel for pixel equal to another one."""
    first = {}
    for split in _train_first(dataset):
        for sample in dataset.splits[split]:
            look = looks.get(sample)
            if look is None or look.photo is None:
                continue
            original, home, mask = first.setdefault(look.photo, (sample, split, look.mask))
            if sample == original:
                continue
            masks = "" if look.mask == mask else ", with another mask"
            yield Problem(str(sample[0]), f"is in {split} and equals {original[0].name} in {home}{masks}.",
                          "Keep one of them.", "error" if home == "train" != split else "warning")


def _numbering(looks, num_classes):
    """Yield what the ids of all masks together say about how they were numbered."""
    pixels = sum(look.pixels for look in looks.values())
    used = np.flatnonzero(pixels).tolist()
    if used == [VOID]:
        yield Problem("all masks", "they hold nothing but void.", "Draw the classes: there is nothing to learn.")
    if used == [0, VOID] and num_classes > 1:
        yield Problem("all masks", f"they hold 0 and {VOID} only, as black and white pictures do; {VOID} means void.",
                      f"Turn {VOID} into the id of a class, such as 1.")
    if num_classes in used and set(used) <= {*range(1, num_classes + 1), VOID}:
        yield Problem("all masks", f"their ids run from {used[0]} to {num_classes}, none is 0: they count from 1.",
                      "Subtract 1 from every id, or add a class 0 to the classes.")


def _classes(dataset, pixels):
    """Yield the classes that all masks, or those of one split, never show."""
    seen = {split: set(np.flatnonzero(count[:dataset.num_classes])) for split, count in pixels.items()}

    def named(ids):
        return [dataset.class_names[i] for i in sorted(ids)]

    if dataset.num_classes == 1:
        yield Problem("classes.txt", f"names one class only: {dataset.class_names[0]}.",
                      "Add a class for all that is not it, such as background, and draw both.")
    for split, shown in seen.items():
        if dataset.splits[split] and not shown and any(seen.values()):
            yield Problem(f"split {split}", f"the masks of {split} hold nothing but void.",
                          "Draw classes in them, or list other photos: there is nothing to score.")
    never = set(range(dataset.num_classes)).difference(*seen.values())
    if never:
        yield Problem("all masks", f"none shows {named(never)}.", "Does classes.txt name this data set's classes?",
                      "warning")
    train = seen.pop("train", None)
    for split, shown in seen.items() if train is not None else ():
        if shown - train:
            yield Problem(f"split {split}", f"{split} shows {named(shown - train)}, and train never does.",
                          "Move photos between the lists: what training never shows cannot be found.")
        if train - shown:
            yield Problem(f"split {split}", f"{split} never shows {named(train - shown)}.",
                          "None: its mean IoU leaves them out.", "note")
