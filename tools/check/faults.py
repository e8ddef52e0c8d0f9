"""What is wrong with one photo and its mask."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools import tiff
from utils.images import (ImageError, Problem, decode, fault_of_pair, has_colors, strange_ids,
                          to_ids, to_rgb)
from utils.labels import VOID, VOID_COLOR

STRIP = 512  # rows that are counted at a time
SMALL = 32  # pixels of a side: the stride of FCN-32s
PHOTO = 2 ** 16  # colours: no mask has more, not even one that was a JPEG
MANY = 16  # unknown colours: nobody draws more, so something has blended them
RAMPS = 0.2  # share of borders: up to 0.06 in CamVid and meadow, mostly over 0.3 where resized
BLENDED = "Export it again as PNG without smoothing; resize masks with nearest neighbour."
SMOOTHED = "the mask looks smoothed (resized with interpolation, anti-aliased, or once a JPEG)."


class Look(NamedTuple):
    """What one pair showed.

    problems: list of `Problem`. pixels: int64 (256,), per id; 0 where the mask could not be read.
    photo, mask: bytes that only equal pictures share, None where they could not be read.
    """

    problems: list
    pixels: np.ndarray
    photo: bytes
    mask: bytes


def look_at(sample, dataset):
    """Read one (photo path, mask path) of a `utils.datasets.Dataset` and return its `Look`."""
    image, orientation, problems = _photo(str(sample[0]))
    ids, pixels, fault = _mask(str(sample[1]), dataset)
    problems.append(fault)
    if image is not None and ids is not None:
        problems.append(_of_fit(sample, image, ids, orientation))
    return Look([one for one in problems if one], pixels, digest_of(image), digest_of(ids))


def _photo(path):
    """Return (uint8 (H, W, 3) or None, EXIF orientation, list of problems) of a photo."""
    try:
        fourth = tiff.drops_fourth_band(path)
        picture, stored = decode(path)
        image = to_rgb(picture, path)
    except ImageError as error:
        return None, 1, [error.problem]
    problems = []

    def say(severity, found, remedy):
        problems.append(Problem(path, f"the photo {found}.", remedy, severity))

    height, width = image.shape[:2]
    if min(height, width) < SMALL:
        say("warning", f"is only {width}x{height} pixels",
            "Thumbnails do not train well; get the original.")
    if (stored.deep or stored.mode == "I") and image.max() < 64:
        say("warning", f"has {16 if stored.deep else 32} bits per channel but uses low values "
            "only: it is read as almost black", "Scale its values up to 65535.")
    if fourth:
        say("note", "has a fourth band that is not transparency", "None: it is left out.")
    elif picture.has_transparency_data:
        clear = np.mean(np.asarray(picture.convert("RGBA").getchannel("A")) < 255)
        if clear:
            say("warning", f"is transparent at {clear:.0%} of its pixels; what lies under them is "
                "read as if it were seen", "Look at it with read_image, or save it without.")
    if stored.pages > 1 and stored.format != "MPO":  # phones add a preview and call it MPO
        say("warning", f"has {stored.pages} pages; only the first is read", "Save pages as files.")
    return image, stored.orientation, problems


def _mask(path, dataset):
    """Return (uint8 (H, W) ids or None, pixels per id or 0, `Problem` or None) of a mask."""
    try:
        picture, stored = decode(path)
        if stored.format == "JPEG":
            return None, 0, Problem(path, "the mask is a JPEG inside, which blends ids and "
                                    "colours.", "Export it again, as PNG.")
        if has_colors(picture) and (fault := _of_colors(path, picture, dataset)):
            return None, 0, fault
        ids = to_ids(picture, path, dataset.colors)
    except ImageError as error:
        return None, 0, error.problem
    # In strips: bincount needs eight bytes a pixel.
    pixels = sum(np.bincount(ids[top:top + STRIP].ravel(), minlength=VOID + 1)
                 for top in range(0, len(ids), STRIP))
    fault = _of_ids(path, ids, pixels, dataset.num_classes)
    return ids, pixels, fault or _of_palette(path, picture, ids, dataset)


def _of_ids(path, ids, pixels, num_classes):
    """Return the `Problem` of a mask's ids, or None. pixels: int64 (256,), of each id."""
    strange = np.flatnonzero(pixels[num_classes:VOID]) + num_classes
    ramps, between = _ramps(ids)
    if ramps > RAMPS or (ramps > RAMPS / 2 and len(strange) > 3):
        return Problem(path, f"borders between two ids pass through ids in between: {SMOOTHED}",
                       BLENDED, "error" if len(strange) or between > 2 else "warning")
    if len(strange):
        return strange_ids(path, strange, pixels[strange].sum(), num_classes)
    if pixels[VOID] == ids.size:
        return Problem(path, "every pixel is void.",
                       "Draw its classes, or take it out of the split.", "warning")
    if pixels[VOID] and pixels[0] + pixels[VOID] == ids.size and num_classes > 1:
        return Problem(path, f"it holds 0 and {VOID} only, as black and white pictures do; {VOID} "
                       "means void.", f"Is {VOID} meant as a class? Then turn it into that "
                       "class's id.", "warning")
    return None


def _ramps(ids):
    """Return (share of borders that are ramps, such as 3 in 0 0 3 5 5, number of ids on ramps)."""
    row = ids.ravel()
    at = np.flatnonzero(row[1:] != row[:-1])
    step = row[at + 1].astype(int) - row[at]
    ramp = (np.diff(at) <= 2) & (np.sign(step[1:]) == np.sign(step[:-1]))
    clean = np.abs(step) > 1  # nothing fits between 3 and 4
    clean[1:] &= ~ramp
    clean[:-1] &= ~ramp
    # A handful of ramps proves nothing, hence the 16.
    return ramp.sum() / (ramp.sum() + clean.sum() + 16), len(np.unique(row[at[1:][ramp]]))


def _of_colors(path, picture, dataset):
    """Return the `Problem` of a mask in colours, a Pillow image, or None."""
    counted = picture.convert("RGB").getcolors(PHOTO)
    if counted is None:
        return Problem(path, f"the mask has more than {PHOTO} colours.",
                       "Is it a photo? Put the mask in its place.")
    known = {*map(tuple, dataset.colors.tolist()), VOID_COLOR}
    unknown = [count for count, color in counted if color not in known]
    if len(unknown) > MANY:
        return Problem(path, f"{sum(unknown)} pixels have {len(unknown)} colours of no class: "
                       f"{SMOOTHED}", BLENDED)
    return None


def _of_palette(path, picture, ids, dataset):
    """Return the `Problem` of a mask whose palette gives ids the colours of other classes."""
    used = [i for i in np.unique(ids).tolist() if i < dataset.num_classes]
    colors, names = dataset.colors.tolist(), dataset.class_names
    shown = dict(enumerate(np.reshape(picture.getpalette() or [], (-1, 3)).tolist()))
    told = [shown.get(i) for i in used]
    if told == [colors[i] for i in used] or not all(color in colors for color in told):
        return None
    return Problem(path, f"the ids {used} mean {[names[i] for i in used]}, but the mask's palette "
                   f"gives them the colours of {[names[colors.index(one)] for one in told]}: a "
                   "program seems to have renumbered the palette.",
                   "Export the mask again, or save it as RGB, which is read by colour.")


def _of_fit(sample, image, ids, orientation):
    """Return the `Problem` of a photo and a mask that do not cover each other, or None."""
    (height, width), mask, name = image.shape[:2], str(sample[1]), Path(sample[0]).name
    if orientation > 4 and height != width and ids.shape == (width, height):
        return Problem(mask, f"the mask is {height}x{width} pixels, like its photo {name} as "
                       f"stored; EXIF orientation {orientation} turns it to {width}x{height}.",
                       "Turn the mask, too, or save the photo without its EXIF orientation.")
    if orientation in (2, 3, 4) or (orientation > 4 and height == width):
        return Problem(mask, f"EXIF orientation {orientation} turns or mirrors its photo {name}; "
                       "sizes do not tell whether the mask does the same.",
                       "Look at them, one over the other.", "warning")
    return fault_of_pair(sample, image, ids, VOID)


def digest_of(array):
    """Return bytes that only equal arrays share; None for None."""
    if array is None:
        return None
    return hashlib.blake2b(array, digest_size=16).digest() + str(array.shape).encode()
