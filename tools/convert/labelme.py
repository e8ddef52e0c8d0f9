"""labelme's JSON files: shapes to masks, drawn as labelme itself does, and masks back to shapes."""

import base64
import io
import json
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PureWindowsPath

import cv2
import numpy as np
from PIL import Image, ImageDraw

from tools.convert.base import (VOID_NAMES, Sample, Source, apply_lists, faulty, files_below,
                                key_of, plural, some, split_of)
from tools.convert.classes import Entry, clean_name, find_entries, number_classes
from utils.images import PHOTO_SUFFIXES, THREADS, Problem
from utils.labels import VOID

# labelme's shape_to_mask draws lines this wide and points this large, in pixels.
LINE_WIDTH, POINT_RADIUS = 10, 5
FARTHEST = 10 ** 6  # pixels from the photo's corner: Pillow draws larger numbers wrong
# Kind of shape -> the least and the most points that it may have.
POINTS = {"polygon": (3, math.inf), "oriented_rectangle": (3, math.inf),
          "rotation": (3, math.inf), "linestrip": (2, math.inf), "circle": (2, 2),
          "rectangle": (2, 4), "line": (2, 2), "point": (1, 1), "mask": (2, 2)}


# JSON to masks ----------------------------------------------------------------------------------


def read_labelme(root, options):
    """Read labelme's JSON files into a `Source`.

    Class 0 is the background, what no shape covers; the others follow the list of classes, or else
    the alphabet, as in labelme's own exports. `__ignore__` is void. Where a list with colours has
    no background, what no shape covers is void.
    """
    source, files = Source(), files_below(root, (".json",))
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda file: _read_json(file, root, options), files)
        pairs = [pair for pair in found if pair]
    entries, origin = find_entries(root, options.classes)
    if not any(entry.name == "background" or entry.color for entry in entries):
        labels = {shape["label"] for _, data in pairs for shape in data["shapes"]}
        names = [entry.name for entry in entries] or sorted(labels - {"background"})
        entries = [Entry(i, name, None) for i, name in enumerate(["background", *names])]
    source.notes.append(f"classes from {origin}" if origin else
                        "classes in the order of the alphabet: see --classes")
    class_of = number_classes(source, entries, options.void)
    ids = {entry.name: class_of[entry.file_id] for entry in entries}
    source.background = ids.get("background", VOID)
    for sample, data in pairs:
        sample.read_mask = partial(_draw_all, sample.label, data, ids, origin)
        source.samples.append(sample)
    _add_unlabelled(source, root, options)
    apply_lists(root, source)
    return source


def _read_json(file, root, options):
    """Return (sample, what its file says, no shapes where that is faulty); None for other JSON."""
    key = key_of(file, root)
    sample = Sample(key, split_of(key), None, file, as_stored=options.ignore_exif)
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
        if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
            return None
        for shape in data["shapes"]:
            shape["label"] = clean_name(shape["label"])
        data["size"] = width, height = int(data["imageWidth"]), int(data["imageHeight"])
        if min(width, height) < 1 or width * height > Image.MAX_IMAGE_PIXELS:
            raise ValueError("imageWidth and imageHeight are no size of a photo")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        sample.fault = Problem(str(file), f"is no whole file of labelme ({error!r}).",
                               "Open it in labelme, fix it, and save it again.")
        return sample, {"shapes": []}
    if data.pop("imageData", None):  # large, and read again by `embedded_photo`
        # labelme turns photos before it embeds them; a tag that is still there had no effect.
        sample.as_stored = True
        return sample, data
    sample.photo = _photo_of(file, root, str(data.get("imagePath", "")), options)
    if sample.photo is None:
        sample.fault = Problem(str(file), f"its photo {data.get('imagePath')!r} is not there.",
                               "Put it beside the JSON file, or name its folder with --images.")
    return sample, data


def embedded_photo(file):
    """Return the bytes of the photo in a labelme file; raises `ImageError`."""
    try:
        return base64.b64decode(json.loads(file.read_text("utf-8-sig"))["imageData"])
    except (TypeError, ValueError) as error:
        raise faulty(file, f"its embedded photo is damaged ({error}).",
                     "Save it again in labelme.") from None


def _photo_of(file, root, path, options):
    """Return a file's photo: where imagePath says, beside it, or in the folder of --images."""
    path = PureWindowsPath(path).as_posix()  # labelme writes the slashes of its machine
    folders = [file.parent]
    if options.images:
        folders += [root / options.images, Path(options.images).expanduser()]
    names = [path, path.rsplit("/", 1)[-1]] + [f"{file.stem}{end}" for end in PHOTO_SUFFIXES]
    photos = (folder / name for name in names for folder in folders if name)
    return next((photo for photo in photos if photo.is_file()), None)


def _add_unlabelled(source, root, options):
    """Count the photos without a JSON file in a note; --missing background adds them."""
    used = [sample.photo for sample in source.samples if sample.photo]
    used += [sample.label.with_suffix(end) for sample in source.samples for end in PHOTO_SUFFIXES]
    used = {path.resolve() for path in used}
    photos = [path for path in files_below(root, PHOTO_SUFFIXES) if path.resolve() not in used]
    if options.missing == "background":
        source.samples += [Sample(key_of(photo, root), split_of(key_of(photo, root)), photo, None)
                           for photo in photos]
    elif photos:
        source.notes.append(f"left out, without a JSON file: {plural(len(photos), 'photo')}; see "
                            "--missing background")


def _draw_all(file, data, ids, origin):
    """Return the mask of the shapes in their order, as labelme's shapes_to_label draws them."""
    unknown = {shape["label"] for shape in data["shapes"]} - ids.keys()
    unknown = sorted(name for name in unknown if name.lower() not in VOID_NAMES)
    if unknown:
        raise faulty(file, f"has shapes with the labels {some(unknown)}, which {origin} lacks.",
                     "Add them there, or correct them in labelme.")
    image = Image.new("L", data["size"], ids.get("background", VOID))
    for number, shape in enumerate(data["shapes"], 1):
        try:
            _draw(image, shape, ids.get(shape["label"], VOID))
        except (KeyError, OSError, OverflowError, TypeError, ValueError) as error:
            raise faulty(file, f"shape {number} ({shape['label']}) cannot be drawn ({error}).",
                         "Delete it in labelme and draw it again.") from None
    return np.array(image)


def _draw(image, shape, class_id):
    """Draw one shape as labelme's shape_to_mask does; its points are x, y in pixels."""
    kind, corners = shape.get("shape_type") or "polygon", np.array(shape["points"], float)
    if kind not in POINTS:
        raise ValueError(f"labelme has no type {kind!r}")
    least, most = POINTS[kind]
    if corners.shape != (len(corners), 2) or not least <= len(corners) <= most:
        raise ValueError(f"its {len(corners)} points make no {kind}")
    if not (np.abs(corners) <= FARTHEST).all():
        raise ValueError(f"a point is more than {FARTHEST} pixels away")
    draw, points = ImageDraw.Draw(image), [tuple(point) for point in corners.tolist()]
    x, y = points[0]
    if kind == "mask":
        _paste(image, shape, corners, class_id)
    elif kind == "line":
        draw.line(points, fill=class_id, width=LINE_WIDTH)
    elif kind == "linestrip":
        draw.line(points, fill=class_id, width=LINE_WIDTH, joint="curve")
    elif kind in ("circle", "point"):
        radius = POINT_RADIUS if kind == "point" else math.dist(points[0], points[1])
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=class_id, outline=class_id)
    elif kind == "rectangle":
        xs, ys = zip(*points)
        draw.rectangle((min(xs), min(ys), max(xs), max(ys)), fill=class_id, outline=class_id)
    else:
        draw.polygon(points, fill=class_id, outline=class_id)


def _paste(image, shape, corners, class_id):
    """Put a shape of the type "mask" in place: its first corner is its picture's upper left."""
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as picture:
        patch = np.array(picture).astype(bool)
    (x, y), (x2, y2) = corners.round().astype(int).tolist()
    if (corners == np.trunc(corners)).all():
        patch = patch[:y2 - y + 1, :x2 - x + 1]  # whole numbers are bounds; others only place it
    image.paste(class_id, (x, y), Image.fromarray(patch))


# Masks to JSON ----------------------------------------------------------------------------------


def to_labelme(mask, class_names, image_path, tolerance=0.0):
    """Return the contents of a labelme JSON file whose shapes, drawn in order, give the mask.

    mask: uint8 (H, W) ids 0..C-1, 255 for void. class_names: C names. image_path: the photo's path
    as seen from the JSON file. tolerance: pixels by which an outline may be off to have fewer
    points; 0 is exact. Raises ValueError for other ids.

    labelme's polygons have no holes. So every connected region becomes its outer outline, filled,
    the larger ones first: what is in a hole is drawn later, over it.
    """
    mask = np.ascontiguousarray(mask, np.uint8)
    names = {i: "_background_" if name == "background" else name
             for i, name in enumerate(class_names)}
    names[VOID] = "__ignore__"
    strange = sorted(set(np.unique(mask).tolist()) - names.keys())
    if strange:
        raise ValueError(f"the mask has the ids {strange}; expected 0 to {len(class_names) - 1}, "
                         f"or {VOID} for void.")
    start = next((i for i, name in names.items() if name == "_background_"), VOID)
    canvas, shapes = Image.new("L", mask.shape[::-1], start), []
    regions = sorted(_regions(mask), key=lambda region: -cv2.contourArea(region[1]))
    for class_id, outline, box, inside in regions:
        if (np.asarray(canvas.crop(box))[inside] == class_id).all():
            continue
        if tolerance:
            outline = cv2.approxPolyDP(outline, tolerance, True)
        points = outline[:, 0].tolist()
        points += points[-1:] * (3 - len(points))  # a polygon of one pixel has three points, too
        shape = {"label": names[class_id], "points": points, "group_id": None, "description": "",
                 "shape_type": "polygon", "flags": {}, "mask": None}
        _draw(canvas, shape, class_id)
        shapes.append(shape)
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image_path,
            "imageData": None, "imageHeight": mask.shape[0], "imageWidth": mask.shape[1]}


def _regions(mask):
    """Yield (class id, outline int32 (N, 1, 2) of x y, box, bool mask in the box) of all regions.

    They are 4-connected. Two 8-connected ones can cross at a corner, so that neither is inside the
    other.
    """
    for class_id in np.unique(mask).tolist():
        count, numbers, boxes, _ = cv2.connectedComponentsWithStats(
            (mask == class_id).astype(np.uint8), connectivity=4)
        for number in range(1, count):
            x, y, width, height, _ = boxes[number].tolist()
            inside = numbers[y:y + height, x:x + width] == number
            (outline,), _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL,
                                             cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
            yield class_id, outline, (x, y, x + width, y + height), inside
