"""Turn your own photos and labels into the one layout that everything here reads (VOC's), once."""

import math
import os
import shutil
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.convert.base import (IMAGE_FOLDERS, MASK_FOLDERS, SPLITS, Options, UsageError,
                                files_below, files_holding, plural, some)
from tools.convert.coco import read_coco
from tools.convert.cvat import read_cvat_images
from tools.convert.folder import folder_called, read_folder
from tools.convert.labelme import read_labelme
from tools.convert.split import check_splits, split_samples
from tools.convert.write import write_lists, write_samples
from tools.convert.yolo import read_yolo
from utils.images import Problem, bullets
from utils.labels import VOID
from utils.recipes import nearest

READERS = {"folder": read_folder, "cvat": read_folder, "labelme": read_labelme, "coco": read_coco,
           "cvat-images": read_cvat_images, "yolo": read_yolo}
# Files of these formats have a suffix, and hold a text.
MARKS = {"labelme": (".json", '"shapes"'), "coco": (".json", '"segmentation"'),
         "cvat-images": (".xml", "<annotations>")}


@dataclass
class Conversion:
    """What `convert` did. pixels, images: per class and, last, for void. splits: name -> photos."""

    target: str
    format: str
    class_names: tuple
    pixels: list
    images: list
    splits: dict
    skipped: list
    notes: list

    def __str__(self):
        total = max(1, sum(self.pixels))
        rows = [f"{name:<24}{100 * pixels / total:>9.2f} %{images:>9}" for name, pixels, images
                in zip([*self.class_names, "void"], self.pixels, self.images)]
        splits = ", ".join(f"{split} {count}" for split, count in self.splits.items())
        return "\n".join([*(f"- {note}" for note in self.notes), "",
                          f"{'class':<24}{'pixels':>11}{'images':>9}", *rows, "",
                          f"splits: {splits}", f"written to {self.target}"])


def convert(source, target, progress=False, **options):
    """Convert `source` into the folder `target`, whole or not at all, and return a `Conversion`.

    source: folder or .zip. target: a folder that does not exist yet, or is empty. options: see
    `tools.convert.base.Options`. Raises UsageError, a ValueError, for wrong arguments; ValueError
    that counts the faults and lists the first; OSError if writing fails.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    options = Options(**options)
    _check_places(source, target)
    _check_options(options)
    part = target.absolute().with_name(f".{target.absolute().name}.{os.getpid()}.part")
    unpacked = part / ".work" / "source"
    try:
        (part / ".work").mkdir(parents=True)
        root = _opened(source, unpacked)
        format = options.format or _guess(root)
        for option in ("id_map", "binary", "masks", "mask_prefix", "mask_suffix"):
            if getattr(options, option) and READERS[format] is not read_folder:
                raise UsageError(f"--{option.replace('id_', '').replace('_', '-')}: is for masks, "
                                 f"and {source} is read as {format}; see --rename, --void NAME.")
        found = READERS[format](root, options)
        _check_samples(found, options, root)
        check_splits(found.samples, options)
        results = write_samples(found, part, progress, options)
        faults = found.faults + [result for result in results if isinstance(result, Problem)]
        kept = [pair for pair in zip(found.samples, results) if not isinstance(pair[1], Problem)]
        lost = {one.split for one in found.samples if one.split} - {one.split for one, _ in kept}
        if lost or not kept or (faults and not options.skip_faulty):
            remedy = (f"since without them nothing of {some(sorted(lost))} is left" if lost else
                      "or leave those files out with --skip-faulty")
            raise ValueError(f"{source} cannot be converted as it is, and nothing was written.\n\n"
                             f"{plural(len(faults), 'fault')}:{bullets(faults)}\n\n"
                             f"Fix them, {remedy}.")
        kept.sort(key=lambda pair: pair[0].stem)
        samples, written = zip(*kept)
        counts = np.array([one.pixels for one in written])
        _check_shown(counts.sum(axis=0) > 0, found.class_names, options.to)
        found.notes += _remarks(format, found, kept, faults)
        splits = split_samples(samples, counts[:, :-1] > 0, [one.photo for one in written],
                               found.class_names, options, found.notes)
        write_lists(part, options.to, found, splits)
        skipped = [str(fault).replace(str(unpacked), str(source)) for fault in faults]
        done = Conversion(str(target), format, found.class_names, counts.sum(axis=0).tolist(),
                          (counts > 0).sum(axis=0).tolist(),
                          {split: len(stems) for split, stems in splits.items()}, skipped,
                          found.notes)
        record = [f"{source} read as {format} with {options}", str(done), *skipped]
        (part / "conversion.txt").write_text("\n".join(record), encoding="utf-8")
        shutil.rmtree(part / ".work")
        if target.is_dir():
            target.rmdir()
        os.replace(part, target)
    except ValueError as error:
        kind = UsageError if isinstance(error, UsageError) else ValueError
        raise kind(str(error).replace(str(unpacked), str(source))) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return done


def _check_places(source, target):
    if not source.is_dir() and not (source.is_file() and source.suffix.lower() == ".zip"):
        raise UsageError(f"{source}: there is no such folder or .zip. Give your photos and labels.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: is there already, and not empty. Choose another TARGET, or "
                         "delete it first.")
    if target.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{target}: is inside {source}, which is never changed. Choose another.")


def _check_options(options):
    for option, names in (("format", READERS), ("to", ["voc", "labelme"]),
                          ("missing", ["skip", "background"])):
        name = getattr(options, option)
        if name and name not in names:
            raise UsageError(f"--{option} {name}: there is no such choice{nearest(name, names)}")
    void = max([int(word) for word in options.void if word.isdecimal()], default=0)
    for option, value, most, expected in (
            ("tolerance", options.tolerance, math.inf, "0 or more"),
            ("seed", options.seed, math.inf, "0 or more"),
            ("max-side", options.max_side, math.inf, "pixels, such as 1600"),
            ("map", max(options.id_map, default=0), VOID, f"ids from 0 to {VOID}"),
            ("void", void, VOID, f"ids from 0 to {VOID}, or names of classes")):
        if not 0 <= value <= most:
            raise UsageError(f"--{option} {value}: expected {expected}.")
    fractions = options.drawn_fractions().values()
    if min(fractions) < 0 or sum(fractions) >= 1:
        raise UsageError("--val and --test: expected fractions of the photos, such as 0.2, that "
                         "leave some to train on.")


def _opened(source, folder):
    """Return the folder to read: `source`, its .zip unpacked into `folder`, or one inside."""
    root = source
    if source.is_file():
        root = folder
        try:
            with zipfile.ZipFile(source) as archive:
                for one in archive.infolist():
                    name = one.filename = one.filename.replace("\\", "/")  # as old Windows tools
                    if ".." in Path(name).parts or Path(name).is_absolute():
                        raise ValueError(f"{source}: holds {name!r}, which leads out of its "
                                         "folder; not unpacked.")
                archive.extractall(root, archive.infolist())
        except (zipfile.BadZipFile, RuntimeError, zlib.error, EOFError) as error:
            raise ValueError(f"{source}: cannot be unpacked ({error}). Make it again.") from None
    while True:
        inside = [path for path in root.iterdir() if not path.name.startswith((".", "__MACOSX"))]
        known = (*IMAGE_FOLDERS, *MASK_FOLDERS, *SPLITS)
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].name.lower() in known:
            return root
        root = inside[0]


def _guess(root):
    """Return the format of a folder; UsageError where several fit."""
    masks = "cvat" if (root / "labelmap.txt").is_file() else "folder"
    outlines = [*root.glob("data.y*ml"), *(path for path in files_below(root, (".txt",))
                                           if "labels" in path.relative_to(root).parts)]
    found = {masks: folder_called(root, MASK_FOLDERS), "yolo": next(iter(outlines), None)}
    for format, marks in MARKS.items():
        found[format] = next(files_holding(root, *marks), None)
    found = {format: file for format, file in found.items() if file}
    if len(found) > 1:
        there = ", ".join(f"{format} ({file})" for format, file in found.items())
        raise UsageError(f"{root}: may be read as {there}. Say which with --format.")
    return next(iter(found), "folder")


def _check_samples(found, options, root):
    """Refuse what the samples as a whole do not allow; mark those that would get the same name."""
    if not found.samples and not found.faults:
        raise ValueError(f"{root}: found no photos with labels. {'; '.join(found.notes)}")
    for file_id, class_id in options.id_map.items():
        if not 0 <= class_id < len(found.class_names) and class_id != VOID:
            raise UsageError(f"--map {file_id}={class_id}: there are the classes 0 to "
                             f"{len(found.class_names) - 1} ({some(found.class_names)}), and "
                             f"{VOID} for void.")
    first = {}
    for sample in found.samples:
        photo = sample.photo and f"label {sample.photo.resolve()}"
        for mark in filter(None, (f"get the name {sample.stem.lower()}", photo)):
            other = first.setdefault(mark, sample)
            for one, two in ((sample, other), (other, sample)):
                if other is not sample and not one.fault:
                    one.fault = Problem(str(one.label or one.file), f"would {mark}, as "
                                        f"{two.label or two.file} would.", "Rename one of them, "
                                        "or put each photo where its label says.")


def _check_shown(shown, class_names, to):
    """Refuse masks that show nothing to learn. shown: bool (C + 1,), void last."""
    if to == "voc" and not shown[1:-1].any() and (shown[-1] or len(class_names) == 1):
        raise ValueError(f"no mask shows anything but {' or '.join([*class_names[:1], 'void'])}: "
                         "nothing to learn. Check --void, --map and --binary, or label more.")


def _remarks(format, found, kept, faults):
    """Return notes on faulty photos, those without a mask and those that their EXIF tag turns."""
    drawn = format not in ("folder", "cvat")
    empty = [sample for sample, written in kept
             if sample.label is None or drawn and not written.pixels[1:].any()]
    unsure = [sample.file.name for sample, written in kept if written.unsure]
    paged = [sample.file.name for sample, written in kept if written.paged]
    notes = []
    if empty:
        shown = dict(enumerate(found.class_names)).get(found.background, "void")
        notes.append(f"{plural(len(empty), 'photo')} without a mask or shapes taken for nothing "
                     f"but {shown}")
    if paged:
        notes.append(f"only the first page was read of {plural(len(paged), 'photo')}, such as "
                     f"{paged[0]}: save pages as files")
    if faults:
        notes.append(f"left out: {plural(len(faults), 'fault')}, see conversion.txt")
    if unsure and format != "labelme":
        notes.append(f"EXIF tags turn {plural(len(unsure), 'photo')}, such as {unsure[0]}, and "
                     "sizes do not tell whether the masks are turned, too: look at them; if not, "
                     "see --ignore-exif")
    return notes
