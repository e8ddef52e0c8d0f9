"""Run folders: where notebooks and runner write, and what they record there.

Standard library and filelock only, so that `from utils import runs` costs no TensorFlow start.
"""

import contextlib
import errno
import json
import math
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = {"dataset": "meadow", "data_dir": "", "image_size": 0, "batch_size": 0, "epochs": 0, "learning_rate": 0.0,
            "backbone": "", "weights": "", "stride": 32, "precision": "auto", "seed": 0, "class_weights": "",
            "optimizer": "", "upsampling": "bilinear"}
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
FREE_BYTES = 200 * 2**20  # notebooks, figures, checkpoints and model of a small run, with room to spare


def run_folder(run_dir: str | Path = "") -> Path:
    """Return the run folder as an absolute path, created where needed.

    The folder is `run_dir`, else the environment variable FCN_RUN_DIR, else `results/runs/default` in the
    repository. Raises PermissionError or OSError where it cannot be written or the disk is almost full.
    """
    chosen = str(run_dir) or os.environ.get("FCN_RUN_DIR") or ROOT / "results" / "runs" / "default"
    folder = Path(chosen).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # os.access is wrong on Windows and network disks
    except PermissionError:
        raise PermissionError(f"run_dir {folder}: no right to write there. Choose another folder.") from None
    except (FileExistsError, NotADirectoryError):
        raise OSError(f"run_dir {folder}: a file stands in the way. Choose another folder.") from None
    except OSError as error:
        raise OSError(f"run_dir {folder}: {error.strerror or error}. Choose another folder.") from None
    check_space(folder)
    return folder


def check_space(folder: Path, needed: int = FREE_BYTES) -> None:
    """Raise OSError when the disk that holds `folder` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"run_dir {folder}: the disk has {free / 2**20:.0f} MB free and the run needs about "
            f"{needed / 2**20:.0f} MB. Free some space, or choose a folder on another disk."
        )


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as JSON in one step: readers see the old file or the new one, never half of it.

    NaN and infinity become null; numpy arrays and numbers become lists and numbers; paths become text.
    """
    path = Path(path)
    text = json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
    means nothing. Where a drive has no locks, as some mounted ones, a sentence says so and nobody is kept out.
    """
    guard = FileLock(Path(folder) / ".lock")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # filelock's, about drives without locks
            guard.acquire(timeout=0)
    except Timeout:
        if not isinstance(guard, SoftFileLock):
            raise RuntimeError(
                f"{folder} is in use: another process writes there. Wait for it to end, or choose another folder."
            ) from None
    except (NotImplementedError, OSError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in NO_LOCKS:
            raise
    # A file that filelock takes for a lock outlives a killed machine, and does not keep everybody out.
    if isinstance(guard, SoftFileLock) or not guard.is_locked:
        print(f"{folder} is on a drive without file locks: make sure yourself that nothing else writes there.",
              flush=True)
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
