"""Fetch a published data set and bring it into VOC's layout, in `data/<name>/`.

`fetch` makes that folder, whole or not at all; `ensure` is what programs call before they read.
"""

import contextlib
import errno
import os
import shutil
from pathlib import Path

from filelock import FileLock

from tools.fetch import download, sources
from tools.fetch.archives import find_archives, unpack
from tools.fetch.layouts import find_pairs, write_voc
from utils import datasets
from utils.recipes import nearest

ORIGIN = "origin.txt"  # in the folder: what it was made from
PUBLISHED = "the published archives"


def ensure(name, data_dir=""):
    """Return the `data_dir` with which `load_dataset(name, data_dir)` finds its data.

    A published data set is fetched at its first use; a copy of it in its original layout, or its
    archives, are converted once. The rest is left to `load_dataset`. Raises what `fetch` raises.
    """
    if name not in sources.SOURCES:
        return data_dir
    if not data_dir:
        fetch(name)
        return ""
    if datasets.find_lists(Path(data_dir).expanduser(), name):
        return data_dir
    folder = fetch(name, data_dir)
    download.log(f"{name}: reading {folder}, made from {data_dir}")
    return str(folder)


def fetch(name, given=""):
    """Return the folder of a published data set in VOC's layout, made first if it is missing.

    given: a folder or an archive to make it from; "" downloads it. A folder that is there is whole,
    whatever was killed when; of processes that want it at once, one works and the others wait.
    Raises ValueError for an unknown name, for files that are missing or not as published, and for
    an unsafe archive; FileNotFoundError, ConnectionError, or OSError if the disk is full or closed.
    """
    if name not in sources.SOURCES:
        raise ValueError(f"no published data set {name!r}{nearest(name, sources.SOURCES)}")
    given = Path(given).expanduser().absolute() if given else None
    if given and not given.exists():
        raise FileNotFoundError(f"{given}: does not exist; give the folder or the archive that "
                                f"holds {name}, or none to download it.")
    target = datasets.data_folder() / name
    try:
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(target.parent / f".{name}.lock"):
                if not target.is_dir():
                    _make(name, given, target)
    except OSError as error:
        if error.errno not in download.DISK_ERRORS | {errno.EEXIST, errno.ENOTDIR}:
            raise
        where = error.filename or target.parent
        raise OSError(f"{name}: {where}: {error.strerror}. Data sets are kept in {target.parent}: "
                      "make room or get access there, or set the environment variable FCN_DATA_DIR "
                      "to another folder. Downloads so far are kept.") from None
    origin = (target / ORIGIN).read_text("utf-8").strip() if (target / ORIGIN).is_file() else "?"
    if given and origin != str(given):
        raise ValueError(f"{target} is there already, made from {origin}. Read it by leaving "
                         f"data_dir out, or delete that folder to make it from {given}.")
    return target


def _make(name, given, target):
    """Make the folder beside its place, and rename it when it is whole."""
    source, downloads = sources.SOURCES[name], target.parent / "downloads"
    work = target.with_name(f".{name}.making")
    shutil.rmtree(work, ignore_errors=True)  # what a killed process left
    archives = _given_archives(name, given) if given else []
    try:
        if not given:
            archives = [download.download(archive, downloads) for archive in source.archives]
        work.mkdir()
        for archive in archives:
            unpack(name, archive, work / "unpacked")
        root, place = (work / "unpacked", os.replace) if archives else (given, shutil.copyfile)
        splits = find_pairs(name, root)
        if source.manifest and not given:
            _check_manifest(source, splits["train"][0][0].parents[1])
        write_voc(name, splits, work / "whole", place)
        (work / "whole" / ORIGIN).write_text(f"{given or PUBLISHED}\n", "utf-8")
        shutil.rmtree(work / "unpacked", ignore_errors=True)
        os.replace(work / "whole", target)
    except (ValueError, FileNotFoundError) as error:
        if source.manifest and not given:
            for archive in archives:
                archive.unlink()  # no checksum would refuse it the next time
        kind = ValueError if isinstance(error, ValueError) else FileNotFoundError
        listed, message = ", ".join(map(str, archives)), str(error)
        inside = str(work / "unpacked")
        raise kind(message.replace(inside + os.sep, "").replace(inside, listed)) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not given:
        for archive in archives:
            archive.unlink()


def _given_archives(name, given):
    """Return the archives in a folder, or beside a file; none if there is an unpacked copy."""
    archives = find_archives(name, given if given.is_dir() else given.parent)
    if given.is_file():
        return archives if given in archives else [given]
    with contextlib.suppress(FileNotFoundError):
        find_pairs(name, given)
        return []
    return archives


def _check_manifest(source, root):
    """Raise ValueError if files below `root` are missing or differ from the published ones."""
    lines = (datasets.REPOSITORY / "data" / source.manifest).read_text("utf-8").splitlines()
    expected = {path: digest for digest, path in (line.split(maxsplit=1) for line in lines)}
    other = [path for path, digest in expected.items()
             if not (root / path).is_file() or download.sha256_of(root / path) != digest]
    if other:
        raise ValueError(f"{root}: {len(other)} files are missing or differ from "
                         f"data/{source.manifest} ({', '.join(other[:3])}). Run this again.")
