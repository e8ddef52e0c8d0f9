"""CVAT's own format, "CVAT for images 1.1": an XML file, mostly beside a folder images."""

from collections import Counter
from functools import partial
from xml.etree import ElementTree

from tools.convert.base import files_below, some
from tools.convert.classes import clean_name
from tools.convert.outlines import labels_of, photo_finder, runs_to_bits, source_of


def read_cvat_images(root, options):
    """Read "CVAT for images 1.1" into a `Source`; labels count in the order of the task."""
    find, labelled, names, left = photo_finder(root, options), [], {}, Counter()
    files = files_below(root, (".xml",))
    for file in files:
        try:
            if "<!DOCTYPE" in (text := file.read_text(encoding="utf-8")):
                raise ValueError("it has a DOCTYPE, and CVAT writes none")
            tree = ElementTree.fromstring(text)
        except (ElementTree.ParseError, ValueError) as error:
            raise ValueError(f"{file}: is no whole XML file ({error}); export again.") from None
        if tree.find("track") is not None:
            raise ValueError(f"{file}: is 'CVAT for video', which is not read. Export the task as "
                             "'CVAT for images 1.1'.")
        names |= {clean_name(one.findtext("name", "")): one for one in tree.iterfind("meta//label")
                  if one.find("parent") is None}
        for image in tree.iterfind("image"):
            photo = find(image.get("name", ""), file, image.get("subset") or file.stem)
            labelled.append(labels_of(photo, _read, image))
            left.update(one.tag for one in image if one.tag not in DRAWN)
    return source_of(labelled, root, options, names, some(file.name for file in files), left)


def _read(_, image):
    shapes = [one for one in image if one.tag in DRAWN and one.get("outside") != "1"]
    shapes.sort(key=lambda one: int(one.get("z_order", 0)))
    return (image.get("width"), image.get("height")), [
        {"label": clean_name(one.get("label")), **DRAWN[one.tag](one)} for one in shapes]


def _polygon(one):
    return {"points": [[float(number) for number in point.split(",")]
                       for point in one.get("points").split(";")]}


def _mask(one):
    left, top, width, height = (int(one.get(key)) for key in ("left", "top", "width", "height"))
    return {"shape_type": "mask", "points": [(left, top)],
            "bits": partial(runs_to_bits, one.get("rle").split(","), (height, width), "C")}


DRAWN = {"polygon": _polygon, "mask": _mask}
