"""Outlines to masks: one drawing for all formats, and it is labelme's, to the pixel."""

import base64
import io
import math
import re
from functools import partial
from pathlib import PureWindowsPath

import cv2
import numpy as np
from PIL import Image, ImageDraw

from tools.convert.base import (IMAGE_FOLDERS, MASK_FOLDERS, SPLITS, STRANGE, VOID_NAMES, Sample,
                                Source, apply_lists, faulty, files_below, finder, folder_named,
                                key_of, plural, some, split_of)
from tools.convert.classes import Entry, find_entries, number_classes
from utils.images import PHOTO_SUFFIXES, Problem
from utils.labels import VOID

# labelme's shape_to_mask draws lines this wide and points this large, in pixels.
LINE_WIDTH, POINT_RADIUS = 10, 5
FARTHEST = 10 ** 6  # pixels from the photo's corner: Pillow draws larger numbers wrong
# Kind of shape -> the least and the most points that it may have.
POINTS = {"polygon": (3, math.inf), "oriented_rectangle": (3, math.inf),
          "rotation": (3, math.inf), "linestrip": (2, math.inf), "circle": (2, 2),
          "rectangle": (2, 4), "line": (2, 2), "point": (1, 1), "mask": (1, 2)}


def source_of(labelled, root, options, names=(), origin="", left=None):
    """Return the `Source` of photos with shapes, drawn in their order.

    labelled: triples (sample, (width, height), shapes); a shape is a dict as labelme has them, a
    mask with `bits`, a function that returns bool (h, w). names: of the format's own list in the
    file `origin`. left: kind -> number of shapes that are not drawn. Class 0 is what no shape
    covers, the background; void where a list with colours has none.
    """
    source, entries = Source(), [Entry(i, name, None) for i, name in enumerate(names)]
    if options.classes or not entries:
        entries, origin = find_entries(root, options.classes)
    if not any(entry.name == "background" and not names or entry.color for entry in entries):
        labels = {shape["label"] for _, _, shapes in labelled for shape in shapes}
        listed = [entry.name for entry in entries] or sorted(labels)
        entries = [Entry(i, name, None) for i, name in enumerate(
            ["background", *(name for name in listed if name != "background")])]
    source.notes.append(f"classes from {origin}" if origin else
                        "classes in the order of the alphabet: see --classes")
    class_of = number_classes(source, entries, options)
    ids = {entry.name: class_of[entry.file_id] for entry in entries}
    source.background = ids.get("background", VOID)
    for sample, size, shapes in labelled:
        sample.read_mask = partial(_draw_all, sample.label, size, shapes, ids, origin)
        source.samples.append(sample)
    if left:
        source.notes.append("not drawn: " + some(f"{n} {kind}" for kind, n in left.items()))
    used = {path.resolve() for sample in source.samples for path in (sample.photo, sample.original)
            if path}
    beside = {sample.label.with_suffix("") for sample in source.samples}
    photos = {path.resolve(): (path, folder) for path, folder in photos_of(root, options)
              if path.resolve() not in used and path.with_suffix("") not in beside}
    if options.missing == "background":
        source.samples += [_sample(*pair, None, "", options) for pair in photos.values()]
    elif photos:
        source.notes.append(f"left out, without labels: {plural(len(photos), 'photo')}; see "
                            "--missing background")
    apply_lists(root, source)
    return source


def _sample(photo, folder, label, split, options):
    """Return the `Sample` of a photo; its key has no images/, and begins with its split, if any."""
    *folders, name = key_of(photo, folder).split("/")
    split = split or split_of(key_of(photo, folder))
    kept = [part for part in folders
            if split_of(f"{part}/") != (split or None) and part.lower() not in IMAGE_FOLDERS]
    return Sample("/".join(filter(None, [split, *kept, name])), split, photo, label,
                  as_stored=options.ignore_exif)


def photos_of(root, options):
    """Return (path, folder) of the photos below `root` and in the folder of --images."""
    folders = [root, folder_named(root, "--images", options.images)]
    return [(path, folder) for folder in filter(None, folders)
            for path in files_below(folder, PHOTO_SUFFIXES, MASK_FOLDERS)]


def photo_finder(root, options):
    """Return a function (photo's name, label file, split) -> its `Sample`, with a fault if none.

    Of several photos called so, it is the one beside the label file, or in a folder that the file's
    name says: val2017 for instances_val2017.json.
    """
    photos = {}
    for path, folder in photos_of(root, options):
        photos.setdefault(key_of(path, folder), []).append((path, folder))
    find_key = finder(photos)

    def find(name, file, named=""):
        word = re.fullmatch(r"(?:.*[\W_])?([a-z]+)\d*", named.lower())  # the last one
        split = SPLITS.get(word[1], "") if word else ""
        beside, name = file.parent.relative_to(root).as_posix(), PureWindowsPath(name).as_posix()
        for place in (beside, *file.stem.split("_"), named, split, "."):
            if key := find_key(f"{place}/{name}"):
                found = max(photos[key], key=lambda pair: name.endswith(pair[0].suffix))
                return _sample(*found, file, split, options)
        return Sample(name, split, None, file, fault=Problem(
            str(file), f"its photo {name} is not there, or several are called so.",
            "Put it where its name says, or name the folder of photos with --images."))

    return find


def labels_of(sample, read, *arguments):
    """Return (sample, size, shapes) as `read` returns them, or a fault with what it raises."""
    try:
        size, shapes = read(sample, *arguments)
        return sample, check_size(*size), shapes
    except STRANGE as error:
        said = error if isinstance(error, ValueError) else repr(error)
        sample.fault = sample.fault or Problem(
            str(sample.label), f"holds no whole labels for {sample.file.name} ({said}).",
            "Correct them in your labelling tool and export again.")
        return sample, (1, 1), []


def _draw_all(file, size, shapes, ids, origin):
    """Return the mask of the shapes in their order, as labelme's shapes_to_label draws them."""
    unknown = {shape["label"] for shape in shapes} - ids.keys()
    unknown = sorted(name for name in unknown if name.lower() not in VOID_NAMES)
    if unknown:
        raise faulty(file, f"has shapes with the labels {some(unknown)}, which {origin} lacks.",
                     "Add them there, or correct them in your labelling tool.")
    image = Image.new("L", size, ids.get("background", VOID))
    for number, shape in enumerate(shapes, 1):
        try:
            draw(image, shape, ids.get(shape["label"], VOID))
        except STRANGE as error:
            raise faulty(file, f"shape {number} ({shape['label']}) cannot be drawn ({error}).",
                         "Delete it in your labelling tool and draw it again.") from None
    return np.array(image)


def draw(image, shape, class_id):
    """Draw one shape as labelme's shape_to_mask does; its points are x, y in pixels."""
    kind, corners = shape.get("shape_type") or "polygon", np.array(shape["points"], float)
    if kind not in POINTS:
        raise ValueError(f"labelme has no type {kind!r}")
    least, most = POINTS[kind]
    if corners.shape != (len(corners), 2) or not least <= len(corners) <= most:
        raise ValueError(f"its {len(corners)} points make no {kind}")
    if not (np.abs(corners) <= FARTHEST).all():
        raise ValueError(f"a point is no number, or more than {FARTHEST} pixels away")
    draw, points = ImageDraw.Draw(image), [tuple(point) for point in corners.tolist()]
    if kind == "mask":
        _paste(image, shape, corners, class_id)
    elif kind in ("line", "linestrip"):
        draw.line(points, fill=class_id, width=LINE_WIDTH, joint="curve")
    elif kind in ("circle", "point"):
        radius = POINT_RADIUS if kind == "point" else math.dist(points[0], points[1])
        draw.circle(points[0], radius, fill=class_id, outline=class_id)
    elif kind == "rectangle":
        box = (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())
        draw.rectangle(box, fill=class_id, outline=class_id)
    else:
        draw.polygon(points, fill=class_id, outline=class_id)


def _paste(image, shape, corners, class_id):
    """Put a shape of the kind "mask" in place: its first corner is its picture's upper left."""
    if "bits" in shape:
        bits = shape["bits"]()
    else:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as picture:
            bits = np.array(picture).astype(bool)
    (x, y), *end = corners.round().astype(int).tolist()
    if end and (corners == np.trunc(corners)).all():
        bits = bits[:end[0][1] - y + 1, :end[0][0] - x + 1]  # whole numbers are bounds
    image.paste(class_id, (x, y), Image.fromarray(bits))


def area(shapes):
    """Return the pixels of masks and polygons, arrays (N, 2), together; of polygons about."""
    return sum(shape["bits"]().sum() if "bits" in shape else
               cv2.contourArea(shape["points"].astype(np.float32)) for shape in shapes)


def runs_to_bits(counts, size, order):
    """Return bool (H, W) of run lengths: pixels without, with, without ... order: numpy's."""
    counts, (height, width) = [int(count) for count in counts], check_size(*size)
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(f"its run lengths do not fill {width}x{height} pixels")
    return np.repeat(np.arange(len(counts)) % 2 > 0, counts).reshape(height, width, order=order)


def check_size(*size):
    """Return a width and a height as integers; ValueError if they are no size of a photo."""
    width, height = map(int, size)
    if min(width, height) < 1 or width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{width}x{height} is no size of a photo")
    return width, height
