"""CVAT's own format, "CVAT for images 1.1": an XML file, mostly beside a folder images."""

from collections import Counter
from functools import partial
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from tools.convert.base import files_below, some
from tools.convert.classes import clean_name
from tools.convert.outlines import (labels_of, listed_entries, runs_to_bits, sample_finder,
                                    source_of, split_named)


def read_cvat_images(root, options):
    """Read "CVAT for images 1.1" into a `Source`.

    Labels count in the order of the task, after the background, in its colours. Shapes are drawn by
    z_order, then in the order of the file: polygons, masks, boxes and ellipses, as in CVAT's own
    mask exports.
    """
    find, labelled, colors, left = sample_finder(root, options), [], {}, Counter()
    files = files_below(root, (".xml",))
    for file in files:
        for label in (tree := _parse(file)).iterfind("meta//label"):
            if label.find("parent") is None:
                colors.setdefault(clean_name(label.findtext("name", "")), label.findtext("color"))
        if tree.find("track") is not None:
            raise ValueError(f"{file}: is 'CVAT for video', which is not read. Export the task as "
                             "'CVAT for images 1.1'.")
        for image in tree.iterfind("image"):
            split = split_named(image.get("subset") or file.stem)
            sample = find(image.get("name", ""), file, split)
            labelled.append(labels_of(sample, _read, image))
            left.update(shape.tag for shape in image if shape.tag not in DRAWN)
    source = source_of(labelled, root, options, listed_entries(colors, colors.values()),
                       some(file.name for file in files))
    if left:
        source.notes.append("not drawn: " + some(f"{n} {tag}" for tag, n in left.items()))
    return source


def _parse(file):
    """Return the root of an XML file; ValueError if it is damaged or declares entities."""
    def refuse(*_):
        raise ValueError("a DOCTYPE, which CVAT does not write")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(file.read_bytes(), True)
        return ElementTree.parse(file).getroot()
    except (expat.ExpatError, ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{file}: is no whole XML file ({error}). Export it again.") from None


def _read(image):
    shapes = [shape for shape in image if shape.tag in DRAWN and shape.get("outside") != "1"]
    shapes.sort(key=lambda shape: int(shape.get("z_order", 0)))
    return (image.get("width"), image.get("height")), [
        {"label": clean_name(shape.get("label")), **DRAWN[shape.tag](shape)} for shape in shapes]


def _polygon(shape):
    return {"points": [[float(number) for number in point.split(",")]
                       for point in shape.get("points").split(";")]}


def _mask(shape):
    left, top, width, height = (int(shape.get(key)) for key in ("left", "top", "width", "height"))
    counts = shape.get("rle").split(",")
    return {"shape_type": "mask", "points": [(left, top)],
            "bits": partial(runs_to_bits, counts, (height, width), "C")}


def _box(shape):
    left, top, right, bottom = (float(shape.get(key)) for key in ("xtl", "ytl", "xbr", "ybr"))
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return _turned(shape, corners)


def _ellipse(shape):
    x, y, rx, ry = (float(shape.get(key)) for key in ("cx", "cy", "rx", "ry"))
    angles = np.linspace(0, 2 * np.pi, 73)[:-1]
    return _turned(shape, np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1))


def _turned(shape, points):
    """Return a polygon whose points are turned about their centre, clockwise as the photo is seen."""
    angle, centre = np.radians(float(shape.get("rotation", 0))), points.mean(axis=0)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return {"points": (points - centre) @ turn + centre}


DRAWN = {"polygon": _polygon, "mask": _mask, "box": _box, "ellipse": _ellipse}
