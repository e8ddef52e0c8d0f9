"""The table of published data sets, `data/published.toml`, which explains the fields."""

import tomllib
from dataclasses import dataclass, field

from utils.datasets import REPOSITORY, VOC_CLASSES
from utils.labels import voc_colormap


@dataclass(frozen=True)
class Archive:
    """A published file. addresses: in the order to try. size: bytes. sha256: "" where both vary."""

    name: str
    addresses: tuple
    size: int
    sha256: str = ""


@dataclass(frozen=True)
class Source:
    """A data set as published."""

    archives: tuple
    members: str
    manifest: str = ""
    ids: dict = field(default_factory=dict)
    classes: dict = field(default_factory=lambda: dict(zip(VOC_CLASSES, voc_colormap(21).tolist())))


def _source(archives, homes=(), **entry):
    files = [Archive(**{"addresses": [home + archive["name"] for home in homes], **archive})
             for archive in archives]
    return Source(tuple(files), **entry)


_TABLE = tomllib.loads((REPOSITORY / "data" / "published.toml").read_text("utf-8"))
SOURCES = {name: _source(**entry) for name, entry in _TABLE.items()}
