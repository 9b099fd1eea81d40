"""The JSON file of VISOR's challenge: every mask as named polygons."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cutie_geo.config import require
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
"""What the server wants at the top, word for word."""
ENTRY = "val.json"
"""The one file in the zip."""

Names = Mapping[str, Mapping[str, str]]
"""By sequence, the objects' names by id."""


def read_names(records: Sequence[VideoRecord], split: str) -> Names:
    """What `<split>_data_mapping.json`, at the top of the tree that holds the frames, says.

    Raises ValueError if it isn't there or isn't a mapping of mappings.
    """
    name = f"{split}_data_mapping.json"
    places = [parent / name for parent in records[0].source.absolute().parents[:4]] if records else []
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        raise ValueError(f"{name}: not found beside JPEGImages, wanted it from the conversion, for the objects' names")
    try:
        names = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: can't be read as JSON: {error}") from None
    whole = isinstance(names, dict) and all(isinstance(entry, dict) for entry in names.values())
    require(whole, f'{path}: wanted {{sequence: {{"1": name, ...}}}}')
    return names


def video_annotations(files: Mapping[str, Path], video: str, names: Names) -> tuple[list[Any], Counter[int]]:
    """The entries of a sequence's frames; and, by id, the number of frames in which it has no name and was skipped.

    Raises ValueError naming the file that can't be read.
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
    """What tells the server which frame it is: the sequence `P01_107_seq_00001` is of the film `P01_107`."""
    film = video.split("_seq_")[0]
    return {"image_path": f"{film}/{stem}.png", "name": f"{stem}.png", "video": film, "subsequence": video}
