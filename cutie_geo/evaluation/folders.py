"""Folders of masks with one folder per sequence, read as pairs of label maps with all faults reported."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from cutie_geo.config import is_name
from cutie_geo.data.images import open_image
from cutie_geo.data.listing import MASK_SUFFIXES, files_by_stem, mask_path, read_text, warn_of_order
from cutie_geo.data.masks import read_labels, resize_labels
from cutie_geo.structures import VOID

WHITE = "; the true masks hold 0 and 255 only, which --protocol davis2016 scores"
MODES = ("P", "L")
"""Pillow modes of masks that are scored: indexed and grey, 8 bits."""


class EvaluationError(ValueError):
    """Masks that cannot be scored."""

    def __init__(self, sequence: str, frame: str | None, reason: str) -> None:
        super().__init__(sequence, frame, reason)  # all arguments, so that it can be pickled
        self.sequence, self.frame, self.reason = sequence, frame, reason

    def __str__(self) -> str:
        return f"{self.sequence if self.frame is None else f'{self.sequence}/{self.frame}'}: {self.reason}"


class Treatment(NamedTuple):
    """A fault that was scored nevertheless, and its treatment."""

    sequence: str
    frame: str | None
    """None: all frames of the sequence."""
    reason: str
    treated_as: str


def sequence_names(root: Path) -> list[str]:
    """Return the names of the folders of PNGs under `root`, sorted. Raises ValueError if there are none."""
    folders = sorted(_visible(root)) if root.is_dir() else []
    names = []
    for path in folders:
        if path.is_dir() and (frames := frame_names(path)):
            names.append(path.name)
            warn_of_order(path, frames)
    if not names:
        raise ValueError(f"{root}: no folders of PNG masks, expected one for each sequence")
    return names


def listed_names(path: Path) -> list[str]:
    """Return the names in a text file, one per line, without duplicates; an empty file lists none.

    Raises:
        ValueError: if the file is unreadable, or a line is not a folder name.
    """
    names = [name for name in dict.fromkeys(line.strip() for line in read_text(path).splitlines()) if name]
    odd = [name for name in names if not is_name(name) or name.startswith(".")]
    if odd:
        raise ValueError(f"{path}: {odd[0]} is not a sequence name, expected one name a line")
    return names


def frame_names(folder: Path) -> tuple[str, ...]:
    """Return the stems of the PNGs in a folder in natural order; hidden files and all others are ignored."""
    return tuple(files_by_stem(folder, MASK_SUFFIXES))


def _visible(folder: Path) -> Iterable[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith("."))


# ----------------------------------------------------------------------------------------------------------- reading
class Reader:
    """Reader of label-map pairs of one sequence; if lenient, `treated` lists the accepted faults."""

    def __init__(self, sequence: str, truth: Path, masks: Path, lenient: bool) -> None:
        self.sequence, self.truth, self.masks, self.lenient = sequence, truth, masks, lenient
        self.treated: list[Treatment] = []
        self._missing_reported = False

    def true_labels(self, frame: str) -> UInt8[np.ndarray, "H W"]:
        """Return the ground-truth label map of a frame. Raises EvaluationError."""
        path = mask_path(self.truth, frame)
        if not path.is_file():
            raise EvaluationError(self.sequence, frame, f"the true mask is missing, expected {path}")
        return self._read(path, frame, "the true mask")

    def labels(self, frame: str, size: tuple[int, int], known: frozenset[int] | None) -> UInt8[np.ndarray, "H W"]:
        """Return the predicted label map of a frame at the ground truth's size.

        If lenient, a missing map is empty, another size is resized, and unknown labels become background.

        Args:
            known: allowed labels. None: any.

        Raises:
            EvaluationError: if not lenient, for all of these.
        """
        path = mask_path(self.masks, frame)
        if not path.is_file():
            self._treat_missing(frame, path)
            return np.zeros(size, np.uint8)
        labels = self._read(path, frame, "the prediction")
        if labels.shape != size:
            self.treat(frame, f"the prediction is {labels.shape}, expected {size}, the true mask's size", "resized")
            labels = resize_labels(labels, size).astype(np.uint8)
        unknown = [] if known is None else _unknown(labels, known)
        if unknown:
            objects = ", ".join(str(i) for i in sorted(known or ())) or "none"
            shown = ", ".join(map(str, unknown))
            white = WHITE if not known and labels_in(self.true_labels(frame)) == [VOID] else ""
            reason = f"the prediction holds unknown labels {shown}; the objects are {objects}{white}"
            self.treat(frame, reason, "background")
            labels = np.where(np.isin(labels, unknown), np.uint8(0), labels)
        return labels

    def _read(self, path: Path, frame: str, what: str) -> UInt8[np.ndarray, "H W"]:
        return read_bytes_mask(path, self.sequence, frame, what)

    def _treat_missing(self, frame: str, path: Path) -> None:
        """Report a missing prediction, once for a missing folder."""
        if self.masks.is_dir():
            self.treat(frame, f"the prediction is missing, expected {path}", "empty")
        elif not self._missing_reported:
            self.treat(frame, f"the folder of predictions is missing, expected {self.masks}", "empty")
            self.treated[-1] = self.treated[-1]._replace(frame=None)
            self._missing_reported = True

    def treat(self, frame: str | None, reason: str, treated_as: str) -> None:
        """Note a fault if lenient, else raise EvaluationError."""
        if not self.lenient:
            raise EvaluationError(self.sequence, frame, reason)
        self.treated.append(Treatment(self.sequence, frame, reason, treated_as))


def read_bytes_mask(path: Path, sequence: str, frame: str, what: str) -> UInt8[np.ndarray, "H W"]:
    """Read an 8-bit mask; `what` names it in errors. Raises EvaluationError for anything else."""
    try:
        with open_image(path) as image:
            if image.format == "PNG" and image.mode not in MODES:
                shape = (image.height, image.width, len(image.getbands()))
                reason = f"{what} is {image.mode} {shape}, expected palette or grey (H, W) of 8 bits"
                raise EvaluationError(sequence, frame, reason)
            if image.format == "PNG" and image.tile and str(image.tile[0][3]) in MODES:
                return np.asarray(image)
        return read_labels(path).labels.astype(np.uint8)  # fewer bits per pixel, and errors for other formats
    except (EvaluationError, MemoryError):
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        text = str(error).removeprefix(f"{path}: ")
        raise EvaluationError(sequence, frame, f"{what}, {path}: {text}") from error


def _unknown(labels: UInt8[np.ndarray, "H W"], known: frozenset[int]) -> list[int]:
    """Return the labels that are neither known nor 0. The largest label usually excludes them at once."""
    if all(i in known for i in range(1, int(labels.max()) + 1)):
        return []
    return [i for i in labels_in(labels) if i not in known]


def labels_in(labels: UInt8[np.ndarray, "H W"]) -> list[int]:
    """Return the labels of a map, ascending, without 0."""
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel()  # much faster than numpy for 8 bits
    return [int(i) for i in np.flatnonzero(counts) if i]
