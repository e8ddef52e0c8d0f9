"""What `tools.convert` writes: photos, masks or labelme's files, split lists, class names, a record."""

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tools import progress
from tools.convert.labelme import to_labelme
from utils.images import THREADS, ImageError, decode, fault_of_pair, to_rgb, write_mask
from utils.labels import VOID

# Formats that are kept byte for byte where their pixels are upright 8-bit RGB or grey, and their suffixes.
KEPT = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}


class Written(NamedTuple):
    """pixels: int (C + 1,), of each class, void last. photo: bytes that only equal photos share."""

    pixels: np.ndarray
    photo: bytes


def write_samples(found, part, to, tolerance, show):
    """Write all photos and masks; returns for each sample what was `Written`, or a `Problem`.

    Where a question is open nothing is written, and all is read for its faults.
    """
    write = None if found.questions else _write_voc if to == "voc" else _write_labelme
    for folder in ("JPEGImages", "SegmentationClass") if to == "voc" else ():
        (part / folder).mkdir()
    report, results = progress.bar("converting") if show else lambda done, total: None, []
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for result in pool.map(lambda sample: _convert_one(sample, found, part, write, tolerance), found.samples):
                results.append(result)
                report(len(results), len(found.samples))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def _convert_one(sample, found, part, write, tolerance):
    """Read a photo and its mask and write both; returns what was `Written`, or a `Problem`."""
    if sample.fault:
        return sample.fault
    try:
        photo = _photo_as_labelled(sample, part / ".work")
        picture, stored = decode(photo)
        image = to_rgb(picture, photo)
        ids = sample.read_mask(image.shape[:2])
    except ImageError as error:
        if Path(error.problem.file).parent == part / ".work":
            return error.problem._replace(file=str(sample.label), found=f"its embedded photo {error.problem.found}")
        return error.problem
    sample.unsure = stored.orientation in (2, 3, 4) or (stored.orientation > 4 and image.shape[0] == image.shape[1])
    fault = fault_of_pair((sample.file, sample.label), image, ids, VOID)
    if fault and stored.orientation > 4 and ids.shape[::-1] == image.shape[:2]:
        fault = fault._replace(remedy="It fits the photo as stored, before the turn that its EXIF tag asks for: see "
                               "--ignore-exif.")
    if fault or not write:
        return fault or Written(np.zeros(1), b"")
    plain = stored.format in KEPT and stored.mode in ("RGB", "L") and stored.orientation == 1 and not stored.deep
    name = f"{sample.stem}{KEPT[stored.format] if plain else '.png'}"
    write(sample, photo if plain else None, name, image, ids, found, part, tolerance)
    counts = np.bincount(ids.ravel(), minlength=VOID + 1)
    digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest() + str(image.shape).encode()
    return Written(np.append(counts[:len(found.class_names)], counts[VOID]), digest)


def _photo_as_labelled(sample, folder):
    """Return a file with the photo as its mask belongs to it; new ones are made in `folder`.

    An embedded photo goes into a file first; one that is wanted as stored is freed from its EXIF tag.
    """
    file = sample.photo
    if sample.data:
        file = folder / f"{sample.stem}.embedded"
        file.write_bytes(sample.data())
    if not sample.as_stored or decode(file)[1].orientation == 1:
        return file
    with Image.open(file) as image:
        image = image.convert("RGB") if image.mode == "CMYK" else image
        image.save(folder / f"{sample.stem}.stored", "PNG", exif=b"")
    return folder / f"{sample.stem}.stored"


def _store_photo(photo, image, file):
    """Copy a photo byte for byte, where every program shows its pixels so; without one, save the image as PNG."""
    if photo:
        shutil.copyfile(photo, file)
    else:
        Image.fromarray(image).save(file, compress_level=1)  # more takes twice as long and saves a seventh


def _write_voc(sample, photo, name, image, ids, found, part, _):
    _store_photo(photo, image, part / "JPEGImages" / name)
    write_mask(part / "SegmentationClass" / f"{sample.stem}.png", ids, found.colors)


def _write_labelme(sample, photo, name, image, ids, found, part, tolerance):
    _store_photo(photo, image, part / name)
    contents = to_labelme(ids, found.class_names, name, tolerance)
    (part / f"{sample.stem}.json").write_text(json.dumps(contents), encoding="utf-8")


# Lists and record --------------------------------------------------------------------------------


def write_lists(part, to, found, splits):
    """Write split lists and class names; for labelme also labels.txt, which its --labels takes."""
    lists = part / "ImageSets" / "Segmentation" if to == "voc" else part
    lists.mkdir(parents=True, exist_ok=True)
    for split, stems in splits.items():
        (lists / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    lines = [f"{i} {name} {r} {g} {b}" for i, (name, (r, g, b)) in enumerate(zip(found.class_names, found.colors))]
    (part / "classes.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if to == "labelme":
        names = ["__ignore__"] + ["_background_"] * ("background" in found.class_names)
        names += [name for name in found.class_names if name != "background"]
        (part / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def write_record(file, done, options, samples):
    """Write conversion.json: where the data are from, how they were converted, and the names that changed."""
    renamed = {sample.stem: sample.key for sample in samples if sample.stem != sample.key}
    record = done | {"options": options, "renamed": renamed}
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
