"""Photos and masks: from files as people have them to arrays, and back."""

import errno
import hashlib
import http.client
import os
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from utils.labels import VOID, colors_to_ids, palette

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# Pillow warns from 89 megapixels on and refuses twice that, to guard servers against strangers' files.
# Aerial photos are larger.
Image.MAX_IMAGE_PIXELS = 2 ** 29
THREADS = min(8, (os.cpu_count() or 1) + 1)  # that decode at once: each has a whole pair in memory
STRIP = 512  # rows converted at a time: as a whole, a large photo would be in memory four times
LARGEST = 100 * 10 ** 6  # bytes of a photo from the network: an address may never end


class Problem(NamedTuple):
    """One fault: the file, what was found in it, how to mend it, and how bad it is.

    severity: "error" (training would fail, or learn or score something wrong), "warning" (worth a look) or
    "note" (good to know; nothing to mend).
    """

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
    """How a file keeps its picture.

    format: such as "PNG". mode: Pillow's name of the channels. orientation: EXIF's, 1 is upright. deep: whether
    channels have more than 8 bits. pages: number of pictures in the file.
    """

    format: str
    mode: str
    orientation: int
    deep: bool
    pages: int


def read_image(path):
    """Read a photo as uint8 (H, W, 3) RGB, upright.

    Grey, palette, CMYK and 16-bit files (65535 becomes 255) become 8-bit RGB; EXIF rotation is applied; of several
    pages the first is taken. Transparency is dropped, as OpenCV and Keras do: the colours under it show.
    Raises FileNotFoundError, or `ImageError` (a ValueError) for files that are empty, truncated or no image, and
    for floating-point pictures, whose range nobody knows.
    """
    picture, _ = decode(path)
    return to_rgb(picture, path)


def find_photo(source, folder):
    """Return the path of a photo: `source` itself, or for an http(s) address its copy in `folder`.

    Raises ValueError for an address with a password; ConnectionError for one that gives no image,
    more than LARGEST bytes, or nothing.
    """
    address = urllib.parse.urlsplit(str(source))
    if address.scheme not in ("http", "https"):
        return Path(source).expanduser()
    if "@" in address.netloc:
        raise ValueError(f"photo: the address at {address.netloc.rpartition('@')[2]} holds a user "
                         "name or a password; download the file yourself and give its path.")
    name = Path(urllib.parse.unquote(address.path)).name[-100:]  # many are called image.jpg
    target = Path(folder) / f"{hashlib.sha256(str(source).encode()).hexdigest()[:8]}-{name}"
    if target.is_file():
        return target
    partial = target.with_name(f".{os.getpid()}.{target.name}")
    partial.parent.mkdir(parents=True, exist_ok=True)
    # Browsers show letters that HTTP does not know; some hosts refuse requests without a name.
    request = urllib.request.Request(urllib.parse.quote(str(source), safe="%/:=&?~#+!$,;'@()*[]"),
                                     headers={"User-Agent": "Mozilla/5.0 (fcn32-notebooks)"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"it has more than {LARGEST // 10 ** 6} MB")
        partial.write_bytes(content)
        read_image(partial)
        os.replace(partial, target)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EACCES):
            raise
        reason = str(error).replace(f"{partial}: ", "")
        raise ConnectionError(f"{source}: no photo could be fetched ({reason}). Check the address, "
                              "or download the file yourself and give its path.") from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def read_mask(path, colors=None):
    """Read a mask as uint8 (H, W) class ids, 255 for void.

    Palette PNGs give their ids (never their colours), grey files their values. An RGB file needs
    `colors`, uint8 (C, 3), to be turned back into ids.
    EXIF rotation is applied, transparency dropped. Raises FileNotFoundError, or `ImageError` (a ValueError) for
    unreadable files, values that are no whole numbers from 0 to 255, and colours outside the table.
    """
    picture, _ = decode(path)
    return to_ids(picture, path, colors)


def write_mask(path, ids, colors):
    """Write uint8 (H, W) ids as a palette PNG, class colours (C, 3) in the palette, as VOC does."""
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
            deep = image.format in ("PNG", "TIFF") and ";16" in str(image.tile)  # loading empties `tile`
            stored = Stored(image.format, image.mode, image.getexif().get(ExifTags.Base.Orientation, 1), deep,
                            getattr(image, "n_frames", 1))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return image, stored
    except UnidentifiedImageError:
        fault = ("is not an image that can be read.", "Save it as JPEG, PNG, BMP, WebP or TIFF with 8 or 16 bits per "
                 "channel; HEIC and raw photos and floating-point colours must be converted.")
    except Image.DecompressionBombError:
        fault = (f"has more than {2 * Image.MAX_IMAGE_PIXELS // 10 ** 6} million pixels.", "Cut it into tiles.")
    except MemoryError:
        fault = ("does not fit into this machine's memory.", "Cut it into tiles.")
    except PermissionError:
        fault = ("may not be read (permission denied).", "Change the file's permissions.")
    except Exception as error:  # Pillow's decoders raise whatever broken bytes lead to
        fault = (f"the image is damaged ({error}).", "Copy or export it again.")
    raise _error(path, *fault)


def to_rgb(image, path):
    """Return a Pillow image as uint8 (H, W, 3) RGB; `path` is for the error."""
    wide = image.mode == "F" or image.mode.startswith("I")
    low, high = image.getextrema() if wide else (0, 255)
    if image.mode == "F" or low < 0 or high > 65535:
        raise _error(path, f"holds numbers from {low:g} to {high:g}; expected 8 or 16 bits per channel.",
                     "Scale them to 0 to 255, or to 0 to 65535, and save the photo again.")
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, STRIP):
        strip = image.crop((0, top, image.width, min(top + STRIP, image.height)))
        if wide:
            strip = ((np.asarray(strip).astype(np.uint32) + 128) // 257)[..., None]
        elif "transparency" in strip.info:
            strip = strip.convert("RGBA").convert("RGB")  # in one step, Pillow would warn of what gets lost
        elif strip.mode != "RGB":
            strip = strip.convert("RGB")
        rgb[top:top + STRIP] = strip
    return rgb


def has_colors(image):
    """Return whether a Pillow image has colour channels, not single values or palette ids."""
    return image.mode not in ("1", "L", "P", "F", "LA", "PA") and not image.mode.startswith("I")


def to_ids(image, path, colors=None):
    """Return a Pillow image as uint8 (H, W) class ids; `path` is for the error, the rest as in `read_mask`."""
    if image.mode in ("LA", "PA"):
        image = image.getchannel(0)
    if has_colors(image):
        if colors is None:
            raise _error(path, f"is a colour picture ({image.mode}); expected class ids.",
                         "Save it as a palette or grey PNG.")
        try:
            ids = colors_to_ids(np.array(image.convert("RGB")), colors)
        except ValueError as error:
            raise _error(path, str(error), "") from None
    else:
        ids = np.array(image)
        if ids.dtype != np.uint8:
            strange = ids[(ids < 0) | (ids > VOID) | (ids != np.floor(ids))]
            if strange.size:
                raise _error(path, f"holds the value {strange.max():g}; a mask holds class ids from 0 to {VOID}.",
                             "Save it as an 8-bit palette or grey PNG.")
            ids = ids.astype(np.uint8)
    return ids


def fault_of_pair(sample, image, mask, num_classes):
    """Return the `Problem` that forbids training on a pair, or None.

    sample: (photo path, mask path), for the sentence. image: uint8 (H, W, 3). mask: uint8 (H, W) ids.
    """
    if image.shape[:2] != mask.shape:
        (h, w), (mh, mw) = image.shape[:2], mask.shape
        return Problem(str(sample[1]), f"the mask is {mw}x{mh} pixels, its photo {Path(sample[0]).name} {w}x{h}.",
                       "Export the mask at the photo's size, turned the same way.")
    strange = np.unique(mask[(mask >= num_classes) & (mask != VOID)])
    if strange.size:
        return strange_ids(sample[1], strange, np.isin(mask, strange).sum(), num_classes)
    return None


def strange_ids(path, strange, pixels, num_classes):
    """Return the `Problem` of a mask of which so many pixels have the ids `strange`, which stand for no class."""
    more = f" and {len(strange) - 8} more" if len(strange) > 8 else ""
    return Problem(str(path), f"{pixels} pixels have the ids {strange[:8].tolist()}{more}; expected 0 to "
                   f"{num_classes - 1}, or {VOID} for void.", "Redraw them, or add the missing classes.")


def _error(path, found, remedy):
    return ImageError(Problem(str(path), found, remedy))
