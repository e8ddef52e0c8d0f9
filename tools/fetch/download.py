"""Download one file: with progress, resumable, checked, and never half written under its own name.

`keras.utils.get_file` would start TensorFlow, and neither it nor pooch resumes a broken download.
"""

import errno
import hashlib
import http.client
import math
import os
import sys
import time
import urllib.parse
import urllib.request

from tools.progress import bar

TIMEOUT = 30  # seconds without a byte
WAITS = (2, 5, 15)  # seconds before each further round over the addresses
# Some hosts refuse requests without a browser-like name.
HEADERS = {"User-Agent": "Mozilla/5.0 (fcn32-notebooks)", "Accept-Encoding": "identity"}
DISK_ERRORS = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EACCES, errno.EPERM,
               errno.EROFS}


def download(file, folder):
    """Return the path of a `sources.Archive` in `folder`, downloaded and checked if it is missing.

    Resumes an earlier `<name>.part`. Raises ConnectionError, with what each host answered, if none
    gives the file; OSError where the disk is full or closed.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    if target.is_file():  # only a checked file gets this name
        return target
    folder.mkdir(parents=True, exist_ok=True)
    addresses, waits, most, answers = list(file.addresses), list(WAITS), size_of(part), {}
    while addresses:
        for address in list(addresses):
            host = urllib.parse.urlsplit(address).netloc
            try:
                _complete(address, part, file)
                os.replace(part, target)
                return target
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in DISK_ERRORS:
                    raise
                answers[host] = str(error)
                log(f"{host}: {error}")
                code = getattr(error, "code", 500)  # of HTTP; 408 and 429 ask for patience
                if isinstance(error, _Final) or (code < 500 and code not in (408, 429)):
                    addresses.remove(address)
        if size_of(part) > most:
            most, waits = size_of(part), list(WAITS)  # progress was made: start the delays again
        if not addresses or not waits:
            break
        log(f"{file.name}: trying again in {waits[0]} s")
        time.sleep(waits.pop(0))
    raise ConnectionError(
        f"{file.name} could not be downloaded ({'; '.join(map(': '.join, answers.items()))}). Is "
        f"there a network? Run this again to go on from the {size_of(part) / 1e6:,.0f} MB that are "
        f"here, or download {file.addresses[0]} by hand and name the file, or its folder, with "
        "--from.")


class _Final(OSError):
    """The address answers, but never with the file that is wanted."""


def _complete(address, part, file):
    """Append what `part` lacks and check it; OSError or HTTPException where that fails."""
    begun = size_of(part) if 0 < size_of(part) <= file.size else 0
    if not file.sha256:
        begun = 0  # two pieces that do not belong together would go unnoticed
    if not begun or begun < file.size:
        log(f"{file.name}: downloading from {address}, {begun / 1e6:,.0f} MB are here")
        _transfer(address, part, file, begun)
    if file.sha256 and (found := sha256_of(part)) != file.sha256:
        part.unlink()
        # Pieces of two files, or of one that was changed in between, deserve a fresh start.
        kind = OSError if begun else _Final
        raise kind(f"not the published file, its SHA-256 is {found}, expected {file.sha256}")


def _transfer(address, part, file, begun):
    """Append to `part` from byte `begun` on, or write it anew if the server knows no ranges."""
    headers = HEADERS | ({"Range": f"bytes={begun}-"} if begun else {})
    request = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        done = begun if answer.status == http.client.PARTIAL_CONTENT else 0
        length = int(answer.headers.get("Content-Length", 0))
        total, limit = done + length, math.inf
        if file.sha256:
            total = limit = file.size
            if length and done + length != total:
                raise _Final(f"the server has a file of {done + length:,} bytes, expected "
                             f"{total:,}")
        report = bar(f"{file.name}, MB", delay=1.0)
        with open(part, "ab" if done else "wb") as written:
            # An endless answer is cut where the file should end: its checksum will not fit.
            while done <= limit and (piece := answer.read1(1 << 18)):
                done += written.write(piece)
                report(done // 10 ** 6, max(total, file.size, done + 1) // 10 ** 6 + 1)
    if done < total:
        raise OSError(f"the connection broke off after {done:,} of {total:,} bytes")


def log(text):
    """Print a line on stderr, where it does not mix with a command's answer."""
    print(text, file=sys.stderr, flush=True)


def size_of(path):
    """Return a file's size in bytes, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def sha256_of(path):
    """Return a file's SHA-256 as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
