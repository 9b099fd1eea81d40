"""A user's own set: videos and masks in every form, sparse masks, and splits by video."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_videos import SIZE, read_ids, regions, write_film, write_frames, write_mask

from cutie_geo import Session
from cutie_geo.config import ClipConfig, SourceConfig, ValidationConfig
from cutie_geo.data.check import check
from cutie_geo.data.clips import build_sources
from cutie_geo.data.index import LabelledVideo, dataset, discover, index_own, is_own, labelled, own_truth, split_own
from cutie_geo.data.index.own import masked_span
from cutie_geo.evaluation.run import EvaluateOptions, evaluate
from cutie_geo.export.masks import export_masks
from cutie_geo.inference.baselines import CopyMask
from cutie_geo.runs.validation import Validation

MASKED = (0, 3, 6, 7)
"""Frames with masks: sparse ones."""
FRAMES = 8


def moved(time: int) -> np.ndarray:
    return np.roll(regions(), 2 * time, axis=1)


def write_masks_of(folder: Path, times: tuple[int, ...] = MASKED) -> Path:
    for time in times:
        write_mask(folder / f"{time:05d}.png", moved(time))
    return folder


def own_set(root: Path, frames: str = "folder", count: int = 3) -> Path:
    for n in range(count):
        if frames == "folder":
            write_frames(root / "videos" / f"v{n}", FRAMES, seed=n)
        else:
            write_film(root / "videos" / f"v{n}.mp4", FRAMES)
        write_masks_of(root / "masks" / f"v{n}")
    return root


@pytest.mark.parametrize("kind", ["cvat", "coco", "yolo"])
@pytest.mark.parametrize("frames", ["folder", "film"])
def test_annotations_of_other_programs_are_masks(tmp_path: Path, frames: str, kind: str) -> None:
    root = own_set(tmp_path / "data", frames, 2)
    for name in ("v0", "v1"):
        write_masks_of(tmp_path / "run" / "Annotations" / name, tuple(range(FRAMES)))
    (root / "masks").rename(tmp_path / "unused")
    export_masks(tmp_path / "run", kind, root / "masks")
    videos = index_own(root)
    assert [video.problem for video in videos] == [None, None]
    for video in videos:
        assert len(video.masks) == FRAMES
        found = (read_ids(path) for path in video.masks.values())
        for time, ids in enumerate(found):
            assert (ids != moved(time)).mean() < (0.1 if kind == "yolo" else 1e-9)
    times = {path: path.stat().st_mtime_ns for video in videos for path in video.masks.values()}
    again = {path: path.stat().st_mtime_ns for video in index_own(root) for path in video.masks.values()}
    assert again == times, "masks are written once"


@pytest.mark.parametrize("frames", ["folder", "film"])
def test_frames_and_masks_are_found(tmp_path: Path, frames: str) -> None:
    videos = index_own(own_set(tmp_path, frames))
    assert [video.problem for video in videos] == [None] * 3
    assert list(videos[0].masks) == [f"{t:05d}" for t in MASKED]
    assert set(videos[0].masks) <= set(videos[0].frames)
    assert all(np.asarray(Image.open(videos[0].frames[stem])).shape == (*SIZE, 3) for stem in videos[0].masks)
    spanned = [stem for stem, _ in masked_span(videos[0])]
    assert spanned == [f"{t:05d}" for t in range(FRAMES)], "tracking runs through frames without masks"
    assert [stem for stem, _ in masked_span(videos[0], limit=3)][-1] == "00006", "up to the third mask at least"


def test_the_frames_of_a_film_are_written_once(tmp_path: Path) -> None:
    first = index_own(own_set(tmp_path, "film", 1))[0]
    times = {path: path.stat().st_mtime_ns for path in first.frames.values()}
    assert {p: p.stat().st_mtime_ns for p in index_own(tmp_path)[0].frames.values()} == times


def test_white_masks_are_one_object_and_other_masks_keep_void(tmp_path: Path) -> None:
    root = own_set(tmp_path)
    for path in (root / "masks" / "v0").glob("*.png"):
        Image.fromarray(np.uint8(read_ids(path) > 0) * 255).save(path)
    assert [video.single_object for video in index_own(root)] == [True, False, False]


def test_every_reader_takes_the_set(tmp_path: Path) -> None:
    root = own_set(tmp_path / "data", "film")
    (source,) = build_sources([SourceConfig("own")], ClipConfig(length=3, crop=32), root)
    assert len(source) == 3 * len(MASKED)
    assert len(build_sources([SourceConfig("generic")], ClipConfig(length=3, crop=32), root)[0]) == len(source)
    findings = check(["own"], root, deep=True)["own"]
    assert (findings.videos, findings.masks, findings.objects, findings.problems) == (3, 12, 6, [])
    names = {name: {v.name for v in labelled(name, root)} for name in ("own", "own-train", "own-val")}
    assert names["own-train"] | names["own-val"] == names["own"]
    assert not names["own-train"] & names["own-val"]
    records = dataset("own", root)[1]
    assert [(record.name, len(record.masks)) for record in records] == [("v0", 4), ("v1", 4), ("v2", 4)]
    assert set(own_truth(root)) == {"v0", "v1", "v2"}
    report = evaluate(EvaluateOptions(root, root / "masks", workers=1))
    assert report["J&F"] == pytest.approx(100) or report["mean"]["J&F"] == pytest.approx(100)


def test_validation_tracks_through_frames_without_masks(tmp_path: Path) -> None:
    root = own_set(tmp_path)
    write_mask(root / "masks" / "v0" / "00000.png", np.zeros(SIZE, np.int32))  # blank before the object appears
    validation = Validation(ValidationConfig(every=1, data=(SourceConfig("own"),), size=64), root)
    video = next(iter(validation))
    assert len(list(video.images())) == len(video.labels) == 5, "frames 3 to 7"
    assert [labels is not None for labels in video.labels] == [True, False, False, True, True]
    score = validation._score(CopyMask(), video)
    assert 0 < score.j_and_f < 1, "copied masks miss objects that move"


def test_a_sequence_of_masks_may_be_called_frames(tmp_path: Path) -> None:
    write_masks_of(tmp_path / "frames")
    assert not is_own(tmp_path)
    assert is_own(own_set(tmp_path / "data", count=1))


def test_a_split_is_by_share_or_by_file_and_never_by_frame(tmp_path: Path) -> None:
    videos = index_own(own_set(tmp_path, count=5))
    train, held_out = split_own(videos, "0.4")
    assert len(held_out) == 2
    assert sorted(train + held_out) == [f"v{n}" for n in range(5)]
    fewer = split_own([video for video in videos if video.name != train[0]], "0.4")[1]
    assert set(held_out) == set(fewer), "a video more or less moves no other"
    (tmp_path / "val.txt").write_text("v3\n")
    assert [video.name for video in labelled("own-val", tmp_path)] == ["v3"]


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ("1.5", "expected a file or a share between 0 and 1"),
        ("missing.txt", "no such file"),
        ("all", "leave none for training"),
        ("unknown", "expected usable videos of the set"),
    ],
)
def test_a_wrong_split_is_refused(tmp_path: Path, validation: str, message: str) -> None:
    videos = index_own(own_set(tmp_path, count=2))
    lists = {"all": "v0\nv1\n", "unknown": "v9\n"}
    if validation in lists:
        (tmp_path / "list.txt").write_text(lists[validation])
        validation = str(tmp_path / "list.txt")
    with pytest.raises(ValueError, match=message):
        split_own(videos, validation)


def test_faults_name_the_video_and_leave_the_others(tmp_path: Path) -> None:
    root = own_set(tmp_path)
    write_frames(root / "videos" / "bare", 3)
    write_mask(root / "masks" / "v1" / "00099.png")
    problems = {video.name: video.problem for video in index_own(root)}
    assert problems["v0"] is None
    assert "no masks; expected bare/" in str(problems["bare"])
    assert "no frame named '00099'" in str(problems["v1"])


def test_a_set_without_masks_or_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        index_own(tmp_path / "nothing")
    write_frames(tmp_path / "videos" / "a", 3)
    with pytest.raises(ValueError, match="no video has masks"):
        index_own(tmp_path)


def annotate(video: Path, folder: Path, approved: tuple[int, ...] = MASKED) -> Path:
    """Write the session of a person who drew two objects on the first frame and approved others."""
    with Session(video, folder=folder) as session:
        for time in approved:
            for object_id in (1, 2):
                session.set_mask(time, object_id, moved(time) == object_id)
            if time:
                session.lock(time)
    return folder


def ids_of(video: LabelledVideo) -> dict[str, np.ndarray]:
    return {stem: read_ids(path) for stem, path in video.masks.items()}


@pytest.mark.parametrize("place", ["masks", "app", "sessions only", "app elsewhere"])
@pytest.mark.parametrize("frames", ["folder", "film"])
def test_approved_and_prompted_frames_of_a_session_are_masks(tmp_path: Path, frames: str, place: str) -> None:
    root = own_set(tmp_path / "data", frames, 2)
    shutil.rmtree(root / "masks")
    alone = tmp_path / "alone"
    folder = {
        "masks": root / "masks",
        "app": root / "sessions",
        "sessions only": alone,
        "app elsewhere": alone / "sessions",
    }[place]
    for path in sorted((root / "videos").iterdir()):
        annotate(path, folder / (path.stem if place == "masks" else f"{path.stem}-0a1b2c"))
    videos = index_own(alone if folder.is_relative_to(alone) else root)
    assert [video.problem for video in videos] == [None, None]
    for video in videos:
        found = ids_of(video)
        assert list(found) == [f"{time:05d}" for time in MASKED]
        assert all((found[f"{time:05d}"] == moved(time)).all() for time in MASKED)


def test_a_prompted_frame_counts_when_no_other_object_is_missing_there(tmp_path: Path) -> None:
    root = own_set(tmp_path, count=1)
    shutil.rmtree(root / "masks")
    with Session(root / "videos" / "v0", folder=root / "masks" / "v0") as session:
        for time in (0, 3, 6):
            session.set_mask(time, 1, moved(time) == 1)
        for time in (0, 6):
            session.set_mask(time, 2, moved(time) == 2)
        assert list(index_own(root)[0].masks) == ["00000", "00006"], "frame 3 has no mask of object 2"
        session.set_mask(3, 2, moved(3) == 2)
        assert list(index_own(root)[0].masks) == ["00000", "00003", "00006"], "an open session is read as it is now"


@pytest.mark.parametrize("fault", ["another video", "no finished frame", "not a session", "moved video"])
def test_a_session_that_does_not_fit_is_the_problem_of_its_video(tmp_path: Path, fault: str) -> None:
    root = own_set(tmp_path / "data", count=2)
    shutil.rmtree(root / "masks" / "v0")
    folder = root / "masks" / "v0"
    video = root / "videos" / ("v1" if fault == "another video" else "v0")
    message = {"another video": "of another video", "no finished frame": "no frame is approved"}.get(fault, "")
    if fault == "moved video":
        shutil.copytree(video, tmp_path / "elsewhere" / "v0")
        annotate(tmp_path / "elsewhere" / "v0", tmp_path / "sessions" / "v0")
        annotate(root / "videos" / "v1", tmp_path / "sessions" / "v1")
        shutil.rmtree(tmp_path / "elsewhere")
        root, message = tmp_path, "elsewhere.* is missing"
    elif fault == "not a session":
        folder.mkdir()
        (folder / "session.sqlite").write_text("text")
        message = "not a SQLite database"
    else:
        annotate(video, folder, () if fault == "no finished frame" else MASKED)
    first, second = index_own(root)
    assert second.problem is None
    assert re.search(message, first.problem or "")


def test_a_session_alone_is_one_video(tmp_path: Path) -> None:
    folder = annotate(own_set(tmp_path / "data", count=1) / "videos" / "v0", tmp_path / "session")
    (video,) = index_own(folder)
    assert video.problem is None
    with pytest.raises(ValueError, match="expected at least 2 videos"):
        split_own([video], "0.5")


def test_a_session_is_a_mask_to_start_from(tmp_path: Path) -> None:
    write_film(tmp_path / "clip.mp4", FRAMES)
    folder = annotate(tmp_path / "clip.mp4", tmp_path / "session", (0, 6))
    (record,) = discover(tmp_path / "clip.mp4", folder, converted=tmp_path / "converted")
    assert {stem: (read_ids(path) == moved(int(stem))).all() for stem, path in record.masks.items()} == {
        "00000": True,
        "00006": True,
    }


@pytest.mark.parametrize("inner", ["videos", "masks"])
def test_a_folder_inside_the_set_is_named(tmp_path: Path, inner: str) -> None:
    root = own_set(tmp_path / "data", count=1)
    with pytest.raises(ValueError, match=re.escape(f"the set is the folder above, {root}")):
        index_own(root / inner)
