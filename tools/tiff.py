"""What the tags of a TIFF say about its bands and its place on Earth."""

import contextlib

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from utils.images import ImageError, Problem

COLORS, ORIENTATION, BANDS, EXTRA, NODATA = 262, 274, 277, 338, 42113
GEO = (33550, 33922, 34264, 34735, 34736, 34737, NODATA)


def tags(path):
    """Return the tags of a TIFF's first picture; {} for other files and for damaged ones."""
    with contextlib.suppress(Exception), open(path, "rb") as file:
        head = file.read(8)
        if b"+" in head[2:4]:  # BigTIFF
            head += file.read(8)
        found = ImageFileDirectory_v2(head)
        file.seek(found.next)
        found.load(file)
        dict(found)  # decodes them, so that what is damaged shows here
        return found
    return {}


def georeference(path):
    """Return a photo's GeoTIFF tags, with 255 for no data, as Pillow's `tiffinfo` takes them.

    None for files without, and for a photo that EXIF turns: they would not fit its mask.
    """
    found, kept = tags(path), ImageFileDirectory_v2()
    for tag in found.keys() & GEO:
        kept.tagtype[tag] = found.tagtype[tag]
        kept[tag] = found[tag]
    kept[NODATA] = "255"
    return kept if found.keys() & GEO and found.get(ORIENTATION, 1) == 1 else None


def drops_fourth_band(path):
    """Return whether a TIFF has a fourth band that is not transparency: read as RGB, it is lost.

    Raises ImageError for more bands, and for several bands that are not said to be colours.
    """
    found = tags(path)
    bands, colors = found.get(BANDS), found.get(COLORS)
    most = {0: 2, 1: 2, 5: 6}.get(colors, 4)  # 0 and 1 are grey, 5 is CMYK
    if isinstance(bands, int) and bands > most:
        raise ImageError(Problem(str(path), f"has {bands} bands; expected red, green and blue.",
                                 "Write three bands: gdal_translate -b 1 -b 2 -b 3 "
                                 "-co PHOTOMETRIC=RGB IN OUT."))
    return bands == 4 and colors != 5 and found.get(EXTRA, 0) in (0, (0,))
