"""Which files each server wants, and for which videos."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cutie_geo.config import require
from cutie_geo.data.index import VideoRecord, dataset

VISOR = "visor"
VISOR_SIZE = (480, 854)


@dataclass(frozen=True)
class Server:
    """Where results are sent to, and what must hold of them."""

    name: str
    title: str
    splits: Mapping[str, str]
    """Names of datasets by split, the usual one first."""
    folder: str = ""
    """What the videos' folders lie in within the zip; "" for nothing."""
    size: tuple[int, int] | None = None
    """Height and width of every mask. None: those of its frame."""
    reference_optional: bool = False
    """The mask of the frame that was given may be left out."""
    alone_refused: bool = False
    """The server takes no zip that holds one folder only."""

    def split(self, name: str | None) -> str:
        """The split meant. Raises ValueError for one that the server doesn't know."""
        name = name or next(iter(self.splits))
        require(name in self.splits, f"{self.name}: no split {name}, wanted one of {', '.join(self.splits)}")
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
"""By name. Splits without masks of the first frames are none that anything can be submitted for."""


def records(server: Server, root: Path, split: str) -> list[VideoRecord]:
    """The videos that the server expects. Raises ValueError where the files aren't as published."""
    found = dataset(server.splits[split], root)[1]
    whole = server.name == "davis" and any(record.source.parent.name == "Full-Resolution" for record in found)
    require(not whole, f"{root}: no frames at 480p, the size that the server scores")
    return found
