"""Runs, messages, library and notes of the app."""

import asyncio
import json
import os
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from app_server import EXAMPLES, mutated, write_clip, write_video

from cutie_geo.app import messages
from cutie_geo.app.library import Library
from cutie_geo.app.messages import BadMessage, read_command
from cutie_geo.app.notes import Notes
from cutie_geo.app.runs import LONGEST_RUN, decode_runs, encode_runs, from_base64, to_base64
from cutie_geo.app.server import STATIC


# ---------------------------------------------------------------------------------------------------------------- runs
@pytest.mark.parametrize("ids", [(0,), (7,), (0, 1, 2, 300_000), (0, 2**31 - 1)])
def test_label_maps_survive_runs(ids: tuple[int, ...]) -> None:
    labels = np.random.default_rng(0).choice(np.array(ids, np.int32), (23, 31))
    assert np.array_equal(decode_runs(encode_runs(labels), (23, 31), "mask"), labels)
    assert from_base64(to_base64(b"\0\xff"), "mask") == b"\0\xff"


def test_long_runs_are_split() -> None:
    labels = np.zeros((4200, 4100), np.int32)
    labels[-1, -3:] = 5
    assert labels.size > LONGEST_RUN
    assert np.array_equal(decode_runs(encode_runs(labels), labels.shape, "mask"), labels)


def test_more_objects_than_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="300 objects, expected at most 255"):
        encode_runs(np.arange(1, 301, dtype=np.int32).reshape(10, 30))


def test_damaged_runs_are_refused() -> None:
    good = encode_runs(np.array([[0, 1], [1, 0]], np.int32))
    words = np.frombuffer(good, "<u4")
    for place, value in [(0, 3), (1, 2**32 - 1), (2, 256), (2, 200), (3, 0), (4, 2**31), (4, 2**24 * 9 + 1), (5, 0)]:
        bad = words.copy()
        bad[place] = value
        with pytest.raises(ValueError, match="mask: "):
            decode_runs(bad.tobytes(), (2, 2), "mask")
    for data in (b"", good[:8], good[:-1], good[:16], good + b"\1\0\0\0"):
        with pytest.raises(ValueError, match="mask: "):
            decode_runs(data, (2, 2), "mask")
    with pytest.raises(ValueError, match="expected base64"):
        from_base64("!!", "mask")


# ------------------------------------------------------------------------------------------------------------ messages
def test_a_message_becomes_a_command() -> None:
    text = json.dumps({"id": 3, "do": "prompt", "frame": 0, "object": 2, "points": [[4, 5.5]], "labels": [1]})
    number, command = read_command(text)
    assert number == 3
    assert command == messages.Prompt(0, 2, ((4.0, 5.5),), (1,))
    assert command.changes


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"frame": -1}, "frame: got -1"),
        ({"frame": 1.5}, "expected int"),
        ({"frame": True}, "expected int"),
        ({"object": 0}, "object: got 0"),
        ({"object": 2**31}, "expected 1 to"),
        ({"labels": []}, "expected a label for each"),
        ({"labels": [2]}, "expected 1"),
        ({"points": [[1, 2, 3]]}, "prompt.points"),
        ({"points": [["a", 2]]}, "expected float"),
        ({"points": [[1e999, 2]]}, "finite"),
        ({"points": [[0, 0]] * 1001, "labels": [1] * 1001}, "at most 1000"),
        ({"points": [], "labels": []}, "expected points or a box"),
        ({"box": [1, 2, 3]}, "prompt.box"),
        ({"path": "/etc/passwd"}, "unknown path"),
        ({"do": "exec"}, "got do='exec'"),
        ({"do": ["prompt"]}, "expected one of"),
    ],
)
def test_invalid_fields_are_named(change: dict[str, object], error: str) -> None:
    good = {"id": 1, "do": "prompt", "frame": 0, "object": 1, "points": [[1, 2]], "labels": [1]}
    with pytest.raises(BadMessage, match=error) as caught:
        read_command(json.dumps({**good, **change}))
    assert caught.value.number == 1


@pytest.mark.parametrize("text", ["", "[]", "7", '{"do": "undo"}', '{"id": "1", "do": "undo"}', "[" * 5000, "{" * 3])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="message"):
        read_command(text)


def test_mutated_messages_are_commands_or_errors() -> None:
    chance = random.Random(0)
    refused = 0
    for _ in range(2000):
        try:
            read_command(mutated(json.dumps(chance.choice(EXAMPLES)), chance))
        except ValueError:
            refused += 1
    assert refused > 1000


# ------------------------------------------------------------------------------------------------------------- library
def test_a_folder_lists_its_videos_and_nothing_behind_links(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_clip(tmp_path / "videos" / name, 2)
    write_clip(tmp_path / "secret", 2)
    (tmp_path / "videos" / "c").symlink_to(tmp_path / "secret")
    library = Library(tmp_path / "videos", tmp_path / "work")
    assert [(video.name, video.kind) for video in library.videos.values()] == [
        ("a", "opened"), ("b", "opened"), ("toy_wall", "example")]  # fmt: skip
    assert library.first is None
    assert Library(tmp_path / "videos" / "a", tmp_path / "work").first is not None
    with pytest.raises(ValueError, match="no such file"):
        Library(tmp_path / "missing", tmp_path / "work")


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]


def upload(library: Library, name: str, data: bytes, limit: int = 10**6) -> Path:
    return asyncio.run(library.upload(name, chunks(data), limit))


def test_uploads_get_plain_names_below_the_work_folder(tmp_path: Path) -> None:
    library = Library(None, tmp_path / "work")
    data = write_video(tmp_path / "clip.mp4").read_bytes()
    names = [
        "clip.mp4",
        "clip.mp4",
        "../../../etc/x.mp4",
        "a\\..\\b.MP4",
        "<img src=x onerror=alert(1)>.mp4",
        ".mp4.mp4",
    ]
    paths = [upload(library, name, data) for name in names]
    assert [path.name for path in paths] == [
        "clip.mp4", "clip_2.mp4", "x.mp4", "a_b.mp4", "img_src_x_onerror_alert_1.mp4", "mp4.mp4"]  # fmt: skip
    assert all(path.parent == tmp_path / "work" / "uploads" for path in paths)
    assert library.add_upload(paths[0]).name == "clip"
    assert {video.name for video in Library(None, tmp_path / "work").videos.values()} >= {"clip", "clip_2", "x"}


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("page.html", b"<script>alert(1)</script>", "expected a video"),
        ("page.svg", b"<svg onload='alert(1)'/>", "expected a video"),
        ("clip.mp4", b"<script>alert(1)</script>" * 99, "not a video"),
        ("list.mp4", PLAYLIST, "not a video"),
        ("list.ts", b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video"),
        ("clip.mp4", b"", "not a video"),
        ("clip.mp4", b"\0\0\0\x18ftypmp42" + bytes(4000), "not a video"),
        ("clip", b"", "expected a video"),
        ("", b"", "expected a video"),
    ],
)
def test_uploads_that_are_no_videos_leave_nothing(tmp_path: Path, name: str, data: bytes, error: str) -> None:
    library = Library(None, tmp_path / "work")
    with pytest.raises(ValueError, match=error):
        upload(library, name, data)
    assert not [path for path in (tmp_path / "work").rglob("*") if path.is_file()]


def test_too_large_an_upload_stops_early(tmp_path: Path) -> None:
    library = Library(None, tmp_path / "work")
    with pytest.raises(ValueError, match=r"more than 5000 bytes; --max-upload raises the limit"):
        upload(library, "clip.mp4", bytes(10_000), 5000)
    assert os.listdir(tmp_path / "work" / "uploads") == []


# --------------------------------------------------------------------------------------------------------------- notes
def test_notes_are_saved_and_damaged_ones_ignored(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.describe(3, name="knife", colour="#102030", hidden=True, guarded=None)
    notes.show(7)
    again = Notes(tmp_path)
    assert (again.frame, again.colour(3), again.flag(3, "hidden"), again.flag(3, "guarded")) == (
        7,
        "#102030",
        True,
        False,
    )
    assert again.colour(1) == "#ff5848"
    for text in (
        "",
        "[]",
        '{"objects": 3}',
        '{"objects": {"x": {}, "1": {"colour": "url(x)", "name": 5}}, "frame": -3}',
    ):
        (tmp_path / "app.json").write_text(text)
        damaged = Notes(tmp_path)
        assert (damaged.frame, damaged.colour(1)) == (0, "#ff5848")
        assert not damaged.objects.get(1)


# -------------------------------------------------------------------------------------------------------------- colours
TEXT = {
    ("text", "muted", "link", "warning"): ("page", "panel", "raised", "hover", "sunken", "accent-soft"),
    ("accent-text",): ("accent", "accent-hover", "danger", "danger-hover"),
}
"""Colours of text, and of what is behind them."""
MARKS = {
    ("control",): ("panel", "sunken", "page"),
    ("focus",): ("page", "panel", "raised", "canvas"),
    ("error",): ("raised", "panel"),
    ("tracked", "approved", "stale", "prompted", "playhead"): ("sunken", "panel"),
}
"""Colours of borders and marks, and of what is beside them."""


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_colours_have_the_contrast_of_wcag_aa(theme: str) -> None:
    style = (STATIC / "app.css").read_text(encoding="utf-8")
    block = re.search(rf'\[data-theme="{theme}"\] {{(.*?)\n}}', style, re.DOTALL)
    assert block is not None
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block[1]))
    for pairs, least in ((TEXT, 4.5), (MARKS, 3.0)):
        for front, back in ((a, b) for fronts, backs in pairs.items() for a in fronts for b in backs):
            low, high = sorted(luminance(colours[name]) for name in (front, back))
            assert (high + 0.05) / (low + 0.05) >= least, f"{theme}: {front} on {back}"
