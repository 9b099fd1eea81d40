"""Cut-outs that move over other clips."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_files import blob, small, write_cutout, write_video
from PIL import Image

from cutie_geo.config import SourceConfig
from cutie_geo.data.clips import (
    ClipDataset,
    CutoutSource,
    RenderedSource,
    UnusableFile,
    VideoSource,
    build_sources,
    cutouts,
)
from cutie_geo.data.clips.cutouts import AWAY, draw_path, draw_shadow, index_cutouts, prepare, read_cutout
from cutie_geo.data.clips.frame_readers import read_background
from cutie_geo.data.clips.warp import shift_layer
from cutie_geo.data.render import SceneConfig
from cutie_geo.structures import ClipKey

SIZE = (80, 96)
EMPTY_BUT_ONE = blob(SIZE, {1: (0, 0, 80, 4)})
BLUE = (10, 20, 250)


def source_of(tmp_path: Path, **changes: object) -> CutoutSource:
    config = small(crop=96, **changes)
    write_cutout(tmp_path / "cut/things/blue.png", BLUE)
    video = write_video(tmp_path, "a", [EMPTY_BUT_ONE] * 6)
    return CutoutSource(index_cutouts(tmp_path / "cut"), [VideoSource([video], config)], config)


# ---------------------------------------------------------------------------------------------------------------- clips
def test_labels_are_where_the_cutout_is_painted_and_the_clip_beneath_stays(tmp_path: Path):
    source = source_of(tmp_path, max_objects=1)
    seen = 0
    for n in range(8):
        clip = source.draw(0, 0.0, random.Random(n))
        blue = (clip.images[:, 2] > 150) & (clip.images[:, 0] < 110)
        new = clip.labels > 1
        assert float((blue != new).float().mean()) < 0.01, "but for edges, which are half transparent"
        assert bool(new[0].any()), "in the first frame the cut-out is there"
        assert clip.name.startswith("cutouts/things/blue")
        assert "over videos/a" in clip.name
        seen += int(new.sum())
    assert seen > 2000


def test_cutouts_move_by_themselves_and_now_and_then_go_away_and_come_back():
    away, ends = 0, []
    for n in range(400):
        path = draw_path(5, (40, 30), (96, 96), np.random.default_rng(n))
        assert path[0] is not None
        assert path[-1] is not None
        away += any(back is None for back in path)
        ends.append(np.linalg.inv(path[-1])[:2, 2] - np.linalg.inv(path[0])[:2, 2])
    assert abs(away / 400 - AWAY) < 0.06
    assert np.std(ends) > 10
    assert [len(draw_path(n, (40, 30), (96, 96), np.random.default_rng(0))) for n in (1, 2)] == [1, 2]


def test_a_picture_is_drawn_where_its_path_says():
    picture = np.full((40, 30, 4), 255, np.uint8)
    for n in range(20):
        back = draw_path(1, (40, 30), (96, 96), np.random.default_rng(n))[0]
        assert back is not None
        scale = 1 / np.sqrt(np.linalg.det(back[:2, :2]))
        layer, into = prepare(picture, float(scale))
        alpha = shift_layer(layer, into @ back, (400, 400))[..., 3]
        inside = np.linalg.inv(back) @ [15, 20, 1]  # its middle, in the frame
        if (inside[:2] > 0).all():
            assert alpha[int(inside[1]), int(inside[0])] == pytest.approx(1)
        if (inside[:2] > 40).all():
            assert alpha.sum() == pytest.approx(40 * 30 * scale**2, rel=0.08)


def test_shadows_darken_what_lies_beneath_and_are_no_part_of_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = source_of(tmp_path, max_objects=1)
    darkened = 0
    for n in range(12):
        monkeypatch.setattr(cutouts, "SHADOW", 0.0)
        bright = source.draw(0, 0.0, random.Random(n))
        monkeypatch.setattr(cutouts, "SHADOW", 1.0)
        shaded = source.draw(0, 0.0, random.Random(n))
        assert torch.equal(shaded.labels, bright.labels)
        change = shaded.images.int() - bright.images.int()
        assert int(change.max()) <= 0
        darkened += int((change.sum(1)[bright.labels < 2] < -60).sum())
    assert darkened > 1000


def test_a_shadow_touches_the_foot_of_what_casts_it():
    for n in range(50):
        shadow = draw_shadow((40, 30), np.random.default_rng(n))
        forward = np.linalg.inv(shadow.back)
        for x in (0, 15, 30):
            np.testing.assert_allclose(forward @ [x, 40, 1], [x, 40, 1], atol=1e-9)
        top = forward @ [15, 0, 1]
        assert 40 - 0.6 * 40 - 1e-9 <= top[1] <= 40 + 0.6 * 40 + 1e-9
        layer = np.ones((44, 34, 4), np.float32)
        dark = shadow.of(layer)
        assert dark[..., :3].max() == 0
        assert dark[22, 17, 3] == pytest.approx(shadow.darkness, rel=0.05)


def test_a_draw_depends_on_its_arguments_alone(tmp_path: Path):
    source = source_of(tmp_path)
    first = source.draw(0, 0.0, random.Random(1))
    torch.manual_seed(3)
    again = source.draw(0, 0.0, random.Random(1))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, source.draw(0, 0.0, random.Random(2)).images)


def test_distances_are_unknown_where_something_lies_over_a_scene(tmp_path: Path):
    config = small()
    write_cutout(tmp_path / "blue.png", BLUE)
    scene = RenderedSource(3, config, SceneConfig(cycle=12, max_objects=2))
    source = CutoutSource(index_cutouts(tmp_path), [scene], config)
    clip = source.draw(0, 0.0, random.Random(0))
    assert clip.distance is not None
    assert bool(clip.distance[clip.labels > 2].isnan().all())
    assert bool((~clip.distance.isnan()).any())


# ---------------------------------------------------------------------------------------------------------------- files
def test_files_are_listed_by_folder_and_cut_to_what_shows(tmp_path: Path):
    write_cutout(tmp_path / "b/one.png", BLUE)
    write_cutout(tmp_path / "a/deep/two.PNG", BLUE)
    (tmp_path / "a/readme.txt").write_text("no picture")
    assert [each.name for each in index_cutouts(tmp_path)] == ["a/deep/two", "b/one"]
    assert read_cutout(tmp_path / "b/one.png").shape == (40, 30, 4)
    with pytest.raises(ValueError, match="no PNG or WebP files"):
        index_cutouts(tmp_path / "none")


@pytest.mark.parametrize(
    ("mode", "alpha", "told"),
    [
        ("RGB", 255, "no transparent pixels"),
        ("RGBA", 255, "no transparent pixels"),
        ("RGBA", 0, "all pixels are transparent"),
    ],
)
def test_a_picture_that_is_no_cutout_is_named(tmp_path: Path, mode: str, alpha: int, told: str):
    Image.new("RGBA", (20, 20), (9, 9, 9, alpha)).convert(mode).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=rf"x\.png: {told}"):
        read_cutout(tmp_path / "x.png")


def test_a_cutout_of_needless_size_is_refused_before_it_is_decoded(tmp_path: Path):
    Image.new("LA", (6000, 3000), (9, 0)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png: image is 6000x3000, expected at most 16777216 pixels"):
        read_cutout(tmp_path / "x.png")


def test_damaged_files_are_replaced_and_named(tmp_path: Path):
    source = source_of(tmp_path)
    write_cutout(tmp_path / "cut/things/broken.png", BLUE).write_bytes(b"\x89PNG\r\n\x1a\n broken")
    bad = CutoutSource(index_cutouts(tmp_path / "cut"), source.beneath.sources, source.config)
    with pytest.raises(UnusableFile, match=r"broken\.png: cannot be read as an image"):
        bad.draw(0, 0.0, random.Random(0))
    data = ClipDataset([bad], source.config, 0)
    clips = [data[ClipKey(0, n, 0.0)] for n in range(len(data))]
    assert any("broken.png" in problem for clip in clips for problem in clip.problems)


# -------------------------------------------------------------------------------------------------------- configuration
def test_a_mixture_lays_cutouts_over_its_other_clips(tmp_path: Path):
    write_cutout(tmp_path / "stamps/animals/cat.png", BLUE)
    write_cutout(tmp_path / "stamps/symbols/a.png", BLUE)
    configs = [SourceConfig("cutouts", root="stamps", exclude=("symbols",), times=3), SourceConfig("rendered", clips=5)]
    sources = build_sources(configs, small(), tmp_path)
    assert [len(source) for source in sources] == [3, 5]
    assert not sources[0].merges
    assert sources[0].contents()[0] == "cutouts/animals/cat"
    assert sources[0].contents()[1].startswith("over rendered")
    clip = ClipDataset(sources, small(), 0)[ClipKey(0, 1, 0.0)]
    assert clip.name.startswith("cutouts/animals/cat")
    with pytest.raises(ValueError, match="cutouts: got no underlying clips, expected videos or rendered scenes"):
        build_sources(configs[:1], small(), tmp_path)
    with pytest.raises(
        ValueError, match="cutouts: exclude names flowers, of which it has none; it has animals, symbols"
    ):
        build_sources([SourceConfig("cutouts", root="stamps", exclude=("flowers",)), configs[1]], small(), tmp_path)
    with pytest.raises(ValueError, match="cutouts: still is for videos"):
        build_sources([SourceConfig("cutouts", root="stamps", still=True), configs[1]], small(), tmp_path)


def test_backgrounds_lie_beneath_cutouts_and_nowhere_else(tmp_path: Path):
    write_cutout(tmp_path / "cut/blue.png", BLUE)
    (tmp_path / "land/high").mkdir(parents=True)
    Image.new("RGB", (900, 600), (40, 160, 40)).save(tmp_path / "land/high/hill.jpg")
    Image.new("RGB", (50, 40), (40, 160, 40)).save(tmp_path / "land/field.webp")
    cutouts, land = SourceConfig("cutouts", root="cut"), SourceConfig("backgrounds", root="land", times=2)
    sources = build_sources([land, cutouts], small(crop=96), tmp_path)
    assert [source.contents()[0] for source in sources] == ["cutouts/blue"]
    assert "over backgrounds/high/hill.jpg" in sources[0].contents()
    names = set[str]()
    for n in range(12):
        clip = sources[0].draw(0, 0.0, random.Random(n))
        names.add(clip.name.split(" over ")[1])
        red, green, blue = clip.images.int().unbind(1)
        assert float((green > blue + 40).float().mean()) > 0.1, "grass is in sight"
        assert bool((blue > green)[clip.labels > 0].all()), "and nothing of it is an object"
        assert float(((blue > red + 60) != (clip.labels > 0)).float().mean()) < 0.02
    assert names == {"backgrounds/high/hill.jpg", "backgrounds/field.webp"}
    assert max(read_background(tmp_path / "land/high/hill.jpg", 192)[0].shape) == 288, "no larger than it is needed"
    with pytest.raises(ValueError, match="backgrounds: got no cutouts to paste over them, expected cutouts"):
        build_sources([land, SourceConfig("rendered")], small(), tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"none: no images; expected files that end in \.avif, \.bmp, "):
        build_sources([SourceConfig("backgrounds", root="none"), cutouts], small(), tmp_path)
    (tmp_path / "land/field.webp").write_bytes(b"broken")
    with pytest.raises(UnusableFile, match=r"field\.webp: cannot be read"):
        read_background(tmp_path / "land/field.webp", 64)
