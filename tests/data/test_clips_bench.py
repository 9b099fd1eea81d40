"""`cutie-geo bench --data`."""

import argparse
import json
from pathlib import Path

import pytest
from clip_files import blob, write_image, write_mask

from cutie_geo.commands import bench


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    args = parser.parse_intermixed_args(["--data", *argv])
    args.command_line = ["cutie-geo bench", "--data", *argv]
    return bench.run(args)


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A stage of four still images."""
    mask = blob((40, 48), {1: (10, 10, 30, 30)})
    for name in "abcd":
        write_image(tmp_path / f"things/images/{name}.png", mask)
        write_mask(tmp_path / f"things/masks/{name}.png", mask)
    path = tmp_path / "stage.yaml"
    path.write_text(
        "stage: small\nmodel: cutie\nsteps: 9\nbatch: 2\nclips: {length: 2, crop: 32}\n"
        "data: [{name: static, only: [things]}]\n"
    )
    return path


def test_it_says_how_fast_clips_are_made_and_where_the_time_goes(
    stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = ["--config", str(stage), "--data-root", str(tmp_path), "--workers", "0", "--clips", "3"]
    assert run(*given, "--json", str(tmp_path / "r.json"), "clips.max_objects=2") == 0
    text = capsys.readouterr().out
    assert "4 items, 2 frames of 32x32, uint8, 3 measured" in text
    assert "workers 0: " in text
    assert "limit: " in text
    report = json.loads((tmp_path / "r.json").read_text())
    parts = report["ms_per_clip"]
    assert list(parts) == [
        "reading and decoding", "rendering", "augmenting", "merging", "collating", "the rest"
    ]  # fmt: skip
    assert all(parts[part] > 0 for part in ("reading and decoding", "augmenting", "merging", "collating"))
    assert parts["rendering"] == 0
    assert report["rows"][0]["clips_per_second"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "-1"], "--workers: got -1"),
        (["--clips", "0"], "--clips: got 0"),
        (["--flops"], "--data and --flops: expected only one"),
        (["a=1"], "got no --config"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such stage"),
    ],
)
def test_what_can_not_be_measured_is_an_error(options: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        run(*options)
