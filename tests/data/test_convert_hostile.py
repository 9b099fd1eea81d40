"""Annotations that nobody should trust: each is converted or refused by name, and nothing leaves the output."""

import copy
import json
import random
import re
import shutil

import pytest
from published import burst_content, jpeg, ovis_content, square, visor_content, visor_frame, write_visor

from cutie_geo.data.convert.burst import convert_burst
from cutie_geo.data.convert.ovis import convert_ovis
from cutie_geo.data.convert.records import is_plain_name
from cutie_geo.data.convert.visor import VisorOptions, convert_visor, read_annotations
from cutie_geo.data.convert.vos import VosOptions

STRANGE = [
    None, True, False, 0, -1, 1, 255, 256, 2**31, 2**63, 10**400, 0.5, -0.0, 1e9, 1e300, float("nan"), float("inf"),
    "", ".", "..", "../x", "../../x.jpg", "/tmp/x", "/etc/passwd", "a/b", "..\\x", "C:\\x", "~", "x\0y",
    "a\nb", ".hidden",     "con:x", "\ud800", "\u202e", "é", "x" * 300, "P01_01_seq_00001/../../x", "P01_01_seq_00009",
    "P99_01", "abc/../../x/y.jpg", "44`0", "oooooo", "oooooooooooo0", "0" * 50, [], [[]], [[[]]], [None], [[1, 2, 3]],
    [[1], [2, 3]],
    [["1", "2"]], [[1e10, 0]], [[-40000, 0], [40000, 5]], [[float("nan"), 1]], [[10**30, 1]], {}, {"size": [4, 6]},
    {"rle": [24]}, {"1": {"rle": [4, 20]}}, {"../x": {"rle": [24]}}, [24], [-5, 29], [2**62] * 4,
]  # fmt: skip


def places(value, path=()):
    """The paths to all values inside, short of the numbers of a polygon beyond its first."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def mutate(content, rng):
    """The content with one to three things changed, removed, moved or repeated."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice([1, 1, 2, 3])):
        found = [path for path in places(content) if path]
        if not found:
            return content
        *parents, last = rng.choice(found)
        holder = content
        for key in parents:
            holder = holder[key]
        kind = rng.random()
        if kind < 0.6:
            holder[last] = copy.deepcopy(rng.choice(STRANGE))
        elif kind < 0.75:
            del holder[last]
        elif kind < 0.85 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        elif kind < 0.9 and isinstance(holder, dict):
            holder[rng.choice(["extra", "../x", "", "1", "id", "name"])] = holder.pop(last)
        else:
            nested = holder[last]
            for _ in range(rng.choice([1, 3, 80])):
                nested = [nested]
            holder[last] = nested
    return content


def as_bytes(content, rng):
    """The file's bytes; now and then damaged, or in another encoding."""
    text = json.dumps(content, ensure_ascii=rng.random() < 0.8)
    kind = rng.random()
    if kind < 0.9:
        return text.encode("utf-8", "surrogatepass")
    if kind < 0.93:
        return text.encode("utf-16", "surrogatepass")
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if kind < 0.97:
        del data[rng.randrange(len(data)) :]
    else:
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def outside(root):
    """All that isn't the output, and when it was changed; symbolic links as such."""
    files = (path for path in root.rglob("*") if path.relative_to(root).parts[:2] != ("work", "out"))
    return {str(path): (path.is_symlink(), path.stat().st_mtime_ns if path.is_file() else 0) for path in files}


def is_clear(message, file):
    return file in message and message.isprintable() and len(message) < 1000


def visor_case(work):
    frames = [
        visor_frame(1, {"a": [square(10, 10, 300)], "b": [square(100.5, 90.25, 30), [[5, 5]], []]}),
        visor_frame(2, {"a": [square(10, 10, 300)]}),
        visor_frame(3, {"left hand": [square(50, 10, 30)]}, 2),
        visor_frame(4, {"left hand": [square(50, 10, 30)]}, 2),
    ]
    write_visor(work, frames)
    options = VisorOptions(work / "frames", work / "out", "val", work / "annotations", (36, 64), workers=1)
    return work / "annotations" / "val" / "P01_01.json", visor_content(frames), lambda: convert_visor(options)


def ovis_case(work):
    for i in (1, 2, 3):
        jpeg(work / "frames" / "abc" / f"img_{i:07d}.jpg", (4, 6))
    file = work / "annotations_train.json"
    options = VosOptions(file, work / "frames", work / "out", "train", workers=1)
    return file, ovis_content(), lambda: convert_ovis(options)


def burst_case(work):
    for i in (1, 2, 3):
        jpeg(work / "frames" / "AVA" / "film one" / f"f{i}.jpg", (4, 6))
    file = work / "all_classes.json"
    options = VosOptions(file, work / "frames", work / "out", "train", "copy", True, workers=1)
    return file, burst_content(), lambda: convert_burst(options)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "mutations"), [(visor_case, 1000), (ovis_case, 500), (burst_case, 500)])
def test_a_mutated_file_is_converted_or_refused_with_its_name_and_nothing_else_is_touched(tmp_path, case, mutations):
    work = tmp_path / "work"
    file, content, convert = case(work)
    rng = random.Random(case.__name__)
    file.write_text(json.dumps(content))
    convert()
    before = outside(tmp_path)
    converted, said = 0, []
    for number in range(mutations):
        data = as_bytes(mutate(content, rng), rng)
        file.write_bytes(data)
        before[str(file)] = (False, file.stat().st_mtime_ns)
        try:
            convert()
            converted += 1
        except ValueError as error:
            said.append(str(error))
            assert is_clear(said[-1], file.name), (number, data)
        except Exception as error:
            raise AssertionError(f"mutation {number}: {data!r}") from error
        assert outside(tmp_path) == before, (number, data)
        if number % 100 == 0:
            shutil.rmtree(work / "out", ignore_errors=True)
    assert min(converted, len(said)) > mutations // 25
    assert len({re.sub(r"\d+", "", message) for message in said}) > 50  # ways to be wrong
    assert not list((work / "out").rglob("*.part"))


def read(tmp_path, text):
    file = tmp_path / "P01_01.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_annotations(file)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not JSON"),
        ("[]", "got list [], expected an object"),
        ("{}", "no field 'video_annotations'"),
        ('{"video_annotations": {}}', "video_annotations: got dict {}, expected a list"),
        ('{"video_annotations": [NaN]}', "NaN is not a JSON number"),
        ('{"video_annotations": [-Infinity]}', "-Infinity is not a JSON number"),
        ('{"video_annotations": ' + "[" * 100_000, "nested too deeply"),
        ('{"video_annotations": [' + "9" * 5000 + "]}", "not JSON"),
        (json.dumps({"video_annotations": []}).encode("utf-16"), "not JSON"),
        (b'{"video_annotations": "\xff"}', "not JSON"),
    ],
)
def test_a_file_that_is_not_json_of_annotations_is_refused(tmp_path, text, what):
    with pytest.raises(ValueError, match=re.escape(what)) as error:
        read(tmp_path, text)
    assert "P01_01.json" in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("video", "P01_02", "expected 'P01_01', as the file is named"),
        ("subsequence", "P01_01_seq_00001/../../x", "expected 'P01_01_seq_<number>'"),
        ("subsequence", "P01_02_seq_00001", "expected 'P01_01_seq_<number>'"),
        ("subsequence", "P01_01_seq_00001\n", "expected 'P01_01_seq_<number>'"),
        ("name", "../x.jpg", "expected a plain file name"),
        ("name", "/etc/x.jpg", "expected a plain file name"),
        ("name", ".x.jpg", "expected a plain file name"),
        ("name", "x.png", "expected the name of a JPEG"),
        ("name", "x" * 300 + ".jpg", "expected a plain file name"),
        ("name", 5, "expected a plain file name"),
        ("image_path", None, "expected a non-empty string"),
    ],
)
def test_an_image_that_leads_elsewhere_is_refused(tmp_path, field, value, what):
    frame = visor_frame(1, {"a": [square(1, 1, 5)]})
    frame["image"][field] = value
    with pytest.raises(ValueError, match=re.escape(what)) as error:
        read(tmp_path, json.dumps(visor_content([frame])))
    assert f"P01_01.json.video_annotations[0].image.{field}" in str(error.value)


@pytest.mark.parametrize(
    "polygon",
    [
        [[1, 2, 3]], [[1, 2], [3]], [["1", "2"]], [[None, 1]], [[True, False]], [1, 2], "12", 5, None, {"x": 1},
        [[[1, 2]]], [[1e300, 0]], [[1e10, 0]], [[-32768, 0]], [[10**30, 0]], [[0, 1e999]],
    ],
)  # fmt: skip
def test_a_polygon_that_is_none_is_refused_with_its_place(tmp_path, polygon):
    text = json.dumps(visor_content([visor_frame(1, {"a": [square(1, 1, 5), polygon]})])).replace("Infinity", "1e999")
    with pytest.raises(ValueError, match=r"annotations\[0\].segments\[1\]: got .* expected a list of \[x, y\]"):
        read(tmp_path, text)


@pytest.mark.slow
def test_an_entity_of_too_many_points_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"annotations\[0\].segments: got 200001 points, expected at most 200000"):
        read(tmp_path, json.dumps(visor_content([visor_frame(1, {"a": [[[1, 1]] * 100_000, [[2, 2]] * 100_001]})])))


def test_ids_and_frames_that_come_twice_are_refused(tmp_path):
    frame = visor_frame(1, {"a": [square(1, 1, 5)], "b": [square(1, 1, 5)]})
    with pytest.raises(ValueError, match=r"video_annotations\[1\].image.name: second 'P01_01_frame_0000000001'"):
        read(tmp_path, json.dumps(visor_content([frame, frame])))
    frame["annotations"][1]["id"] = frame["annotations"][0]["id"]
    with pytest.raises(ValueError, match=r"annotations\[1\].id: got str '1-0', expected a different id"):
        read(tmp_path, json.dumps(visor_content([frame])))


def test_more_objects_than_an_indexed_mask_holds_are_refused(tmp_path):
    many = {f"n{i:03d}": [square(1, 1, 5)] for i in range(256)}
    write_visor(tmp_path, [visor_frame(1, many), visor_frame(2, many)])
    options = VisorOptions(tmp_path / "frames", tmp_path / "out", "val", tmp_path / "annotations", (36, 64))
    with pytest.raises(ValueError, match=r"video_annotations\[0\]: got object 256, 'n255', expected at most 255"):
        convert_visor(options)


def test_dense_interpolations_are_refused(tmp_path):
    with pytest.raises(ValueError, match="dense interpolations"):
        read_annotations(tmp_path / "P01_01_interpolations.json")


def test_only_names_that_stay_in_their_folder_are_plain():
    for name in ("a", "a b.jpg", "-x_1", "é.png", "x" * 200):
        assert is_plain_name(name), name
    for name in (
        "",
        ".",
        "..",
        ".a",
        "a/b",
        "a\\b",
        "a:b",
        "a\0",
        "a\n",
        "\ud800",
        "x" * 201,
        "é" * 101,
        "a ",
        3,
        None,
    ):
        assert not is_plain_name(name), name
