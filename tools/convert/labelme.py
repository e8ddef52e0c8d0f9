"""labelme's JSON files: shapes to masks, drawn as labelme itself draws them, and masks back to shapes."""

import base64
import io
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath

import cv2
import numpy as np
from PIL import Image, ImageDraw

from tools.convert.base import (VOID_NAMES, Entry, Sample, Source, apply_lists, clean_name, faulty, files_below,
                                find_entries, key_of, make_table, plural, some, split_of, words_for)
from utils.images import PHOTO_SUFFIXES, THREADS, Problem
from utils.labels import VOID

# labelme's shape_to_mask draws lines this wide and points this large, in pixels.
LINE_WIDTH, POINT_RADIUS = 10, 5
FARTHEST = 10 ** 6  # pixels from the photo's corner: Pillow draws something else with larger numbers
POLYGONS = (None, "polygon", "oriented_rectangle", "rotation")
POINT_COUNTS = {"circle": (2,), "rectangle": (2, 4), "line": (2,), "point": (1,), "mask": (2,)}


# JSON to masks --------------------------------------------------------------------------------------------


def read_labelme(root, options):
    """Read labelme's JSON files into a `Source`.

    Class 0 is the background, what no shape covers; the others follow the list of classes, or else the alphabet, as
    in labelme's own exports. `__ignore__` is void. Where a list with colours has no background, what no shape covers
    is void.
    """
    source = Source()
    files = files_below(root, (".json",))
    with ThreadPoolExecutor(THREADS) as pool:
        found = [pair for pair in pool.map(lambda file: _read_json(file, root, options), files) if pair]
    source.samples = [sample for sample, _ in found]
    entries, origin = find_entries(root, options.classes)
    labels = {clean_name(shape["label"]) for _, data in found if data for shape in data["shapes"]}
    entries = _with_background(entries, sorted(labels - {"background"}))
    source.notes.append(f"classes from {origin}" if origin else "classes in the order of the alphabet: see --classes")
    table = make_table(entries, words_for(entries, options.void))
    source.class_names, source.colors, source.notes = *table[:2], source.notes + table.notes
    ids = {entry.name: table.class_of[entry.file_id] for entry in entries}
    for sample, data in found:
        sample.read_mask = _drawer(sample.label, data, ids, origin)
    _add_unlabelled(source, root, options, ids.get("background", VOID))
    apply_lists(root, source)
    return source


def _with_background(entries, names):
    """Return the entries, from `names` where there are none, with the background that labelme always has."""
    if entries and ("background" in {entry.name for entry in entries} or any(entry.color for entry in entries)):
        return entries
    names = [entry.name for entry in entries] if entries else names
    return [Entry(i, name, None) for i, name in enumerate(["background", *names])]


def _read_json(file, root, options):
    """Return the sample of a JSON file and what the file says, None where it has a fault; None if not labelme's."""
    key = key_of(file, root)
    sample = Sample(key, split_of(key), None, file, None)
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
        if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
            return None
        embedded = bool(data.pop("imageData", None))  # large, and read again when its turn comes
        for number, shape in enumerate(data["shapes"], 1):
            _check_shape(shape, number)
    except (ValueError, RecursionError) as error:
        no_json = isinstance(error, (json.JSONDecodeError, UnicodeError, RecursionError))
        said = f"is no whole JSON file: {error}" if no_json else error
        sample.fault = Problem(str(file), f"{said}.", "Open it in labelme, mend it, and save it again.")
        return sample, None
    if embedded:
        # labelme turns photos upright before it embeds them; a tag that is still there was not obeyed on screen.
        sample.data, sample.as_stored = lambda: _embedded(file), True
        return sample, data
    sample.photo, sample.as_stored = _photo_of(file, root, str(data.get("imagePath", "")), options), options.ignore_exif
    if sample.photo is None:
        sample.fault = Problem(str(file), f"its photo {data.get('imagePath')!r} is not there.",
                               "Put it beside the JSON file, or name its folder with --images.")
    return sample, data


def _embedded(file):
    try:
        return base64.b64decode(json.loads(file.read_text("utf-8-sig"))["imageData"])
    except (TypeError, ValueError) as error:
        raise faulty(file, f"its embedded photo is damaged ({error}).", "Save it again in labelme.") from None


def _check_shape(shape, number):
    """Raise ValueError where labelme could not draw a shape."""
    try:
        label, kind, points = shape["label"], shape.get("shape_type"), shape["points"]
        numbers = np.asarray(points, float)
        fine = numbers.shape == (len(points), 2) and np.isfinite(numbers).all()
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"shape {number} lacks its label or its points") from None
    except OverflowError:  # whole numbers of hundreds of digits
        numbers, fine = np.array(np.inf), True
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"shape {number} has the label {label!r}, which is no name")
    if kind not in (*POLYGONS, *POINT_COUNTS, "linestrip"):
        raise ValueError(f"shape {number} ({label!r}) is of the type {kind!r}, which labelme does not draw")
    enough = len(points) > 2 if kind in POLYGONS else len(points) in POINT_COUNTS.get(kind, range(2, len(points) + 1))
    if fine and numbers.size and np.abs(numbers).max() > FARTHEST:
        raise ValueError(f"shape {number} ({label!r}) has a point more than {FARTHEST} pixels away")
    if not fine or not enough:
        raise ValueError(f"shape {number} ({label!r}) has {len(points)} points, which make no {kind or 'polygon'}")
    if kind == "mask" and not isinstance(shape.get("mask"), str):
        raise ValueError(f"shape {number} ({label!r}) is a mask without its picture")


def _photo_of(file, root, path, options):
    """Return the photo of a JSON file: where imagePath says, beside the file, or in the folder of --images."""
    path = PureWindowsPath(path).as_posix()  # labelme writes the slashes of its machine
    name = path.rsplit("/", 1)[-1]
    folders = [file.parent]
    if options.images:
        folders += [root / options.images, file.parent / options.images, Path(options.images).expanduser()]
    names = [path, name] + [f"{file.stem}{suffix}" for suffix in PHOTO_SUFFIXES]
    return next((folder / name for name in names for folder in folders if name and (folder / name).is_file()), None)


def _add_unlabelled(source, root, options, background):
    """Say how many photos have no JSON file; with --missing background, add them with empty masks."""
    used = {sample.photo.resolve() for sample in source.samples if sample.photo}
    used |= {sample.label.with_suffix(suffix).resolve() for sample in source.samples for suffix in PHOTO_SUFFIXES}
    photos = [path for path in files_below(root, PHOTO_SUFFIXES) if path.resolve() not in used]
    if options.missing == "background":
        source.samples += [Sample(key, split_of(key), photo, None, lambda shape: np.full(shape, background, np.uint8))
                           for photo in photos for key in [key_of(photo, root)]]
    elif photos:
        source.notes.append(f"left out, without a JSON file: {plural(len(photos), 'photo')}; see --missing background")


def _drawer(file, data, ids, origin):
    """Return a function that draws the shapes in their order, later ones over earlier ones (shapes_to_label)."""

    def draw(shape):
        height, width = shape
        size = data.get("imageHeight") or height, data.get("imageWidth") or width
        if size != shape:
            raise faulty(file, f"was drawn on a photo of {size[1]}x{size[0]} pixels, and its photo has "
                         f"{width}x{height}.", "Give it the photo that it was drawn on.")
        named = [(clean_name(shape["label"]), shape) for shape in data["shapes"]]
        unknown = {name for name, _ in named if name not in ids and name.lower() not in VOID_NAMES}
        if unknown:
            labels = some(sorted(unknown))
            raise faulty(file, f"has shapes with the labels {labels}, which {origin} lacks.",
                         "Add them there, or correct them in labelme.")
        image = Image.new("L", (width, height), ids.get("background", VOID))
        for number, (name, shape) in enumerate(named, 1):
            try:
                _draw(image, shape, ids.get(name, VOID))
            except (OSError, ValueError) as error:
                raise faulty(file, f"shape {number} ({name}) cannot be drawn ({error}).",
                             "Delete it in labelme and draw it again.") from None
        return np.array(image)

    return draw


def _draw(image, shape, class_id):
    """Draw one shape as labelme's shape_to_mask and shapes_to_label do; its points are x, y in pixels."""
    kind, points = shape.get("shape_type"), [tuple(point) for point in shape["points"]]
    draw, (x, y) = ImageDraw.Draw(image), points[0]
    if kind == "mask":
        _paste(image, shape, class_id)
    elif kind == "line":
        draw.line(points, fill=class_id, width=LINE_WIDTH)
    elif kind == "linestrip":
        draw.line(points, fill=class_id, width=LINE_WIDTH, joint="curve")
    elif kind in ("circle", "point"):
        radius = POINT_RADIUS if kind == "point" else math.dist(points[0], points[1])
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=class_id, outline=class_id)
    elif kind == "rectangle":
        xs, ys = zip(*points)
        draw.rectangle((min(xs), min(ys), max(xs), max(ys)), fill=class_id, outline=class_id)
    else:
        draw.polygon(points, fill=class_id, outline=class_id)


def _paste(image, shape, class_id):
    """Put a shape of the type "mask" in place: its picture, with the rounded first point as its upper left corner."""
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as picture:
        patch = np.array(picture).astype(bool)
    corners = np.asarray(shape["points"], float)
    (x, y), (x2, y2) = corners.round().astype(int).tolist()
    if (corners == np.trunc(corners)).all():
        patch = patch[:y2 - y + 1, :x2 - x + 1]  # whole numbers are bounds that count, others only place it
    image.paste(class_id, (x, y), Image.fromarray(patch))


# Masks to JSON --------------------------------------------------------------------------------------------


def to_labelme(mask, class_names, image_path, tolerance=0.0):
    """Return the contents of a labelme JSON file whose shapes, drawn in their order, give the mask again.

    mask: uint8 (H, W) ids 0..C-1, 255 for void. class_names: C names. image_path: the photo's path as seen from the
    JSON file. tolerance: how far, in pixels, an outline may leave the mask's to do with fewer points; with 0 the mask
    comes back exactly. Raises ValueError for other ids.

    labelme's polygons have no holes. So every connected region becomes its outer outline, filled, the larger ones
    first: what lies in a hole is drawn later, over it. Only background that lies in a hole needs a shape.
    """
    mask = np.ascontiguousarray(mask, np.uint8)
    names = {i: "_background_" if name == "background" else name for i, name in enumerate(class_names)}
    names[VOID] = "__ignore__"
    strange = sorted(set(np.unique(mask).tolist()) - names.keys())
    if strange:
        raise ValueError(f"the mask has the ids {strange}; expected 0 to {len(class_names) - 1}, or {VOID} for void.")
    start = next((i for i, name in names.items() if name == "_background_"), VOID)
    canvas, shapes = Image.new("L", mask.shape[::-1], start), []
    for class_id, outline, box, inside in sorted(_regions(mask), key=lambda region: -cv2.contourArea(region[1])):
        if (np.asarray(canvas.crop(box))[inside] == class_id).all():
            continue
        points = cv2.approxPolyDP(outline, tolerance, True)[:, 0].tolist() if tolerance else outline[:, 0].tolist()
        points += points[-1:] * (3 - len(points))  # a polygon has three points, even that of one pixel
        shape = {"label": names[class_id], "points": points, "group_id": None, "description": "",
                 "shape_type": "polygon", "flags": {}, "mask": None}
        _draw(canvas, shape, class_id)
        shapes.append(shape)
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image_path, "imageData": None,
            "imageHeight": mask.shape[0], "imageWidth": mask.shape[1]}


def _regions(mask):
    """Yield (class id, outline int32 (N, 1, 2) of x y, box, bool mask in the box) of all 4-connected regions.

    Not 8-connected ones: two of those can cross each other at a corner, and then neither lies inside the other.
    """
    for class_id in np.unique(mask).tolist():
        count, numbers, boxes, _ = cv2.connectedComponentsWithStats((mask == class_id).astype(np.uint8), connectivity=4)
        for number in range(1, count):
            x, y, width, height, _ = boxes[number].tolist()
            inside = numbers[y:y + height, x:x + width] == number
            (outline,), _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE,
                                             offset=(x, y))
            yield class_id, outline, (x, y, x + width, y + height), inside
