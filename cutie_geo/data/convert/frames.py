"""Search for the frames of a video in folders or zip files, directly, by split or by participant."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cutie_geo.config import is_name
from cutie_geo.data.listing import natural_order

MAX_IMAGE_BYTES = 64 * 2**20
SUFFIXES = frozenset({".jpg", ".jpeg"})
SPLITS = frozenset({"train", "val", "test"})
"""Folders that are splits, not participants: videos missing in one split are not taken from another."""


@dataclass
class FrameStore:
    """Images of one video by file name; a context manager that closes the zip file."""

    path: Path
    """A folder or a zip file."""

    def __post_init__(self) -> None:
        self._zip: zipfile.ZipFile | None = None
        try:
            if self.path.is_dir():
                self._members = {file.name: file.name for file in self.path.iterdir()}
            else:
                self._zip = zipfile.ZipFile(self.path)
                self._members = self._plain(self._zip.namelist())  # members are never unpacked by path
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise ValueError(f"{self.path}: cannot be read: {error}") from error

    @staticmethod
    def _plain(members: list[str]) -> dict[str, str]:
        """Return the members of an archive by file name, without those whose paths leave the archive."""
        named = {member.rpartition("/")[2]: member for member in members}
        return {name: member for name, member in named.items() if is_name(name)}

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def images(self) -> list[str]:
        """Return the names of all images, in natural order."""
        return natural_order(name for name in self._members if Path(name).suffix.lower() in SUFFIXES and name[0] != ".")

    def read(self, name: str) -> bytes:
        """Return the bytes of an image file. Raises ValueError if it cannot be read or is far too large."""
        try:
            size = self._zip.getinfo(self._members[name]).file_size if self._zip else (self.path / name).stat().st_size
            if size > MAX_IMAGE_BYTES:
                raise ValueError(f"it has {size} bytes, expected at most {MAX_IMAGE_BYTES}")
            return self._zip.read(self._members[name]) if self._zip else (self.path / name).read_bytes()
        except MemoryError:
            raise
        except Exception as error:  # damaged or encrypted archives raise nearly anything
            raise ValueError(f"{self.path / name}: cannot be read: {error}") from error

    def __enter__(self) -> "FrameStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._zip:
            self._zip.close()


def _bases(root: Path, split: str) -> list[Path]:
    """Return the folders that hold videos or participants."""
    return [root / split, root / "rgb_frames" / split, root]


def find_frames(root: Path, split: str, video: str) -> FrameStore:
    """Find the frames of `video` under the folder of the split or `root`.

    Supported layouts are `<video>/` and `<participant>/<video>/`, or either as a zip file; the participant is the text
    before the first underscore.

    Raises:
        ValueError: with the searched places, if there are none.
    """
    participant = video.split("_")[0]
    folders = [base / middle / video for base in _bases(root, split) for middle in ("", participant)]
    for folder in folders:
        if folder.is_dir():
            return FrameStore(folder)
        for archive in (folder.with_name(f"{video}.zip"), folder.with_name(f"{video}.ZIP")):
            if archive.is_file():
                return FrameStore(archive)
    looked = ", ".join(str(folder) for folder in folders)
    raise ValueError(f"{root}: no frames of {video}; looked for {looked}, and for zip files of these names")


def find_videos(root: Path, split: str) -> dict[str, Path]:
    """Return all videos with frames under `root` for `split`, by name. Raises ValueError if there are none."""
    for base in _bases(root, split):
        if base.is_dir() and (found := dict(sorted(_videos(base, 2)))):
            return found
    raise ValueError(
        f"{root}: no frames for {split}, expected folders or zip files of JPEGs by video, or by participant"
    )


def _videos(folder: Path, levels: int) -> Iterator[tuple[str, Path]]:
    for path in folder.iterdir():
        if path.suffix.lower() == ".zip" and path.is_file():
            yield path.stem, path
        elif path.is_dir() and any(file.suffix.lower() in SUFFIXES for file in path.iterdir()):
            yield path.name, path
        elif path.is_dir() and levels > 1 and path.name not in SPLITS:
            yield from _videos(path, levels - 1)
