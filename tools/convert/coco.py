"""COCO's instances: outlines and run lengths in JSON files, mostly one for each split."""

import json
from collections import defaultdict
from functools import partial

import numpy as np

from tools.convert.base import files_below, plural
from tools.convert.classes import clean_name
from tools.convert.outlines import (area, labels_of, listed_entries, runs_to_bits, sample_finder,
                                    source_of, split_named)

CROWD = "__ignore__"


def read_coco(root, options):
    """Read COCO's instances into a `Source`.

    Categories count in the order of their ids, after the background. COCO has no order of depth:
    smaller objects lie over larger ones, later over earlier ones of one area. Crowds (`iscrowd`)
    are void and lie below all; but datumaro and CVAT mark every mask so, and there it is an object.
    """
    find, labelled, names, crowds = sample_finder(root, options), [], {}, 0
    files = {file: data for file in files_below(root, (".json",)) if (data := _instances(file))}
    chosen = {file: data for file, data in files.items() if "instances" in file.stem} or files
    for file, data in chosen.items():
        try:
            names |= dict.fromkeys(_names(data).values())
            labelled += _labelled(file, data, find)
            crowds += not _by_datumaro(data) and sum(
                bool(one.get("iscrowd")) for one in data["annotations"])
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: is no whole COCO file ({error!r}). Export it again.") from None
    origin = ", ".join(file.name for file in chosen)
    source = source_of(labelled, root, options, listed_entries(names), origin)
    source.notes.append("smaller objects lie over larger ones, since COCO has no order of depth")
    if crowds:
        source.notes.append(f"void: {plural(crowds, 'crowd')} (iscrowd)")
    return source


def _instances(file):
    """Return what a JSON file says if it has COCO's lists and outlines, else None."""
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: is no whole JSON file ({error}). Export it again.") from None
    lists = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in lists):
        return None
    return data if '"segmentation"' in json.dumps(data["annotations"]) else None


def _by_datumaro(data):
    info = data.get("info")
    return bool(info) and not any(info.values())


def _names(data):
    """Return category id -> name, without Roboflow's first one, which only groups the others."""
    used = {one["category_id"] for one in data["annotations"]}
    groups = {one.get("supercategory") for one in data["categories"]}
    found = sorted(data["categories"], key=lambda one: one["id"])
    return {one["id"]: clean_name(str(one["name"])) for one in found
            if one["id"] in used or one["name"] not in groups or len(groups) == len(found)}


def _labelled(file, data, find):
    """Return (sample, size, shapes) of all photos that a file lists."""
    names, objects, split = _names(data), defaultdict(list), split_named(file.stem)
    for one in data["annotations"]:
        objects[one["image_id"]].append(one)
    plain = _by_datumaro(data)
    return [labels_of(find(image["file_name"], file, split), _read, image, objects[image["id"]],
                      names, plain) for image in data["images"]]


def _read(image, objects, names, by_datumaro):
    """Return the size and the shapes of a photo, in the order in which they are drawn."""
    ranked = []
    for one in objects:
        crowd = bool(one.get("iscrowd")) and not by_datumaro
        label, outline = CROWD if crowd else names[one["category_id"]], one.get("segmentation")
        if not outline:
            raise ValueError(f"annotation {one.get('id')} is a box without an outline")
        if isinstance(outline, dict):
            counts = outline["counts"]
            counts = decode(counts) if isinstance(counts, str) else counts
            shapes = [{"label": label, "shape_type": "mask", "points": [(0, 0)],
                       "bits": partial(runs_to_bits, counts, outline["size"], "F")}]
        else:
            shapes = [{"label": label, "points": np.array(numbers, float).reshape(-1, 2)}
                      for numbers in outline]
        ranked.append((not crowd, -area(shapes), shapes))
    ranked.sort(key=lambda rank: rank[:2])
    return (image["width"], image["height"]), [shape for *_, shapes in ranked for shape in shapes]


def decode(text):
    """Return the run lengths in COCO's compressed string, as pycocotools' rleFrString does.

    A character holds 5 bits, the lower ones first, and whether more follow; from the fourth number
    on, each is the difference to the last but one.
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
