"""Run folders: where notebooks and runner write, and what they record there.

Standard library and filelock only, so that `from utils import runs` costs no TensorFlow start.
"""

import contextlib
import json
import math
import os
import platform
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = {"dataset": "meadow", "data_dir": "", "image_size": 0, "batch_size": 0, "epochs": 0, "learning_rate": 0.0,
            "backbone": "", "weights": "", "stride": 0, "precision": "auto", "seed": 0, "class_weights": "",
            "optimizer": "", "upsampling": "bilinear"}
FREE_BYTES = 200 * 2**20  # notebooks, figures, checkpoints and model of a small run, with room to spare
# What runner, sweeps, notebooks and `training.train` write into a run folder.
MODEL = ("model.keras", "model.weights.h5", "model.json", "history.json")
WRITTEN = (*MODEL, "training", "tensorboard", "metrics.json", "recipe.json", "figures", "photos",
           "masks", "fcn32s", "fcn32s.keras", "fcn16s", "fcn8s", "own-[0-9]*", "sweeps", "leaderboard.*", "deployment", "[0-9][0-9]_*.ipynb")


def run_folder(run_dir: str | Path = "") -> Path:
    """Return the run folder, from `choose_folder`, made where needed and marked by a `run.json`.

    Raises FileExistsError, before anything is written, where it holds what a run would write and no
    run made it; OSError where it cannot be written, its run.json is damaged, or the disk is full.
    """
    folder = choose_folder(run_dir)
    record = read_record(folder)
    try:
        found = foreign_files(folder)
        if not found:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()  # os.access is wrong on Windows, network disks
    except PermissionError:
        raise PermissionError(f"run_dir {folder}: no right to write there. Choose another folder.") from None
    except (FileExistsError, NotADirectoryError):
        raise OSError(f"run_dir {folder}: a file stands in the way. Choose another folder.") from None
    except OSError as error:
        raise OSError(f"run_dir {folder}: {error.strerror or error}. Choose another folder.") from None
    if found:
        raise FileExistsError(f"run_dir {folder} is no run's folder and holds {', '.join(found[:5])}, "
                              "which a run would write to: choose a new or empty folder.")
    check_space(folder)
    if not (folder / "run.json").exists():
        write_json(folder / "run.json", record)
    return folder


def choose_folder(run_dir: str | Path = "") -> Path:
    """Return `run_dir`, else FCN_RUN_DIR, else `results/runs/default`, as an absolute path."""
    chosen = str(run_dir) or os.environ.get("FCN_RUN_DIR") or ROOT / "results" / "runs" / "default"
    return Path(chosen).expanduser().absolute()


def read_record(folder: Path) -> dict:
    """Return run.json in `folder`: `parameters`, and a dict per notebook; OSError if it is damaged."""
    file = folder / "run.json"
    if not os.path.lexists(file):
        return {"parameters": {}, "notebooks": {}}
    record = _read_json(file)
    try:
        whole = isinstance(record["parameters"], dict)
        for entry in record["notebooks"].values():
            seconds = entry["seconds"] if entry["status"] == "finished" else entry.get("seconds", 0)
            whole = whole and isinstance(seconds, (int, float))
    except (LookupError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise OSError(f"{file} is damaged, or another program wrote it: choose another folder, or, "
                      "if a run made this one, delete that file.")
    return record


def foreign_files(folder: Path) -> list[str]:
    """Return the names in `folder` that a run would write and no run wrote, sorted.

    The first version left no run.json; a state of training, or a model with its card, stands for it.
    Left out are folders without a visible file, and notebooks that papermill has begun to write.
    """
    if not folder.exists() or (folder / "run.json").exists():
        return []
    card, state = _read_json(folder / "model.json"), folder / "training" / "state.npz"
    if zipfile.is_zipfile(state):
        with zipfile.ZipFile(state) as arrays:
            if {"history.npy", "parameters.npy"} <= set(arrays.namelist()):
                return []
    has_card = isinstance(card, dict) and {"fcn", "dataset", "class_names"} <= card.keys()
    known = MODEL if has_card and (folder / "model.keras").is_file() else ()
    found = [path for path in sorted(folder.iterdir()) if path.name not in known
             and any(fnmatchcase(path.name.lower(), pattern) for pattern in WRITTEN)]
    bare = [path for path in found if path.is_dir() and not any(path.glob("[!.]*"))]
    return [path.name for path in found if path not in bare and not is_executed(path)]


def is_executed(file: Path) -> bool:
    """Return whether a file is a notebook that papermill wrote."""
    notebook = _read_json(file) if file.suffix == ".ipynb" else None
    return isinstance(notebook, dict) and "papermill" in notebook.get("metadata", ())


def _read_json(file: Path) -> object:
    """Return what a JSON file holds, None where it cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def check_space(folder: Path, needed: int = FREE_BYTES) -> None:
    """Raise OSError when the disk that holds `folder` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"run_dir {folder}: the disk has {free / 2**20:.0f} MB free and the run needs about "
                      f"{needed / 2**20:.0f} MB. Free some space, or choose a folder on another disk.")


def replace(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a temporary file and put it in the place of `path`, which is never half written.

    write: is called with the temporary file's path, in the same folder. What a kill leaves of it is
    overwritten by the next call.
    """
    path = Path(path)
    temporary = path.with_name(f".part.{path.name}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # else a power cut can leave the new name without its content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as JSON, with `replace`.

    NaN and infinity become null; numpy arrays and numbers become lists and numbers; paths become text.
    """
    text = json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _plain(value: object) -> object:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape a result, importing none of them."""
    packages = ("tensorflow", "keras", "jax", "numpy", "opencv-python", "opencv-python-headless",
                "matplotlib", "pillow", "papermill")
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def machine() -> dict[str, object]:
    """Return cores this process may use, processor and system; neither host nor user name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {"cores": cores, "processor": processor, "system": f"{platform.system()} {platform.machine()}"}


@contextlib.contextmanager
def lock(folder: str | Path) -> Iterator[None]:
    """Hold `folder` for this process alone; raises RuntimeError, naming it, where another process holds it.

    The operating system drops the lock with the process, however that ends: a `.lock` file that stays
    means nothing.
    """
    guard = FileLock(Path(folder) / ".lock")
    try:
        guard.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(
            f"{folder} is in use: another process writes there. Wait for it to end, or choose another folder."
        ) from None
    try:
        yield
    finally:
        guard.release()


def differences(old: dict, new: dict) -> str:
    """Return how parameters differ, for the names in both: "" or "epochs was 5 and is now 3"."""
    changed = [name for name in new if name in old and old[name] != new[name]]
    return ", ".join(f"{name} was {old[name]!r} and is now {new[name]!r}" for name in changed)


def check_reference(score: str, value: float, given: dict | None) -> str:
    """Hold a score against the reference in `results/reference/meadow.json`, and return a sentence to print.

    given: the shared parameters that the training was given; only a run with all their defaults is held against it.
    Raises AssertionError when the value is further from the reference than its tolerance: three standard
    deviations over the trainings in that file.
    """
    if given != DEFAULTS:
        return "not the reference run: skipped"
    file = ROOT / "results" / "reference" / "meadow.json"
    reference = json.loads(file.read_text(encoding="utf-8"))["scores"][score]
    away = abs(value - reference["mean"])
    if not away <= reference["tolerance"]:
        raise AssertionError(f"{score} is {value:.4f}; the reference is {reference['mean']:.4f}, give or take "
                             f"{reference['tolerance']:.4f} ({file.name}). Something that shapes results has changed.")
    return f"{score}: within its tolerance of the reference"
