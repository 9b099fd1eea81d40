"""Small data sets as VISOR, OVIS and BURST publish theirs."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (36, 64)


def jpeg(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    """A picture of colours that change slowly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (3, 4, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize((size[1], size[0])).save(path)
    return path


def square(x: float, y: float, side: float) -> list[list[float]]:
    """A polygon."""
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]


def visor_frame(number: int, entities: dict[str, list], sequence: int = 1, video: str = "P01_01") -> dict:
    """An element of `video_annotations`; `entities` are segments by name."""
    name = f"{video}_frame_{number:010d}.jpg"
    image = {
        "image_path": f"{video}/{name}",
        "name": name,
        "subsequence": f"{video}_seq_{sequence:05d}",
        "video": video,
    }
    annotations = [
        {"id": f"{number}-{i}", "name": each, "class_id": 3, "exhaustive": "y", "segments": segments}
        for i, (each, segments) in enumerate(entities.items())
    ]
    return {"image": image, "annotations": annotations}


def visor_content(frames: list[dict]) -> dict:
    """A whole file."""
    return {"info": {"Version": "0.1"}, "video_annotations": frames}


def write_visor(root: Path, frames: list[dict], video: str = "P01_01", split: str = "val") -> None:
    """Annotations and frames of one video under `root`."""
    (root / "annotations" / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations" / split / f"{video}.json").write_text(json.dumps(visor_content(frames)))
    for i, frame in enumerate(frames):
        jpeg(root / "frames" / video / frame["image"]["name"], seed=i)


def ovis_content() -> dict:
    """A video of three frames, 4 x 6, with two objects that overlap in the second."""
    size = [4, 6]
    first = [{"size": size, "counts": [4, 8, 12]}, {"size": size, "counts": [0, 8, 16]}, None]
    second = [None, {"size": size, "counts": "44`0"}, {"size": size, "counts": [20, 4]}]
    return {
        "info": {},
        "videos": [
            {
                "id": 7,
                "width": 6,
                "height": 4,
                "length": 3,
                "file_names": [f"abc/img_{i:07d}.jpg" for i in (1, 2, 3)],
            }
        ],
        "annotations": [
            {"id": 1, "video_id": 7, "category_id": 3, "segmentations": first, "bboxes": [], "areas": []},
            {"id": 2, "video_id": 7, "category_id": 5, "segmentations": second, "bboxes": [], "areas": []},
        ],
    }


def burst_content() -> dict:
    """A sequence of two annotated frames, 4 x 6, with the tracks 3 and 1, which overlap in the first."""
    return {
        "sequences": [
            {
                "id": 1,
                "width": 6,
                "height": 4,
                "fps": 30,
                "dataset": "AVA",
                "seq_name": "film one",
                "all_image_paths": ["f1.jpg", "f2.jpg", "f3.jpg"],
                "annotated_image_paths": ["f1.jpg", "f3.jpg"],
                "track_category_ids": {"3": 1, "1": 2},
                "segmentations": [{"3": {"rle": "08`0"}, "1": {"rle": [4, 8, 12]}}, {"1": {"rle": "44`0"}}],
            }
        ]
    }
