"""What `tools.convert` writes: photos, masks or labelme's files, split lists, class names."""

import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tools import progress
from tools.check.faults import digest_of
from tools.convert.labelme import embedded_photo, to_labelme
from utils.images import THREADS, ImageError, decode, fault_of_pair, to_rgb, write_mask
from utils.labels import VOID

# Formats that are kept byte for byte where their pixels are upright 8-bit RGB or grey.
KEPT = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif",
        "WEBP": ".webp"}


class Written(NamedTuple):
    """pixels: int (C + 1,), of each class, void last. photo: bytes that only equal photos share.

    unsure: EXIF turns the photo, and its size does not tell if the mask was turned, too. paged: the
    photo's file has more pages, which are not read.
    """

    pixels: np.ndarray
    photo: bytes
    unsure: bool
    paged: bool


def write_samples(found, part, show, options):
    """Write all photos and masks; returns for each sample what was `Written`, or a `Problem`."""
    for folder in ("JPEGImages", "SegmentationClass") if options.to == "voc" else ():
        (part / folder).mkdir()
    report, results = progress.bar("converting", delay=0.0 if show else math.inf), []
    convert = partial(_convert_one, found=found, part=part, options=options)
    with ThreadPoolExecutor(THREADS) as pool:
        for result in pool.map(convert, found.samples):
            results.append(result)
            report(len(results), len(found.samples))
    return results


def _convert_one(sample, found, part, options):
    """Read a photo and its mask and write both; returns what was `Written`, or a `Problem`."""
    if sample.fault:
        return sample.fault
    try:
        photo = _photo_as_labelled(sample, part / ".work")
        picture, stored = decode(photo)
        image = to_rgb(picture, photo)
        ids = (sample.read_mask() if sample.label else
               np.full(image.shape[:2], found.background, np.uint8))
    except ImageError as error:
        if Path(error.problem.file).parent != part / ".work":
            return error.problem
        return error.problem._replace(file=str(sample.label),
                                      found=f"its embedded photo {error.problem.found}")
    turned, square = stored.orientation > 4, image.shape[0] == image.shape[1]
    fault = fault_of_pair((sample.file, sample.label), image, ids, VOID)
    if fault and turned and ids.shape[::-1] == image.shape[:2]:
        return fault._replace(remedy="It fits the photo as stored, before the turn that its EXIF "
                              "tag asks for: see --ignore-exif.")
    if fault:
        return fault
    plain = (stored.format in KEPT and stored.mode in ("RGB", "L") and stored.orientation == 1
             and not stored.deep)
    if 0 < options.max_side < max(ids.shape):
        plain, scale = False, options.max_side / max(ids.shape)
        size = [max(1, round(side * scale)) for side in ids.shape[::-1]]
        image = np.array(Image.fromarray(image).resize(size, Image.Resampling.BOX))
        ids = np.array(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
    name = f"{sample.stem}{KEPT[stored.format] if plain else '.png'}"
    target = part / "JPEGImages" / name if options.to == "voc" else part / name
    if plain:
        shutil.copyfile(photo, target)
    else:
        # A higher level saves a seventh of the room and takes twice as long.
        Image.fromarray(image).save(target, compress_level=1)
    if options.to == "voc":
        write_mask(part / "SegmentationClass" / f"{sample.stem}.png", ids, found.colors)
    else:
        contents = json.dumps(to_labelme(ids, found.class_names, name, options.tolerance))
        (part / f"{sample.stem}.json").write_text(contents, encoding="utf-8")
    counts = np.bincount(ids.ravel(), minlength=VOID + 1)
    return Written(np.append(counts[:len(found.class_names)], counts[VOID]), digest_of(image),
                   stored.orientation in (2, 3, 4) or (turned and square),
                   stored.pages > 1 and stored.format != "MPO")


def _photo_as_labelled(sample, folder):
    """Return a file with the photo as its mask belongs to it; new ones are made in `folder`."""
    file = sample.photo
    if file is None:
        file = folder / f"{sample.stem}.embedded"
        file.write_bytes(embedded_photo(sample.label))
    if not sample.as_stored or decode(file)[1].orientation == 1:
        return file
    with Image.open(file) as image:
        image = image.convert("RGB") if image.mode == "CMYK" else image
        image.save(folder / f"{sample.stem}.stored", "PNG", exif=b"")
    return folder / f"{sample.stem}.stored"


def write_lists(part, to, found, splits):
    """Write split lists and class names; for labelme also labels.txt, which its --labels takes."""
    lists = part / "ImageSets" / "Segmentation" if to == "voc" else part
    lists.mkdir(parents=True, exist_ok=True)
    files = {lists / f"{split}.txt": stems for split, stems in splits.items()}
    files[part / "classes.txt"] = [f"{i} {name} {r} {g} {b}" for i, (name, (r, g, b))
                                   in enumerate(zip(found.class_names, found.colors))]
    if to == "labelme":
        names = [name for name in found.class_names if name != "background"]
        files[part / "labels.txt"] = ["__ignore__", "_background_", *names]
    for file, lines in files.items():
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
