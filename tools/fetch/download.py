"""Download one file: with progress, resumable, checked, and never half written under its own name.

`keras.utils.get_file` would start TensorFlow, and neither it nor pooch resumes a broken download.
Standard library only, but for the progress bar.
"""

import errno
import hashlib
import http.client
import os
import re
import socket
import sys
import time
import urllib.error
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
    while True:
        for address in list(addresses):
            host = urllib.parse.urlsplit(address).netloc
            try:
                _complete(address, part, file)
                os.replace(part, target)
                return target
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in DISK_ERRORS:
                    raise
                reason = getattr(error, "reason", None) or error
                answers[host] = getattr(reason, "strerror", None) or str(reason)
                no_network = isinstance(reason, socket.gaierror)
                if no_network:
                    answers[host] = "the host was not found; is there a network?"
                log(f"{host}: {answers[host]}")
                # An unknown host means no network, unless the network has just been there.
                if isinstance(error, _Final) or (no_network and size_of(part) <= most):
                    addresses.remove(address)
        if size_of(part) > most:
            most, waits = size_of(part), list(WAITS)  # progress was made: start the delays again
        if not addresses or not waits:
            break
        log(f"{file.name}: trying again in {waits[0]} s")
        time.sleep(waits.pop(0))
    raise ConnectionError(
        f"{file.name} could not be downloaded ({'; '.join(map(': '.join, answers.items()))}). "
        f"Run this again to go on from the {size_of(part) / 1e6:,.0f} MB that are here, or "
        f"download {file.addresses[0]} by hand and name the file, or its folder, with --from.")


class _Final(OSError):
    """The address answers, but never with the file that is wanted."""


def _complete(address, part, file):
    """Complete `part` from `address` and check it; OSError if it is not the published file."""
    if not file.sha256:
        part.unlink(missing_ok=True)  # two pieces that do not belong together would go unnoticed
    begun = size_of(part)
    if not begun or begun != file.size:
        log(f"{file.name}: downloading from {address}, {begun / 1e6:,.0f} MB are here")
        _transfer(address, part, file)
    if not file.sha256:
        return
    found = sha256_of(part)
    if found != file.sha256:
        part.unlink()
        # Pieces of two files, or of one that was changed in between, deserve a fresh start.
        kind = OSError if begun else _Final
        raise kind(f"not the published file, its SHA-256 is {found}, expected {file.sha256}")


def _transfer(address, part, file):
    """Append what `part` lacks, or write all of it where the server does not support ranges.

    Raises OSError or HTTPException where the transfer breaks off.
    """
    have = size_of(part)
    headers = HEADERS | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(address, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            part.unlink(missing_ok=True)  # it is longer than the file it should be a part of
        elif 400 <= error.code < 500 and error.code not in (408, 429):
            raise _Final(f"HTTP {error.code} {error.reason}") from None
        raise OSError(f"HTTP {error.code} {error.reason}") from None
    with answer:
        found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        done = int(found.group(1)) if found else 0
        length = int(answer.headers.get("Content-Length", 0))
        total = done + length if length else 0
        if file.sha256 and total not in (0, file.size):
            raise _Final(f"the server has a file of {total:,} bytes, expected {file.size:,}")
        if done not in (0, have):
            raise OSError(f"the server sent bytes from {done:,}, asked for those from {have:,}")
        total = file.size if file.sha256 else total
        report = bar(f"{file.name}, MB", delay=1.0)
        with open(part, "ab" if done else "wb") as written:
            # An endless answer is cut where the file should end: its checksum will not fit.
            while (not file.sha256 or done <= total) and (piece := answer.read1(1 << 18)):
                done += written.write(piece)
                report(done // 10 ** 6, max(total or file.size, done + 1) // 10 ** 6 + 1)
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
