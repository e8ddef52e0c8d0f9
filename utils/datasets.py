"""Data sets in PASCAL VOC's layout: find one on disk, list its samples, read them.

    JPEGImages/<stem>.jpg               photos
    SegmentationClass/<stem>.png        palette PNG: class ids, 255 is void
    ImageSets/Segmentation/<split>.txt  one stem per line
    classes.txt                         "id name r g b" per line; without it, VOC's classes
"""

import functools
import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils import oracles, recipes
from utils.images import PHOTO_SUFFIXES, THREADS, ImageError
from utils.images import bullets, fault_of_pair, read_image, read_mask
from utils.labels import VOID, voc_colormap

REPOSITORY = Path(__file__).resolve().parent.parent
VOC_CLASSES = tuple("background aeroplane bicycle bird boat bottle bus car cat chair cow "
                    "diningtable dog horse motorbike person pottedplant sheep sofa train "
                    "tvmonitor".split())
# Published data set -> what its photos are called: copies of several may be below one folder.
PUBLISHED = {"voc2007": r"\d{6}", "voc2012": r"\d{4}_\d{6}", "oxford_pets": r"[A-Za-z_]+_\d+",
             "camvid": r"(\d{4}[A-Z]|Seq).+"}
NAMES = ("meadow", *PUBLISHED, "voc")


@dataclass(frozen=True, eq=False)
class Dataset:
    """class_names: C names. colors: uint8 (C, 3) RGB. splits: name -> [(photo path, mask path)]."""

    name: str
    root: Path
    class_names: tuple
    colors: np.ndarray
    splits: dict

    @property
    def num_classes(self):
        return len(self.class_names)

    @property
    def test_split(self):
        """The split that scores are reported on: "test" if it lists photos, else "val"."""
        return "test" if self.splits.get("test") else "val"

    @functools.cached_property
    def recipe(self):
        """The `Recipe`: a published data set's own, else derived from up to 100 training pairs."""
        if self.name in recipes.RECIPES:
            return recipes.RECIPES[self.name]
        samples = self.split("train")
        chosen = np.linspace(0, len(samples) - 1, min(len(samples), 100)).astype(int)
        with ThreadPoolExecutor(THREADS) as pool:
            masks = pool.map(self._describe, [samples[i] for i in chosen], chosen)
            sides, pixels, windows = zip(*masks)
        shares = np.sum(pixels, axis=0) / max(np.sum(pixels), 1)
        drawn = oracles.by_stride(windows, self.num_classes, recipes.STRIDES)
        return recipes.derive(len(samples), int(np.median(sides)), shares, drawn)

    def _describe(self, sample, seed):
        """Return (shorter side, pixels per class, window of up to 256 pixels a side) of a mask."""
        mask = self.read(sample)[1]
        pixels = np.bincount(mask.ravel(), minlength=VOID + 1)[:self.num_classes]
        rng = np.random.default_rng(seed)
        top, left = (rng.integers(0, max(side - 256, 0) + 1) for side in mask.shape)
        return min(mask.shape), pixels, mask[top:top + 256, left:left + 256].copy()

    def split(self, name):
        """Return the samples of a split; ValueError if there is none, or it is empty."""
        if not self.splits.get(name):
            raise ValueError(f"{self.root}: {self.name} has no photos in split {name!r}"
                             f"{recipes.nearest(name, self.splits)}")
        return self.splits[name]

    def find(self, split, scene, default=""):
        """Return the index in a split of the photo with stem `scene`; "": `default`, or else 0."""
        names = [photo.stem for photo, _ in self.split(split)]
        if not scene:
            return names.index(default) if default in names else 0
        recipes.check_name("scene", scene, names)
        return names.index(scene)

    def identity(self):
        """Return a JSON-like dict that differs if training runs must not be mixed up."""
        digest, counts = hashlib.sha256(), []
        for split in ("train", "val"):
            samples = self.splits.get(split, [])
            counts.append(f"{split} {len(samples)}")
            for path in (path for sample in samples for path in sample):
                size = path.stat().st_size if path.is_file() else 0
                digest.update(f"{split} {path.name} {size}\n".encode())
        return {"dataset": self.name, "class_names": list(self.class_names),
                "photos": f"{', '.join(counts)}, digest {digest.hexdigest()[:8]}"}

    def read(self, sample):
        """Return (uint8 (H, W, 3) RGB, uint8 (H, W) ids) of a sample; `ImageError` for faults."""
        image, mask = read_image(sample[0]), read_mask(sample[1], self.colors)
        fault = fault_of_pair(sample, image, mask, self.num_classes)
        if fault:
            raise ImageError(fault)
        return image, mask


def data_folder():
    """Return the folder of fetched data sets: FCN_DATA_DIR of the environment, else `data/`."""
    return Path(os.environ.get("FCN_DATA_DIR") or REPOSITORY / "data").expanduser().absolute()


def load_dataset(name, data_dir=""):
    """Find a data set and list its samples, as a `Dataset`; no photo is read yet.

    name: "meadow", a published one that was fetched (`python -m tools.fetch NAME`), or "voc".
    data_dir: its folder, or one up to three levels above; "" for `data/<name>`. Raises ValueError
    for an unknown name or missing files, FileNotFoundError for a folder without data.
    """
    dataset = find_dataset(name, data_dir)
    require_files(dataset.splits)
    return dataset


def find_dataset(name, data_dir=""):
    """Do what `load_dataset` does, but allow missing files: `tools.check` reports them."""
    recipes.check_name("dataset", name, NAMES)
    if name == "voc" and not data_dir:
        raise ValueError('dataset "voc" needs data_dir: a folder in VOC layout.')
    home = data_folder() if name in PUBLISHED else REPOSITORY / "data"
    folder = Path(data_dir).expanduser() if data_dir else home / name
    found = find_lists(folder, name)
    if not found:
        remedy = "Give the folder that holds JPEGImages, SegmentationClass and ImageSets."
        if name in PUBLISHED:
            remedy = f"Get it with: python -m tools.fetch {name}"
            remedy += f' --from "{data_dir}"' if data_dir else ""
        raise FileNotFoundError(f"{folder}: holds no {name} data (no ImageSets/Segmentation/"
                                f"train.txt in it or in a folder below). {remedy}")
    root = found[0].parents[2]
    lists = {file.stem: file for file in sorted(found[0].parent.glob("[!.]*.txt"))}
    if {"train", "val"} <= lists.keys():
        lists.pop("trainval", None)  # VOC's name for both together
    if name == "voc2012":
        lists.pop("test", None)  # its masks were never published
    splits = {split: listed_pairs(file) for split, file in lists.items()}
    return Dataset(name, root, *_classes(root), splits)


def require_files(splits):
    """Raise ValueError that names all listed files that are missing."""
    paths = [path for samples in splits.values() for sample in samples for path in sample]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"the split lists name files that are not there ({len(missing)}):"
                         f"{bullets(missing)}\nAdd them, or take their lines out of the lists.")


def find_lists(folder, name, split="train"):
    """Return all lists of a split of data set `name` in `folder` and up to three levels below."""
    stem = PUBLISHED.get(name, ".*")
    return [file for file in search(folder, f"ImageSets/Segmentation/{split}.txt")
            if all(re.fullmatch(stem, line.split()[0]) for line in read_lines(file)[:1])]


def search(folder, marker):
    """Return all paths `marker` in `folder` and up to three levels below, but in hidden folders."""
    return [path for above in ("", "[!.]*/", "[!.]*/[!.]*/", "[!.]*/[!.]*/[!.]*/")
            for path in sorted(folder.glob(above + marker))]


def listed_pairs(file):
    """Return the samples of one ImageSets/Segmentation/<split>.txt."""
    photos, masks = (file.parents[2] / part for part in ("JPEGImages", "SegmentationClass"))
    pairs = []
    for line in read_lines(file):
        if Path(line).is_absolute() or ".." in Path(line).parts:
            raise ValueError(f"{file}: found {line!r}; expected the name of a photo in JPEGImages.")
        photo = _listed_photo(photos, line)
        mask = masks / photo.relative_to(photos).with_suffix(".png")
        if not mask.is_file() and mask.with_suffix(".PNG").is_file():
            mask = mask.with_suffix(".PNG")
        pairs.append((photo, mask))
    return pairs


def _listed_photo(folder, line):
    """Return the photo that a line names: its stem, perhaps with a suffix or, as in VOC, a 1."""
    stem = re.sub(r"\s+-?[01]$", "", line)
    for name in (line, stem):
        for suffix in (*PHOTO_SUFFIXES, *map(str.upper, PHOTO_SUFFIXES), ""):
            photo = folder / f"{name}{suffix}"
            if photo.suffix.lower() in PHOTO_SUFFIXES and photo.is_file():
                return photo
    return folder / f"{stem}.jpg"


def _classes(root):
    """Return (names, uint8 (C, 3) colours) of classes.txt, or VOC's own if there is none."""
    file = root / "classes.txt"
    if not file.exists():
        return VOC_CLASSES, voc_colormap(len(VOC_CLASSES))
    names, colors = [], []
    for number, line in enumerate(read_lines(file)):
        row = re.fullmatch(rf"{number}\s+(\S+)" + 3 * r"\s+(\d{1,3})", line, re.ASCII)
        if not row or max(map(int, row.groups()[1:])) > 255 or number >= VOID:
            raise ValueError(f"{file}: found {line!r}; expected '{number} NAME RED GREEN BLUE', "
                             "ids from 0 to at most 254.")
        names.append(row[1])
        colors.append([int(value) for value in row.groups()[1:]])
    twice = {name for name in names if names.count(name) > 1}
    if twice or len(names) < 2:  # what is not the one class is a class, too
        raise ValueError(f"{file}: expected two classes or more; duplicate: {sorted(twice)}.")
    return tuple(names), np.uint8(colors)


def read_lines(file):
    """Return the lines of a text file without blanks and comments."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected a text file in UTF-8 ({error}).") from None
    return [line for line in lines if line and not line.startswith("#")]
