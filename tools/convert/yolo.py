"""YOLO's segmentation labels: a text file for each photo, and a data.yaml with the names."""

from pathlib import Path

import numpy as np
import yaml
from PIL import ExifTags, Image

from tools.convert.base import UsageError, files_below, key_of
from tools.convert.classes import clean_name, find_entries
from tools.convert.outlines import area, labels_of, listed_entries, sample_of, source_of
from utils.datasets import read_lines
from utils.images import PHOTO_SUFFIXES, Problem


def read_yolo(root, options):
    """Read YOLO's outlines into a `Source`.

    A label file has the path of its photo, with labels for images. Names are data.yaml's, after the
    background. Smaller objects lie over larger ones, as when Ultralytics trains on them.
    """
    names, origin = _names(root, options)
    files, labelled = {_key(path, root): path for path in files_below(root, (".txt",))}, []
    for folder in [root, root / options.images, Path(options.images).expanduser()]:
        for photo in files_below(folder, PHOTO_SUFFIXES) if folder != Path() else ():
            if file := files.pop(_key(photo, folder), None):
                sample = sample_of(photo, folder, file, options)
                labelled.append(labels_of(sample, _read, photo, file, names, options))
    source = source_of(labelled, root, options, listed_entries(names.values()), origin)
    source.faults += [Problem(str(file), "has no photo of its name.", "Add it, or name the folder "
                              "of photos with --images.")
                      for file in files.values() if "labels" in file.relative_to(root).parts]
    source.notes.append("smaller objects lie over larger ones")
    return source


def _key(path, folder):
    *folders, name = key_of(path, folder).split("/")
    return "/".join([part for part in folders if part not in ("images", "labels")] + [name])


def _names(root, options):
    """Return class id -> name, and the file that says so."""
    for file in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        try:
            names = yaml.safe_load(file.read_text(encoding="utf-8-sig"))["names"]
            names = names if isinstance(names, dict) else dict(enumerate(names))
            return {int(i): clean_name(str(name)) for i, name in sorted(names.items())}, file.name
        except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{file}: expected YOLO's names of classes ({error!r}). Add a line such "
                             "as names: [horse, sheep].") from None
    entries, origin = find_entries(root, options.classes)
    if not entries:
        raise UsageError(f"{root}: holds YOLO's labels and no data.yaml, which names the classes. "
                         "Add it, or name them: --classes horse,sheep.")
    return {entry.file_id: entry.name for entry in entries}, origin


def _read(photo, file, names, options):
    """Return the size of a photo, as it is seen, and its shapes, the largest first."""
    with Image.open(photo) as picture:
        size = picture.size
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) > 4
    size = size[::-1] if turned and not options.ignore_exif else size
    shapes = []
    for line in read_lines(file):
        number, *numbers = line.split()
        if len(numbers) == 4:
            raise ValueError(f"{line!r} is a box; export outlines, for segmentation")
        points = np.array(numbers, float).reshape(-1, 2) * size
        shapes.append({"label": names.get(int(number), number), "points": points})
    return size, sorted(shapes, key=lambda shape: -area([shape]))
