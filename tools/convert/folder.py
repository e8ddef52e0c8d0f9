"""Photos and masks that are paired by their names, CVAT's "Segmentation mask 1.1" among them."""

import re
from dataclasses import replace
from functools import partial

from tools.convert.base import (IMAGE_FOLDERS, MASK_FOLDERS, SPLITS, VOID_NAMES, Sample, Source,
                                UsageError, apply_lists, files_below, finder, folder_named,
                                key_of, some, split_of)
from tools.convert.classes import Entry, find_entries, number_classes
from tools.convert.masks import (check_colors, goes_by_color, id_map_of_white, id_table,
                                 name_classes, palette_colors, read_colors, read_ids, scan_all)
from utils.images import PHOTO_SUFFIXES, Problem
from utils.labels import VOID

MASK_SUFFIXES = PHOTO_SUFFIXES + (".gif",)
# What may stand before or after the common name of a pair.
IMAGE_MARK = re.compile(r"(?i)(?<=.)_(leftimg8bit|image|img|rgb|sat)$|"
                        r"(?<![^/])(image|img|photo|rgb)[-_](?=.)")
MASK_MARK = re.compile(r"(?i)(?<=.)(_(gt(fine|coarse)_)?label(train)?ids|[-_.]mask|_masks|_?annot|"
                       r"_(segmentation|annotation|seg)|_labels?|_gt(fine|coarse)?|_l)$|"
                       r"(?<![^/])(masks?|gt|labels?|annotation|annot|seg)[-_](?=.)")
NAMES = "see --mask-suffix and --mask-prefix"
CITYSCAPES = dict(zip((*range(7, 9), *range(11, 14), 17, *range(19, 29), *range(31, 34)), (
    "road sidewalk building wall fence pole traffic_light traffic_sign vegetation terrain sky "
    "person rider car truck bus train motorcycle bicycle").split()))


def read_folder(root, options):
    """Read photos and masks that are paired by their names into a `Source`."""
    entries, origin = find_entries(root, options.classes)
    if origin == "labelmap.txt":  # CVAT's, whose background is black, or else called so
        entries.sort(key=lambda entry: (entry.color != (0, 0, 0), entry.name != "background"))
    listed = sorted(entries)
    if ([entry.file_id for entry in listed] in ([0], [1], [0, VOID]) and not listed[-1].color
            and listed[-1].name.lower() not in VOID_NAMES):
        # The thing alone, or called by its white: what is not it is background.
        entries = [*(listed[:-1] or [Entry(0, "background", None)]), listed[-1]._replace(file_id=1)]
    source = _collect(root, options)
    labels = [sample.label for sample in source.samples if sample.label]
    if not entries and any(label.stem.endswith("_gtFine_labelIds") for label in labels):
        entries = [Entry(i, CITYSCAPES.get(i, "void"), None) for i in range(34)]
        origin = "Cityscapes, the 19 of its benchmark"
    scans = scan_all(labels, options)
    by_color = not options.binary and goes_by_color(entries, scans)
    colored = any(entry.color for entry in entries)
    if not colored:
        check_colors(scans)
    white = {} if by_color else id_map_of_white(entries, scans, options)
    if not entries and (white or options.binary):
        entries = [Entry(0, "background", None), Entry(1, "foreground", None)]
    if white:
        options = replace(options, id_map=options.id_map | white)
        source.notes.append(f"the masks hold 0 and {VOID} and nothing else, so {VOID} becomes "
                            f"class 1; if it means void (not labelled), say --void {VOID}")
    table = id_table(number_classes(source, entries, options), options)
    source.background = next((table[entry.file_id] for entry in entries
                              if entry.name.lower() == "background"), VOID if entries else table[0])
    if not entries:
        name_classes(source, scans, table, options)
    if not colored:
        source.colors = palette_colors(scans, table, source.colors, bool(options.classes))
    kind = "colours" if by_color else "ids"
    source.notes.append(f"classes from {origin}; masks go by their {kind}" if origin else
                        "the classes have no names: see --classes")
    read = partial(read_colors, entries=entries) if by_color else read_ids
    for sample in source.samples:
        sample.read_mask = partial(read, sample.label, table=table, options=options)
    return source


def _collect(root, options):
    """Return a `Source` with a sample for every photo; without a mask it has a fault or is left."""
    source = Source()
    for split, *folders in _places(root, options):
        _pair(source, split, *folders, options)
        images, masks = (f"{folder.relative_to(root).as_posix()}/"
                         if folder.is_relative_to(root) else folder for folder in folders)
        source.notes.append(f"photos in {images}, masks in {masks}")
    apply_lists(root, source)
    source.samples = [sample for sample in source.samples
                      if sample.label or sample.fault or options.missing == "background"]
    return source


def _places(root, options):
    """Return [(split or folder or "", folder of photos, folder of masks)]."""
    images = folder_named(root, "--images", options.images) or folder_called(root, IMAGE_FOLDERS)
    masks = folder_named(root, "--masks", options.masks) or folder_called(root, MASK_FOLDERS)
    if images and masks:
        return [("", images, masks)]
    if options.images and files_below(root, MASK_SUFFIXES):
        return [("", images, root)]
    folders, places = sorted(path for path in root.iterdir() if path.is_dir()), []
    for folder in folders:
        split = SPLITS.get(folder.name.lower(), "")
        pair = [folder_called(folder, names) for names in (IMAGE_FOLDERS, MASK_FOLDERS)]
        if (split or pair[0]) and not all(pair):
            # Masks are in a folder beside it (train_labels), or among its photos.
            beside = [path for path in folders if path != folder
                      and MASK_MARK.sub("", path.name).lower() == folder.name.lower()]
            pair = [folder, *beside, folder][:2]
        if all(pair):
            places.append((split or folder.name, *pair))
    if places:
        return places
    flat = any(path.suffix.lower() in MASK_SUFFIXES for path in root.iterdir())
    if flat and not images and not masks:
        return [("", root, root)]
    there = some(f"{path.name}/" for path in folders) or "no folders"
    raise UsageError(f"{root}: found no folder of photos (such as images) beside one of masks "
                     f"(such as masks); there are: {there}. Name them with --images and --masks.")


def folder_called(root, names):
    """Return the folder in `root` with the first of the names that holds pictures, or None."""
    found = [path for path in root.iterdir()
             if path.is_dir() and path.name.lower() in names and files_below(path, MASK_SUFFIXES)]
    return min(found, key=lambda path: names.index(path.name.lower()), default=None)


def _pair(source, split, images, masks, options):
    """Add a sample for every photo, with its mask or a fault; and faults for masks without one."""
    photos = {path: key_of(path, images) for path in files_below(images, PHOTO_SUFFIXES)}
    start, end = options.mask_prefix, options.mask_suffix
    labels = {path: key_of(path, masks) for path in files_below(masks, MASK_SUFFIXES)
              if path.stem.startswith(start) and path.stem.endswith(end)}
    if not start and not end:
        # Cityscapes has pictures of instances and colours beside them.
        labels = {path: key for path, key in labels.items() if key.endswith("_labelIds")} or labels
    if images == masks:
        labels = labels if start or end else _masks_among(labels)
        photos = {path: key for path, key in photos.items() if path not in labels}
    if split and photos and not labels:
        source.notes.append(f"left out: {images.name}, which has photos and no masks")
        return
    found = _masks_of(photos, labels, options)
    for photo, key in photos.items():
        key, mine, fault = f"{split}/{key}" if split else key, found[photo], None
        if len(mine) > 1:
            fault = Problem(str(photo), f"has {len(mine)} masks: {some(one.name for one in mine)}.",
                            f"To take one kind, {NAMES}.")
        elif not mine and not options.missing:
            fault = Problem(str(photo), f"has no mask in {masks}.", "Add it, or see --missing skip "
                            f"and background; if it is called otherwise, {NAMES}.")
        source.samples.append(Sample(key, split_of(key), photo, next(iter(mine), None),
                                     as_stored=options.ignore_exif, fault=fault))
    used = {path for paths in found.values() for path in paths}
    source.faults += [Problem(str(path), f"is a mask, and its photo is not in {images}.", "Add it, "
                              f"or remove the mask; if only some files are masks, {NAMES}."
                              ) for path in labels if path not in used]


def _masks_among(files):
    """Return which files of one folder are masks: by their ending, or PNGs beside equal JPEGs."""
    masks = {path: key for path, key in files.items() if MASK_MARK.search(key)}
    jpegs = {key for path, key in files.items() if path.suffix.lower() in (".jpg", ".jpeg")}
    return masks or {path: key for path, key in files.items()
                     if path.suffix.lower() == ".png" and key in jpegs}


def _masks_of(photos, labels, options):
    """Return photo -> its masks: same name, else the same before an ending, else another folder."""
    exact, stripped = {key: path for path, key in labels.items()}, {}
    for path, key in labels.items():
        folder, _, name = key.rpartition("/")
        name = name.removeprefix(options.mask_prefix).removesuffix(options.mask_suffix)
        for one in {name, MASK_MARK.sub("", name)}:
            stripped.setdefault(f"{folder}/{one}" if folder else one, []).append(path)
    find, back = finder(exact), finder(photos.values())
    found = {photo: [exact[name] for name in (key, key + photo.suffix) if name in exact][:1]
             for photo, key in photos.items()}
    taken = {path: photos[photo] for photo, paths in found.items() for path in paths}
    for photo, key in sorted(photos.items(), key=lambda pair: pair[1] not in stripped):
        if not found[photo]:
            alike = stripped.get(key) or stripped.get(IMAGE_MARK.sub("", key)) or []
            found[photo] = [path for path in alike if taken.setdefault(path, key) == key]
    for photo, key in photos.items():
        other = exact.get(find(key))
        if other and not found[photo] and other not in taken and back(labels[other]) == key:
            found[photo] = [other]
    return found
