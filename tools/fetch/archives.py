"""Archives: finding them, and unpacking what segmentation needs from them, safely."""

import gzip
import re
import sys
import tarfile
import zlib

from tools.fetch.sources import SOURCES
from tools.progress import bar
from utils.datasets import search


def find_archives(name, folder):
    """Return the paths of the archives of data set `name` in `folder` or up to three below."""
    names = [archive.name.replace(".tar", "*.tar") for archive in SOURCES[name].archives]
    return [path for one in names for path in search(folder, one)[:1]]  # GitHub adds the commit


def unpack(name, archive, folder):
    """Write what segmentation needs from a tar archive of data set `name` below `folder`.

    Raises ValueError for a damaged archive, and for one with any member that leads outside.
    """
    if not hasattr(tarfile, "data_filter"):
        raise RuntimeError(f"{archive}: kept, not unpacked. Python {sys.version.split()[0]} cannot "
                           "refuse unsafe archives: use 3.11.4 or newer.")
    wanted = re.compile(rf"(^|/){SOURCES[name].members}$")
    report, size = bar(f"unpacking {archive.name}, MB"), archive.stat().st_size

    def choose(member, path):
        """Return the member if it is wanted, else None; FilterError if it is not safe."""
        report(packed.tell() // 10 ** 6, size // 10 ** 6 + 1)
        # The data filter repairs absolute names, and on Linux knows neither C: nor backslashes.
        if re.match(r"[/\\]|.:|.*\.\.[/\\]", member.name):
            raise tarfile.OutsideDestinationError(member, path)
        safe = tarfile.data_filter(member, path)
        return safe if member.isfile() and wanted.search(member.name) else None

    try:
        with open(archive, "rb") as packed, tarfile.open(fileobj=packed) as tar:
            tar.extractall(folder, filter=choose)
    except tarfile.FilterError as error:
        raise ValueError(f"{archive}: refused, and nothing of it kept: {error.tarinfo.name!r} "
                         "leads outside, or is a special file. The published archives have no such "
                         "member: get one of those.") from None
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        first = str(error).partition("\n")[0].rstrip(":")  # tarfile lists all that it tried
        raise ValueError(f"{archive}: the archive is damaged, or no tar archive ({first}). "
                         "Download it again, or unpack it yourself and give the folder.") from None
