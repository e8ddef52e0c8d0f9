"""labelme's JSON files: their shapes to masks, and masks back to shapes."""

import base64
import json
from pathlib import PureWindowsPath

import cv2
import numpy as np
from PIL import Image

from tools.convert.base import Sample, faulty, files_holding, key_of, split_of
from tools.convert.classes import clean_name
from tools.convert.outlines import draw, labels_of, photo_finder, source_of
from utils.labels import VOID


def read_labelme(root, options):
    """Read labelme's JSON files into a `Source`; classes as listed, or else by the alphabet."""
    find, labelled = photo_finder(root, options), []
    for file in files_holding(root, ".json", '"shapes"'):
        key = key_of(file, root)
        sample = Sample(key, split_of(key), None, file, as_stored=options.ignore_exif)
        labelled.append(labels_of(sample, _read, find))
    return source_of(labelled, root, options)


def _read(sample, find):
    """Return size and shapes of a file; the sample gets its photo."""
    data = json.loads(sample.label.read_text(encoding="utf-8-sig"))
    for shape in data["shapes"]:
        shape["label"] = clean_name(shape["label"])
    path = PureWindowsPath(str(data.get("imagePath", ""))).as_posix()
    beside = sample.label.parent / path
    photo = (beside if beside.is_file() else find(path, sample.label).photo
             or find(sample.label.stem, sample.label).photo)
    if data.get("imageData"):  # large, and read again by `embedded_photo`
        # labelme turns photos before it embeds them; a tag that is still there had no effect.
        sample.as_stored, sample.original = True, photo
    elif photo is None:
        raise ValueError(f"its photo {data.get('imagePath')!r} is not there; put it beside the "
                         "JSON file, or name its folder with --images")
    else:
        sample.photo = photo
    return (data["imageWidth"], data["imageHeight"]), data["shapes"]


def embedded_photo(file):
    """Return the bytes of the photo in a labelme file; raises `ImageError`."""
    try:
        return base64.b64decode(json.loads(file.read_text("utf-8-sig"))["imageData"])
    except (TypeError, ValueError) as error:
        raise faulty(file, f"its embedded photo is damaged ({error}).",
                     "Save it again in labelme.") from None


def to_labelme(mask, class_names, image_path, tolerance=0.0):
    """Return the contents of a labelme JSON file whose shapes, drawn in order, give the mask.

    mask: uint8 (H, W) ids 0..C-1, 255 for void. image_path: the photo's, as seen from the file.
    tolerance: pixels by which an outline may be off to have fewer points. labelme's polygons have
    no holes, so every connected region becomes its outer outline, filled, the larger ones first.
    """
    mask = np.ascontiguousarray(mask, np.uint8)
    names = {i: "_background_" if name == "background" else name
             for i, name in enumerate(class_names)}
    names[VOID] = "__ignore__"
    background = list(class_names).index("background") if "background" in class_names else VOID
    canvas, shapes = Image.new("L", mask.shape[::-1], background), []
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
        draw(canvas, shape, class_id)
        shapes.append(shape)
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image_path,
            "imageData": None, "imageHeight": mask.shape[0], "imageWidth": mask.shape[1]}


def _regions(mask):
    """Yield (class id, outline int32 (N, 1, 2) of x y, box, bool mask in the box) of all regions.

    They are 4-connected: of two 8-connected ones that cross at a corner, neither is inside.
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
