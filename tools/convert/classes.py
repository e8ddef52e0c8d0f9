"""Lists of classes in the usual forms, and the numbers that the classes get."""

import json
import re
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from tools.convert.base import SPLITS, STRANGE, VOID_NAMES, UsageError
from utils.datasets import read_lines
from utils.labels import VOID, voc_colormap
from utils.recipes import nearest

CLASS_FILES = ("classes.txt", "labelmap.txt", "label_colors.txt", "class_dict.csv", "labels.txt",
               "class_names.txt", "dataset_meta.json", "obj_class_to_machine_color.json",
               "_classes.csv")
HEADER = re.compile(r".*\Wr(ed)?\W+g(reen)?\W+b(lue)?|pixel value\W+class", re.I)


class Entry(NamedTuple):
    """A class as the source has it: id in mask files, name, colour (r, g, b) or None."""

    file_id: int
    name: str
    color: tuple | None


def clean_name(name):
    """Return a class name without spaces; labelme's _background_ becomes background."""
    name = "_".join(name.split())
    return "background" if name == "_background_" else name


def find_entries(root, given):
    """Return the source's class entries, [] if it has none, and where they are from.

    given: a file, or names with commas between; "" looks for the usual files in `root`, and, as
    Roboflow writes them, in the folders of its splits.
    """
    if "," in given and not Path(given).expanduser().is_file():
        return _entries("--classes", [one for one in given.split(",") if one.strip()]), "--classes"
    if given:
        files = [Path(given).expanduser()]
    else:
        places = [root, *(path for path in sorted(root.iterdir()) if path.name.lower() in SPLITS)]
        files = [place / name for place in places for name in CLASS_FILES]
    files = [file for file in files if file.is_file()]
    if given and not files:
        raise UsageError(f"--classes {given}: there is no such file, and names have commas "
                         "between them: --classes background,horse")
    if not files:
        return [], ""
    entries = read_entries(files[0])
    for file in files:
        if file.name == files[0].name and read_entries(file) != entries:
            raise ValueError(f"{file}: differs from {files[0]}; expected the same classes in both. "
                             "Say which one is right with --classes FILE.")
    return entries, files[0].name


def read_entries(file):
    """Read a list of classes, one a line, into a list of `Entry`; without ids they count from 0.

    The forms are "id name r g b" or less of it, "r g b name" (CamVid), "name:r,g,b:parts:actions"
    (CVAT) and "id, name" (Roboflow). Raises ValueError for other lines and for duplicates.
    """
    lines = _lines_of_json(file) if file.suffix == ".json" else [
        re.split(r"\s#", line)[0].strip() for line in read_lines(file)]
    entries = _entries(file, [line for line in lines if not HEADER.fullmatch(line)])
    if not entries:
        raise ValueError(f"{file}: holds no class; expected one a line.")
    return entries


def _entries(place, lines):
    lines = [line for line in lines if line.strip() != "__ignore__"]
    entries = [_entry(place, line, number) for number, line in enumerate(lines)]
    for what, values in zip(("id", "name", "colour"), zip(*entries)):
        known = [value for value in values if value is not None]
        if twice := sorted({value for value in known if known.count(value) > 1}):
            error = UsageError if place == "--classes" else ValueError
            raise error(f"{place}: duplicate {what} {twice[0]}; each must differ. To make one "
                        "class of two, give them two names and say --rename ONE=OTHER.")
    return entries


def _lines_of_json(file):
    """Return the lines of datumaro's dataset_meta.json, or of Supervisely's colours: NAME -> id."""
    try:
        data = json.loads(file.read_text("utf-8-sig"))
        if file.name.startswith("obj_class"):
            return ["0 background", *(f"{ids[0]} {clean_name(name)}" for name, ids in data.items())]
        labels, colors = data["label_map"].items(), data.get("segmentation_colors") or ()
        return [" ".join([key, clean_name(name), *map(str, color)])
                for (key, name), color in zip_longest(labels, colors, fillvalue=())]
    except STRANGE as error:
        raise ValueError(f"{file}: is no list of classes ({error!r}); export again.") from None


def _entry(place, line, number):
    """Return the entry of a line; three numbers are a colour, one is an id, the rest the name."""
    parts = line.split(":")
    text = " ".join(parts[:2]) if len(parts) == 4 else line
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    numeric, color, file_id = [word.isdecimal() for word in words], None, number
    if len(words) > 3 and all(numeric[-3:]):
        words, color = words[:-3], tuple(map(int, words[-3:]))
    elif len(words) > 3 and all(numeric[:3]) and not numeric[-1]:
        words, color = words[3:], tuple(map(int, words[:3]))
    if len(words) > 1 and words[0].isdecimal():
        file_id = int(words.pop(0))
    if not words or max(file_id, *(color or [0])) > VOID:
        raise ValueError(f"{place}: found {line!r}; expected a class as 'ID NAME RED GREEN BLUE' "
                         "or 'NAME' (see --help), numbers from 0 to 255.")
    return Entry(file_id, clean_name(" ".join(words)), color)


def number_classes(source, entries, options):
    """Number the classes of a `Source` from 0 and return file id -> class id, 255 for void ones."""
    known = [entry.name for entry in entries]
    new = {clean_name(name): clean_name(other) for name, other in options.rename.items()}
    void = [clean_name(word) for word in options.void if not word.isdecimal()]
    for option, name in [("rename", name) for name in new] + [("void", name) for name in void]:
        if name not in known and (option == "rename" or name not in new.values()):
            there = nearest(name, known) if known else ", since no list names them: see --classes."
            raise UsageError(f"--{option} {name}: there is no such class{there}")
    numbers, left, class_of = {}, [], {}
    for entry in entries:
        name = new.get(entry.name, entry.name)
        if entry.file_id == VOID or name.lower() in VOID_NAMES or {name, entry.name} & {*void}:
            left.append(entry.name)
            class_of[entry.file_id] = VOID
        else:
            class_of[entry.file_id] = numbers.setdefault(name, len(numbers))
    source.class_names, source.colors = tuple(numbers), voc_colormap(len(numbers))
    for entry in reversed(entries):  # the first of a merged class gives its colour
        if entry.color and class_of[entry.file_id] != VOID:
            source.colors[class_of[entry.file_id]] = entry.color
    if left:
        source.notes.append(f"void: {', '.join(left)}")
    return class_of
