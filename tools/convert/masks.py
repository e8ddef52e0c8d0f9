"""What mask files hold, ids or colours, and what becomes of it."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.convert.base import faulty, some
from utils.images import decode, has_colors, to_ids, to_rgb
from utils.labels import VOID, VOID_COLOR, colors_to_ids, voc_colormap


class Scan(NamedTuple):
    """What a mask file holds: pixel counts by id and by colour (r, g, b), and the colours of its palette's used ids.

    in_color: whether it is a colour picture; the ids of one that has nothing but greys are the greys, else None.
    """

    file: Path
    in_color: bool
    ids: dict | None
    colors: dict
    palette: dict


def scan(path, options):
    """Return the `Scan` of a mask, or None where reading it will fail."""
    try:
        picture = _open(path, options)
        rgb, in_color = to_rgb(picture, path), has_colors(picture)
        if in_color and not options.binary and not _is_grey(rgb):
            return Scan(path, True, None, _common_colors(rgb), {})
        raw = _raw_ids(picture, path, options)
    except (OSError, ValueError):
        return None
    counts = np.bincount(raw.ravel(), minlength=VOID + 1)
    ids = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    shown = {value: tuple(rgb.reshape(-1, 3)[(raw == value).argmax()].tolist()) for value in ids}
    colors = {shown[value]: count for value, count in ids.items()}
    return Scan(path, in_color, ids, colors, shown if picture.mode == "P" else {})


def _common_colors(rgb):
    """Return the pixel counts of the 256 most frequent colours: a smoothed picture has thousands."""
    packed, counts = np.unique(rgb.astype(np.int64) @ (65536, 256, 1), return_counts=True)
    common = np.argsort(-counts)[:256]
    return {(key >> 16, key >> 8 & 255, key & 255): count
            for key, count in zip(packed[common].tolist(), counts[common].tolist())}


def _open(path, options):
    """Return a mask as a Pillow image; `ImageError` for one that cannot be read or was blended by JPEG."""
    picture, stored = decode(path)
    if stored.format in ("JPEG", "MPO") and not options.binary:
        raise faulty(path, "is a JPEG inside, which blends ids and colours.", "Export masks as PNG; JPEGs that show "
                     "one thing in white on black can be used with --binary.")
    return picture


def _is_grey(rgb):
    return bool((rgb == rgb[..., :1]).all())


def _raw_ids(picture, path, options):
    """Return what a mask holds before any table, uint8 (H, W): ids, or the greys of a picture of nothing but greys."""
    if not options.binary and not has_colors(picture):
        return to_ids(picture, path)
    rgb = to_rgb(picture, path)
    if options.binary or _is_grey(rgb):
        return rgb.max(axis=2)
    raise faulty(path, "is a colour picture, and the other masks hold ids.", "Export it as they are.")


def reader(path, ids, entries, by_color, options, undecided=False):
    """Return a function from the photo's (height, width) to the mask, uint8 (H, W) class ids; no path: of zeros.

    ids: int16 (256,), see `lookup`. by_color: whether pixels go by the entries' colours; None: those of colour
    pictures and palettes do, and those of grey files do not. undecided: nobody knows yet, read for the size alone.
    """
    colored = [entry for entry in entries or () if entry.color]
    class_of = np.full(VOID + 1, VOID, np.uint8)
    class_of[:len(colored)] = [ids[entry.file_id] for entry in colored]

    def read(shape):
        picture = _open(path, options)
        if undecided:
            return np.zeros((picture.height, picture.width), np.uint8)
        if not (by_color or (by_color is None and (has_colors(picture) or picture.mode == "P"))):
            return look_up(_raw_ids(picture, path, options), ids, path)
        rgb = to_rgb(picture, path)
        try:
            return class_of[colors_to_ids(rgb, np.uint8([entry.color for entry in colored]))]
        except ValueError as error:
            raise faulty(path, str(error), "") from None

    return read if path else lambda shape: np.zeros(shape, np.uint8)


def lookup(class_of, options):
    """Return int16 (256,): file id -> class id, 255 for void, -1 for unknown. class_of: None where nobody named any."""
    table = np.arange(VOID + 1, dtype=np.int16)
    if class_of is not None:
        table[:VOID] = -1
        for file_id, class_id in class_of.items():
            table[file_id] = class_id
    if options.binary:
        table[:] = np.arange(VOID + 1) >= 128
    for file_id, class_id in options.id_map.items():
        table[file_id] = class_id
    for word in options.void:
        if word.isdecimal():
            table[int(word)] = VOID
    return table


def look_up(raw, table, path):
    """Return uint8 (H, W) class ids for what a file holds; `ImageError` for ids that the table does not know."""
    ids = table[raw]
    unknown, counts = np.unique(raw[ids < 0], return_counts=True)
    if unknown.size:
        known = some(np.flatnonzero(table >= 0))
        raise faulty(path, f"{counts.sum()} pixels have the ids {unknown[:8].tolist()}; the classes have the ids "
                     f"{known}.", "Say --map ID=CLASS or --void ID, or add them to the classes.")
    return ids.astype(np.uint8)


# What is to be decided before reading ---------------------------------------------------------------------


def goes_by_color(entries, scans):
    """Return whether masks mean the entries' colours: those are all they have, or most are colour pictures.

    Where ids and colours say the same, the ids are taken.
    """
    color_of = {entry.file_id: entry.color for entry in entries or () if entry.color}
    agree = all(scan.palette and all(value == VOID or color_of.get(value) == color
                                     for value, color in scan.palette.items()) for scan in scans)
    known = {*color_of.values(), VOID_COLOR}
    colorful = any(scan.ids is None for scan in scans) and 2 * sum(scan.in_color for scan in scans) > len(scans)
    return bool(color_of and scans and not agree) and (colorful or all(scan.colors.keys() <= known for scan in scans))


def is_black_and_white(scans, entries, options):
    """Return whether all masks hold 0 and 255 alone, and nothing says what 255 is.

    Options, a class of that id, or a palette with another colour than white would say it.
    """
    decided = options.binary or VOID in options.id_map or str(VOID) in options.void
    two_classes = entries is None or sorted(entry.file_id for entry in entries) == [0, 1]
    values = {value for scan in scans for value in scan.ids or (-1,)}
    white = all(scan.palette.get(VOID, (255, 255, 255)) == (255, 255, 255) for scan in scans)
    return values == {0, VOID} and white and two_classes and not decided


def unnamed(scans, ids, options):
    """Return names and colours for classes that nobody named: as many as there are ids, colours from the palettes."""
    used = {int(ids[value]) for scan in scans for value in scan.ids or ()} - {VOID}
    count = max(used, default=-1) + 1
    names = ("background", "foreground") if options.binary else tuple(f"class_{i}" for i in range(count))
    return names, palette_colors(scans, ids, voc_colormap(len(names)))


def palette_colors(scans, ids, default):
    """Return uint8 (C, 3): the palettes' colours where they tell the classes apart, else `default`, of that shape."""
    colors, count = default.copy(), len(default)
    for scan in scans:
        for value, color in scan.palette.items():
            if 0 <= ids[value] < count:
                colors[ids[value]] = color
    seen = {tuple(color) for color in colors.tolist()}
    return colors if len(seen) == count and not _is_grey(colors) else default


def questions(scans, ids, entries, options):
    """Return what only the user can say about the masks' ids and colours, in sentences; nothing where all is clear."""
    colors, files, palette = Counter(), {}, {}
    for scan in scans:
        for value in scan.ids or ():
            files.setdefault(value, scan.file.name)
        for value, color in scan.palette.items():
            palette.setdefault(value, {}).setdefault(color, scan.file.name)
        colors.update(scan.colors if scan.ids is None else {})
    if colors and not any(entry.color for entry in entries or ()):
        return [_ask_for_colors(colors)]
    differing = [(value, *list(found.items())[:2]) for value, found in palette.items() if len(found) > 1]
    if differing and not entries:
        value, (one, file), (other, file2) = differing[0]
        return [f"The palettes of the masks differ: id {value} is {one} in {file} and {other} in {file2}. If the "
                "colours are right, list them with --classes FILE ('NAME RED GREEN BLUE' a line); if the ids are, give "
                "names alone (--classes NAME,NAME)."]
    return _ask_for_ids(files, ids, entries, options) if files else []


def _ask_for_ids(files, ids, entries, options):
    """Ask about 255 for foreground, about masks of one class, and about gaps. files: id in the masks -> a file."""
    found = sorted({int(ids[value]) for value in files if ids[value] >= 0} - {VOID})
    clear = VOID in options.id_map or str(VOID) in options.void or VOID in {entry.file_id for entry in entries or ()}
    if VOID in files and found in ([], [0]) and not clear and not options.binary:
        return ["The masks hold no ids but 0 and 255, and 255 means void here: not labelled. If it is the thing to "
                "find, say --map 255=1; if it is void, say --void 255."]
    if entries:
        return []
    if len(found) < 2:
        hint = " No pixel is 128 or brighter: leave --binary away." if options.binary else ""
        return [f"All masks together hold one class alone (ids: {_first(files)}): there is nothing to learn.{hint}"]
    if found == list(range(len(found))):
        return []
    if len(found) > 32:
        return [f"The masks hold the ids {_first(files)}, which leave gaps: they look smoothed or compressed. If they "
                "show one thing in white on black, say --binary; else export them again without smoothing."]
    if options.id_map:
        return [f"With --map the masks hold the classes {_first(found)}, and classes count from 0 without gaps."]
    kept = [value for value in sorted(files) if ids[value] != VOID]
    new = ",".join(f"{value}={i}" for i, value in enumerate(kept) if value != i)
    return [f"The masks hold the ids {_first(files)} ({kept[-1]} for example in {files[kept[-1]]}), and classes count "
            f"from 0 without gaps. Say --map {new}, or --void with those that are none, or list all with --classes "
            "FILE ('ID NAME' a line)."]


def _ask_for_colors(colors):
    total = sum(colors.values())
    listed = "\n".join(f"  NAME {r} {g} {b}    # {count / total:.2%} of the pixels"
                       for (r, g, b), count in colors.most_common(12))
    more = f"\n  and {len(colors) - 12} more" if len(colors) > 12 else ""
    smoothed = " So many look smoothed or JPEG-compressed: export them again without." if len(colors) > 64 else ""
    return ("The masks are colour pictures, and nothing says which colour is which class. Put these lines into a file, "
            f"with the names of your classes for NAME, and give it with --classes FILE.{smoothed}\n{listed}{more}")


def _first(values):
    return some(sorted(values), 12)
