"""Two sources of `tools.convert`: folders of photos and masks, and CVAT's "Segmentation mask 1.1" exports."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tools.convert.base import (ROBOFLOW_CLASSES, SPLITS, Entry, Sample, Source, UsageError,
                                apply_lists, by_last_part, files_below, find_entries, find_key,
                                key_of, make_table, read_entries, some, split_of, words_for)
from tools.convert.masks import (goes_by_color, is_black_and_white, lookup, palette_colors,
                                 questions, reader, scan, unnamed)
from utils.datasets import VOC_CLASSES
from utils.images import PHOTO_SUFFIXES, THREADS, Problem
from utils.labels import VOID, voc_colormap

IMAGE_FOLDERS = ("images", "jpegimages", "imgs", "img", "image", "photos")
MASK_FOLDERS = ("masks", "segmentationclass", "mask", "labels", "annotations", "annotation", "labelids", "gt")
MASK_SUFFIXES = PHOTO_SUFFIXES + (".gif",)
# What may follow the common name of a pair; the longer first where one ends another.
IMAGE_ENDINGS = ("_leftimg8bit", "_image", "_img", "_rgb", "_sat")
MASK_ENDINGS = ("_gtfine_labelids", "_labelids", "_segmentation", "_annotation", "_masks", "_mask",
                "-mask", ".mask", "_labels", "_label", "_annot", "annot", "_gt", "_seg", "_l")


def read_folder(root, options):
    """Read photos and masks that are paired by their names into a `Source`."""
    source = _collect(root, options)
    entries, origin = find_entries(root, options.classes)
    with ThreadPoolExecutor(THREADS) as pool:
        masks = [sample.label for sample in source.samples if sample.label]
        scans = [found for found in pool.map(lambda mask: scan(mask, options), masks) if found]
    if origin == ROBOFLOW_CLASSES and not options.classes:
        entries = _without_unseen(entries, scans, source.notes)
    if is_black_and_white(scans, entries, options):
        options = replace(options, id_map={**options.id_map, VOID: 1})
        entries = entries or [Entry(0, "background", None), Entry(1, "foreground", None)]
        source.notes.append(f"the masks hold 0 and {VOID} and nothing else, so {VOID} becomes "
                            f"class 1; if it means void (not labelled), say --void {VOID}")
    void = words_for(entries, options.void)
    table = make_table(entries, void) if entries else None
    ids = lookup(table.class_of if table else None, options)
    by_color = not options.binary and goes_by_color(entries, scans)
    source.class_names, source.colors = table[:2] if table else unnamed(scans, ids, options)
    source.notes += table.notes if table else []
    if entries and not any(entry.color for entry in entries):
        source.colors = palette_colors(scans, ids, source.colors)
    source.questions += [] if by_color else questions(scans, ids, entries, options)
    kind = "colours" if by_color else "ids"
    source.notes.append(f"classes from {origin}; masks go by their {kind}" if origin else
                        "the classes have no names: see --classes")
    for sample in source.samples:
        sample.read_mask = reader(sample.label, ids, entries, by_color, options, undecided=bool(source.questions))
    return source


def _without_unseen(entries, scans, notes):
    """Return Roboflow's classes without the last ones that no mask shows; the ids stay."""
    last = max((value for scan in scans for value in scan.ids or ()), default=VOID)
    if unseen := [entry.name for entry in entries if entry.file_id > last]:
        notes.append(f"classes that no mask shows: {some(unseen)}; left out (to keep them: "
                     "--classes FILE)")
    return [entry for entry in entries if entry.file_id <= last]


def read_cvat(root, options):
    """Read CVAT's "Segmentation mask 1.1": labelmap.txt, ImageSets, SegmentationClass and, if exported, JPEGImages.

    Colour masks go by the colours of labelmap.txt, grey ones by the number of its line, as CVAT's documentation has
    it. The background (black, or else called so) becomes class 0, the others follow in the order of the file.
    Without a labelmap.txt the classes are VOC's.
    """
    if not (root / "SegmentationClass").is_dir():
        raise ValueError(f"{root}: holds no SegmentationClass, so it is no CVAT export of masks. In CVAT choose the "
                         "format 'Segmentation mask 1.1'.")
    options = replace(options, masks=options.masks or "SegmentationClass")
    if not options.images and not folders_called(root, IMAGE_FOLDERS):
        raise ValueError(f"{root}: the export holds no photos. Export again with 'Save images', or give the folder "
                         "that you uploaded with --images FOLDER.")
    source = _collect(root, options)
    entries = _cvat_entries(root, options.classes)
    table = make_table(entries, words_for(entries, options.void))
    source.class_names, source.colors, source.notes = *table[:2], source.notes + table.notes
    ids = lookup(table.class_of, options)
    for sample in source.samples:
        sample.read_mask = reader(sample.label, ids, entries, None, options)
        if sample.fault and not sample.label:
            sample.fault = sample.fault._replace(found="nothing was drawn on it in CVAT, so it has no mask.")
    return source


def _cvat_entries(root, given):
    """Return the entries of labelmap.txt, background first; their ids are the numbers of their lines."""
    if not given and not (root / "labelmap.txt").is_file():
        return [Entry(i, name, tuple(color)) for i, (name, color) in
                enumerate(zip(VOC_CLASSES, voc_colormap(len(VOC_CLASSES)).tolist()))]
    entries = find_entries(root, given)[0] if given else read_entries(root / "labelmap.txt")
    if not any(entry.color for entry in entries):
        entries = [entry._replace(color=tuple(color))
                   for entry, color in zip(entries, voc_colormap(len(entries)).tolist())]
    background = ([entry for entry in entries if entry.color == (0, 0, 0)]
                  or [entry for entry in entries if entry.name == "background"]
                  or [Entry(len(entries), "background", (0, 0, 0))])
    return background + [entry for entry in entries if entry not in background]


# Photos and their masks -----------------------------------------------------------------------------------


def _collect(root, options):
    """Return a `Source` with a sample for every photo; those without a mask carry a fault or are left out."""
    source = Source()
    for split, images, masks in _places(root, options):
        _pair(source, split, images, masks, options)
        source.notes.append(f"photos in {_short(images, root)}, masks in {_short(masks, root)}")
    apply_lists(root, source)
    source.samples = [sample for sample in source.samples
                      if sample.label or sample.fault or options.missing == "background"]
    return source


def _short(folder, root):
    return f"{folder.relative_to(root).as_posix()}/" if folder.is_relative_to(root) else str(folder)


def _places(root, options):
    """Return [(split or "", folder of photos, folder of masks)]."""
    images, masks = folders_called(root, IMAGE_FOLDERS), folders_called(root, MASK_FOLDERS)
    images = [_given(root, options.images, "--images")] if options.images else images
    masks = [_given(root, options.masks, "--masks")] if options.masks else masks
    for option, found in (("--images", images), ("--masks", masks)):
        if len(found) > 1:
            raise UsageError(f"{root}: holds {', '.join(path.name for path in found)}; say which one with {option}.")
    if images and masks:
        return [("", images[0], masks[0])]
    if options.images and _holds_pictures(root):
        return [("", images[0], root)]
    places = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name.lower() in SPLITS):
        inside = folders_called(folder, IMAGE_FOLDERS) + folders_called(folder, MASK_FOLDERS)
        beside = [path for path in root.iterdir() if path.name.lower().startswith(folder.name.lower())
                  and path.name.lower().removeprefix(folder.name.lower()) in MASK_ENDINGS]
        pair = inside if len(inside) == 2 else [folder, *beside] if len(beside) == 1 else [folder, folder]
        places.append((SPLITS[folder.name.lower()], *pair))
    if not places and not images and not masks and any(path.suffix.lower() in MASK_SUFFIXES for path in root.iterdir()):
        places = [("", root, root)]
    if not places:
        there = sorted(f"{path.name}/" for path in root.iterdir() if path.is_dir())
        there = some(there) or "no folders"
        raise UsageError(f"{root}: found no folder of photos (such as images) beside one of masks (such as masks); "
                         f"there are: {there}. Name them with --images FOLDER and --masks FOLDER.")
    return places


def folders_called(root, names):
    """Return the folders in `root` with one of the names that hold pictures, by the names' order."""
    found = [path for path in root.iterdir() if path.is_dir() and path.name.lower() in names and _holds_pictures(path)]
    return sorted(found, key=lambda path: names.index(path.name.lower()))


def _holds_pictures(folder):
    return any(path.suffix.lower() in MASK_SUFFIXES for path in folder.rglob("*"))


def _given(root, folder, option):
    for path in (root / folder, Path(folder).expanduser()):
        if path.is_dir():
            return path
    raise UsageError(f"{option} {folder}: there is no such folder, neither in {root} nor here.")


def _pair(source, split, images, masks, options):
    """Add a sample for every photo, with its mask or a fault, and a fault for every mask without a photo."""
    photos = {path: key_of(path, images) for path in files_below(images, PHOTO_SUFFIXES)}
    labels = {path: key_of(path, masks) for path in files_below(masks, MASK_SUFFIXES)}
    if options.mask_suffix:
        labels = {path: key for path, key in labels.items() if key.endswith(options.mask_suffix)}
    if images == masks:
        labels = _masks_among(labels, options)
        photos = {path: key for path, key in photos.items() if path not in labels}
    found = _masks_of(photos, labels, options)
    if split and photos and not labels:
        source.notes.append(f"left out: {images.name}, which has photos and no masks")
        return
    if photos and not any(found.values()) and not options.missing:
        raise ValueError(f"{masks}: holds no mask that is named like a photo in {images} (as a.png or a_mask.png is "
                         f"like a.jpg). Photos: {_few(photos)}. Masks: {_few(labels)}. If all "
                         "masks end alike, say so with --mask-suffix TEXT; if they are elsewhere, "
                         "with --images and --masks; else name them like their photos.")
    for photo, key in photos.items():
        fault, mine = None, found[photo]
        if len(mine) > 1:
            names = some(path.name for path in mine)
            fault = Problem(str(photo), f"has {len(mine)} masks: {names}.",
                            "Say which kind to take with --mask-suffix.")
        elif not mine and not options.missing:
            fault = Problem(str(photo), f"has no mask in {masks}.", "Add it, or see --missing skip "
                            "and background; if it is called otherwise, see --mask-suffix.")
        key = f"{split}/{key}" if split else key
        source.samples.append(Sample(key, split_of(key), photo, mine[0] if mine else None, None,
                                     as_stored=options.ignore_exif, fault=fault))
    used = {path for paths in found.values() for path in paths}
    source.faults += [Problem(str(path), f"is a mask, and its photo is not in {images}.",
                              "Add the photo, or remove the mask; if only some files are masks, "
                              "see --mask-suffix.")
                      for path in labels if path not in used]


def _few(files):
    return some(sorted(path.name for path in files), 3) or "none"


def _masks_among(files, options):
    """Return which of the files of one folder are masks: by their ending, or PNGs beside a JPEG of the same name."""
    if options.mask_suffix:
        return files
    masks = {path: key for path, key in files.items() if _strip(key, MASK_ENDINGS) != key}
    jpegs = {key for path, key in files.items() if path.suffix.lower() in (".jpg", ".jpeg")}
    return masks or {path: key for path, key in files.items() if path.suffix.lower() == ".png" and key in jpegs}


def _masks_of(photos, labels, options):
    """Return photo -> its masks: of the same name, else of the same name before an ending, else in another folder."""
    exact, stripped = {key: path for path, key in labels.items()}, {}
    for path, key in labels.items():
        name = key.removesuffix(options.mask_suffix) if options.mask_suffix else _strip(key, MASK_ENDINGS)
        stripped.setdefault(name, []).append(path)
    short, found = by_last_part(exact), {}
    for photo, key in photos.items():
        same = exact.get(key) or exact.get(key + photo.suffix)
        found[photo] = [same] if same else stripped.get(key) or stripped.get(_strip(key, IMAGE_ENDINGS)) or []
    taken = {path for paths in found.values() for path in paths}
    for photo, key in photos.items():
        other = None if found[photo] else exact.get(find_key(key, exact, short))
        found[photo] += [other] if other and other not in taken else []
    return found


def _strip(key, endings):
    """Return a key without the first of `endings` (lower case) that it has."""
    for ending in endings:
        if key.lower().endswith(ending) and len(key) > len(ending):
            return key[:-len(ending)]
    return key
