"""Folders of masks, one for each sequence: what is there, and pairs of label maps read with every oddity named."""

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cutie_geo.data.masks import read_labels, resize_labels

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MODES = ("P", "L")
"""Masks that are scored: indexed and grey, of 8 bits."""


class EvaluationError(ValueError):
    """Masks that can't be scored."""

    def __init__(self, sequence: str, frame: str | None, reason: str) -> None:
        super().__init__(sequence, frame, reason)  # all of them, so that it survives the way from another process
        self.sequence, self.frame, self.reason = sequence, frame, reason

    def __str__(self) -> str:
        return f"{self.sequence if self.frame is None else f'{self.sequence}/{self.frame}'}: {self.reason}"


class Treatment(NamedTuple):
    """Something wrong that was scored nevertheless, and as what."""

    sequence: str
    frame: str | None
    """None: all of the sequence's frames."""
    reason: str
    treated_as: str


def sequence_names(root: Path) -> list[str]:
    """Names of the folders of PNGs under `root`, in string order. Raises ValueError if there are none."""
    folders = sorted(_visible(root)) if root.is_dir() else []
    names = [path.name for path in folders if path.is_dir() and frame_names(path)]
    if not names:
        raise ValueError(f"{root}: no folders of PNG masks there, wanted one for each sequence")
    return names


def listed_names(path: Path) -> list[str]:
    """The names in a text file, one a line, each once, in its order. Raises ValueError if there are none."""
    names = list(dict.fromkeys(line.strip() for line in path.read_text(encoding="utf-8").splitlines()))
    names = [name for name in names if name]
    if not names:
        raise ValueError(f"{path}: the list is empty")
    odd = [name for name in names if Path(name).name != name or name.startswith(".")]
    if odd:
        raise ValueError(f"{path}: {odd[0]} is no sequence's name, wanted one name a line")
    return names


def frame_names(folder: Path) -> tuple[str, ...]:
    """Stems of the PNGs in a folder in string order; hidden files and all others are ignored."""
    return tuple(sorted(path.stem for path in _visible(folder) if path.suffix == ".png"))


def _visible(folder: Path) -> Iterable[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith("."))


# ----------------------------------------------------------------------------------------------------------- reading
class Reader:
    """Pairs of label maps of one sequence. `treated` lists what was wrong and read nevertheless, if lenient."""

    def __init__(self, sequence: str, truth: Path, masks: Path, lenient: bool) -> None:
        self.sequence, self.truth, self.masks, self.lenient = sequence, truth, masks, lenient
        self.treated: list[Treatment] = []
        self._missing_told = False

    def true_labels(self, frame: str) -> UInt8[np.ndarray, "H W"]:
        """The true label map of a frame. Raises EvaluationError."""
        path = self.truth / f"{frame}.png"
        if not path.is_file():
            raise EvaluationError(self.sequence, frame, f"the true mask is missing, wanted {path}")
        return self._read(path, frame, "the true mask")

    def labels(self, frame: str, size: tuple[int, int], known: frozenset[int] | None) -> UInt8[np.ndarray, "H W"]:
        """The predicted label map of a frame at the true one's size, holding `known` labels only (None: any).

        Raises EvaluationError. If lenient, a missing map is empty, one of another size is resized, and unknown labels
        are background.
        """
        path = self.masks / f"{frame}.png"
        if not path.is_file():
            self._treat_missing(frame, path)
            return np.zeros(size, np.uint8)
        labels = self._read(path, frame, "the prediction")
        if labels.shape != size:
            self.treat(frame, f"the prediction is {labels.shape}, wanted {size}, the true mask's size", "resized")
            labels = resize_labels(labels, size).astype(np.uint8)
        unknown = [] if known is None else _unknown(labels, known)
        if unknown:
            objects = ", ".join(str(i) for i in sorted(known or ())) or "none"
            shown = ", ".join(map(str, unknown))
            self.treat(frame, f"the prediction holds unknown labels {shown}; the objects are {objects}", "background")
            labels = np.where(np.isin(labels, unknown), np.uint8(0), labels)
        return labels

    def _read(self, path: Path, frame: str, what: str) -> UInt8[np.ndarray, "H W"]:
        return read_bytes_mask(path, self.sequence, frame, what)

    def _treat_missing(self, frame: str, path: Path) -> None:
        """As `treat`, but once for a whole folder."""
        if self.masks.is_dir():
            self.treat(frame, f"the prediction is missing, wanted {path}", "empty")
        elif not self._missing_told:
            self.treat(frame, f"the folder of predictions is missing, wanted {self.masks}", "empty")
            self.treated[-1] = self.treated[-1]._replace(frame=None)
            self._missing_told = True

    def treat(self, frame: str | None, reason: str, treated_as: str) -> None:
        """Note it if lenient. Raises EvaluationError if not."""
        if not self.lenient:
            raise EvaluationError(self.sequence, frame, reason)
        self.treated.append(Treatment(self.sequence, frame, reason, treated_as))


def read_bytes_mask(path: Path, sequence: str, frame: str, what: str) -> UInt8[np.ndarray, "H W"]:
    """A mask of 8 bits; `what` it is called if it is none. Raises EvaluationError for anything else."""
    try:
        if (plain := _unfiltered(path.read_bytes())) is not None:
            return plain
        with Image.open(path) as image:
            if image.format == "PNG" and image.mode not in MODES:
                shape = (image.height, image.width, len(image.getbands()))
                reason = f"{what} is {image.mode} {shape}, wanted palette or grey (H, W) of 8 bits"
                raise EvaluationError(sequence, frame, reason)
            if image.format == "PNG" and image.tile and str(image.tile[0][3]) in MODES:
                return np.asarray(image)
        return read_labels(path).labels.astype(np.uint8)  # fewer bits a pixel, and complaints about other formats
    except (EvaluationError, MemoryError):
        raise
    except Exception as error:  # on damaged bytes Pillow raises nearly anything
        text = str(error).removeprefix(f"{path}: ")
        raise EvaluationError(sequence, frame, f"{what}, {path}: {text}") from error


def _unfiltered(png: bytes) -> UInt8[np.ndarray, "H W"] | None:
    """The labels of the simplest and most common masks, several times faster than by Pillow; None of all others.

    They are indexed or grey, 8 bits, not interlaced, without a row filter, and undamaged.
    """
    if png[:8] != PNG_SIGNATURE or png[12:16] != b"IHDR":
        return None
    width, height, *kind = struct.unpack(">IIBBBBB", png[16:29])
    if kind not in ([8, 0, 0, 0, 0], [8, 3, 0, 0, 0]) or not width * height:
        return None
    data, place = [], 8
    while place + 12 <= len(png):
        end = place + 8 + int.from_bytes(png[place : place + 4], "big")
        name = png[place + 4 : place + 8]
        if zlib.crc32(png[place + 4 : end]) != int.from_bytes(png[end : end + 4], "big"):
            return None
        if name == b"IDAT":
            data.append(png[place + 8 : end])
        if name == b"IEND":
            break
        place = end + 4
    try:
        rows = np.frombuffer(zlib.decompress(b"".join(data)), np.uint8)
    except zlib.error:
        return None
    if rows.size != height * (width + 1) or rows[:: width + 1].any():  # each row begins with its filter's number
        return None
    return np.ascontiguousarray(rows.reshape(height, width + 1)[:, 1:])


def _unknown(labels: UInt8[np.ndarray, "H W"], known: frozenset[int]) -> list[int]:
    """Labels of a map beside those known and 0. Mostly there are none, which its highest label tells at once."""
    if all(i in known for i in range(1, int(labels.max()) + 1)):
        return []
    return [i for i in labels_in(labels) if i not in known]


def labels_in(labels: UInt8[np.ndarray, "H W"]) -> list[int]:
    """The labels of a map, ascending, without 0."""
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel()  # far faster than numpy's ways for 8 bits
    return [int(i) for i in np.flatnonzero(counts) if i]
