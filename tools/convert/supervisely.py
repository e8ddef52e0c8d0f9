"""Supervisely's projects: meta.json, and in each data set photos in img/ and labels in ann/."""

import base64
import json
import zlib
from collections import Counter
from functools import partial

import numpy as np
from PIL import Image

from tools.convert.base import STRANGE, damaged, files_below
from tools.convert.classes import clean_name
from tools.convert.outlines import draw, labels_of, photo_finder, png_to_bits, source_of


def read_supervisely(root, options):
    """Read a Supervisely project into a `Source`.

    Classes count in the order of meta.json, after the background. Later objects lie over earlier
    ones: polygons with their holes, bitmaps and rectangles.
    """
    find, labelled, left, meta = photo_finder(root, options), [], Counter(), root / "meta.json"
    try:
        classes = json.loads(meta.read_text(encoding="utf-8-sig"))["classes"]
        names = [clean_name(one["title"]) for one in classes]
    except STRANGE as error:
        raise damaged(meta, "meta.json", error) from None
    for file in files_below(root, (".json",)):
        if file.parent.name == "ann":
            photo = file.parent.with_name("img") / file.stem
            labelled.append(labels_of(find(photo.relative_to(root), file), _read, left))
    return source_of(labelled, root, options, names, meta.name, left)


def _read(sample, left):
    data = json.loads(sample.label.read_text(encoding="utf-8-sig"))
    size, shapes = (data["size"]["width"], data["size"]["height"]), []
    for one in data["objects"]:
        kind, points = one["geometryType"], one.get("points") or {}
        if kind == "bitmap":
            shape = {"shape_type": "mask", "points": [one["bitmap"]["origin"]],
                     "bits": partial(_bits, one["bitmap"]["data"])}
        elif kind == "polygon" and points["interior"]:
            shape = {"shape_type": "mask", "points": [(0, 0)],
                     "bits": partial(_with_holes, size, points["exterior"], points["interior"])}
        elif kind in ("polygon", "rectangle"):
            shape = {"shape_type": kind, "points": points["exterior"]}
        else:
            left[kind] += 1
            continue
        shapes.append(shape | {"label": clean_name(one["classTitle"])})
    return size, shapes


def _bits(text):
    """Return a bitmap object, bool (h, w): a PNG, packed by zlib, in base64."""
    packed = base64.b64decode(text)
    return png_to_bits(zlib.decompressobj().decompress(packed, Image.MAX_IMAGE_PIXELS))


def _with_holes(size, outline, holes):
    """Return a polygon without its holes, bool (H, W). size: (width, height) of the photo."""
    canvas = Image.new("L", size)
    for value, points in [(1, outline), *((0, hole) for hole in holes)]:
        draw(canvas, {"points": points}, value)
    return np.array(canvas) > 0
