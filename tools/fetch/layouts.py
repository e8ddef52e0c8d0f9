"""Published layouts, and how a copy in one of them becomes one in VOC's layout."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tools.fetch.sources import SOURCES
from utils import datasets, images
from utils.labels import VOID
from tools.progress import bar


def find_pairs(name, root):
    """Return split -> list of (photo path, mask path) of a copy of a data set in or below `root`.

    Raises FileNotFoundError if there is none, ValueError that lists the files that are missing.
    """
    find = {"oxford_pets": _pets, "camvid": _camvid}.get(name, _voc)
    splits = find(name, root)
    if not splits:
        needed = ", ".join(archive.name for archive in SOURCES[name].archives)
        raise FileNotFoundError(f"{root}: holds no {name} data as published. Give the folder with "
                                f"{needed}, or what is in them.")
    datasets.require_files(splits)
    return splits


def _voc(name, root):
    """Each split may be in a folder of its own; without train there is nothing."""
    files = {split: datasets.find_lists(root, name, split) for split in ("train", "val", "test")}
    if name == "voc2012":
        files.pop("test")  # its masks are not published
    return {split: datasets.listed_pairs(found[0]) for split, found in files.items()
            if found and files["train"]}


def _pets(name, root):
    """The lists name 37 breeds; here a pet is a pet. Every tenth of the sorted trainval is val."""
    splits = {}
    for split in ("trainval", "test"):
        for file in datasets.search(root, f"annotations/{split}.txt")[:1]:
            home = file.parents[1]
            stems = sorted(line.split()[0] for line in datasets.read_lines(file))
            splits[split] = [(home / "images" / f"{stem}.jpg",
                              home / "annotations" / "trimaps" / f"{stem}.png") for stem in stems]
    if len(splits) < 2:
        return {}
    pairs = splits["trainval"]
    train = [pair for i, pair in enumerate(pairs) if i % 10 != 9]
    return {"train": train, "val": pairs[9::10], "test": splits["test"]}


def _camvid(name, root):
    """SegNet's copy: train.txt and train/, trainannot/ and so on."""
    splits = {}
    for home in [found.parent for found in datasets.search(root, "trainannot")[:1]]:
        for split in ("train", "val", "test"):
            file, photos, masks = home / f"{split}.txt", home / split, home / f"{split}annot"
            if file.is_file():
                names = [Path(line.split()[0]).name for line in datasets.read_lines(file)]
                splits[split] = [(photos / one, masks / one) for one in names]
    return splits


def write_voc(name, splits, folder, place):
    """Write a data set in VOC's layout into `folder`; photos stay as they are, byte for byte.

    splits: from `find_pairs`. place: function of (source, target) that copies or moves a file.
    """
    source, table = SOURCES[name], np.arange(VOID + 1, dtype=np.uint8)
    colors = np.uint8(list(source.classes.values()))
    for published, class_id in source.ids.items():
        table[int(published)] = class_id
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)

    def write_pair(pair):
        photo, mask = pair
        target = folder / "SegmentationClass" / f"{photo.stem}.png"
        place(photo, folder / "JPEGImages" / photo.name)
        if not source.ids:
            return place(mask, target)
        ids = table[images.read_mask(mask)]
        try:
            images.write_mask(target, ids, colors)
        except ValueError as error:
            raise ValueError(f"{mask}: {error}") from None

    for split, pairs in splits.items():
        stems = "".join(f"{photo.stem}\n" for photo, _ in pairs)
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(stems, "utf-8")
    every = [pair for pairs in splits.values() for pair in pairs]
    report = bar(f"converting {name}", delay=1.0)
    with ThreadPoolExecutor(images.THREADS) as pool:
        for done, _ in enumerate(pool.map(write_pair, every), 1):
            report(done, len(every))
    lines = [f"{i} {label} {' '.join(map(str, color))}\n"
             for i, (label, color) in enumerate(source.classes.items())]
    (folder / "classes.txt").write_text("".join(lines), "utf-8")
