"""Where the frames of a video are: a folder or a zip file, directly, by split or by participant."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

MAX_IMAGE_BYTES = 64 * 2**20
SUFFIXES = frozenset({".jpg", ".jpeg"})
SPLITS = frozenset({"train", "val", "test"})
"""Folders that are no participants: the videos of a split that lacks are not those of another."""


@dataclass
class FrameStore:
    """The images of one video, by file name. A context manager, which closes the zip file."""

    path: Path
    """A folder or a zip file."""

    def __post_init__(self) -> None:
        self._zip: zipfile.ZipFile | None = None
        try:
            if self.path.is_dir():
                self._members = {file.name: file.name for file in self.path.iterdir()}
            else:
                self._zip = zipfile.ZipFile(self.path)
                self._members = {Path(name).name: name for name in self._zip.namelist()}  # never unpacked by path
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise ValueError(f"{self.path}: can't be read: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def images(self) -> list[str]:
        """The names of all images, sorted."""
        return sorted(name for name in self._members if Path(name).suffix.lower() in SUFFIXES and name[0] != ".")

    def read(self, name: str) -> bytes:
        """The bytes of an image file. Raises ValueError naming it if it can't be read or is far too large."""
        try:
            size = self._zip.getinfo(self._members[name]).file_size if self._zip else (self.path / name).stat().st_size
            if size > MAX_IMAGE_BYTES:
                raise ValueError(f"it has {size} bytes, wanted at most {MAX_IMAGE_BYTES}")
            return self._zip.read(self._members[name]) if self._zip else (self.path / name).read_bytes()
        except MemoryError:
            raise
        except Exception as error:  # damaged or encrypted archives raise nearly anything
            raise ValueError(f"{self.path / name}: can't be read: {error}") from error

    def __enter__(self) -> "FrameStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._zip:
            self._zip.close()


def _bases(root: Path, split: str) -> list[Path]:
    """Folders that hold videos, or participants."""
    return [root / split, root / "rgb_frames" / split, root]


def find_frames(root: Path, split: str, video: str) -> FrameStore:
    """The frames of `video`. Raises ValueError with the places looked at if there are none.

    Under the folder of the split or `root` itself: `<video>/`, `<participant>/<video>/`, or either as a zip file;
    the participant is what comes before the first underscore.
    """
    participant = video.split("_")[0]
    folders = [base / middle / video for base in _bases(root, split) for middle in ("", participant)]
    for folder in folders:
        if folder.is_dir():
            return FrameStore(folder)
        if (archive := folder.with_name(f"{video}.zip")).is_file():
            return FrameStore(archive)
    looked = ", ".join(str(folder) for folder in folders)
    raise ValueError(f"{root}: no frames of {video}; looked for {looked}, and for zip files of these names")


def find_videos(root: Path, split: str) -> dict[str, Path]:
    """All videos with frames under `root` for `split`, by name; folders or zip files. Raises ValueError for none."""
    for base in _bases(root, split):
        if base.is_dir() and (found := dict(sorted(_videos(base, 2)))):
            return found
    raise ValueError(f"{root}: no frames for {split}, wanted folders or zip files of JPEGs by video, or by participant")


def _videos(folder: Path, levels: int) -> Iterator[tuple[str, Path]]:
    for path in folder.iterdir():
        if path.suffix == ".zip" and path.is_file():
            yield path.stem, path
        elif path.is_dir() and any(file.suffix.lower() in SUFFIXES for file in path.iterdir()):
            yield path.name, path
        elif path.is_dir() and levels > 1 and path.name not in SPLITS:
            yield from _videos(path, levels - 1)
