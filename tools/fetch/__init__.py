"""Fetch a published data set and bring it into VOC's layout, in `data/<name>/`."""

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


def ensure(name, data_dir=""):
    """Return the `data_dir` with which `load_dataset(name, data_dir)` finds its data.

    A published data set is fetched at its first use; a copy of it as published is converted once.
    """
    if name not in sources.SOURCES or (
            data_dir and datasets.find_lists(Path(data_dir).expanduser(), name)):
        return data_dir
    folder = fetch(name, data_dir)
    if not data_dir:
        return ""
    download.log(f"{name}: reading {folder}, made from {data_dir}")
    return str(folder)


def fetch(name, given=""):
    """Return the folder of a published data set in VOC's layout, made first if it is missing.

    given: a folder or an archive to make it from; "" downloads it. Of processes that want it at
    once, one works and the others wait. Raises ValueError for an unknown name, faulty files and
    unsafe archives; FileNotFoundError, ConnectionError, or OSError if the disk is full or closed.
    """
    if name not in sources.SOURCES:
        raise ValueError(f"no published data set {name!r}{nearest(name, sources.SOURCES)}")
    given = Path(given).expanduser().absolute() if given else None
    if given and not given.exists():
        raise FileNotFoundError(f"{given}: does not exist; give the folder or the archive that "
                                f"holds {name}, or none to download it.")
    target = datasets.data_folder() / name
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{name}.lock"):
            if not target.is_dir():
                _make(name, given, target)
    origin = (target / ORIGIN).read_text("utf-8").strip() if (target / ORIGIN).is_file() else "?"
    if given and origin != str(given):
        raise ValueError(f"{target} is there already, made from {origin}. Read it by leaving "
                         f"data_dir out, or delete that folder to make it from {given}.")
    return target


def _make(name, given, target):
    """Make the folder beside its place, and rename it when it is whole."""
    source, work = sources.SOURCES[name], target.with_name(f".{name}.making")
    unpacked, whole = work / "unpacked", work / "whole"
    shutil.rmtree(work, ignore_errors=True)  # what a killed process left
    archives = _given_archives(name, given) if given else [
        download.download(archive, target.parent / "downloads") for archive in source.archives]
    try:
        work.mkdir()
        for archive in archives:
            unpack(name, archive, unpacked)
        splits = find_pairs(name, unpacked if archives else given)
        if source.manifest and not given:
            _check_manifest(source, splits["train"][0][0].parents[1])
        write_voc(name, splits, whole, os.replace if archives else shutil.copyfile)
        (whole / ORIGIN).write_text(f"{given or 'the published archives'}\n", "utf-8")
        shutil.rmtree(unpacked, ignore_errors=True)
        os.replace(whole, target)
    except (ValueError, FileNotFoundError) as error:
        if source.manifest and not given:
            archives[0].unlink()  # no checksum would refuse it the next time
        made_from = ", ".join(map(str, archives))
        raise type(error)(str(error).replace(str(unpacked), made_from)) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not given:
        for archive in archives:
            archive.unlink()


def _given_archives(name, given):
    """Return the archives to unpack; none for a folder that is an unpacked copy."""
    if given.is_file():
        archives = find_archives(name, given.parent)
        return archives if given in archives else [given]
    try:
        find_pairs(name, given)
    except FileNotFoundError:
        return find_archives(name, given)
    return []


def _check_manifest(source, root):
    """Raise ValueError if files below `root` are missing or differ from the published ones."""
    lines = (datasets.REPOSITORY / "data" / source.manifest).read_text("utf-8").splitlines()
    other = [path for digest, path in (line.split(maxsplit=1) for line in lines)
             if not (root / path).is_file() or download.sha256_of(root / path) != digest]
    if other:
        raise ValueError(f"{root}: {len(other)} files are missing or differ from "
                         f"data/{source.manifest} ({', '.join(other[:3])}). Run this again.")
