"""What all source formats of `tools.convert` share: the samples they are read into, class tables, split lists."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.images import PHOTO_SUFFIXES, ImageError, Problem
from utils.labels import VOID, voc_colormap

# Classes of these names become void in every format: nobody says what their pixels show.
VOID_NAMES = {"void", "ignore", "ignored", "__ignore__"}
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
          "test": "test", "testing": "test"}
CLASS_FILES = ("classes.txt", "labelmap.txt", "label_colors.txt", "class_dict.csv", "labels.txt")
# Roboflow's list of classes, which lies in the folder of each split.
ROBOFLOW_CLASSES = "_classes.csv"
LISTED = 20  # lines that a list of faults may have


class UsageError(ValueError):
    """A wrong argument, as opposed to a fault in the data."""


@dataclass
class Options:
    """How a source is to be read.

    classes: a file, a list of names, or names with commas between. images, masks: folders, in the source or elsewhere.
    mask_suffix: takes only masks whose names end so. id_map: ids in mask files -> class ids, or 255. void: ids or class
    names that become void. binary: masks show one thing in white on black. missing: "skip" leaves photos without a
    mask out, "background" takes them for nothing but class 0. ignore_exif: masks belong to the photos as stored, not
    as turned by their EXIF tag.
    """

    classes: str = ""
    images: str = ""
    masks: str = ""
    mask_suffix: str = ""
    id_map: dict = field(default_factory=dict)
    void: tuple = ()
    binary: bool = False
    missing: str = ""
    ignore_exif: bool = False

    def __post_init__(self):
        names = self.classes if isinstance(self.classes, (list, tuple)) else None
        self.classes = str(self.classes) if names is None else ",".join(names) + ","
        self.images, self.masks = str(self.images), str(self.masks)
        self.void = tuple(str(word) for word in self.void)


@dataclass
class Sample:
    """A photo and how to get its mask.

    key: path of the photo below its folder, without suffix. split: "train", "val", "test" or "" for none.
    photo: its file, or None where `data`, without arguments, returns the bytes of a photo embedded in `label`.
    read_mask: from the photo's (height, width) to uint8 (H, W) class ids, 255 for void; `ImageError` for faults.
    fault: what is wrong with it already, a `Problem` or None.
    as_stored: whether the mask belongs to the photo as stored, before the turn that its EXIF tag asks for.
    unsure: whether the tag turns or mirrors the photo and its size does not tell if the mask was, too.
    """

    key: str
    split: str
    photo: Path | None
    label: Path | None
    read_mask: Callable
    data: Callable | None = None
    as_stored: bool = False
    fault: Problem | None = None
    unsure: bool = False

    @property
    def file(self):
        """What to call it in messages."""
        return self.photo or self.label

    @property
    def stem(self):
        """Name in the target: what its lists can hold, without folders, spaces and comment signs."""
        return re.sub(r"[\s/\\#]+", "_", self.key.strip())


@dataclass
class Source:
    """What a format's reader returns. colors: uint8 (C, 3). faults: of single files, as `Problem`s.

    questions: what must be answered by an option before anything can be converted. notes: what the user should know.
    """

    class_names: tuple = ()
    colors: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.uint8))
    samples: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    questions: list = field(default_factory=list)
    notes: list = field(default_factory=list)


# Files ----------------------------------------------------------------------------------------------------


def files_below(folder, suffixes):
    """Return the files below `folder` with one of `suffixes` (lower case), without hidden ones, sorted."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return sorted(path for path in found
                  if not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts))


def key_of(path, folder):
    """Return the path of a file below `folder`, with slashes and without its suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


def split_of(key):
    """Return the split whose folder a key lies in, such as train/a, or ""."""
    first, slash, _ = key.partition("/")
    return SPLITS.get(first.lower(), "") if slash else ""


def nearest(name, names):
    """Return a hint at the most similar of `names`, and all of them."""
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return (f"; did you mean {near[0]!r}?" if near else ".") + f" There are: {some(names)}."


def faulty(file, found, remedy):
    """Return the error that says what was found in a file and how to mend it."""
    return ImageError(Problem(str(file), found, remedy))


def plural(count, noun):
    """Return "1 photo", "2 photos"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def some(words, most=LISTED):
    """Return words with commas between; of more than `most`, the first and a count of the rest."""
    words = [str(word) for word in words]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def list_faults(faults):
    """Return `Problem`s in up to LISTED lines, same faults together; one more counts the rest."""
    same = {}
    for fault in faults:
        same.setdefault(f"{fault.found} {fault.remedy}".strip(), []).append(fault.file)
    several = sum(len(files) > 1 for files in same.values())
    all_fit = len(faults) + several <= LISTED
    # The files that each heading may have below it.
    room = LISTED if all_fit else (LISTED - len(same) + several) // max(several, 1) - 1
    lines, shown = [], 0
    for found, files in list(same.items())[:LISTED]:
        if len(files) == 1:
            lines.append(f"  {files[0]}: {found}")
        elif room < 1:
            lines.append(f"  {files[0]} and {len(files) - 1} more files: {found}")
        else:
            lines += [f"  {len(files)} files: {found}", *(f"    {file}" for file in files[:room])]
        shown += len(files[:max(room, 1)])
    if shown < len(faults):
        lines.append(f"  and {len(faults) - shown:,} more")
    return "\n".join(lines)


def lines_of(file):
    """Return the lines of a text file without blanks and comments; ValueError if it is no UTF-8."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"{file}: is no UTF-8 text; save it as UTF-8.") from None
    return [line for line in lines if line and not line.startswith("#")]


# Splits ---------------------------------------------------------------------------------------------------


def split_lists(root):
    """Return split -> [(file, line)] of the lists in `root` (train.txt ...) or in its ImageSets/Segmentation.

    Lists of other names (CVAT's default.txt) count only where no list has a split's name, under the split "".
    """
    files = sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
    files = files or [file for file in sorted(root.glob("*.txt")) if file.stem.lower() in SPLITS]
    named = [file for file in files if file.stem.lower() in SPLITS]
    lists = {}
    for file in named or files:
        lists.setdefault(SPLITS.get(file.stem.lower(), ""), []).extend((file, line) for line in lines_of(file))
    return lists


def apply_lists(root, source):
    """Give the samples of a `Source` the splits of its lists, where it has any, and leave out those in no list.

    A line is a sample's key, with or without suffix; or, as in CamVid, a path that ends in one, with more words after.
    """
    lists = split_lists(root)
    if not lists:
        return
    source.faults = []  # masks without a photo, which are in no list either
    by_key = {sample.key: sample for sample in source.samples}
    short, splits = by_last_part(by_key), {}
    for split, lines in lists.items():
        for file, line in lines:
            key = find_key(line, by_key, short) or find_key(line.split()[0], by_key, short)
            if key is None:
                source.faults.append(Problem(str(file), f"names {line!r}, and no labelled photo is called so.",
                                             "Add it, or take the line out."))
            elif splits.setdefault(key, split) != split:
                source.faults.append(Problem(str(file), f"names {line!r}, which the list of {splits[key]} names too.",
                                             "Keep it in one of them."))
    left = len(by_key) - len(splits)
    source.notes += [f"left out, since no list names them: {plural(left, 'photo')}"] * bool(left)
    source.samples = [sample for sample in source.samples if sample.key in splits]
    for sample in source.samples:
        sample.split = splits[sample.key]


def by_last_part(keys):
    """Return the last part of each key -> the keys that end in it."""
    short = {}
    for key in keys:
        short.setdefault(key.rsplit("/", 1)[-1], []).append(key)
    return short


def find_key(name, keys, short):
    """Return the one of `keys` that `name` means, a path with or without suffix, or None. short: `by_last_part`."""
    name = name.replace("\\", "/").removeprefix("./").strip("/")
    if Path(name).suffix.lower() in PHOTO_SUFFIXES:
        name = name[:-len(Path(name).suffix)]
    if name in keys:
        return name
    candidates = [key for key in short.get(name.rsplit("/", 1)[-1], ())
                  if f"/{name}".endswith(f"/{key}") or f"/{key}".endswith(f"/{name}")]
    return candidates[0] if len(candidates) == 1 else None


# Classes --------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A class as the source has it: its id in mask files, its name, its colour (r, g, b) or None."""

    file_id: int
    name: str
    color: tuple | None


def find_entries(root, given):
    """Return the source's class entries, or None, and where they are from.

    given: a file, or names with commas between; "" looks for one of CLASS_FILES in `root`.
    """
    if "," in given and not Path(given).expanduser().is_file():
        names = [clean_name(name) for name in given.split(",") if name.strip() not in ("", "__ignore__")]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"--classes: {twice[0]} stands there twice; each must differ.")
        return [Entry(number, name, None) for number, name in enumerate(names)], "--classes"
    if not given:
        file = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
        return (read_entries(file), file.name) if file else _roboflow_entries(root)
    file = Path(given).expanduser()
    if not file.is_file():
        raise UsageError(f"--classes {given}: there is no such file, and names have commas between them: "
                         "--classes background,horse")
    return read_entries(file), file.name


def _roboflow_entries(root):
    """Return the class entries of a Roboflow export, or None, and where they are from."""
    folders = [root, *sorted(path for path in root.iterdir() if path.name.lower() in SPLITS)]
    files = [folder / ROBOFLOW_CLASSES for folder in folders]
    files = [file for file in files if file.is_file()]
    entries = [read_entries(file) for file in files]
    for file, found in zip(files, entries):
        if found != entries[0]:
            raise ValueError(f"{file}: differs from {files[0]}; expected the same classes in both. "
                             "Say which one is right with --classes FILE.")
    return (entries[0], ROBOFLOW_CLASSES) if entries else (None, "")


def read_entries(file):
    """Read a list of classes, one a line, in any of the usual forms, into a list of `Entry`.

    "id name r g b" (this repository's classes.txt), "name r g b" or "name,r,g,b", "r g b name" (CamVid), "id name",
    "name" (labelme, whose __ignore__ takes no number), "name:r,g,b:parts:actions" (CVAT's
    labelmap.txt), and "id, name" below "Pixel Value, Class" (Roboflow's _classes.csv). Without ids
    they count from 0. What follows a # is a comment.
    Raises ValueError for lines that cannot be read and for names, ids or colours that stand there twice.
    """
    lines = [line.split("#")[0].strip() for line in lines_of(file)]
    header = re.compile(r"(id\W+)?name\W+r(ed)?\W+g(reen)?\W+b(lue)?|pixel value\W+class",
                        re.IGNORECASE)
    lines = [line for line in lines if line != "__ignore__" and not header.fullmatch(line)]
    entries = []
    for number, line in enumerate(lines):
        try:
            entries.append(_labelmap_entry(line, number) if line.count(":") >= 2 else
                           _entry(re.split(r"[\s,;]+", line), number))
        except ValueError:
            raise ValueError(f"{file}: found {line!r}; expected a class as 'ID NAME RED GREEN BLUE', 'NAME RED GREEN "
                             "BLUE', 'RED GREEN BLUE NAME' or 'NAME', ids and colours from 0 to 255.") from None
    if not entries:
        raise ValueError(f"{file}: holds no class; expected one a line.")
    for what in ("file_id", "name", "color"):
        seen = [getattr(entry, what) for entry in entries if getattr(entry, what) is not None]
        twice = sorted({value for value in seen if seen.count(value) > 1})
        if twice:
            raise ValueError(f"{file}: the {what.replace('_', ' ')} {twice[0]} stands there twice; each must differ.")
    return entries


def _labelmap_entry(line, number):
    name, color = line.split(":")[:2]
    return _entry(name.split() + (color.split(",") if color.strip() else []), number)


def _entry(words, number):
    """Return the entry of a line's words; numbers at the ends are a colour or an id, the rest is the name."""
    words = [word for word in words if word]
    is_number = [word.isdecimal() for word in words]
    color = None
    if len(words) > 3 and all(is_number[-3:]):
        words, color = words[:-3], words[-3:]
    elif len(words) > 3 and all(is_number[:3]) and not is_number[-1]:
        words, color = words[3:], words[:3]
    file_id = int(words.pop(0)) if len(words) > 1 and words[0].isdecimal() else number
    name = clean_name(" ".join(words))
    color = tuple(map(int, color)) if color else None
    if not name or file_id > VOID or max(color or (0,)) > 255:
        raise ValueError
    return Entry(file_id, name, color)


def clean_name(name):
    """Return a class name as classes.txt can hold it: no spaces, labelme's _background_ without its dashes."""
    name = "_".join(name.split())
    return "background" if name == "_background_" else name


class Table(NamedTuple):
    """What entries become: class names, their colours uint8 (C, 3), file id -> class id, 255 for void ones; a note."""

    class_names: tuple
    colors: np.ndarray
    class_of: dict
    notes: list


def words_for(entries, void):
    """Return the class names among the words of --void; UsageError for one that no entry has."""
    names = [word for word in void if not word.isdecimal()]
    known = [entry.name for entry in entries or ()]
    for name in names:
        if clean_name(name) not in known:
            raise UsageError(f"--void {name}: there is no such class{nearest(name, known)}" if known else
                             f"--void {name}: the classes have no names here. Give names with --classes, or the id.")
    return names


def make_table(entries, void=()):
    """Number the entries from 0, without those that are void: by `void` (names) or by VOID_NAMES."""
    names = {clean_name(name) for name in void}
    is_void = [entry.name in names or entry.file_id == VOID or entry.name.lower() in VOID_NAMES for entry in entries]
    kept = [entry for entry, void in zip(entries, is_void) if not void]
    class_of = {entry.file_id: VOID for entry in entries} | {entry.file_id: i for i, entry in enumerate(kept)}
    colors = voc_colormap(len(kept))
    for i, entry in enumerate(kept):
        colors[i] = entry.color or colors[i]
    left = [entry.name for entry, void in zip(entries, is_void) if void]
    return Table(tuple(entry.name for entry in kept), colors, class_of, [f"void: {', '.join(left)}"] * bool(left))
