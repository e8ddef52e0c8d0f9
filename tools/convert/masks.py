"""What mask files hold, ids or colours, and what becomes of it."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from tools.convert.base import faulty, some
from utils.images import THREADS, decode, has_colors, to_ids, to_rgb
from utils.labels import VOID, VOID_COLOR, voc_colormap


class Scan(NamedTuple):
    """What a mask file holds: ids, None for colours; (r, g, b) -> pixels; id -> palette's colour.

    Pictures that are grey all over count as ids. colors: of the 256 most frequent ones.
    """

    ids: list | None
    colors: dict
    palette: dict


def scan_all(paths, options):
    """Return the `Scan`s of all masks that can be read."""
    with ThreadPoolExecutor(THREADS) as pool:
        return [found for found in pool.map(lambda path: _scan(path, options), paths) if found]


def _scan(path, options):
    try:
        picture = _open(path, options)
        raw, rgb = _raw_ids(picture, path, options), to_rgb(picture, path)
    except (OSError, ValueError):
        return None
    counted = sorted(Image.fromarray(rgb).getcolors(rgb.size), reverse=True)[:256]
    ids = None if raw is None else np.unique(raw).tolist()
    palette = {value: tuple(rgb[raw == value][0].tolist())
               for value in (ids if picture.mode == "P" else ())}
    return Scan(ids, {color: count for count, color in counted}, palette)


def _open(path, options):
    """Return a mask as a Pillow image; `ImageError` if it cannot be read or JPEG blended it."""
    picture, stored = decode(path)
    if stored.format in ("JPEG", "MPO") and not options.binary:
        raise faulty(path, "is a JPEG inside, which blends ids and colours.", "Export masks as "
                     "PNG; JPEGs that show one thing in white on black can be used with --binary.")
    return picture


def _raw_ids(picture, path, options):
    """Return what a mask holds, uint8 (H, W): ids, or greys where all is grey; None for colours."""
    if not options.binary and not has_colors(picture):
        return to_ids(picture, path)
    rgb = to_rgb(picture, path)
    if options.binary or (rgb == rgb[..., :1]).all():
        return rgb.max(axis=2)
    return None


def read_ids(path, table, options):
    """Return the class ids, uint8 (H, W), of a mask of ids. table: see `id_table`."""
    raw = _raw_ids(_open(path, options), path, options)
    ids = table[raw]
    unknown = np.unique(raw[ids < 0])
    if unknown.size:
        raise faulty(path, f"{(ids < 0).sum()} pixels have the ids {unknown[:8].tolist()}; the "
                     f"classes have the ids {some(np.flatnonzero(table >= 0))}.",
                     "Say --map ID=CLASS or --void ID, or add them to the classes.")
    return ids.astype(np.uint8)


def read_colors(path, entries, table, options):
    """Return the class ids, uint8 (H, W), of a mask in the colours of `entries`."""
    entries = [entry for entry in entries if entry.color]
    class_of = np.full(VOID + 1, VOID, np.uint8)
    class_of[:len(entries)] = table[[entry.file_id for entry in entries]]
    picture = Image.fromarray(to_rgb(_open(path, options), path))
    return class_of[to_ids(picture, path, np.uint8([entry.color for entry in entries]))]


def id_table(class_of, options):
    """Return int16 (256,): id in a file -> class id, 255 for void, -1 for unknown."""
    table = np.arange(VOID + 1, dtype=np.int16)
    if class_of:
        table[:VOID] = -1
        table[list(class_of)] = list(class_of.values())
    if options.binary:
        table[:] = np.arange(VOID + 1) >= 128
    table[list(options.id_map)] = list(options.id_map.values())
    table[[int(word) for word in options.void if word.isdecimal()]] = VOID
    return table


def goes_by_color(entries, scans):
    """Return whether masks mean the entries' colours, and their ids do not mean the same."""
    color_of = {entry.file_id: entry.color for entry in entries if entry.color}
    same = all(scan.palette and all(value == VOID or color_of.get(value) == color
                                    for value, color in scan.palette.items()) for scan in scans)
    if not color_of or same:
        return False
    known = {*color_of.values(), VOID_COLOR}
    return any(scan.ids is None for scan in scans) or all(scan.colors.keys() <= known
                                                          for scan in scans)


def id_map_of_white(entries, scans, options):
    """Return {255: 1} if all masks are black and white and nothing says what 255 is, else {}."""
    values = {value for scan in scans for value in scan.ids or ()}
    if (values != {0, VOID} or options.binary or VOID in options.id_map
            or str(VOID) in options.void):
        return {}
    white = all(scan.palette.get(VOID, (255,) * 3) == (255,) * 3 for scan in scans)
    if white and (not entries or sorted(entry.file_id for entry in entries) == [0, 1]):
        return {VOID: 1}
    raise ValueError("The masks hold no ids but 0 and 255, and 255 means void here: not labelled. "
                     "If it is the thing to find, say --map 255=1; if it is void, --void 255.")


def name_classes(source, scans, table, options):
    """Give a source without a list of classes as many as its masks have ids."""
    used = sorted({value for scan in scans for value in scan.ids or () if table[value] != VOID})
    count = len(np.unique(table[used]))
    if max((table[value] for value in used), default=-1) >= count:
        new = ",".join(f"{value}={i}" for i, value in enumerate(used[:12]) if value != i)
        raise ValueError(f"The masks hold the ids {some(used, 12)}, and classes count from 0 "
                         f"without gaps. Say --map {new}, or list all with --classes FILE ('ID "
                         "NAME' a line). Ids of no class: see --void; of smoothing: --binary. "
                         f"{VOID} is void, unless you say --map {VOID}=CLASS.")
    source.class_names = tuple(f"class_{i}" for i in range(count))
    source.colors = voc_colormap(len(source.class_names))


def palette_colors(scans, table, default, named):
    """Return uint8 (C, 3): the palettes' colours if they tell classes apart, else `default`."""
    colors = default.copy()
    pairs = [pair for scan in scans for pair in scan.palette.items()]
    for value, color in dict(pairs).items():
        if 0 <= table[value] < len(colors):
            colors[table[value]] = color
    if not named and len(set(pairs)) > len(dict(pairs)):
        raise ValueError("the palettes of the masks give one id several colours. List the classes "
                         "with --classes FILE: with colours if those are right ('NAME RED GREEN "
                         "BLUE' a line), else names alone.")
    grey = (colors == colors[:, :1]).all()
    return default if grey or len(np.unique(colors, axis=0)) < len(colors) else colors


def check_colors(scans):
    """Raise ValueError, with a draft of the list, if masks are in colour and no list has any."""
    counts = sum((Counter(scan.colors) for scan in scans if scan.ids is None), Counter())
    if counts:
        listed = [f"  NAME {r} {g} {b}    # {count / counts.total():.2%} of the pixels"
                  for (r, g, b), count in counts.most_common(12)]
        raise ValueError(f"The masks are colour pictures of {len(counts)} or more colours, and "
                         "nothing says which is which class. Put these lines into a file, with the "
                         "names of your classes for NAME, and give it with --classes FILE. (More "
                         "colours than classes come from smoothing: export the masks without.)\n"
                         + "\n".join(listed))
