"""Files that each server expects, and for which videos."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cutie_geo.config import require
from cutie_geo.data.index import VideoRecord, dataset

VISOR = "visor"
VISOR_SIZE = (480, 854)


@dataclass(frozen=True)
class Server:
    """A benchmark's server and its rules for submissions."""

    name: str
    title: str
    splits: Mapping[str, str]
    """Names of datasets by split, the usual one first."""
    folder: str = ""
    """Folder in the zip that holds the videos' folders; "" for none."""
    size: tuple[int, int] | None = None
    """Height and width of every mask. None: those of its frame."""
    reference_optional: bool = False
    """The mask of the prompted frame may be left out."""
    alone_refused: bool = False
    """The server refuses a zip with a single folder."""

    def split(self, name: str | None) -> str:
        """Return the split, by default the usual one. Raises ValueError for unknown splits."""
        name = name or next(iter(self.splits))
        require(name in self.splits, f"{self.name}: no split {name}, expected one of {', '.join(self.splits)}")
        return name


SERVERS: dict[str, Server] = {
    server.name: server
    for server in (
        Server(
            VISOR,
            "VISOR, semi-supervised video object segmentation",
            {"val": "visor-val"},
            size=VISOR_SIZE,
            reference_optional=True,
        ),
        Server(
            "davis",
            "DAVIS 2017, semi-supervised",
            {"test-dev": "davis2017-test-dev", "val": "davis2017-val"},
            alone_refused=True,
        ),
        Server(
            "youtubevos",
            "YouTube-VOS",
            {
                "valid": "youtubevos2019-valid",
                "2019-valid": "youtubevos2019-valid",
                "2018-valid": "youtubevos2018-valid",
            },
            folder="Annotations",
        ),
        Server("mose", "MOSE", {"valid": "mose-valid"}),
        Server("lsvos", "LSVOS 2024, VOS track", {"valid": "lsvos2024-valid"}),
        Server("lvos", "LVOS", {"valid": "lvos-valid", "test": "lvos-test"}, folder="Annotations"),
    )
}
"""Servers by name, with the splits whose first masks are published."""


def records(server: Server, root: Path, split: str) -> list[VideoRecord]:
    """Return the videos that the server expects. Raises ValueError if the files are not as published."""
    found = dataset(server.splits[split], root)[1]
    whole = server.name == "davis" and any(record.source.parent.name == "Full-Resolution" for record in found)
    require(not whole, f"{root}: no frames at 480p, the size that the server scores")
    return found
