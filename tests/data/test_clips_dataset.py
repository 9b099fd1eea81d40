"""Samples by number, and mixtures from configurations."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_files import blob, small, write_image, write_mask, write_video

from cutie_geo.config import SourceConfig
from cutie_geo.data import clips
from cutie_geo.data.clips import Clip, ClipDataset, VideoSource, build_sources
from cutie_geo.data.clips.dataset import MAX_BAD_DRAWS, source_names
from cutie_geo.structures import ClipKey

SIZE = (80, 96)
TWO = blob(SIZE, {1: (20, 20, 60, 50), 4: (20, 55, 60, 80)})


def same(a: Clip, b: Clip) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a[2:] == b[2:]


def dataset(root: Path, masks: list[np.ndarray], seed: int = 7, **changes: object) -> ClipDataset:
    config = small(**changes)
    return ClipDataset([VideoSource([write_video(root, "a", masks)], config)], config, seed)


# ------------------------------------------------------------------------------------------------------------- samples
def test_a_sample_is_a_function_of_seed_epoch_and_index(tmp_path: Path):
    data = dataset(tmp_path, [TWO] * 6)
    first = data[ClipKey(2, 3, 0.0)]
    data[ClipKey(0, 1, 0.0)]
    assert same(data[ClipKey(2, 3, 0.0)], first)
    others = [
        data[ClipKey(3, 3, 0.0)],
        data[ClipKey(2, 4, 0.0)],
        dataset(tmp_path, [TWO] * 6, seed=8)[ClipKey(2, 3, 0.0)],
    ]
    assert len({first.seed, *(other.seed for other in others)}) == 4
    assert not any(torch.equal(first.images, other.images) for other in others)
    assert 0 <= first.seed < 2**63


def test_twins_are_pasted_as_often_as_asked_for(tmp_path: Path):
    one = blob(SIZE, {1: (20, 20, 50, 50)})
    data = dataset(tmp_path, [one] * 6, merge_probability=0.0, twin_probability=1.0, max_objects=2)
    clips_ = [data[ClipKey(0, index, 0.0)] for index in range(6)] + [data[ClipKey(1, index, 0.0)] for index in range(6)]
    assert all(clip.name.endswith(" twice") for clip in clips_)
    assert {clip.num_objects for clip in clips_} == {1, 2}
    assert not dataset(tmp_path, [one] * 6, merge_probability=0.0)[ClipKey(0, 0, 0.0)].name.endswith("twice")


def test_global_generators_are_neither_read_nor_moved(tmp_path: Path):
    data = dataset(tmp_path, [TWO] * 6, merge_probability=1.0)

    def draw(seed: int) -> Clip:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        return data[ClipKey(0, 0, 0.0)]

    def rest() -> tuple[float, float]:
        return np.random.random(), torch.rand(()).item()  # noqa: NPY002

    first, moved = draw(1), rest()
    assert same(first, draw(2))
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert rest() == moved


def test_no_module_of_clips_draws_from_pythons_own_generator():
    # read, not run: in tests the type checker itself draws from it
    modules = Path(clips.__file__).parent.glob("*.py")
    drawn = re.compile(r"(?<![\w.])random\.(?!Random\b)\w+")
    assert [found for path in modules for found in drawn.findall(path.read_text())] == []


def test_labels_are_slots_of_the_first_frame(tmp_path: Path):
    clip = dataset(tmp_path, [TWO] * 6, merge_probability=0.0)[ClipKey(0, 0, 0.0)]
    assert clip.labels.dtype == torch.uint8
    assert clip.images.shape == (3, 3, 64, 64)
    assert clip.labels[0].unique().tolist() == list(range(clip.num_objects + 1))
    assert set(clip.labels.unique().tolist()) <= set(range(clip.num_objects + 1))


@pytest.mark.slow
def test_objects_of_a_second_clip_are_merged_where_there_is_room(tmp_path: Path):
    def names(**changes: object) -> list[str]:
        data = dataset(tmp_path, [TWO] * 6, **changes)
        return [data[ClipKey(0, i % 6, 0.0)].name for i in range(6)] + [data[ClipKey(1, i, 0.0)].name for i in range(6)]

    assert all(" + " in name for name in names(merge_probability=1.0, max_objects=3))
    assert not any(" + " in name for name in names(merge_probability=0.0))
    assert sum(" + " in name for name in names(merge_probability=1.0, max_objects=1)) == 0
    assert 2 <= sum(" + " in name for name in names()) <= 10


def test_a_clip_without_any_object_has_an_empty_one(tmp_path: Path):
    clip = dataset(tmp_path, [blob(SIZE, {})] * 4)[ClipKey(0, 0, 0.0)]
    assert clip.num_objects == 1
    assert not clip.labels.any()


@pytest.mark.slow
def test_a_damaged_file_is_replaced_by_another_draw_and_named(tmp_path: Path):
    masks = [TWO] * 30
    data = dataset(tmp_path, masks, merge_probability=0.0, max_skip=((0.0, 1),))
    bad = tmp_path / "JPEGImages/a/00015.png"
    whole = bad.read_bytes()
    keys = [ClipKey(0, i, 0.0) for i in range(30)]
    before = [data[key] for key in keys]
    bad.write_bytes(whole[: len(whole) // 2])
    after = [data[key] for key in keys]
    touched = [i for i in range(30) if "00015" in before[i].name]
    assert touched
    for i in range(30):
        assert bool(after[i].problems) == (i in touched)
        assert i in touched or same(before[i], after[i])
        assert all(problem.startswith(f"{bad}: ") for problem in after[i].problems)
        assert "00015" not in after[i].name
    assert all(same(after[i], data[keys[i]]) for i in touched)


def test_nothing_but_damaged_files_is_an_error(tmp_path: Path):
    data = dataset(tmp_path, [TWO] * 4)
    for path in (tmp_path / "JPEGImages/a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{MAX_BAD_DRAWS + 1} draws for one sample met files .* the last: .*png"):
        data[ClipKey(0, 0, 0.0)]


def test_numbers_that_make_no_sense_are_errors():
    with pytest.raises(ValueError, match="seed: got -1"):
        ClipDataset([], small(), -1)
    with pytest.raises(ValueError, match="sources: got none"):
        ClipDataset([], small(), 0)


# ------------------------------------------------------------------------------------------------------- configuration
def davis(root: Path, names: tuple[str, ...] = ("bear", "boat")) -> None:
    """A tree of DAVIS 2017."""
    for name in names:
        video = write_video(root / "flat", name, [TWO] * 4)
        for kind, files in (("JPEGImages", video.frames), ("Annotations", video.masks)):
            folder = root / kind / "480p" / name
            folder.mkdir(parents=True)
            for path in files.values():
                path.rename(folder / path.name)
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/train.txt").write_text("\n".join(names))


def test_a_mixture_lists_each_source_as_often_as_asked_for(tmp_path: Path):
    davis(tmp_path / "davis")
    configs = [
        SourceConfig("davis2017-train", root="davis", times=3, exclude=("boat",)),
        SourceConfig("rendered", clips=5, times=2),
        SourceConfig("davis2017-train", root=str(tmp_path / "davis"), only=("boat",)),
    ]
    sources = build_sources(configs, small(), tmp_path)
    assert [len(source) for source in sources] == [4 * 3, 5 * 2, 4]
    data = ClipDataset(sources, small(merge_probability=0.0), 0)
    assert len(data) == 26
    names = [data[ClipKey(0, i, 0.0)].name for i in (0, 11, 12, 21, 22, 25)]
    assert [name.split(":")[0].split(" ")[0] for name in names[:2]] == ["davis2017-train/bear"] * 2
    assert all(name.startswith("rendered/") for name in names[2:4])
    assert all(name.startswith("davis2017-train/boat") for name in names[4:])


def test_configurations_that_fit_no_files_say_what_is_wrong(tmp_path: Path):
    davis(tmp_path / "davis")

    def fails(match: str, root: Path | None = tmp_path, **config: object) -> None:
        with pytest.raises(ValueError, match=match):
            build_sources([SourceConfig(**config)], small(length=4), root)  # type: ignore[arg-type]

    fails("data: got 'davis', expected one of backgrounds, cutouts, rendered, static, davis2016-train", name="davis")
    fails("got 'vspw-train', expected one of", name="vspw-train")
    fails("davis2017-train: no root, expected the folder of its files", root=None, name="davis2017-train")
    fails(r"davis2017-train: .*nowhere: no such folder, expected", tmp_path / "nowhere", name="davis2017-train")
    here = {"name": "davis2017-train"}
    with pytest.raises(ValueError, match="davis2017-train: only names bare, of which it has none; it has bear, boat"):
        build_sources([SourceConfig(**here, only=("bare",))], small(), tmp_path / "davis")
    with pytest.raises(ValueError, match="exclude names bare"):
        build_sources([SourceConfig(**here, exclude=("bare",))], small(), tmp_path / "davis")
    with pytest.raises(ValueError, match="nothing left of 2"):
        build_sources([SourceConfig(**here, exclude=("bear", "boat"))], small(), tmp_path / "davis")
    with pytest.raises(
        ValueError, match="davis2017-train: no usable video among 2: 0 with problems, 2 with fewer than 9"
    ):
        build_sources([SourceConfig(**here)], small(length=9), tmp_path / "davis")
    fails("rendered: scene has height, which follow", name="rendered", scene=("height=9",))
    fails("rendered: scene: unknown hieght", name="rendered", scene=("hieght=9",))


def test_options_of_scenes_are_taken(tmp_path: Path):
    (source,) = build_sources([SourceConfig("rendered", scene=("max_objects=1", "noise=0"))], small())
    clips = [source.draw(0, 0.0, random.Random(i)) for i in range(3)]
    assert all(clip.labels.max() == 1 for clip in clips)


def test_every_name_of_objects_is_offered():
    assert {"rendered", "static", "davis2016-train", "mose-train", "burst-train", "visor-val"} <= set(source_names())
    assert not any(name.startswith(("vspw", "vipseg")) for name in source_names())


def test_still_sets_are_chosen_by_folder(tmp_path: Path):
    for name in ("people", "things"):
        write_image(tmp_path / name / "images/1.png", TWO)
        write_mask(tmp_path / name / "masks/1.png", TWO)
    (source,) = build_sources([SourceConfig("static", only=("people",))], small(), tmp_path)
    assert len(source) == 1
    with pytest.raises(ValueError, match="expected the folders pepole there or in static; there are people, things"):
        build_sources([SourceConfig("static", only=("pepole",))], small(), tmp_path)


def test_frames_of_videos_are_stills_where_that_is_asked_for(tmp_path: Path):
    davis(tmp_path / "davis")
    config = SourceConfig("davis2017-train", root="davis", still=True, times=2, exclude=("boat",))
    (source,) = build_sources([config], small(), tmp_path)
    assert len(source) == 4 * 2
    assert not source.merges
    clip = ClipDataset([source], small(max_objects=1), 0)[ClipKey(0, 0, 0.0)]
    assert clip.name.startswith("davis2017-train/bear/0000")
    with pytest.raises(ValueError, match="rendered: still is for videos on disk"):
        build_sources([SourceConfig("rendered", still=True)], small())


# ----------------------------------------------------------------------------------------------------------- real data
def test_real_data_are_drawn_from(test_data: Path):
    sets = ("ecssd", "duts499", "pennfudan", "humanseg290")
    configs = [
        SourceConfig("davis2016-train", root="davis2016-train-270p"),
        SourceConfig("static", root="static", only=sets),
    ]
    config = small(max_objects=3)
    sources = build_sources(configs, config, test_data / "data")
    assert [len(source) for source in sources] == [2079, 1000 + 499 + 170 + 290]
    data = ClipDataset(sources, config, 0)
    clips = [data[ClipKey(0, index, 0.0)] for index in (0, 1000, 2078, 2079, 3100, 3600, 3760, 4037)]
    assert not any(clip.problems for clip in clips)
    assert all(clip.labels[0].any() for clip in clips[:3])
    assert max(clip.num_objects for clip in clips) > 1


def test_the_last_files_of_a_set_are_held_out(tmp_path: Path):
    for name in ("a", "b", "c", "d"):
        write_image(tmp_path / "static/things" / f"{name}.bmp", TWO)
        write_mask(tmp_path / "static/things" / f"{name}.png", TWO)
    (source,) = build_sources([SourceConfig("static", only=("things",), hold_out=2)], small(), tmp_path)
    assert source.contents() == ["things/a", "things/b"]
    with pytest.raises(ValueError, match="hold_out: things has 4 images, expected more than 4"):
        build_sources([SourceConfig("static", only=("things",), hold_out=4)], small(), tmp_path)
    with pytest.raises(ValueError, match="hold_out: got 2 with mose-train, expected it with static"):
        SourceConfig("mose-train", hold_out=2)
