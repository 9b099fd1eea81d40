"""Every format of `cutie-geo export masks`, read back by its own tool or by a strict parser of the published format."""

import csv
import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import av
import numpy as np
import pytest
import yaml
from av.error import FFmpegError
from finished import FRAMES, SIZE, image, label_maps, write_film, write_frames, write_run
from PIL import Image

from cutie_geo.__main__ import main
from cutie_geo.data import sound
from cutie_geo.data.annotations.read import read_annotations
from cutie_geo.data.masks import voc_palette, write_labels
from cutie_geo.data.video import open_source
from cutie_geo.export.labelstudio import encode_brush
from cutie_geo.export.masks import FORMATS, export_masks
from cutie_geo.export.options import ExportOptions, parse_names

NAMES = {1: "knife", 2: "hand", 7: "thread"}
OPTIONS = ExportOptions(names=NAMES)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "out")


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "clip")


def installed(name: str) -> ModuleType:
    """A tool of others, which may warn; the test is skipped without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


def encodes(codec: str) -> bool:
    """Whether this FFmpeg can write a codec."""
    try:
        return av.Codec(codec, "w").is_encoder
    except FFmpegError:
        return False


def require_same(found: dict[str, np.ndarray]) -> None:
    """Label maps by frame are those of the run; frames without an object may lack."""
    for frame, labels in label_maps().items():
        np.testing.assert_array_equal(found.get(frame, np.zeros(SIZE, np.int32)), labels, err_msg=frame)


def read_back(path: Path, frames: Path) -> dict[str, np.ndarray]:
    """What our own reader makes of an export; checks ids and names too."""
    found = read_annotations(path, open_source(frames))
    assert found.names == NAMES
    return {frame: found.mask(frame).labels for frame in found.shapes}


# ---------------------------------------------------------------------------------------------------------- images
def test_davis_has_ids_and_its_palette(run: Path, tmp_path: Path) -> None:
    files = export_masks(run, "davis", tmp_path / "davis")
    require_same({path.stem: np.array(Image.open(path)) for path in files})
    assert bytes(Image.open(files[0]).getpalette() or b"") == voc_palette()


def test_davis_refuses_large_ids_before_it_writes(run: Path, tmp_path: Path) -> None:
    write_labels(run / "Annotations" / "clip" / "00003.png", np.full(SIZE, 256, np.int32))
    with pytest.raises(ValueError, match=r"davis holds ids up to 255; got \[256\]"):
        export_masks(run, "davis", tmp_path / "davis")
    assert not (tmp_path / "davis").exists()


def test_binary_has_a_file_for_each_object_and_frame(run: Path, tmp_path: Path) -> None:
    assert len(export_masks(run, "binary", tmp_path / "binary")) == 3 * len(FRAMES)
    for frame, labels in label_maps().items():
        for object_id in NAMES:
            picture = np.array(Image.open(tmp_path / "binary" / "clip" / str(object_id) / f"{frame}.png"))
            np.testing.assert_array_equal(picture, np.where(labels == object_id, 255, 0))


def test_csv_has_boxes_areas_and_noted_scores(run: Path, tmp_path: Path) -> None:
    (file,) = export_masks(run, "csv", tmp_path / "csv", OPTIONS)
    with file.open(newline="") as text:
        rows = {(row["frame"], row["object"]): row for row in csv.DictReader(text)}
    assert len(rows) == 3 * len(FRAMES)
    knife = rows["00000", "1"]
    assert [knife[name] for name in ("x0", "y0", "x1", "y1")] == ["8", "5", "30", "25"]
    assert (knife["area"], knife["score"], knife["name"]) == (str((label_maps()["00000"] == 1).sum()), "0.9", "knife")
    assert (rows["00002", "1"]["area"], rows["00002", "1"]["x0"], rows["00002", "1"]["score"]) == ("0", "", "0.25")
    assert rows["00003", "1"]["score"] == ""


# ------------------------------------------------------------------------------------------------------------ COCO
@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("shapes", ["masks", "polygons"])
def test_coco_comes_back_by_pycocotools_and_by_us(shapes: str, run: Path, frames: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    (file,) = export_masks(run, "coco", tmp_path / "coco", ExportOptions(names=NAMES, shapes=shapes))
    tool = COCO(str(file))
    found = {Path(entry["file_name"]).stem: np.zeros(SIZE, np.int32) for entry in tool.dataset["images"]}
    for annotation in tool.loadAnns(tool.getAnnIds()):
        mask = tool.annToMask(annotation).astype(bool)
        assert annotation["area"] == mask.sum()
        found[Path(tool.imgs[annotation["image_id"]]["file_name"]).stem][mask] = annotation["track_id"]
        (category,) = tool.loadCats(annotation["category_id"])
        assert category["name"] == NAMES[annotation["track_id"]]
    require_same(found)
    require_same(read_back(file, frames))
    assert tool.anns[1]["score"] == 0.9


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_youtubevis_comes_back_by_pycocotools(run: Path, tmp_path: Path) -> None:
    from pycocotools import mask as coco_mask

    (file,) = export_masks(run, "youtubevis", tmp_path / "vis", OPTIONS)
    content = json.loads(file.read_text())
    (video,) = content["videos"]
    assert [video[name] for name in ("height", "width", "length")] == [*SIZE, len(FRAMES)]
    categories = {entry["id"]: entry["name"] for entry in content["categories"]}
    found = {Path(name).stem: np.zeros(SIZE, np.int32) for name in video["file_names"]}
    for annotation in content["annotations"]:
        assert categories[annotation["category_id"]] == NAMES[annotation["object_id"]]
        for frame, rle, area in zip(FRAMES, annotation["segmentations"], annotation["areas"], strict=True):
            assert (rle is None) == (area is None)
            if rle is not None:
                mask = coco_mask.decode(rle).astype(bool)
                assert mask.sum() == area
                found[frame][mask] = annotation["object_id"]
    require_same(found)


# ------------------------------------------------------------------------------------------------------------ YOLO
def test_yolo_comes_back_by_supervision_and_by_us(run: Path, frames: Path, tmp_path: Path) -> None:
    export_masks(run, "yolo", tmp_path / "yolo", OPTIONS, video=frames)
    require_same(read_back(tmp_path / "yolo", frames))
    root = tmp_path / "yolo"
    facts = yaml.safe_load((root / "data.yaml").read_text())
    assert facts["names"] == {0: "knife", 1: "hand", 2: "thread"}
    assert facts["objects"] == {1: 0, 2: 1, 7: 2}
    supervision = installed("supervision")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = supervision.DetectionDataset.from_yolo(
            str(root / "images" / "clip"), str(root / "labels" / "clip"), str(root / "data.yaml"), force_masks=True
        )
        found = {Path(path).stem: detections for path, _, detections in dataset}
    assert dataset.classes == ["knife", "hand", "thread"]
    ids = {label: object_id for object_id, label in facts["objects"].items()}
    painted = {frame: np.zeros(SIZE, np.int32) for frame in FRAMES}
    for frame, detections in found.items():
        for mask, label in zip([] if detections.mask is None else detections.mask, detections.class_id):
            painted[frame][mask] = ids[int(label)]
    require_same(painted)


def test_yolo_comes_back_by_ultralytics(run: Path, frames: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    installed("ultralytics")
    from ultralytics.data.utils import polygon2mask, verify_image_label

    export_masks(run, "yolo", tmp_path / "yolo", OPTIONS, video=frames)
    ids = {0: 1, 1: 2, 2: 7}
    found = {}
    for frame in FRAMES:
        root = tmp_path / "yolo"
        pair = str(root / "images" / "clip" / f"{frame}.png"), str(root / "labels" / "clip" / f"{frame}.txt")
        _, lines, _, segments, _, _, _, empty, corrupt, message = verify_image_label((*pair, "", False, 3, 0, 0, False))
        assert not corrupt, message
        found[frame] = np.zeros(SIZE, np.int32)
        for line, segment in zip([] if empty else lines, segments or []):
            mask = polygon2mask(SIZE, [(segment * [SIZE[1], SIZE[0]]).ravel()])
            found[frame][mask.astype(bool)] = ids[int(line[0])]
    require_same(found)


def test_objects_of_one_name_share_a_class_with_a_warning(
    run: Path, frames: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export_masks(run, "yolo", tmp_path / "yolo", ExportOptions(names={1: "hand", 2: "hand"}))
    assert "share a class" in caplog.text
    with pytest.raises(ValueError, match="several objects have one class"):
        read_annotations(tmp_path / "yolo", open_source(frames))


# ------------------------------------------------------------------------------------------------------------ CVAT
@pytest.mark.parametrize("shapes", ["masks", "polygons"])
def test_cvat_comes_back(shapes: str, run: Path, frames: Path, tmp_path: Path) -> None:
    (file,) = export_masks(run, "cvat", tmp_path / "cvat", ExportOptions(names=NAMES, shapes=shapes))
    require_same(read_back(file, frames))
    root = ElementTree.parse(file).getroot()
    assert root.findtext("version") == "1.1"
    assert [label.findtext("name") for label in root.findall("meta/task/labels/label")] == list(NAMES.values())
    assert [track.get("id") for track in root.findall("track")] == [str(n) for n in range(len(root.findall("track")))]
    for track in root.findall("track"):
        places = [int(shape.get("frame", "")) for shape in track]
        assert places == sorted(set(places))
        assert {shape.get("keyframe") for shape in track} == {"1"}
        assert track[0].get("outside") == "0"
        assert NAMES[int(track.get("group_id", ""))] == track.get("label")
        assert len([s for s in track if s.get("outside") == "0"]) == 1 or shapes == "polygons"


def test_cvat_tracks_leave_and_return(run: Path, tmp_path: Path) -> None:
    (file,) = export_masks(run, "cvat", tmp_path / "cvat", ExportOptions(objects=(1,)))
    (track,) = ElementTree.parse(file).getroot().findall("track")
    assert [(shape.get("frame"), shape.get("outside")) for shape in track] == [
        ("0", "0"), ("1", "0"), ("2", "1"), ("3", "0"),
    ]  # fmt: skip


def test_cvat_polygons_come_back_by_datumaro(run: Path, tmp_path: Path) -> None:
    datumaro = installed("datumaro")
    (file,) = export_masks(run, "cvat", tmp_path / "cvat", OPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = datumaro.Dataset.import_from(str(file.parent), "cvat")
        found: dict[str, set[int]] = {frame: set() for frame in FRAMES}
        for item in dataset:
            for annotation in item.annotations:
                if not annotation.attributes.get("outside"):
                    name = dataset.categories()[datumaro.AnnotationType.label][annotation.label].name
                    assert NAMES[annotation.group] == name
                    found[FRAMES[int(item.attributes["frame"])]].add(annotation.group)
    assert found == {frame: set(np.unique(labels).tolist()) - {0} for frame, labels in label_maps().items()}


# ---------------------------------------------------------------------------------------------------- Label Studio
def decode_brush(data: list[int]) -> np.ndarray:
    """The published brush format, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word, sizes = read(32), read(5) + 1, [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        same, length = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * length if same else [read(word) for _ in range(length)]
    assert len(values) == total
    assert len(bits) - place < 8
    return np.array(values, np.uint8)


def test_labelstudio_comes_back(run: Path, tmp_path: Path) -> None:
    tasks_file, config = export_masks(run, "labelstudio", tmp_path / "ls", OPTIONS)
    view = ElementTree.parse(config).getroot()
    assert [label.get("value") for label in view.iter("Label")] == list(NAMES.values())
    found = {}
    for task in json.loads(tasks_file.read_text()):
        frame = found[task["data"]["frame"]] = np.zeros(SIZE, np.int32)
        for region in task["predictions"][0]["result"]:
            assert (region["original_height"], region["original_width"]) == SIZE
            pixels = decode_brush(region["value"]["rle"]).reshape(*SIZE, 4)[..., 3]
            object_id = int(region["meta"]["text"][0].split()[1])
            assert region["value"]["brushlabels"] == [NAMES[object_id]]
            frame[pixels == 255] = object_id
    require_same(found)


def test_brush_masks_come_back_by_label_studios_own_converter() -> None:
    brush = installed("label_studio_converter.brush")
    wide = np.zeros((300, 400), bool)
    wide[150:290, 3:390] = True
    for mask in (wide, label_maps()["00000"] == 1, np.ones((1, 1), bool)):
        decoded = brush.decode_rle(encode_brush(mask)).reshape(*mask.shape, 4)[..., 3]
        np.testing.assert_array_equal(decoded, np.where(mask, 255, 0))


# ----------------------------------------------------------------------------------------------------------- films
def decoded(path: Path, decoder: str | None = None) -> list[np.ndarray]:
    """All frames as RGBA, by the decoder named."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if decoder is None:
            return [frame.to_ndarray(format="rgba") for frame in container.decode(stream)]
        context = av.CodecContext.create(decoder, "r")
        frames = [frame for packet in container.demux(stream) if packet.size for frame in context.decode(packet)]
        return [frame.to_ndarray(format="rgba") for frame in frames]  # type: ignore[union-attr]


def test_cutouts_have_the_frame_and_the_mask(run: Path, frames: Path, tmp_path: Path) -> None:
    files = export_masks(run, "rgba", tmp_path / "rgba", ExportOptions(objects=(1, 2)), video=frames)
    for index, (path, labels) in enumerate(zip(files, label_maps().values(), strict=True)):
        picture, shown = np.array(Image.open(path)), np.isin(labels, (1, 2))
        np.testing.assert_array_equal(picture[..., 3], np.where(shown, 255, 0))
        np.testing.assert_array_equal(picture[shown][:, :3], image(index)[shown])


@pytest.mark.parametrize(("container", "decoder"), [("mov", None), ("webm", "libvpx-vp9")])
def test_video_has_the_alpha_that_was_written(
    container: str, decoder: str | None, run: Path, frames: Path, tmp_path: Path
) -> None:
    (file,) = export_masks(run, "rgba", tmp_path / "rgba", ExportOptions(container=container), video=frames)
    pictures = decoded(file, decoder)
    assert len(pictures) == len(FRAMES)
    for picture, labels in zip(pictures, label_maps().values()):
        wanted = np.where(labels > 0, 255, 0)
        if container == "mov":
            np.testing.assert_array_equal(picture[..., 3], wanted)
        else:
            np.testing.assert_array_equal(picture[..., 3] > 127, wanted > 127)
            assert np.abs(picture[..., 3] - wanted).mean() < 2


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (ExportOptions(style="popup"), "outside"),
        (ExportOptions(style="matte"), "everywhere"),
        (ExportOptions(effect="blur"), "inside"),
        (ExportOptions(effect="pixelate"), "inside"),
        (ExportOptions(effect="cutout"), "outside"),
        (ExportOptions(style="none"), "nowhere"),
        (ExportOptions(style="fill", ids=False), "inside"),
    ],
)
def test_styles_and_effects_change_what_they_say(options: ExportOptions, changed: str) -> None:
    from cutie_geo.export.overlays import Painter

    rng = np.random.default_rng(1)
    picture = rng.integers(40, 250, (60, 80, 3), dtype=np.uint8)
    labels = np.zeros((60, 80), np.int32)
    labels[15:45, 20:60] = 1
    different = (Painter(options).paint(picture, labels) != picture).any(axis=-1)
    inside = np.zeros((60, 80), bool)
    inside[19:41, 24:56] = True  # outlines have a width
    outside = np.ones((60, 80), bool)
    outside[11:49, 16:64] = False
    assert (different[inside].mean() > 0.9) == (changed in ("inside", "everywhere"))
    assert (different[outside].mean() > 0.9) == (changed in ("outside", "everywhere"))
    assert different.any() == (changed != "nowhere")


def test_trails_follow_the_centre() -> None:
    from cutie_geo.export.overlays import Painter

    painter = Painter(ExportOptions(style="none", trails=2))
    for column in (5, 25, 45):
        labels = np.zeros((40, 60), np.int32)
        labels[18:23, column - 2 : column + 3] = 1
        picture = painter.paint(np.zeros((40, 60, 3), np.uint8), labels)
    assert picture[20, 10:40].any(axis=-1).all()
    assert not picture[:15].any()


@pytest.mark.parametrize(
    ("codec", "suffix", "wanted"),
    [
        ("aac", "mp4", "aac"),
        ("aac", "ts", "aac"),
        ("mp3", "avi", "mp3"),
        ("pcm_s16le", "mov", "aac"),
        ("adpcm_ima_wav", "avi", "aac"),
        (None, "mp4", None),
    ],
)
def test_overlays_keep_the_sound(codec: str | None, suffix: str, wanted: str | None, tmp_path: Path) -> None:
    if codec is not None and not encodes(codec):
        pytest.skip(f"this FFmpeg has no encoder for {codec}")
    film = write_film(tmp_path / f"clip.{suffix}", codec)
    (file,) = export_masks(write_run(tmp_path / "out"), "overlay", tmp_path / "films", video=film)
    with av.open(str(file)) as container:
        assert len(list(container.decode(video=0))) == 8
        if wanted is None:
            assert not container.streams.audio
            return
        assert container.streams.audio[0].codec_context.codec.canonical_name == wanted
    with av.open(str(file)) as container:
        sound = np.concatenate([frame.to_ndarray().mean(axis=0) for frame in container.decode(audio=0)])
    assert 0.9 < len(sound) / 16000 < 1.2
    spectrum = np.abs(np.fft.rfft(sound))
    assert abs(spectrum.argmax() * 16000 / len(sound) - 440) < 5


@pytest.mark.parametrize(("rate", "layout", "wanted"), [(200_000, "mono", 96_000), (9000, "4.0", 8000)])
def test_sound_that_the_encoder_does_not_take_is_converted(rate: int, layout: str, wanted: int, tmp_path: Path) -> None:
    film = write_film(tmp_path / "clip.mkv", "pcm_s16le", rate=rate, layout=layout)
    (file,) = export_masks(write_run(tmp_path / "out"), "overlay", tmp_path / "films", video=film)
    with av.open(str(file)) as container:
        assert container.streams.audio[0].codec_context.sample_rate == wanted
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert 0.8 < samples / wanted < 1.2


@pytest.mark.filterwarnings("ignore")
def test_sound_whose_times_do_not_increase_ends_and_the_images_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    copied = sound.SoundTrack._copied

    def disordered(track: sound.SoundTrack) -> Any:
        for number, packet in enumerate(copied(track)):
            if number == 5:
                packet.dts = packet.pts = 0
            yield packet

    monkeypatch.setattr(sound.SoundTrack, "_copied", disordered)
    film = write_film(tmp_path / "clip.mp4", "aac")
    (file,) = export_masks(write_run(tmp_path / "out"), "overlay", tmp_path / "films", video=film)
    assert "the sound ends early, it is damaged" in caplog.text
    with av.open(str(file)) as container:
        assert len(list(container.decode(video=0))) == 8


@pytest.mark.parametrize("kind", ["overlay", "mov", "webm"])
def test_films_keep_variable_frame_times(kind: str, tmp_path: Path) -> None:
    """Telephones and screen recorders write them; at a constant rate, images would run away from the sound."""
    times = [0.0, 0.1, 0.2, 0.9, 1.0, 2.5, 2.6, 3.0]
    film = write_film(tmp_path / "clip.mp4", "aac", 3.2, times)
    options = ExportOptions(style="popup") if kind == "overlay" else ExportOptions(container=kind)
    format = "overlay" if kind == "overlay" else "rgba"
    (file,) = export_masks(write_run(tmp_path / "out"), format, tmp_path / "films", options, video=film)
    with av.open(str(file)) as container:
        shown = [frame.time for frame in container.decode(video=0)]
        assert shown == pytest.approx(times, abs=0.002)
    if kind == "overlay":
        with av.open(str(file)) as container:
            (sound,) = container.streams.audio
            assert sum(frame.samples for frame in container.decode(sound)) > 2.5 * 16000


# ---------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("format", ["overlay", "rgba"])
def test_films_need_the_frames(format: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the frames of clip are needed; give --video"):
        export_masks(run, format, tmp_path / "films")
    assert not (tmp_path / "films").exists()


def test_an_encoder_that_is_missing_is_named(
    run: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutie_geo.export.overlays.AlphaWriter.encoders", {".mov": "no_such_encoder"})
    with pytest.raises(ValueError, match="cannot encode no_such_encoder"):
        export_masks(run, "rgba", tmp_path / "rgba", ExportOptions(container="mov"), video=frames)
    assert list(tmp_path.glob("rgba/*")) == []


def test_masks_of_another_size_than_the_frames_leave_no_file(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    for frame in FRAMES:
        Image.new("RGB", (20, 10)).save(folder / f"{frame}.png")
    with pytest.raises(ValueError, match=r"mask is \(H, W\) = \(46, 62\), expected \(10, 20\)"):
        export_masks(run, "overlay", tmp_path / "films", video=folder)
    assert list((tmp_path / "films").glob("*.mp4")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["out", "--format", "gif"], "format: got gif, expected one of davis"),
        (["out", "--objects", "5"], "no object [5] in out; it has 1, 2, 7"),
        (["out", "--names", "knife=1"], "got 'knife', expected an object id"),
        (["out", "--output", "out/Annotations"], "which holds the input"),
        (["out", "--video", "empty"], "empty: no frames and no videos"),
        (["empty"], "empty: no masks"),
    ],
)
def test_wrong_calls_are_one_line(
    arguments: list[str], message: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    Path("empty").mkdir()
    rest = [] if "--format" in arguments else ["--format", "davis"]
    rest += [] if "--output" in arguments else ["--output", "new"]
    assert main(["export", "masks", *arguments, *rest]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_the_command_exports(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"1": "knife"}))
    words = ["--format", "csv", "--names", str(names), "2=left hand", "-o", str(tmp_path / "new")]
    assert main(["export", "masks", str(run / "Annotations"), *words]) == 0
    assert "csv: 1 files" in capsys.readouterr().out
    text = (tmp_path / "new" / "boxes.csv").read_text()
    assert all(name in text for name in (",knife,", ",left hand,", ",object 7,"))


def test_names_are_given_once() -> None:
    with pytest.raises(ValueError, match="got object 1 twice"):
        parse_names(["1=a", "1=b"])


def test_all_formats_take_several_videos(run: Path, tmp_path: Path) -> None:
    write_run(run, "other")
    for name in ("clip", "other"):
        write_frames(tmp_path / "frames" / name)
    for format in FORMATS:
        files = export_masks(run, format, tmp_path / format, video=tmp_path / "frames")
        assert all(path.is_file() and path.stat().st_size for path in files if path.suffix != ".txt"), format
    found = json.loads((tmp_path / "coco" / "instances.json").read_text())
    assert {entry["video_id"] for entry in found["images"]} == {1, 2}
