"""Run folders: where notebooks and runner write, and what they record there.

Standard library and filelock only, so that `from utils import runs` does not start TensorFlow.
"""

import contextlib
import json
import math
import os
import platform
import tempfile
import zipfile
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = {"dataset": "meadow", "data_dir": "", "image_size": 0, "batch_size": 0, "epochs": 0,
            "learning_rate": 0.0, "backbone": "", "weights": "", "stride": 0, "precision": "auto",
            "seed": 0, "class_weights": "", "optimizer": "", "upsampling": "bilinear"}
# What runner, sweeps, notebooks and `training.train` write into a run folder.
MODEL = ("model.keras", "model.weights.h5", "model.json", "history.json")
WRITTEN = (*MODEL, "training", "tensorboard", "metrics.json", "recipe.json", "figures", "photos",
           "masks", "fcn32s", "fcn32s.keras", "fcn16s", "fcn8s", "own-[0-9]*", "sweeps",
           "leaderboard.*", "deployment", "[0-9][0-9]_*.ipynb", "[aA][0-9]_*.ipynb")


def run_folder(run_dir=""):
    """Return the run folder, from `choose_folder`, made if missing and marked by a `run.json`.

    Raises FileExistsError, before it writes anything, if no run made the folder and it holds what
    a run would write; OSError if it cannot be written or its run.json is damaged.
    """
    folder = choose_folder(run_dir)
    record = read_record(folder)
    found = foreign_files(folder)
    if found:
        raise FileExistsError(f"run_dir {folder} is no run's folder and holds "
                              f"{', '.join(found[:5])}, which a run would write to: choose a new "
                              "or empty folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # os.access is wrong on Windows, network disks
    except OSError as error:
        raise type(error)(f"run_dir {folder}: cannot be written ({error.strerror}). Choose another "
                          "folder.") from None
    if not (folder / "run.json").exists():
        write_json(folder / "run.json", record)
    return folder


def choose_folder(run_dir=""):
    """Return `run_dir`, else FCN_RUN_DIR, else `results/runs/default`, as an absolute path."""
    chosen = str(run_dir) or os.environ.get("FCN_RUN_DIR") or ROOT / "results" / "runs" / "default"
    return Path(chosen).expanduser().absolute()


def read_record(folder):
    """Return run.json in `folder`: `parameters`, and a dict per notebook; OSError if damaged."""
    file = Path(folder) / "run.json"
    if not file.exists():
        return {"parameters": {}, "notebooks": {}}
    record = read_json(file)
    if not all(isinstance(record.get(part), dict) for part in ("parameters", "notebooks")):
        raise OSError(f"{file} is damaged, or another program wrote it: choose another folder, or, "
                      "if a run made this one, delete that file.")
    return record


def foreign_files(folder):
    """Return the names in `folder` that a run would write and no run wrote, sorted.

    Older runs left no run.json: a training state, or a model with its card, identifies them.
    """
    if (folder / "run.json").exists():
        return []
    with contextlib.suppress(OSError, zipfile.BadZipFile):
        with zipfile.ZipFile(folder / "training" / "state.npz") as state:
            if "history.npy" in state.namelist():
                return []
    found = [path for path in sorted(folder.glob("*"))
             if any(fnmatchcase(path.name.lower(), pattern) for pattern in WRITTEN)
             and not is_executed(path) and (path.is_file() or any(path.glob("[!.]*")))]
    card = read_json(folder / "model.json")
    own = MODEL if (folder / "model.keras").is_file() and {"fcn", "dataset"} <= card.keys() else ()
    return [path.name for path in found if path.name not in own]


def is_executed(file):
    """Return whether a file is a notebook that papermill wrote."""
    return file.suffix == ".ipynb" and "papermill" in read_json(file).get("metadata", ())


def read_json(file):
    """Return the object that a JSON file holds, {} if it cannot be read or holds another value."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path, value):
    """Write `value` as JSON, with `replace`; paths become text, NaN and infinity become null.

    Numpy arrays and numbers become lists and numbers.
    """
    text = json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _plain(value):
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def replace(path, write):
    """Let `write` write a temporary file, given its path, and move it to `path` when whole."""
    path = Path(path)
    temporary = path.with_name(f".part.{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_recipe(recipe, run_dir):
    """Write a recipe to `recipe.json` in a run folder: each value with its reason."""
    rows = {name: {"value": value, "reason": recipe.reasons.get(name, "")}
            for name, value in recipe.values().items()}
    write_json(Path(run_dir) / "recipe.json", rows)


def save(model, run_dir, dataset, **card):
    """Write a float32 model, trained on `dataset`, to a run folder; return the path of model.keras.

    card: what `model.json` says beside the data set, with `fcn`, the arguments of `models.fcn`.
    """
    folder = Path(run_dir)
    card |= {"dataset": dataset.name, "class_names": dataset.class_names, "colors": dataset.colors}
    replace(folder / "model.weights.h5", model.save_weights)
    replace(folder / "model.keras", model.save)
    write_json(folder / "model.json", card)
    return folder / "model.keras"


def card_of(model_file):
    """Return the path of a model file's card: a JSON file of the same name."""
    name = model_file.name.removesuffix(".weights.h5").removesuffix(".keras")
    return model_file.with_name(f"{name}.json")


def is_own(model_file):
    """Return whether the name of a model file is one that this project gives."""
    weights = model_file.name.endswith(".weights.h5")
    return model_file.suffix == ".keras" or (weights and card_of(model_file).is_file())


def versions():
    """Return the versions of Python and of the packages that shape a result, importing none."""
    found = {"python": platform.python_version()}
    for package in ("tensorflow", "keras", "jax", "numpy", "opencv-python", "matplotlib",
                    "opencv-python-headless", "pillow", "papermill"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def machine():
    """Return cores this process may use, processor and system; neither host nor user name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        processor = text.split("model name", 1)[1].split("\n")[0].partition(":")[2].strip()
    return {"cores": cores, "processor": processor,
            "system": f"{platform.system()} {platform.machine()}"}


@contextlib.contextmanager
def lock(folder):
    """Hold `folder` for this process alone; RuntimeError if another process holds it.

    The lock ends with the process: a `.lock` file that stays means nothing.
    """
    guard = FileLock(Path(folder) / ".lock", timeout=0)
    try:
        guard.acquire()
    except Timeout:
        raise RuntimeError(f"{folder} is in use: another process writes there. Wait for it to end, "
                           "or choose another folder.") from None
    try:
        yield
    finally:
        guard.release()


def differences(old, new):
    """Return how parameters differ, for the names in both: "" or "epochs was 5 and is now 3"."""
    return ", ".join(f"{name} was {old[name]!r} and is now {new[name]!r}" for name in new
                     if name in old and old[name] != new[name])


def check_reference(score, value, given):
    """Compare a score with `results/reference/meadow.json`, and return a sentence to print.

    given: the parameters of the training run, which is compared only if all are `DEFAULTS`. Raises
    AssertionError if the value is further away than three standard deviations over seeds.
    """
    if given != DEFAULTS:
        return "not the reference run: skipped"
    known = read_json(ROOT / "results" / "reference" / "meadow.json")
    reference = known["scores"][score]
    if not abs(value - reference["mean"]) <= reference["tolerance"]:
        raise AssertionError(f"{score} is {value:.4f}; the reference is {reference['mean']:.4f}, "
                             f"give or take {reference['tolerance']:.4f}. Compare first your "
                             "versions with those in results/reference/meadow.json, then the code "
                             f"with that of commit {known['commit']}, where it was measured.")
    return f"{score}: within its tolerance of the reference"
