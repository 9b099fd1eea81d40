"""Polygons of masks, and readers of COCO, YOLO and CVAT."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from finished import write_film, write_frames

from cutie_geo.data.annotations.polygons import chains, fill_chains, fill_outlines, outlines
from cutie_geo.data.annotations.read import read_annotations
from cutie_geo.data.index import discover
from cutie_geo.data.masks import read_labels
from cutie_geo.data.video import open_source

SQUARE = [[10, 5, 20, 5, 20, 15, 10, 15]]


def masks(count: int) -> list[np.ndarray]:
    """Noise of all densities, and blobs."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        size = tuple(int(side) for side in rng.integers(1, 40, 2))
        noise = rng.random(size).astype(np.float32)
        found.append(cv2.blur(noise, (5, 5)) > 0.5 if number % 2 else noise < rng.choice([0.1, 0.5, 0.9]))
    return found


def test_polygons_along_pixels_lose_nothing() -> None:
    for mask in masks(120):
        np.testing.assert_array_equal(fill_outlines(outlines(mask), mask.shape), mask)


def test_polygons_through_pixels_lose_nothing() -> None:
    for mask in masks(120):
        rings = [ring.astype(np.float64) for ring in chains(mask)]
        np.testing.assert_array_equal(fill_chains(rings, mask.shape), mask)


def test_simplified_polygons_have_fewer_points_and_nearly_the_same_area() -> None:
    rows, columns = np.ogrid[:200, :200]
    mask = (rows - 100) ** 2 + (columns - 90) ** 2 < 80**2
    exact, simple = outlines(mask), outlines(mask, 1.0)
    assert len(simple[0]) < len(exact[0]) / 4
    filled = fill_outlines(simple, mask.shape)
    assert (filled & mask).sum() / (filled | mask).sum() > 0.98


def coco(**changes: object) -> dict[str, object]:
    """A COCO file of one square."""
    annotation = {"id": 9, "image_id": 1, "category_id": 3, "segmentation": SQUARE, "track_id": 4}
    content: dict[str, object] = {
        "images": [{"id": 1, "file_name": "00001.png", "width": 62, "height": 46}],
        "annotations": [annotation],
        "categories": [{"id": 3, "name": "knife"}],
    }
    return content | changes


def changed(**changes: object) -> dict[str, object]:
    """The same with another annotation."""
    content = coco()
    (annotation,) = content["annotations"]  # type: ignore[misc]
    return content | {"annotations": [annotation | changes]}  # type: ignore[operator]


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_coco_gives_masks_ids_and_names(tmp_path: Path) -> None:
    source = open_source(write_frames(tmp_path / "clip"))
    found = read_annotations(write(tmp_path / "a.json", coco()), source)
    assert found.names == {4: "knife"}
    labels, ids = found.mask("00001")
    assert ids == (4,)
    assert (labels == 4).sum() == 100
    assert (labels[5:15, 10:20] == 4).all()


def test_tracks_from_zero_are_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = open_source(write_frames(tmp_path / "clip"))
    assert read_annotations(write(tmp_path / "a.json", changed(track_id=0)), source).ids == [1]
    assert "numbered from 0" in caplog.text


def test_without_tracks_each_shape_of_the_only_frame_is_an_object(tmp_path: Path) -> None:
    source = open_source(write_frames(tmp_path / "clip"))
    file = write(tmp_path / "a.json", coco(annotations=[
        {"id": n, "image_id": 1, "category_id": 3, "segmentation": [[x, 1, x + 4, 1, x + 4, 5, x, 5]]}
        for n, x in ((900100258736, 1), (2, 20))
    ]))  # fmt: skip
    assert read_annotations(file, source).mask("00001").ids == (1, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no field 'categories'"),
        (coco(annotations=[]), "got no masks"),
        (coco(images=[{"id": 1, "file_name": "../../etc/passwd", "width": 62, "height": 46}]), "named 'passwd'"),
        (coco(images=[{"id": 1, "file_name": "00001.png", "width": 10**9, "height": 10**9}]), "--max-pixels"),
        (changed(segmentation=[[1, 2, 3]]), "a list of numbers x, y"),
        (changed(segmentation=[[1, 2, 3, 4]]), "got 2 points, expected at least 3"),
        (changed(segmentation=[[1, 2, 3, 4, 1e300, 5]]), "beyond 100000"),
        (changed(segmentation={"size": [46, 62], "counts": [5]}), "runs have 5 pixels"),
        (changed(segmentation={"size": [4, 4], "counts": "0"}), r"got a mask \(H, W\) = \(4, 4\)"),
        (changed(segmentation={"size": [46], "counts": "0"}), "expected height and width"),
        (changed(track_id=2**40), "got object 1099511627776"),
    ],
)  # fmt: skip
def test_bad_coco_is_named(content: dict[str, object], message: str, tmp_path: Path) -> None:
    source = open_source(write_frames(tmp_path / "clip"))
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(write(tmp_path / "a.json", content), source).mask("00001")
    assert str(tmp_path / "a.json") in str(caught.value)


YOLO = "0 0.2 0.2 0.5 0.2 0.5 0.6 0.2 0.6\n"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ({"00001": "0 0.5 0.5 0.2 0.2\n"}, "00001.txt:1: got a box"),
        ({"00001": "knife 1 2 3 4 5 6\n"}, "00001.txt:1: got class 'knife'"),
        ({"00001": "0 a b c d e f\n"}, "a word that is not a number"),
        ({"00001": "0 9 9 9 1 1 1\n"}, "far outside 0 to 1"),
        ({"00009": YOLO}, "no frame named '00009'"),
        ({"00001": YOLO * 2, "00002": YOLO}, "got 2 polygons of class 0 on 00001"),
        ({"00001": "\n"}, "got no masks"),
    ],
)
def test_bad_yolo_is_named(lines: dict[str, str], message: str, tmp_path: Path) -> None:
    source = open_source(write_frames(tmp_path / "clip"))
    (tmp_path / "labels").mkdir()
    for stem, text in lines.items():
        (tmp_path / "labels" / f"{stem}.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path / "labels", source)


def test_yolo_labels_of_one_frame_are_objects_of_one_class(tmp_path: Path) -> None:
    source = open_source(write_frames(tmp_path / "clip"))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "00001.txt").write_text(YOLO + "0 0.7 0.7 0.9 0.7 0.9 0.9\n")
    (tmp_path / "labels" / "classes.txt").write_text("knife\n")
    (tmp_path / "data.yaml").write_text("names: [knife]\n")
    found = read_annotations(tmp_path / "labels", source)
    assert found.mask("00001").ids == (1, 2)
    assert found.names == {1: "knife", 2: "knife"}


def cvat(shape: str, frame: int = 1) -> str:
    """A CVAT file of one track."""
    shape = shape.replace("FRAME", f'frame="{frame}"')
    return (
        "<annotations><meta><task><original_size><width>62</width><height>46</height></original_size></task></meta>"
        f'<track id="0" label="knife">{shape}</track></annotations>'
    )


POLYGON = '<polygon FRAME keyframe="1" outside="0" points="10,5;20,5;20,15;10,15"/>'


@pytest.mark.parametrize("film", [False, True])
def test_cvat_counts_frames_from_the_first(film: bool, tmp_path: Path) -> None:
    source = open_source(write_film(tmp_path / "clip.mp4", None) if film else write_frames(tmp_path / "clip"))
    (tmp_path / "a.xml").write_text(cvat(POLYGON))
    found = read_annotations(tmp_path / "a.xml", source)
    assert list(found.shapes) == ["00001"]
    assert (found.mask("00001").labels == 1).sum() == 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "got a DOCTYPE"),
        ("<annotations>", "not XML"),
        ("<images/>", "got <images>"),
        (cvat(POLYGON, 77), "no frame 77"),
        (cvat(POLYGON.replace("10,5;", "10;")), "expected x,y;x,y"),
        (cvat('<box FRAME keyframe="1" outside="0" xtl="1"/>'), "got a <box>"),
        (cvat('<mask FRAME keyframe="1" outside="0" rle="4, 4" left="60" top="0" width="4" height="2"/>'), "inside"),
        (cvat('<mask FRAME keyframe="1" outside="0" rle="4, 5" left="0" top="0" width="4" height="2"/>'), "than 8"),
        (cvat(POLYGON.replace('outside="0"', 'outside="1"')), "got no masks"),
        (cvat(POLYGON).replace("<width>62</width>", "<width>0</width>"), "at least one pixel"),
    ],
)  # fmt: skip
def test_bad_cvat_is_named(text: str, message: str, tmp_path: Path) -> None:
    source = open_source(write_frames(tmp_path / "clip"))
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path / "a.xml", source).mask("00001")


def test_cvat_images_hold_masks_too(tmp_path: Path) -> None:
    source = open_source(write_frames(tmp_path / "clip"))
    shape = POLYGON.replace("FRAME", 'label="knife"')
    text = f'<annotations><image id="0" name="a/00002.jpg" width="62" height="46">{shape}</image></annotations>'
    (tmp_path / "a.xml").write_text(text)
    found = read_annotations(tmp_path / "a.xml", source)
    assert found.names == {1: "knife"}
    assert list(found.shapes) == ["00002"]


def test_a_user_may_start_from_annotations(tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "clip")
    (record,) = discover(frames, write(tmp_path / "a.json", changed(track_id=300)), converted=tmp_path / "made")
    assert record.problem is None
    assert record.long_ids
    (stem,) = record.masks
    assert stem == "00001"
    assert record.masks[stem].is_relative_to(tmp_path / "made")
    labels = read_labels(record.masks[stem], long_ids=True).labels
    assert np.unique(labels).tolist() == [0, 300]
    assert json.loads((record.masks[stem].parent / "names.json").read_text()) == {"300": "knife"}
    assert labels.shape == (46, 62)


def test_annotations_are_for_one_video(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_frames(tmp_path / "clips" / name)
    with pytest.raises(ValueError, match="annotations for 2 videos"):
        discover(tmp_path / "clips", write(tmp_path / "a.json", coco()), converted=tmp_path / "made")
