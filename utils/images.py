"""Photos and masks: from files as people have them to arrays, and back."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from utils.labels import VOID, colors_to_ids, palette

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
Image.MAX_IMAGE_PIXELS = 2 ** 29  # Pillow's limit guards servers; aerial photos are larger
THREADS = min(8, (os.cpu_count() or 1) + 1)  # that decode at once: each has a pair in memory


class Problem(NamedTuple):
    """What is wrong with a file, and how to fix it. severity: "error", "warning" or "note"."""

    file: str
    found: str
    remedy: str
    severity: str = "error"

    def __str__(self):
        return f"{self.file}: {self.found} {self.remedy}".strip()


class ImageError(ValueError):
    """A file that cannot be used. Its one argument is the `Problem`."""

    @property
    def problem(self):
        return self.args[0]


class Stored(NamedTuple):
    """How a file stores its picture. orientation: EXIF's. deep: more than 8 bits a channel."""

    format: str
    mode: str
    orientation: int
    deep: bool
    pages: int


def read_image(path):
    """Read a photo as uint8 (H, W, 3) RGB, turned as its EXIF orientation says.

    Grey, palette, CMYK and 16-bit files become 8-bit RGB; transparency is dropped. Raises
    FileNotFoundError, or `ImageError` (a ValueError) for what is empty, damaged or no image.
    """
    return to_rgb(decode(path)[0], path)


def read_mask(path, colors=None):
    """Read a mask as uint8 (H, W) class ids, 255 for void, turned as a photo is.

    Palette files give their ids, grey ones their values, RGB ones need `colors`, uint8 (C, 3).
    Raises what `read_image` raises, also for values that are no ids and unknown colours.
    """
    return to_ids(decode(path)[0], path, colors)


def write_mask(path, ids, colors):
    """Write uint8 (H, W) ids as a palette PNG with class colours (C, 3), as VOC does."""
    image = Image.fromarray(np.asarray(ids, np.uint8))
    image.putpalette(palette(colors, ids).tobytes())
    image.save(path, optimize=True)


def decode(path):
    """Return (Pillow image, upright; `Stored`) of a file, or raise what `read_image` raises."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    if path.stat().st_size == 0:
        raise _error(path, "the file is empty.", "Copy or export it again.")
    try:
        with Image.open(path) as image:
            deep = image.format in ("PNG", "TIFF") and ";16" in str(image.tile)
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            pages = getattr(image, "n_frames", 1)
            stored = Stored(image.format, image.mode, orientation, deep, pages)
            image.load()  # empties `tile`
            ImageOps.exif_transpose(image, in_place=True)
            return image, stored
    except UnidentifiedImageError:
        raise _error(path, "is not an image that can be read.", "Save it as JPEG, PNG, BMP, WebP "
                     "or TIFF, with 8 or 16 bits per channel.") from None
    except Exception as error:  # Pillow's decoders raise whatever broken bytes lead to
        found, remedy = "the image is damaged", "Copy or export it again."
        if isinstance(error, (Image.DecompressionBombError, MemoryError, PermissionError)):
            found, remedy = "the image cannot be read", "Make it smaller, or allow it to be read."
        raise _error(path, f"{found} ({error}).", remedy) from None


def to_rgb(image, path):
    """Return a Pillow image as uint8 (H, W, 3) RGB; `path` is for the error."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if image.mode == "F" or low < 0 or high > 65535:
            raise _error(path, f"holds numbers from {low:g} to {high:g}; expected 8 or 16 bits per "
                         "channel.", "Scale them to 0 to 255, or to 0 to 65535, and save again.")
        return np.uint8((values.astype(np.uint32) + 128) // 257)[..., None].repeat(3, axis=2)
    if "transparency" in image.info:
        image = image.convert("RGBA")  # in one step, Pillow would warn of what gets lost
    return np.array(image.convert("RGB"))


def has_colors(image):
    """Return whether a Pillow image has colour channels, not single values or palette ids."""
    return not image.mode.startswith("I") and image.mode not in ("1", "L", "P", "F", "LA", "PA")


def to_ids(image, path, colors=None):
    """Return a Pillow image as uint8 (H, W) class ids; the arguments are those of `read_mask`."""
    if image.mode in ("LA", "PA"):
        image = image.getchannel(0)
    if has_colors(image):
        if colors is None:
            raise _error(path, f"is a colour picture ({image.mode}); expected class ids.",
                         "Save it as a palette or grey PNG.")
        try:
            return colors_to_ids(np.array(image.convert("RGB")), colors)
        except ValueError as error:
            raise _error(path, str(error), "") from None
    ids = np.array(image)
    if ids.dtype != np.uint8:
        unknown = ids[(ids < 0) | (ids > VOID) | (ids != np.floor(ids))]
        if unknown.size:
            raise _error(path, f"holds the value {unknown.max():g}; a mask holds class ids from 0 "
                         f"to {VOID}.", "Save it as an 8-bit palette or grey PNG.")
    return ids.astype(np.uint8)


def fault_of_pair(sample, image, mask, num_classes):
    """Return the `Problem` that forbids training on a (photo path, mask path) as read, or None."""
    if image.shape[:2] != mask.shape:
        (h, w), (mh, mw) = image.shape[:2], mask.shape
        return Problem(str(sample[1]), f"the mask is {mw}x{mh} pixels, its photo "
                       f"{Path(sample[0]).name} {w}x{h}.",
                       "Export the mask at the photo's size, turned the same way.")
    unknown = np.unique(mask[(mask >= num_classes) & (mask != VOID)])
    if unknown.size:
        return strange_ids(sample[1], unknown, np.isin(mask, unknown).sum(), num_classes)
    return None


def strange_ids(path, ids, pixels, num_classes):
    """Return the `Problem` of a mask that has ids, an integer array, of no class at some pixels."""
    more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
    return Problem(str(path), f"{pixels} pixels have the ids {ids[:8].tolist()}{more}; expected 0 "
                   f"to {num_classes - 1}, or {VOID} for void.",
                   "Redraw them, or add the missing classes.")


def bullets(items, most=20):
    """Return items as indented lines, each begun by a line break, the first `most` of them."""
    more = [f"and {len(items) - most} more"] if len(items) > most else []
    return "".join(f"\n  {item}" for item in [*items[:most], *more])


def _error(path, found, remedy):
    return ImageError(Problem(str(path), found, remedy))
