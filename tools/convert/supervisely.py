"""Supervisely's projects: meta.json, and in each data set photos in img/ and labels in ann/."""

import base64
import io
import json
import zlib
from collections import Counter
from functools import partial

import numpy as np
from PIL import Image

from tools.convert.base import files_below, some
from tools.convert.classes import clean_name
from tools.convert.outlines import draw, labels_of, listed_entries, sample_finder, source_of


def read_supervisely(root, options):
    """Read a Supervisely project into a `Source`.

    Classes count in the order of meta.json, after the background, in its colours. Later objects lie
    over earlier ones: polygons with their holes, bitmaps and rectangles.
    """
    find, labelled, left, meta = sample_finder(root, options), [], Counter(), root / "meta.json"
    try:
        classes = json.loads(meta.read_text(encoding="utf-8-sig"))["classes"]
        colors = {clean_name(one["title"]): one.get("color") for one in classes}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{meta}: is no whole meta.json ({error!r}). Export it again.") from None
    for file in files_below(root, (".json",)):
        if file.parent.name == "ann":
            folder = file.parent.parent.relative_to(root)
            sample = find((folder / "img" / file.stem).as_posix(), file)
            labelled.append(labels_of(sample, _read, file, left))
    source = source_of(labelled, root, options, listed_entries(colors, colors.values()), meta.name)
    if left:
        source.notes.append("not drawn: " + some(f"{n} {kind}" for kind, n in left.items()))
    return source


def _read(file, left):
    data = json.loads(file.read_text(encoding="utf-8-sig"))
    size, shapes = (data["size"]["width"], data["size"]["height"]), []
    for one in data["objects"]:
        shape = {"label": clean_name(one["classTitle"])}
        kind = one.get("geometryType") or ("bitmap" if one.get("bitmap") else "polygon")
        if kind == "bitmap":
            shape |= {"shape_type": "mask", "points": [one["bitmap"]["origin"]],
                      "bits": partial(_bits, one["bitmap"]["data"])}
        elif kind == "polygon" and one["points"]["interior"]:
            shape |= {"shape_type": "mask", "points": [(0, 0)],
                      "bits": partial(_with_holes, size, **one["points"])}
        elif kind in ("polygon", "rectangle"):
            shape |= {"shape_type": kind, "points": one["points"]["exterior"]}
        else:
            left[kind] += 1
            continue
        shapes.append(shape)
    return size, shapes


def _bits(text):
    """Return a bitmap object, bool (h, w): a PNG, packed by zlib, in base64."""
    data = zlib.decompressobj().decompress(base64.b64decode(text), Image.MAX_IMAGE_PIXELS)
    with Image.open(io.BytesIO(data)) as picture:
        return np.array(picture.getchannel("A") if picture.mode == "RGBA" else picture) > 0


def _with_holes(size, exterior, interior):
    """Return a polygon without its holes, bool (H, W). size: (width, height) of the photo."""
    canvas = Image.new("L", size)
    for class_id, points in [(1, exterior), *((0, hole) for hole in interior)]:
        draw(canvas, {"points": points}, class_id)
    return np.array(canvas) > 0
