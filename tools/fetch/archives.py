"""Archives: finding them, and unpacking what segmentation needs from them, safely."""

import gzip
import posixpath
import re
import shutil
import tarfile
import zlib

from tools.fetch.sources import SOURCES
from tools.progress import bar


def find_archives(name, folder):
    """Return the paths of the archives of data set `name` in `folder` or up to two levels below."""
    found = []
    for archive in SOURCES[name].archives:
        stem, suffix = archive.name.split(".tar")
        # GitHub writes out the commit, and browsers number a second copy.
        pattern = f"{stem}*.tar{suffix}"
        found += [path for above in ("", "*/", "*/*/")
                  for path in sorted(folder.glob(above + pattern))][:1]
    return found


def unpack(name, archive, folder):
    """Write what segmentation needs from a tar archive of data set `name` below `folder`.

    Raises ValueError for a damaged archive, and for one with any member that would be written
    outside, or is a link that leads there.
    """
    wanted = re.compile(rf"(^|/){SOURCES[name].members}$")
    report, size = bar(f"unpacking {archive.name}, MB"), archive.stat().st_size
    try:
        with open(archive, "rb") as packed, tarfile.open(fileobj=packed) as tar:
            for member in tar:
                _refuse_unsafe(archive, member)
                if member.isfile() and wanted.search(member.name):
                    target = folder / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with tar.extractfile(member) as content, open(target, "wb") as file:
                        shutil.copyfileobj(content, file)
                    report(packed.tell() // 10 ** 6, size // 10 ** 6 + 1)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        first = str(error).partition("\n")[0].rstrip(":")  # tarfile lists all that it tried
        raise ValueError(f"{archive}: the archive is damaged, or no tar archive ({first}). "
                         "Download it again, or unpack it yourself and give the folder.") from None


def _refuse_unsafe(archive, member):
    """Raise ValueError for a member that is not plain data inside the folder."""
    # Not tarfile.data_filter: early releases of Python 3.11 lack it, and it repairs absolute names.
    link = member.linkname
    if member.issym():  # relative to its place; a hard link is relative to the top
        link = posixpath.normpath(posixpath.join(posixpath.dirname(member.name), link))
    is_link = member.issym() or member.islnk()
    if _leads_outside(member.name):
        fault = "would be written outside the folder"
    elif is_link and _leads_outside(link):
        fault = f"is a link to {member.linkname!r}, outside the folder"
    elif not (is_link or member.isfile() or member.isdir()):
        fault = "is a device or another special file"
    else:
        return
    raise ValueError(f"{archive}: refused, and nothing of it kept: its member {member.name!r} "
                     f"{fault}. The published archives have no such member: get one of those.")


def _leads_outside(name):
    return name.startswith(("/", "\\")) or name[1:2] == ":" or ".." in re.split(r"[/\\]", name)
