"""--shard of infer, convert and evaluate: the parts of a job array give what one call gives."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from published import square, visor_frame, write_visor
from toy_videos import contents, summary, tiny_options, write_videos

from cutie_geo.__main__ import main, run_one
from cutie_geo.config import Shard, parse_shard
from cutie_geo.data.locks import exclusive
from cutie_geo.data.masks import write_labels
from cutie_geo.inference.results import LOCKS, NOTES, Results

Said = pytest.CaptureFixture[str]


def errors(said: Said) -> list[str]:
    return [line for line in said.readouterr().err.splitlines() if line.startswith("error:")]


# --------------------------------------------------------------------------------------------------------- the shard
@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_shards_are_a_partition(count: int) -> None:
    items = list(range(7))
    parts = [parse_shard(f"{i}/{count}").of(items) for i in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert list(Shard().of(items)) == items


@pytest.mark.parametrize("text", ["0/4", "5/4", "-1/4", "1/0", "1", "1/2/3", "a/b", "", "1 / 2", "\u0661/2", "1/2\n"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"--shard: got .*, expected I/N with I from 1 to N") as error:
        parse_shard(text)
    assert ("count from 1" in str(error.value)) == (text == "0/4")


# ------------------------------------------------------------------------------------------------------------- infer
@pytest.mark.slow
def test_shards_of_a_run_give_its_files_and_one_run_json(tmp_path: Path, capsys: Said) -> None:
    videos, masks = write_videos(tmp_path, ["ant", "bear", "cat"], frames=2)
    common = [str(videos), "--mask", str(masks), *tiny_options(tmp_path)]
    assert run_one("infer", [*common, "-o", str(tmp_path / "whole")]) == 0
    for i, own in enumerate((["ant", "cat"], ["bear"]), 1):
        assert run_one("infer", [*common, "-o", str(tmp_path / "parts"), "--shard", f"{i}/2"]) == 0
        assert f"videos: {len(own)} segmented" in capsys.readouterr().out.splitlines()[-2]
    assert contents(tmp_path / "parts" / "Annotations") == contents(tmp_path / "whole" / "Annotations")
    whole, parts = summary(tmp_path / "whole"), summary(tmp_path / "parts")
    assert list(parts["videos"]) == list(whole["videos"]) == ["ant", "bear", "cat"]
    assert parts["settings"] == whole["settings"]
    for name in whole["videos"]:
        assert parts["videos"][name]["frames"] == whole["videos"][name]["frames"]
        assert parts["videos"][name]["input"] == whole["videos"][name]["input"]


def test_a_shard_without_a_video_succeeds_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    videos, masks = write_videos(tmp_path, ["ant"], frames=1)
    options = [str(videos), "--mask", str(masks), "-o", str(tmp_path / "out"), *tiny_options(tmp_path)]
    assert run_one("infer", [*options, "--shard", "3/4"]) == 0
    assert "--shard 3/4: no video left for it, of 1" in caplog.text


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--shard", "3/2"], "--shard: got '3/2', expected I/N"),
        (["--shard", "1/2"], "--shard: expected a video or --dataset with it"),
    ],
)
def test_shards_of_a_run_that_make_no_sense_are_one_line(argv: list[str], words: str, capsys: Said) -> None:
    assert run_one("infer", argv) == 2
    (said,) = errors(capsys)
    assert words in said


def test_the_last_of_several_processes_to_write_run_json_has_read_all_reports(tmp_path: Path) -> None:
    results = Results.at(tmp_path)
    results.make_writable()
    held, done = threading.Event(), threading.Event()

    def slow() -> dict[str, object]:  # has read its reports, and is about to write
        held.set()
        assert not done.wait(0.5)
        return {"by": "slow"}

    def quick() -> None:
        results.write_summary(lambda: {"by": "quick"})
        done.set()

    first = threading.Thread(target=results.write_summary, args=(slow,))
    first.start()
    assert held.wait(10)
    second = threading.Thread(target=quick)
    second.start()
    first.join(20)
    second.join(20)
    assert done.is_set()
    assert json.loads((tmp_path / "run.json").read_text()) == {"by": "quick"}


def test_a_summary_is_written_even_if_its_lock_stays_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutie_geo.inference.results.SUMMARY_PATIENCE", 0.1)
    results = Results.at(tmp_path)
    results.make_writable()
    with exclusive(tmp_path / NOTES / LOCKS / ".run.json.lock", "run.json"):
        results.write_summary(lambda: {"videos": {}})
    assert json.loads((tmp_path / "run.json").read_text()) == {"videos": {}}


# ----------------------------------------------------------------------------------------------------------- convert
def visor(root: Path, output: str, *more: str) -> int:
    where = ["--annotations", f"{root}/annotations", "--frames", f"{root}/frames", "--output", f"{root}/{output}"]
    return main(["convert", "visor", *where, "--split", "val", "--size", "64x36", *more])


def test_the_last_shard_of_a_conversion_writes_lists_and_report(tmp_path: Path, capsys: Said) -> None:
    for number in (1, 2, 3):
        video = f"P01_0{number}"
        frames = [visor_frame(i, {"a": [square(10, 10, 300)]}, video=video) for i in (1, 2)]
        write_visor(tmp_path, frames, video)
    assert visor(tmp_path, "whole") == 0
    assert visor(tmp_path, "parts", "--shard", "2/2") == 0
    said = capsys.readouterr().out
    assert "visor val: 1 sequences, 2 frames of 1 videos" in said
    assert "lists and report are not written yet: 2 videos of other shards are not there" in said
    tree = tmp_path / "parts" / "VISOR_2022"
    assert not (tree / "ImageSets").exists()
    assert not list(tree.glob("*.json"))
    assert visor(tmp_path, "parts", "--shard", "1/2") == 0
    assert "visor val: 3 sequences, 6 frames of 3 videos" in capsys.readouterr().out
    assert contents(tree) == contents(tmp_path / "whole" / "VISOR_2022")


def test_a_shard_that_was_lost_is_made_up_by_a_call_without_shards(tmp_path: Path, capsys: Said) -> None:
    for number in (1, 2):
        video = f"P01_0{number}"
        frames = [visor_frame(i, {"a": [square(10, 10, 300)]}, video=video) for i in (1, 2)]
        write_visor(tmp_path, frames, video)
    assert visor(tmp_path, "whole") == 0
    assert visor(tmp_path, "parts", "--shard", "1/2") == 0
    assert visor(tmp_path, "parts") == 0
    assert "2 were already there" in capsys.readouterr().out.splitlines()[-1]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


# ---------------------------------------------------------------------------------------------------------- evaluate
@pytest.fixture
def roots(tmp_path: Path) -> list[str]:
    """Five sequences, each shifted further; one object appears late, one folder of predictions is missing."""
    labels = np.zeros((48, 64), np.int32)
    labels[8:24, 8:24] = 1
    labels[30:40, 30:50] = 2
    for shift, name in enumerate(["a", "b", "c", "d", "e"]):
        for t in range(4):
            write_labels(tmp_path / "truth" / name / f"{t:05d}.png", labels)
            if name != "d":
                write_labels(tmp_path / "masks" / name / f"{t:05d}.png", np.roll(labels, 3 * shift, axis=1))
    return ["--gt", str(tmp_path / "truth"), "--pred", str(tmp_path / "masks")]


def evaluate(*argv: object) -> int:
    return main(["evaluate", *map(str, argv)])


def parts_of(roots: list[str], folder: Path, count: int, *more: str) -> list[Path]:
    paths = [folder / f"part{i}.json" for i in range(1, count + 1)]
    for i, path in enumerate(paths, 1):
        assert evaluate(*roots, *more, "--shard", f"{i}/{count}", "--json", path) == 0
    return paths


@pytest.mark.parametrize(("protocol", "count"), [("davis2017", 2), ("mosev2", 3), ("visor", 7), ("youtubevos", 1)])
def test_merged_parts_are_the_report_of_one_call(
    roots: list[str], tmp_path: Path, capsys: Said, protocol: str, count: int
) -> None:
    more = ["--protocol", protocol, "--lenient"]
    if protocol == "youtubevos":
        meta = {"videos": {"a": {"objects": {"1": {"category": "ant", "frames": ["00000", "00002"]}}}}}
        (tmp_path / "meta.json").write_text(json.dumps(meta))
        (tmp_path / "unseen.txt").write_text("ant\n")
        more += ["--meta", str(tmp_path / "meta.json"), "--unseen", str(tmp_path / "unseen.txt")]
    assert evaluate(*roots, *more, "--json", tmp_path / "whole.json") == 0
    printed = capsys.readouterr().out.replace("whole.json", "merged.json")
    parts = parts_of(roots, tmp_path, count, *more)
    assert f"part 1/{count}: {-(-5 // count)} of 5 sequences" in capsys.readouterr().out
    assert evaluate("--merge", *reversed(parts), "--json", tmp_path / "merged.json") == 0
    assert capsys.readouterr().out == printed
    assert (tmp_path / "merged.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_parts_that_do_not_make_a_whole_are_refused(roots: list[str], tmp_path: Path, capsys: Said) -> None:
    one, two = parts_of(roots, tmp_path, 2, "--lenient")
    other = tmp_path / "other.json"
    assert evaluate(*roots, "--lenient", "--protocol", "visor", "--shard", "2/2", "--json", other) == 0
    foreign, damaged, swapped = (tmp_path / f"{name}.json" for name in ("foreign", "damaged", "swapped"))
    foreign.write_text('{"sequences": {}}')
    content = json.loads(two.read_text())
    damaged.write_text(json.dumps(content | {"scores": [{"sequence": "b"}] * len(content["scores"])}))
    swapped.write_text(json.dumps(content | {"scores": content["scores"][::-1]}))
    capsys.readouterr()
    for paths, words in [
        ((one,), "got parts 1/2; expected each of 1/2 to 2/2 once"),
        ((one, two, two), "got parts 1/2, 2/2, 2/2; expected each of 1/2 to 2/2 once"),
        ((one, other), "other.json: other protocol than in"),
        ((one, foreign), "foreign.json: not a part of an evaluation"),
        ((one, damaged), "damaged.json: damaged scores"),
        ((one, swapped), "its sequences are not those of all parts"),
        ((one, tmp_path / "nowhere.json"), "nowhere.json"),
    ]:
        assert evaluate("--merge", *paths) == 2
        (said,) = errors(capsys)
        assert words in said


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--shard", "1/2"], "--shard: expected --json with it"),
        (["--shard", "1/2", "--json", "r.json", "--plots", "p"], "--plots: expected no --shard with it"),
        (["--shard", "9/2", "--json", "r.json"], "--shard: got '9/2'"),
        (["--shard", "1/2", "--protocol", "vspw"], "--shard, --merge: got protocol vspw"),
        (["--merge", "a.json"], "--gt, --pred: expected without --merge"),
        (["--merge", "a.json", "--compare", "a.json", "b.json"], "--merge and --compare: expected one of them"),
    ],
)
def test_options_of_parts_that_make_no_sense_are_one_line(
    roots: list[str], argv: list[str], words: str, capsys: Said
) -> None:
    assert evaluate(*roots, *argv) == 2
    (said,) = errors(capsys)
    assert words in said
