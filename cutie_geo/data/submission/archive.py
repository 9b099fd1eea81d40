"""Reproducible zip files, written atomically."""

import json
import logging
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cutie_geo.data.index import VideoRecord
from cutie_geo.data.io_threads import atomic_write, map_ahead
from cutie_geo.data.submission.check import result_files
from cutie_geo.data.submission.servers import Server
from cutie_geo.data.submission.visor import ENTRY, INFO, Names, video_annotations

log = logging.getLogger(__name__)

EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time stamp of all files in a zip, constant so that equal masks give equal bytes."""
WORKERS = 2


def write_masks(path: Path, server: Server, records: Iterable[VideoRecord], results: Path) -> int:
    """Write the masks of `records` unchanged in the server's folders; return their number. Raises OSError."""
    count = 0
    with atomic_write(path) as part, zipfile.ZipFile(part, "w") as target:
        for record in records:
            for file in result_files(server, record, results).values():
                name = Path(server.folder, record.name, file.name).as_posix()
                target.writestr(_entry(name, zipfile.ZIP_STORED), file.read_bytes())  # PNGs are compressed already
                count += 1
    return count


def write_visor(path: Path, server: Server, records: Iterable[VideoRecord], results: Path, names: Names) -> int:
    """Write VISOR's JSON file in a zip; return the number of masks. Objects without a name are skipped with a warning.

    The file is written sequence by sequence to limit memory.

    Raises:
        ValueError: for unreadable masks.
        OSError: if writing fails.
    """

    def entries(record: VideoRecord) -> tuple[str, list[str], Counter[int]]:
        files = result_files(server, record, results)
        found, skipped = video_annotations(files, record.name, names)
        return record.name, [json.dumps(entry) for entry in found], skipped

    count = 0
    entry = _entry(ENTRY, zipfile.ZIP_DEFLATED)
    with (
        atomic_write(path) as part,
        zipfile.ZipFile(part, "w") as target,
        target.open(entry, "w", force_zip64=True) as file,
    ):
        file.write(f'{{"info": {json.dumps(INFO)}, "video_annotations": ['.encode())
        for name, texts, skipped in map_ahead(entries, records, WORKERS, 2 * WORKERS):
            for label, frames in sorted(skipped.items()):
                log.warning("%s: object %d skipped in %d frames: the mapping has no name for it", name, label, frames)
            for text in texts:
                file.write((", " if count else "").encode() + text.encode())
                count += 1
        file.write(b"]}")
    return count


def _entry(name: str, compression: int) -> zipfile.ZipInfo:
    """Return a zip entry that is identical on every system."""
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type = compression
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    return entry
