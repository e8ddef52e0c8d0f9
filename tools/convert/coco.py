"""COCO's instances: outlines and run lengths in JSON files, mostly one for each split."""

import json
from functools import partial

import numpy as np

from tools.convert.base import STRANGE, files_holding, plural, some
from tools.convert.classes import clean_name
from tools.convert.outlines import area, labels_of, photo_finder, runs_to_bits, source_of


def read_coco(root, options):
    """Read COCO's instances into a `Source`; categories in the order of their ids.

    Crowds (`iscrowd`) are void and lie below all, but not in files without `info`: datumaro, CVAT
    and supervision, which write none, mark every mask so, and Darwin all that have several parts.
    """
    find, labelled, names, crowds, lost = photo_finder(root, options), [], {}, 0, 0
    files = [*files_holding(root, ".json", '"segmentation"')]
    files = [file for file in files if not file.stem.startswith(("person_key", "stuff"))] or files
    for file in files:
        try:
            data = json.loads(file.read_text(encoding="utf-8-sig"))
            info = data.get("info") or {}
            has_crowds = any(info.values()) and "Darwin" not in str(info)
            objects = {image["id"]: [] for image in data["images"]}
            for one in data["annotations"]:
                one["iscrowd"] = bool(one.get("iscrowd")) and has_crowds
                crowds += one["iscrowd"]
                objects.setdefault(one["image_id"], []).append(one)
            used = {one["category_id"] for one in data["annotations"]}
            # Roboflow's first category groups the others.
            categories = {one["id"]: clean_name(one["name"])
                          for one in sorted(data["categories"], key=lambda one: one["id"])
                          if one["id"] in used or one.get("supercategory") != "none"}
            names |= dict.fromkeys(categories.values())
            for image in data["images"]:
                sample = find(image["file_name"], file, file.stem)
                labelled.append(labels_of(sample, _read, image, objects.pop(image["id"]),
                                          categories))
            lost += sum(map(len, objects.values()))
        except STRANGE as error:
            raise ValueError(f"{file}: is no whole COCO file ({error!r}); export again.") from None
    source = source_of(labelled, root, options, names, some(file.name for file in files))
    source.notes.append("smaller objects lie over larger ones, since COCO has no order of depth")
    if lost:
        source.notes.append(f"left out: {plural(lost, 'object')} of photos that no file lists")
    if crowds:
        source.notes.append(f"void: {plural(crowds, 'crowd')} (iscrowd)")
    return source


def _read(_, image, objects, categories):
    """Return the size and the shapes of a photo, in the order in which they are drawn."""
    ranked = []
    for one in objects:
        outline = one.get("segmentation")
        if not outline:
            raise ValueError("it has a box without an outline")
        if isinstance(outline, dict):
            counts = outline["counts"]
            counts = decode(counts) if isinstance(counts, str) else counts
            if outline["size"] != [int(image["height"]), int(image["width"])]:
                raise ValueError(f"run lengths of size {outline['size']}, which is not the photo's")
            shapes = [{"shape_type": "mask", "points": [(0, 0)],
                       "bits": partial(runs_to_bits, counts, outline["size"], "F")}]
        else:
            shapes = [{"points": np.array(part, float).reshape(-1, 2)} for part in outline]
        name = "__ignore__" if one["iscrowd"] else categories[one["category_id"]]
        ranked.append((not one["iscrowd"], -area(shapes), len(ranked),
                       [shape | {"label": name} for shape in shapes]))
    return (image["width"], image["height"]), sum((rank[3] for rank in sorted(ranked)), [])


def decode(text):
    """Return the run lengths in COCO's compressed string, as pycocotools' rleFrString does.

    A character holds 5 bits and whether more follow; the fourth and later numbers are differences.
    """
    counts, value, shift = [], 0, 0
    for byte in text.encode():
        bits = byte - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its run lengths are damaged")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
