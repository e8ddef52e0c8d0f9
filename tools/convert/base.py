"""What the formats of `tools.convert` share: samples, options, faults and split lists."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from unicodedata import normalize

import numpy as np

from utils.datasets import read_lines
from utils.images import PHOTO_SUFFIXES, ImageError, Problem

# Classes of these names become void in every format: what their pixels show is unknown.
VOID_NAMES = {"void", "ignore", "ignored", "__ignore__"}
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val",
          "validation": "val", "test": "test", "testing": "test"}
IMAGE_FOLDERS = ("images", "jpegimages", "imgs", "img", "image", "photos", "leftimg8bit")
MASK_FOLDERS = ("masks", "segmentationclass", "mask", "labels", "annotations", "annotation",
                "labelids", "gt", "gtfine", "masks_machine")
# What contents that no tool wrote raise, as they are taken apart.
STRANGE = (AttributeError, IndexError, KeyError, OSError, OverflowError, RecursionError, TypeError,
           ValueError)


class UsageError(ValueError):
    """A wrong argument, as opposed to a fault in the data."""


@dataclass
class Options:
    """How to convert: the options of `python -m tools.convert --help`.

    classes: a file, a list of names, or names with commas between. id_map: {id in files: class}.
    rename: {class name: new name}. max_side: pixels, 0 for no limit.
    """

    format: str = ""
    to: str = "voc"
    classes: str = ""
    images: str = ""
    masks: str = ""
    mask_suffix: str = ""
    mask_prefix: str = ""
    id_map: dict = field(default_factory=dict)
    rename: dict = field(default_factory=dict)
    void: tuple = ()
    binary: bool = False
    missing: str = ""
    ignore_exif: bool = False
    max_side: int = 0
    tolerance: float = 0.0
    val: float | None = None
    test: float | None = None
    seed: int = 0
    group: str = ""
    skip_faulty: bool = False

    def __post_init__(self):
        if isinstance(self.classes, (list, tuple)):
            self.classes = ",".join([*self.classes, ""])
        self.classes, self.images = str(self.classes), str(self.images)
        self.masks, self.void = str(self.masks), tuple(map(str, self.void))

    def drawn_fractions(self):
        """Return the share of the photos for each split, where the source has none."""
        return {"val": 0.2 if self.val is None else self.val, "test": self.test or 0}


@dataclass
class Sample:
    """A photo and how to get its mask.

    key: path of the photo below its folder, without suffix. photo: None if `label`, a labelme file,
    embeds it. label: None for a photo of background alone. read_mask: returns uint8 (H, W) ids, or
    raises `ImageError`. as_stored: the mask belongs to the photo before its EXIF tag turns it.
    """

    key: str
    split: str
    photo: Path | None
    label: Path | None
    read_mask: Callable | None = None
    as_stored: bool = False
    original: Path | None = None
    fault: Problem | None = None

    @property
    def file(self):
        """What to call it in messages."""
        return self.photo or self.label

    @property
    def stem(self):
        """Name in the target, as its lists can hold it: no folders, spaces or comment signs."""
        return re.sub(r"[\s/\\#]+", "_", self.key.strip())


@dataclass
class Source:
    """What a format's reader returns. colors: uint8 (C, 3). background: id where no label is."""

    class_names: tuple = ()
    colors: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.uint8))
    samples: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    background: int = 0


def files_below(folder, suffixes, without=(), above=()):
    """Return the files below `folder` with `suffixes`, sorted; none hidden, or in `without`."""
    found, above = [], {*above, folder.resolve(), *folder.resolve().parents}  # no circle of links
    for path in folder.iterdir():
        if path.name.startswith((".", "__MACOSX")):
            continue
        if path.suffix.lower() in suffixes and path.is_file():
            found.append(path)
        elif path.is_dir() and path.name.lower() not in without and path.resolve() not in above:
            found += files_below(path, suffixes, without, above)
    return sorted(found)


def folder_named(root, option, given):
    """Return the folder in `root`, or else here, that an option names, or None without."""
    found = [path for path in (root / given, Path(given).expanduser()) if path.is_dir()]
    if not found:
        raise UsageError(f"{option} {given}: there is no such folder, neither in {root} nor here.")
    return found[0] if given else None


def files_holding(folder, suffix, text):
    """Return an iterator over the files below `folder` with a suffix in which a text stands."""
    return (file for file in files_below(folder, (suffix,))
            if text in file.read_text(encoding="utf-8", errors="replace"))


def key_of(path, folder):
    """Return the path of a file below `folder`, with slashes and without its suffix."""
    return normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())


def split_of(key):
    """Return the split that the first folder of a key with a split's name names, or ""."""
    named = (SPLITS.get(part.rstrip("0123456789")) for part in key.lower().split("/")[:-1])
    return next(filter(None, named), "")


def faulty(file, found, remedy):
    """Return the error that says what was found in a file and how to fix it."""
    return ImageError(Problem(str(file), found, remedy))


def plural(count, noun):
    """Return "1 photo", "2 photos"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def some(words, most=20):
    """Return words with commas between; of more than `most`, the first and a count of the rest."""
    words = list(map(str, words))
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def apply_lists(root, source):
    """Give the samples the splits of the source's lists, if it has any; drop those in no list.

    A line is a key, or a path that ends in one, as in CamVid, with more words after it. Lists like
    CVAT's default.txt count only where no list has a split's name.
    """
    files = sorted(root.glob("ImageSets/Segmentation/*.txt"))
    named = [file for file in files or sorted(root.glob("*.txt")) if file.stem.lower() in SPLITS]
    if not (named or files):
        return
    source.faults = []  # masks without a photo, which are in no list either
    find, splits = finder([sample.key for sample in source.samples]), {}
    for file in named or files:
        split = SPLITS.get(file.stem.lower(), "")
        for line in read_lines(file):
            key = find(line) or find(line.split()[0])
            if key is None:
                found = "and no labelled photo is called so"
            elif splits.setdefault(key, split) != split:
                found = f"which the list of {splits[key]} names too"
            else:
                continue
            source.faults.append(Problem(str(file), f"names {line!r}, {found}.", "Fix that line."))
    if left := len(source.samples) - len(splits):
        source.notes.append(f"left out, since no list names them: {plural(left, 'photo')}")
    source.samples = [replace(sample, split=splits[sample.key]) for sample in source.samples
                      if sample.key in splits]


def finder(keys):
    """Return a function from a path, with or without suffix, to the key that it means, or None."""
    by_name = {}
    for key in keys:
        by_name.setdefault(key.rsplit("/", 1)[-1], []).append(key)

    def find(name):
        name = normalize("NFC", name).replace("\\", "/").removeprefix("./").strip("/")
        if Path(name).suffix.lower() in PHOTO_SUFFIXES:
            name = name[:-len(Path(name).suffix)]
        found = [key for key in by_name.get(name.rsplit("/", 1)[-1], ())
                 if f"/{name}".endswith(f"/{key}") or f"/{key}".endswith(f"/{name}")]
        if name in found:
            return name
        return found[0] if len(found) == 1 else None

    return find
