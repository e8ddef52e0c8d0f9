"""What `tools.convert` writes: photos, masks or labelme's files, split lists, class names, a record."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from tools.convert.base import UsageError, plural
from tools.convert.labelme import to_labelme
from utils import progress
from utils.images import THREADS, ImageError, decode, fault_of_pair, to_rgb, write_mask
from utils.labels import VOID

# Formats that are kept byte for byte where their pixels are upright 8-bit RGB or grey, and their suffixes.
KEPT = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}


def write_samples(found, part, to, tolerance, show):
    """Write all photos and masks; returns for each sample its pixel counts, or a `Problem`.

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
    """Read a photo and its mask and write both; returns pixel counts, int (C + 1,) with void last, or a `Problem`."""
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
        return fault or np.zeros(1)
    plain = stored.format in KEPT and stored.mode in ("RGB", "L") and stored.orientation == 1 and not stored.deep
    name = f"{sample.stem}{KEPT[stored.format] if plain else '.png'}"
    write(sample, photo if plain else None, name, image, ids, found, part, tolerance)
    counts = np.bincount(ids.ravel(), minlength=VOID + 1)
    return np.append(counts[:len(found.class_names)], counts[VOID])


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


# Splits and lists -----------------------------------------------------------------------------------------


def split_samples(samples, val, test, seed, notes):
    """Return split -> stems, sorted: as the source has them, else drawn at random; adds to `notes`.

    val, test: fractions of the photos, or None. Raises UsageError where the source has the split itself, ValueError
    where too few photos are left to train on.
    """
    splits = {}
    for sample in samples:
        splits.setdefault(sample.split, []).append(sample.stem)
    left = splits.pop("", [])
    if not splits:
        splits = _draw(left, 0.2 if val is None else val, test or 0, seed)
        notes.append(f"splits drawn at random, seed {seed}; photos of one scene or film belong into one split: for "
                     "those write train.txt and val.txt into SOURCE")
        return {split: sorted(stems) for split, stems in splits.items() if stems}
    for option, value in (("val", val), ("test", test)):
        if value is not None and option in splits:
            raise UsageError(f"--{option}: the source has this split already. Leave --{option} away, or take away the "
                             "source's lists or split folders.")
    if "train" not in splits:
        raise ValueError(f"the source has the splits {', '.join(splits)} and nothing to train on; name one train.")
    notes += [f"left out, since they are in no split: {plural(len(left), 'photo')}"] * bool(left)
    drawn = _draw(splits["train"], 0 if "val" in splits else 0.2 if val is None else val,
                  0 if "test" in splits else test or 0, seed)
    notes += [f"the source has no {split} split: {plural(len(drawn[split]), 'photo')} of train drawn for it"
              for split in ("val", "test") if drawn[split]]
    splits |= {split: stems for split, stems in drawn.items() if stems}
    return {split: sorted(splits[split]) for split in ("train", "val", "test") if split in splits}


def _draw(stems, val, test, seed):
    """Return train, val and test: fractions of the stems, at least one photo of each that is not 0."""
    order = np.random.default_rng(seed).permutation(sorted(stems)).tolist()
    counts = [max(1, round(fraction * len(order))) if fraction else 0 for fraction in (val, test)]
    if sum(counts) >= len(order):
        raise ValueError(f"{plural(len(order), 'photo')} cannot be split into train and {sum(counts)} more; add "
                         "photos, or say --val 0.")
    first = sum(counts)
    return {"train": order[first:], "val": order[:counts[0]], "test": order[counts[0]:first]}


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
