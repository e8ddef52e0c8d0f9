"""One file from the network: fetched with progress, gone on with after a break, checked, whole or not there at all.

`keras.utils.get_file` would start TensorFlow, and neither it nor pooch goes on with a download that broke off; hence
these lines. Standard library only.
"""

import errno
import hashlib
import http.client
import math
import os
import re
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from utils.progress import SECONDS

TIMEOUT = 30  # seconds without a byte
LARGEST = 100 * 10 ** 6  # bytes of a single photo: an address may never end
WAITS = (2, 5, 15)  # seconds before each further round over the addresses
# Some hosts refuse requests without a browser-like name.
HEADERS = {"User-Agent": "Mozilla/5.0 (fcn32-notebooks)", "Accept-Encoding": "identity"}
DISK_ERRORS = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True)
class Published:
    """A file that somebody publishes. addresses: in the order to try. size: in bytes, 0 if unknown. sha256: "" where
    its bytes vary."""

    name: str
    addresses: tuple
    size: int = 0
    sha256: str = ""


def fetch(source, folder, check=None, timeout=None):
    """Return the path of a file: `source` itself if it is a path, or where its download now lies.

    source: a path, or an http(s) address. folder: where a download is kept; one that is there already is not fetched
    again. check: called with the path of a download, to raise ValueError if it is not what is wanted. timeout: seconds
    without an answer, by default TIMEOUT.
    Raises FileNotFoundError for a path that does not exist, ConnectionError if the download fails, has more than
    LARGEST bytes or does not pass `check`; nothing of it stays behind; ValueError for an address with a password;
    OSError where the disk is full or closed.
    """
    address = urllib.parse.urlsplit(str(source))
    if address.scheme not in ("http", "https"):
        path = Path(source).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"{source}: there is no such file (expected a path or an http(s) address).")
        return path
    if "@" in address.netloc:
        host = address.netloc.rpartition("@")[2]
        raise ValueError(f"{address.scheme}://{host}{address.path}: the address holds a user name or a password; "
                         "expected one without. Download the file yourself and give its path.")
    # Photos of many hosts are called image.jpg.
    name = Path(urllib.parse.unquote(address.path)).name or "download"
    target = Path(folder) / f"{hashlib.sha256(str(source).encode()).hexdigest()[:8]}-{name[-100:]}"
    if target.is_file():
        return target
    Path(folder).mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        _transfer(str(source), partial, timeout=timeout, largest=LARGEST)
        if check:
            check(partial)
        os.replace(partial, target)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in DISK_ERRORS:
            raise
        reason = _reason(error).replace(f"{partial}: ", "")
        raise ConnectionError(f"{source}: could not be fetched ({reason}). Check the address and the network "
                              "and try again, or download the file yourself and give its path.") from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def download(file, folder):
    """Return the path of a `Published` file in `folder`, downloaded and checked where it is not there yet.

    What an earlier call left in `<name>.part` is gone on with. Raises ConnectionError, with what each address said,
    if none gives the file; OSError where the disk is full or closed.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    if target.is_file():  # only a checked file gets this name
        return target
    folder.mkdir(parents=True, exist_ok=True)
    addresses, waits, most, reasons = list(file.addresses), list(WAITS), size_of(part), {}
    while addresses:
        for address in list(addresses):
            try:
                _transfer_checked(address, part, file)
                os.replace(part, target)
                return target
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in DISK_ERRORS:
                    raise
                reasons[address] = _reason(error)
                say(f"{_host(address)}: {reasons[address]}")
                # A host without an address means no network, unless the network has just been there.
                unknown = isinstance(getattr(error, "reason", None), socket.gaierror) and size_of(part) <= most
                if unknown or isinstance(error, _Final):
                    addresses.remove(address)
        if size_of(part) > most:
            most, waits = size_of(part), list(WAITS)  # it gets on: patience starts anew
        if not addresses or not waits:
            break
        say(f"{file.name}: trying again in {waits[0]} s")
        time.sleep(waits.pop(0))
    told = "; ".join(f"{', '.join(_host(address) for address in reasons if reasons[address] == reason)}: {reason}"
                     for reason in dict.fromkeys(reasons.values()))
    kept = size_of(part) if file.sha256 else 0
    raise ConnectionError(f"{file.name} could not be downloaded ({told}). "
                          + (f"Run this again to go on from the {kept / 1e6:,.0f} MB that are here" if kept
                             else "Try again later") + f", or download {file.addresses[0]} by hand and give the file, "
                          "or its folder, as data_dir.")


class _Final(OSError):
    """The address answers, but never with the file that is wanted."""


def _transfer_checked(address, part, file):
    """Complete `part` from `address` and check it. Raises OSError, and deletes it, if it is not the published file."""
    if not file.sha256:
        part.unlink(missing_ok=True)  # nothing would tell that two pieces do not belong together
    begun = size_of(part)
    if not begun or begun != file.size:
        say(f"{file.name}: downloading from {_host(address)}" + f", on from {begun / 1e6:,.0f} MB" * bool(begun))
        _transfer(address, part, file.size)
    if not file.sha256:
        return
    found = sha256_of(part)
    if found != file.sha256:
        part.unlink()
        # Pieces of two files, or of one that was changed in between, deserve a fresh start.
        kind = OSError if begun else _Final
        raise kind(f"not the published file, its SHA-256 is {found}, expected {file.sha256}")


def _transfer(address, part, size=0, timeout=None, largest=math.inf):
    """Append what `part` lacks of the file at `address`, or write it anew where the server cannot go on from there.

    size: bytes that the file must have, 0 if unknown. largest: bytes that it may have. Raises OSError or HTTPException
    where it breaks off.
    """
    have = size_of(part)
    # Addresses are pasted as browsers show them, with letters that HTTP does not know.
    address = urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]")
    request = urllib.request.Request(address, headers=HEADERS | ({"Range": f"bytes={have}-"} if have else {}))
    try:
        answer = urllib.request.urlopen(request, timeout=timeout or TIMEOUT)
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
        if size and length and done + length != size:
            raise _Final(f"the server has a file of {done + length:,} bytes, expected {size:,}")
        if done not in (0, have):
            raise OSError(f"the server sent bytes from {done:,} on, asked for those from {have:,} on")
        total = size or (done + length if length else 0)
        most = size or largest
        report = _meter(part.name.removesuffix(".part"), total, done)
        with open(part, "ab" if done else "wb") as file:
            try:
                while max(done, total) <= most and (piece := answer.read1(1 << 18)):
                    done += file.write(piece)
                    report(done)
            finally:
                report(done, last=True)
    if max(done, total) > largest:
        raise _Final(f"it has more than {largest / 1e6:,.0f} MB")
    if done < total:
        raise OSError(f"the connection broke off after {done:,} of {total:,} bytes")


def _meter(label, total, begun):
    """Return a function of (bytes done, whether they are the last) that reports them, their rate and the time left.

    On stderr: a terminal shows one line, notebooks and log files get one every ten seconds. total: bytes, 0 if unknown.
    begun: bytes that were there before. What is over before the first report is due reports nothing.
    """
    live = sys.stderr.isatty()
    started = reported = time.monotonic()

    def report(done, last=False):
        nonlocal reported
        now = time.monotonic()
        if now - reported < SECONDS[live] and not (last and reported > started):
            return
        reported = now
        rate = (done - begun) / max(now - started, 1e-6)
        text = f"{label}: {done / 1e6:,.0f}" + f" of {total / 1e6:,.0f}" * bool(total) + f" MB, {rate / 1e6:,.1f} MB/s"
        if total and rate:
            minutes, seconds = divmod(round((total - done) / rate), 60)
            text += f", {minutes}:{seconds:02} left"
        print(f"\r{text:<78}" if live else text, end="\n" if last or not live else "", file=sys.stderr, flush=True)

    return report


def say(text):
    """Print a line on stderr, where it does not mix with what a command answers."""
    print(text, file=sys.stderr, flush=True)


def size_of(path):
    """Return a file's size in bytes, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def sha256_of(path):
    """Return a file's SHA-256 as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _host(address):
    return urllib.parse.urlsplit(address).netloc


def _reason(error):
    cause = getattr(error, "reason", None) or error
    if isinstance(cause, socket.gaierror):
        return "the host was not found; is there a network?"
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
