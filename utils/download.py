"""Files from the network: fetched once, in one piece or not at all."""

import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path


def fetch(source, folder, timeout=30):
    """Return the path of a file: `source` itself if it is a path, or where its download now lies.

    source: a path, or an http(s) address. folder: where a download is kept, under its own name; a file that is
    there already is not fetched again. timeout: seconds without an answer.
    Raises FileNotFoundError for a path that does not exist, ConnectionError if the download fails; nothing half
    fetched stays behind.
    """
    address = urllib.parse.urlsplit(str(source))
    if address.scheme not in ("http", "https"):
        path = Path(source).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"{source}: there is no such file (expected a path or an http(s) address).")
        return path
    target = Path(folder) / (Path(urllib.parse.unquote(address.path)).name or "download")
    if target.is_file():
        return target
    Path(folder).mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        # Some hosts refuse requests without a browser-like name.
        request = urllib.request.Request(str(source), headers={"User-Agent": "Mozilla/5.0 (fcn32-notebooks)"})
        with urllib.request.urlopen(request, timeout=timeout) as answer, open(partial, "wb") as file:
            shutil.copyfileobj(answer, file)
            expected = answer.headers.get("Content-Length")
        if expected is not None and partial.stat().st_size != int(expected):
            raise OSError(f"{partial.stat().st_size} of {expected} bytes arrived")
        os.replace(partial, target)
    except (OSError, urllib.error.URLError) as error:
        raise ConnectionError(f"{source}: could not be fetched ({error}). Check the address and the network and try "
                              "again, or download the file yourself and give its path.") from None
    finally:
        partial.unlink(missing_ok=True)
    return target
