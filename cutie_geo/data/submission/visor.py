"""VISOR's challenge file: JSON with masks as named polygons."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cutie_geo.config import read_json, require
from cutie_geo.data.index import VideoRecord
from cutie_geo.data.masks import object_ids, read_labels
from cutie_geo.data.submission.segments import to_segments

INFO = {
    "Dataset Name": "VISOR",
    "Challenge": "semi_supervised_vos",
    "Version": "0.1",
    "Resolution": "854x480",
    "Release Date": "Aug 2022",
    "URL": "https://epic-kitchens.github.io/VISOR",
    "Details": "This is a VISOR VOS submission file. All annotations must have 854x480 resolution",
}
"""Header that the server expects verbatim."""
ENTRY = "val.json"
"""Name of the only file in the zip."""

Names = Mapping[str, Mapping[str, str]]
"""Object names by sequence and id."""


def read_names(records: Sequence[VideoRecord], split: str) -> Names:
    """Read `<split>_data_mapping.json` at the root of the tree that holds the frames.

    Raises:
        ValueError: if it is missing or invalid.
    """
    name = f"{split}_data_mapping.json"
    places = [parent / name for parent in records[0].source.absolute().parents[:4]] if records else []
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        raise ValueError(
            f"{name}: not found beside JPEGImages, expected it from the conversion, for the objects' names"
        )
    try:
        names = read_json(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from None
    whole = isinstance(names, dict) and all(isinstance(entry, dict) for entry in names.values())
    require(whole, f'{path}: expected {{sequence: {{"1": name, ...}}}}')
    return names


def video_annotations(files: Mapping[str, Path], video: str, names: Names) -> tuple[list[Any], Counter[int]]:
    """Return the entries of a sequence's frames, and the number of frames in which each unnamed id was skipped.

    Raises:
        ValueError: with the name of an unreadable file.
    """
    entries, skipped = [], Counter[int]()
    known = names.get(video, {})
    for stem, path in files.items():
        labels = read_labels(path).labels
        ids = object_ids(labels)
        skipped.update(i for i in ids if str(i) not in known)
        found = [{"name": known[str(i)], "segments": to_segments(labels == i)} for i in ids if str(i) in known]
        entries.append({"image": _image(video, stem), "annotations": found})
    return entries, skipped


def _image(video: str, stem: str) -> dict[str, str]:
    """Return the image description of a frame; the sequence `P01_107_seq_00001` belongs to the video `P01_107`."""
    recording = video.split("_seq_")[0]
    return {"image_path": f"{recording}/{stem}.png", "name": f"{stem}.png", "video": recording, "subsequence": video}
