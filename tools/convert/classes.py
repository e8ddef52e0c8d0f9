"""Lists of classes in the usual forms, and the numbers that the classes get."""

import re
from pathlib import Path
from typing import NamedTuple

from tools.convert.base import SPLITS, VOID_NAMES, UsageError
from utils.datasets import read_lines
from utils.labels import VOID, voc_colormap
from utils.recipes import nearest

CLASS_FILES = ("classes.txt", "labelmap.txt", "label_colors.txt", "class_dict.csv", "labels.txt")
ROBOFLOW_CLASSES = "_classes.csv"  # in the folder of each split
HEADER = re.compile(r"(id\W+)?name\W+r(ed)?\W+g(reen)?\W+b(lue)?|pixel value\W+class",
                    re.IGNORECASE)


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

    given: a file, or names with commas between; "" looks for the usual files in `root`.
    """
    file = Path(given).expanduser()
    if "," in given and not file.is_file():
        names = [clean_name(name) for name in given.split(",")
                 if name.strip() not in ("", "__ignore__")]
        entries = [Entry(number, name, None) for number, name in enumerate(names)]
        _check_unique(entries, "--classes", UsageError)
        return entries, "--classes"
    if given and not file.is_file():
        raise UsageError(f"--classes {given}: there is no such file, and names have commas "
                         "between them: --classes background,horse")
    found = [file] if given else [root / name for name in CLASS_FILES if (root / name).is_file()]
    if not found:
        folders = [path for path in sorted(root.iterdir()) if path.name.lower() in SPLITS]
        files = [folder / ROBOFLOW_CLASSES for folder in [root, *folders]]
        found = [file for file in files if file.is_file()]
        for file in found:
            if read_entries(file) != read_entries(found[0]):
                raise ValueError(f"{file}: differs from {found[0]}; expected the same classes in "
                                 "both. Say which one is right with --classes FILE.")
    return (read_entries(found[0]), found[0].name) if found else ([], "")


def read_entries(file):
    """Read a list of classes, one a line, in any of the usual forms, into a list of `Entry`.

    "id name r g b" (this repository's classes.txt), "name r g b", "r g b name" (CamVid), "id name",
    "name" (labelme, whose __ignore__ takes no number), "name:r,g,b:parts:actions" (CVAT) and
    "id, name" (Roboflow). Without ids they count from 0. What follows a # is a comment.
    Raises ValueError for lines that cannot be read, and for duplicate names, ids or colours.
    """
    lines = [line.split("#")[0].strip() for line in read_lines(file)]
    lines = [line for line in lines if line != "__ignore__" and not HEADER.fullmatch(line)]
    entries = [_entry(file, line, number) for number, line in enumerate(lines)]
    if not entries:
        raise ValueError(f"{file}: holds no class; expected one a line.")
    _check_unique(entries, file)
    return entries


def _entry(file, line, number):
    """Return the entry of a line; three numbers are a colour, one is an id, the rest the name."""
    parts = line.split(":")
    text = " ".join(parts[:2]) if len(parts) > 2 else line
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    numeric, color, file_id = [word.isdecimal() for word in words], None, number
    if len(words) > 3 and all(numeric[-3:]):
        words, color = words[:-3], tuple(map(int, words[-3:]))
    elif len(words) > 3 and all(numeric[:3]) and not numeric[-1]:
        words, color = words[3:], tuple(map(int, words[:3]))
    if len(words) > 1 and words[0].isdecimal():
        file_id = int(words.pop(0))
    if not words or max(file_id, *(color or [0])) > VOID:
        raise ValueError(f"{file}: found {line!r}; expected a class as 'ID NAME RED GREEN BLUE', "
                         "'NAME RED GREEN BLUE', 'RED GREEN BLUE NAME' or 'NAME', ids and colours "
                         "from 0 to 255.")
    return Entry(file_id, clean_name(" ".join(words)), color)


def _check_unique(entries, place, error=ValueError):
    """Raise an error if two entries share an id, a name or a colour."""
    for what, values in zip(("id", "name", "colour"), zip(*entries)):
        known = [value for value in values if value is not None]
        if twice := sorted({value for value in known if known.count(value) > 1}):
            raise error(f"{place}: duplicate {what} {twice[0]}; each must differ.")


def number_classes(source, entries, void):
    """Number the classes of a `Source` from 0 and return file id -> class id, 255 for void ones.

    Void are the names among `void` (words of --void), id 255 and VOID_NAMES.
    """
    known = [entry.name for entry in entries]
    names = [clean_name(word) for word in void if not word.isdecimal()]
    for name in names:
        if name not in known:
            hint = nearest(name, known) if known else ". Name them with --classes, or give the id."
            raise UsageError(f"--void {name}: there is no such class{hint}")
    is_void = [entry.name in names or entry.file_id == VOID or entry.name.lower() in VOID_NAMES
               for entry in entries]
    kept = [entry for entry, void in zip(entries, is_void) if not void]
    source.class_names, source.colors = tuple(entry.name for entry in kept), voc_colormap(len(kept))
    for number, entry in enumerate(kept):
        if entry.color:
            source.colors[number] = entry.color
    if len(kept) < len(entries):
        left = [entry.name for entry, void in zip(entries, is_void) if void]
        source.notes.append(f"void: {', '.join(left)}")
    class_of = {entry.file_id: VOID for entry in entries}
    return class_of | {entry.file_id: number for number, entry in enumerate(kept)}
