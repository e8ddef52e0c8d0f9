"""YOLO's segmentation labels: a text file for each photo, and a data.yaml with the names."""

import numpy as np
import yaml
from PIL import ExifTags, Image

from tools.convert.base import STRANGE, files_below
from tools.convert.classes import clean_name
from tools.convert.outlines import area, labels_of, photo_finder, source_of
from utils.datasets import read_lines


def read_yolo(root, options):
    """Read YOLO's outlines into a `Source`; label files have photos' paths, labels for images."""
    (names, origin), find, labelled = _names(root), photo_finder(root, options), []
    for file in files_below(root, (".txt",)):
        folders = file.relative_to(root).parts[:-1]
        if "labels" in folders:
            folders = ["images" if name == "labels" else name for name in folders]
            sample = find("/".join([*folders, file.stem]), file)
            labelled.append(labels_of(sample, _read, names, options))
    return source_of(labelled, root, options, names.values(), origin)


def _names(root):
    """Return class id -> name, and the file that says so."""
    file = next(root.glob("data.y*ml"), min(root.glob("*.y*ml"), default=root / "data.yaml"))
    try:
        names = yaml.safe_load(file.read_text(encoding="utf-8-sig"))["names"]
        names = names if isinstance(names, dict) else dict(enumerate(names))
        return {int(i): clean_name(name) for i, name in sorted(names.items())}, file.name
    except (yaml.YAMLError, *STRANGE) as error:
        raise ValueError(f"{file}: expected the names of YOLO's classes ({error!r}). Write a line "
                         "such as names: [horse, sheep].") from None


def _read(sample, names, options):
    """Return the size of a photo, as it is seen, and its shapes, the largest first."""
    with Image.open(sample.photo) as picture:
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) > 4
        size = picture.size[::-1] if turned and not options.ignore_exif else picture.size
    shapes = []
    for line in read_lines(sample.label):
        number, *numbers = line.split()
        if len(numbers) == 4:
            raise ValueError(f"{line!r} is a box; export outlines, for segmentation")
        points = (np.array(numbers, float).reshape(-1, 2) * size).round(2)
        shapes.append({"label": names.get(int(number), number), "points": points})
    return size, sorted(shapes, key=lambda shape: -area([shape]))
