"""Class ids, class colours, and the way from one to the other.

A *label map* holds one class id per pixel. The id 255 is *void*: unlabelled or ambiguous, so it
takes no part in the loss or in any score.
"""

import numpy as np

VOID = 255
VOID_COLOR = (224, 224, 192)


def voc_colormap(n=256):
    """Return the colour table of PASCAL VOC: uint8 (n, 3) RGB, 0 <= n <= 256.

    The bits of a class id go in turn to red, green and blue, highest bit first, so that ids that
    differ little get colours that differ much (`VOClabelcolormap` in the VOC devkit).
    """
    if not 0 <= n <= 256:
        raise ValueError(f"n is {n}; a palette has 0 to 256 colours.")
    ids = np.arange(n)
    colors = np.zeros((n, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colors


def colors_to_ids(rgb, colors):
    """Turn a picture of class colours, uint8 (H, W, 3), into class ids, uint8 (H, W).

    colors: uint8 (C, 3). VOID_COLOR becomes 255, unless it is a class's. Raises ValueError that
    lists the colours of no class, and how many pixels have them.
    """
    rgb, colors = np.asarray(rgb), np.asarray(colors)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"rgb is {rgb.dtype} {rgb.shape}; expected uint8 (H, W, 3).")
    if colors.ndim != 2 or colors.shape[1] != 3 or len(colors) > VOID:
        raise ValueError(f"colors has shape {colors.shape}; expected (C, 3), C at most {VOID}.")
    ids_of_key = {int(_color_keys(VOID_COLOR)): VOID}
    for i in reversed(range(len(colors))):  # of classes of one colour, the first
        ids_of_key[int(_color_keys(colors[i]))] = i
    found, inverse, counts = np.unique(_color_keys(rgb), return_inverse=True, return_counts=True)
    unknown = sorted(((int(count), int(key)) for key, count in zip(found, counts)
                      if int(key) not in ids_of_key), reverse=True)
    if unknown:
        listed = ", ".join(f"({key >> 16}, {key >> 8 & 255}, {key & 255}) at {count} pixels"
                           for count, key in unknown[:5])
        more = f" and {len(unknown) - 5} more colours" if len(unknown) > 5 else ""
        raise ValueError(f"these colours stand for no class: {listed}{more}. Use the exact colours "
                         "of the colour table, and save masks as PNG (JPEG and smoothing blend "
                         "colours).")
    return np.array([ids_of_key[int(key)] for key in found], np.uint8)[inverse].reshape(
        rgb.shape[:2])


def ids_to_colors(ids, colors):
    """Paint a label map, integers (H, W), in class colours, uint8 (C, 3): uint8 (H, W, 3) RGB.

    Void becomes VOID_COLOR. Raises ValueError for ids of no class.
    """
    return palette(colors, ids)[np.asarray(ids)]


def palette(colors, ids=()):
    """Return the uint8 (256, 3) palette of a mask file: class colours, black, VOID_COLOR at 255.

    Raises ValueError if `ids` holds anything but 0..C-1 and 255.
    """
    table = np.zeros((256, 3), np.uint8)
    table[:len(colors)] = colors
    table[VOID] = VOID_COLOR
    unknown = [int(i) for i in np.unique(ids) if not (0 <= i < len(colors) or i == VOID)]
    if unknown:
        raise ValueError(f"ids {unknown} stand for no class; expected 0 to {len(colors) - 1}, or "
                         f"{VOID} for void.")
    return table


def _color_keys(rgb):
    """Pack (..., 3) values of 0..255 into one integer per colour: 0xRRGGBB."""
    return np.asarray(rgb, np.int64) @ (1 << 16, 1 << 8, 1)
