"""`cutie-geo ablate`: files of tables, the commands they mean, and runs of them, with a stand-in for the programs."""

import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from stock_sam2 import TINY
from tinted import write_vspw
from toy_videos import regions, tiny_options, write_frames, write_mask

from cutie_geo.__main__ import main
from cutie_geo.ablation.config import AblationConfig, read_ablation, slug
from cutie_geo.ablation.plan import RowPlan, Setting, launcher, plan_row
from cutie_geo.ablation.table import TableRow, bars, lines, markdown
from cutie_geo.ablation.tracking import read_log
from cutie_geo.config import build, config_root
from cutie_geo.data.render import SceneConfig
from cutie_geo.sam2.networks import SAM2_MODELS

Said = pytest.CaptureFixture[str]

PAPER = {"J&F": 80.0, "J": 79.0, "F": 81.0}
A_ROW = {"name": "one"}
STAGE = [
    "precision=fp32", "steps=2", "batch=1", "clips.crop=48", "clips.length=2", "clips.max_skip=[[0.0, 1]]",
    "loss.points=64", "validation.every=0", "save_every=2", "log_every=1", "images_every=0",
]  # fmt: skip


def a_table(**changes: Any) -> dict[str, Any]:
    """Two rows with weights of their own, and one that runs the first's in another way."""
    rows = [
        {"name": "plain", "paper": PAPER},
        {"name": "+ more", "options": ["seed=1"], "paper": PAPER},
        {"name": "plain, flipped", "same_weights_as": "plain", "infer": ["--flip"], "paper": PAPER},
    ]
    base = {"title": "A table", "dataset": "generic", "model": "cutie-small", "stages": ["tiny_rendered"]}
    return {**base, "rows": rows, **changes}


def write_table_file(folder: Path, **changes: Any) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(a_table(**changes)))
    return path


def write_data(root: Path, names: tuple[str, ...] = ("bear", "cat")) -> Path:
    """Videos with all of their masks."""
    for seed, name in enumerate(names):
        write_frames(root / "JPEGImages" / name, 3, seed=seed)
        for t in range(3):
            write_mask(root / "Annotations" / name / f"{t:05d}.png", regions())
    return root


def ablate(*argv: object) -> int:
    return main(["ablate", *map(str, argv)])


def errors(said: Said) -> str:
    return said.readouterr().err


def a_row(**changes: Any) -> dict[str, Any]:
    return {"name": "one", "paper": PAPER, **changes}


# ---------------------------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"colour": "red"}, "unknown colour"),
        ({"rows": []}, "rows: got none"),
        ({"rows": [a_row(colour="red")]}, "rows[0]: unknown colour"),
        ({"rows": [a_row(), a_row()]}, "one more than once, expected different names"),
        ({"rows": [a_row(), a_row(name="+ One")]}, "one more than once, expected different folders"),
        ({"rows": [a_row(name="+")]}, "expected letters or digits"),
        ({"rows": [a_row(same_weights_as="two")]}, "same_weights_as: got two, expected one of"),
        ({"rows": [a_row(), a_row(name="b", same_weights_as="one", options=["a=1"])]}, "with options"),
        ({"rows": [a_row(checkpoint="x", stages=["stage1"])]}, "got checkpoint with stages"),
        ({"rows": [a_row(paper={"J&F": 1.0, "mIoU": 2.0})]}, "rows[0].paper: got mIoU, expected some of J&F, J, F"),
        ({"rows": [a_row(paper={"J": "high"})]}, "rows[0].paper.J: got 'high' (str), expected float"),
        ({"command": "refine"}, "dataset: got generic, expected one of vspw-train, vspw-val, vspw-test"),
        ({"command": "refine", "dataset": "vspw-val"}, "protocol: got davis2017, expected one of vspw, vipseg"),
        (
            {"command": "refine", "dataset": "vspw-val", "protocol": "vspw", "rows": [a_row()]},
            "got F, J, J&F, expected some of mIoU, wIoU, mBIoU, mVC8, mVC16",
        ),
        (
            {"command": "refine", "dataset": "vspw-val", "protocol": "vspw", "submission": "zip", "rows": [A_ROW]},
            "submission: got zip for refine, expected none",
        ),
        (
            {"rows": [a_row(starts_from="two"), a_row(name="two")]},
            "starts_from: got two, expected one of the rows before",
        ),
        ({"rows": [a_row(), a_row(name="two", starts_from="one", weights="none")]}, "got starts_from with weights"),
        ({"rows": [a_row(), a_row(name="two", starts_from="one", same_weights_as="one")]}, "with starts_from"),
        ({"rows": [a_row(paper={"J&F": 101.0, "J": 2.0, "F": 3.0})]}, "expected 0 to 100"),
        ({"rows": [a_row(options=["steps"])]}, "got 'steps', expected key=value"),
        ({"dataset": "nothing"}, "dataset: got nothing, expected one of"),
        ({"protocol": "nothing"}, "protocol: got nothing, expected one of"),
        ({"submission": "zip"}, "got zip for generic, which no server takes"),
        ({"submission": "container"}, "got container for generic, expected visor-test"),
        ({"submission": "fax"}, "submission: got 'fax'"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    changes: dict[str, Any], complaint: str, tmp_path: Path, capsys: Said
) -> None:
    assert ablate(write_table_file(tmp_path, **changes), "--dry-run") == 2
    said = errors(capsys)
    assert complaint in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "--data-root: got none"),
        (["--dry-run", "--rows", "none"], "no row 'none', expected one of plain"),
        (["--dry-run", "--checkpoint", "none=x"], "--checkpoint: got 'none=x', expected ROW=PATH"),
        (["--dry-run", "stray"], "stray: expected an option"),
        (["--data-root", ".", "--launch", "no-such-program x"], "--launch: no program no-such-program"),
        (["--data-root", ".", "--workers", "-1"], "--workers: got -1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    argv: list[str], complaint: str, tmp_path: Path, capsys: Said
) -> None:
    assert ablate(write_table_file(tmp_path), *argv) == 2
    assert complaint in errors(capsys)


def test_rows_have_folders_of_their_own() -> None:
    assert slug("Hiera-L (SAM 2) + depth") == "hiera-l-sam-2-depth"


LSVOS = [("Cutie", 71.90, 68.56, 75.24), ("Cutie fine-tuned", 72.88, 69.22, 76.54), ("SAM 2", 73.89, 70.19, 77.59)]
SHIPPED: dict[str, list[tuple[Any, ...]]] = {
    "visor_table1": [("Flip", 89.7, 87.5, 91.8), ("Flip + MS", 90.1, 88.1, 92.0)],
    "visor_table2": [
        ("Hiera-L (MAE)", 86.9, 85.6, 88.2),
        ("Hiera-L (SAM 2)", 88.3, 86.6, 89.9),
        ("Hiera-L (SAM 2) + depth", 88.7, 86.9, 90.5),
        ("Hiera-L (SAM 2) + depth + post", 88.9, 87.0, 90.8),
    ],
    "mose_cutie": LSVOS,
    "lsvos2024": LSVOS,
    "sam2_visor_val": [
        ("SAM2_t, zero-shot, July 2024", 75.0578), ("SAM2_t, zero-shot, 2.1", 75.0578),
        ("SAM2_s, zero-shot, July 2024", 76.0589), ("SAM2_s, zero-shot, 2.1", 76.0589),
        ("SAM2_b+, zero-shot, July 2024", 76.6896), ("SAM2_b+, zero-shot, 2.1", 76.6896),
        ("SAM2_l, zero-shot, July 2024", 77.0411), ("SAM2_l, zero-shot, 2.1", 77.0411),
        ("fine-tuned, 80 epochs", 87.5), ("fine-tuned, 20 more", 87.6),
    ],
    "sam2_visor_test": [("train", 87.1), ("train + val, bicubic", 87.5)],
}  # fmt: skip
"""The papers' tables, copied by hand from their text: J&F, and J and F where they tell them."""
PAPERS = {
    "visor_table1": "thu_warwick_visor", "visor_table2": "thu_warwick_visor", "mose_cutie": "mvp_time_lsvos",
    "lsvos2024": "mvp_time_lsvos", "sam2_visor_val": "xidian_sam2_visor", "sam2_visor_test": "xidian_sam2_visor",
}  # fmt: skip


REFINED = [
    ("window 32, grid 16, predicted IoU 0.6, stability 0.8", 40.4, 61.1, 89.4, 85.1),
    ("window 1", 40.3, 61.1, 88.2, 83.9),
    ("window 2", 40.3, 61.1, 88.4, 84.0),
    ("window 4", 40.3, 61.1, 88.6, 84.3),
    ("window 8", 40.3, 61.0, 88.9, 84.5),
    ("window 10", 40.3, 61.0, 89.1, 84.7),
    ("window 16", 40.4, 61.1, 89.2, 84.8),
    ("grid 8", 39.9, 61.0, 89.3, 85.1),
    ("grid 32", 40.3, 61.1, 89.3, 85.0),
    ("grid 64", 40.2, 61.0, 89.2, 84.9),
    ("predicted IoU 0.4", 40.1, 61.1, 89.3, 84.9),
    ("predicted IoU 0.5", 40.2, 61.1, 89.3, 85.0),
    ("predicted IoU 0.7", 40.3, 61.1, 89.4, 85.1),
    ("predicted IoU 0.8", 40.2, 61.0, 89.5, 85.2),
    ("predicted IoU 0.9", 39.8, 60.8, 89.3, 85.1),
    ("stability 0.4", 40.5, 61.2, 89.3, 85.0),
    ("stability 0.5", 40.5, 61.2, 89.3, 85.0),
    ("stability 0.6", 40.4, 61.2, 89.3, 85.0),
    ("stability 0.7", 40.4, 61.1, 89.3, 85.0),
    ("stability 0.9", 40.0, 60.9, 89.3, 85.0),
]
"""The paper's ablations of the refiner: mIoU, wIoU, mVC8, mVC16."""


def paper_text(name: str) -> str:
    """The text of a paper; the test is skipped where it isn't at hand."""
    path = Path(os.environ.get("CUTIE_GEO_TEST_DATA", "")) / "papers" / f"{name}.txt"
    if not path.is_file():
        pytest.skip("CUTIE_GEO_TEST_DATA names no folder with the papers' text")
    return path.read_text(encoding="utf-8")


OWN = ("tiny_choices", "tiny_depth")
"""Experiments that no paper has figures for."""


def test_every_shipped_table_is_checked_here() -> None:
    assert {path.stem for path in (config_root() / "ablations").glob("*.yaml")} == SHIPPED.keys() | {*OWN} | {
        "vspw_refiner"
    }


@pytest.mark.parametrize("name", OWN)
def test_a_table_of_our_own_has_no_figures_of_a_paper(name: str, capsys: Said) -> None:
    assert ablate(config_root() / "ablations" / f"{name}.yaml", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "cutie_geo train" in printed
    assert "paper" not in printed


def test_the_refiner_s_table_is_the_paper_s(capsys: Said) -> None:
    path = config_root() / "ablations" / "vspw_refiner.yaml"
    rows = read_ablation(path).rows
    assert [(row.name, *row.paper.values()) for row in rows] == REFINED
    assert all(list(row.paper) == ["mIoU", "wIoU", "mVC8", "mVC16"] for row in rows)
    assert ablate(path, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "cutie_geo refine --model sam2.1-hiera-large --dataset vspw-val --data-root DATA_ROOT" in printed
    assert "--semantic DATA_ROOT/cffm_b1 --predicted-iou 0.9" in printed
    heading = next(line for line in printed.splitlines() if line.startswith("row "))
    assert heading.split()[1::3] == ["mIoU", "wIoU", "mBIoU", "mVC8", "mVC16"]


def test_the_refiner_s_figures_are_in_the_text_of_the_paper() -> None:
    text = paper_text("sam2_vss")
    assert all(f"{value:.1f}" in text for _, *values in REFINED for value in values)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_tables_are_the_papers(name: str, capsys: Said) -> None:
    path = config_root() / "ablations" / f"{name}.yaml"
    rows = [(row.name, *row.paper.values()) for row in read_ablation(path).rows]
    assert rows == SHIPPED[name]
    assert ablate(path, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert f"{SHIPPED[name][0][1]:.2f}" in printed
    assert "n/a" in printed


@pytest.mark.parametrize("name", SHIPPED)
def test_the_papers_means_are_means(name: str) -> None:
    """J&F is the mean of J and F, to the digits given: a slip in copying would show."""
    assert all(abs(sum(row[2:]) / 2 - row[1]) <= 0.051 for row in SHIPPED[name] if row[2:])


@pytest.mark.parametrize("name", SHIPPED)
def test_every_figure_is_in_the_text_of_its_paper(name: str) -> None:
    text = paper_text(PAPERS[name])
    for figure in (figure for row in SHIPPED[name] for figure in row[1:]):
        written = {f"{figure:.1f}", f"{figure:.2f}", f"{figure / 100:.6f}"}
        assert any(words in text for words in written), figure


def planned(name: str) -> dict[str, RowPlan]:
    """The rows of a table that comes with the package, as they would be run."""
    config = read_ablation(config_root() / "ablations" / f"{name}.yaml")
    setting = Setting(config, name, Path("out"), Path("data"), ("python",), {}, fetch=False)
    return {row.name: plan_row(setting, row) for row in config.rows}


def test_sam2_zero_shot_is_each_release_and_size_as_published() -> None:
    plans = [plan for name, plan in planned("sam2_visor_val").items() if "zero-shot" in name]
    assert {plan.model for plan in plans} == SAM2_MODELS.keys()
    assert all(not plan.trainings and "--weights" not in plan.infer for plan in plans)
    assert planned("lsvos2024")["SAM 2"].model == "sam2-hiera-large"


def test_sam2_is_fine_tuned_in_the_papers_three_steps() -> None:
    val, test = planned("sam2_visor_val"), planned("sam2_visor_test")
    steps = ["visor_finetune_train", "visor_finetune_continue", "visor_finetune_trainval_bicubic"]
    wanted = {
        1: val["fine-tuned, 80 epochs"], 2: val["fine-tuned, 20 more"], 3: test["train + val, bicubic"],
    }  # fmt: skip
    for count, plan in wanted.items():
        assert [training.config.stage for training in plan.trainings] == steps[:count]
        assert plan.infer[plan.infer.index("--model") + 1] == str(plan.trainings[-1].final)
    assert wanted[2].trainings[0] == wanted[1].trainings[0], "trained once, for both"
    assert [training.config.epochs for training in wanted[3].trainings] == [80, 20, 40]


def test_the_rows_of_the_paper_differ_in_what_its_columns_say() -> None:
    plans = planned("visor_table2")
    first = [training.config.stage for training in plans["Hiera-L (MAE)"].trainings]
    assert first == ["stage1", "stage2_ablation"]
    options = [set(plan.trainings[-1].config.model_options) for plan in plans.values()]
    assert options[:3] == [{"encoder.geometry=none", "encoder.vision_init=mae"}, {"encoder.geometry=none"}, set()]
    last = plans["Hiera-L (SAM 2) + depth + post"]
    assert last.model == plans["Hiera-L (SAM 2) + depth"].model
    assert last.infer[-5:] == ("--ms", "1.2", "1.3", "1.4", "--flip")


# ------------------------------------------------------------------------------------------------------------- commands
@pytest.mark.parametrize(("launch", "start"), [(None, "python"), ("accelerate launch --num_processes 8",) * 2])
def test_programs_are_started_as_modules(launch: str | None, start: str, tmp_path: Path, capsys: Said) -> None:
    more = [] if launch is None else ["--launch", launch]
    path = write_table_file(tmp_path, stages=["stage1", "stage2"])
    argv = ("--rows", "+ more", "--output", "o", "--data-root", "d", *more, "--", "steps=7")
    assert ablate(path, "--dry-run", *argv) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if " -m cutie_geo " in line]
    begin = f"{start} -m cutie_geo train --stage"
    end = "--model cutie-small --output o/more --data-root d --tracker none"
    assert commands == [
        f"{begin} stage1 {end} seed=1 steps=7",
        f"{begin} stage2 {end} --weights o/more/cutie-small/stage1/final seed=1 steps=7",
        f"{start} -m cutie_geo infer --model o/more/cutie-small/stage2/final --dataset generic --data-root d "
        "--output o/more/masks",
    ]


def test_nothing_is_written_by_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_table_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert ablate(path, "--dry-run") == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_row_that_cannot_be_planned_is_named_by_a_dry_run(tmp_path: Path, capsys: Said) -> None:
    rows = [a_row(options=["colour=red"]), a_row(name="two")]
    assert ablate(write_table_file(tmp_path, rows=rows), "--dry-run") == 2
    printed = capsys.readouterr().out
    assert "error: " in printed and "unknown colour" in printed
    assert "--output runs/ablations/toy/two" in printed


def test_this_interpreter_runs_programs_unless_told_otherwise() -> None:
    assert launcher(None) == (sys.executable,)
    assert launcher(f"{shlex.quote(sys.executable)} -X dev") == (sys.executable, "-X", "dev")


def plan_of(row: dict[str, Any], checkpoints: dict[str, str] | None = None, **changes: Any) -> Any:
    content = a_table(**changes)
    paper = PAPER
    content["rows"] = [{**row, "paper": paper}, {"name": "after", "same_weights_as": row["name"], "paper": paper}]
    config = build(AblationConfig, content)
    setting = Setting(config, "t", Path("o"), Path("d"), ("python",), checkpoints or {}, fetch=False)
    return plan_row(setting, config.rows[0]), plan_row(setting, config.rows[1])


def test_what_the_first_stage_starts_from_is_nothing_to_the_second() -> None:
    options = ["weights.warm_start=w.pth", "weights.vision=v.pt", "weights.geometry=g.pt"]
    plan, _ = plan_of({"name": "one", "options": options}, model="cutie-geo-large", stages=["stage1", "stage2"])
    first, second = plan.trainings
    assert "weights.warm_start=w.pth" in first.command and "weights.warm_start=w.pth" not in second.command
    assert "weights.vision=v.pt" in second.command
    # a checkpoint holds no frozen encoders, so infer needs to know their files
    assert [item for item in plan.infer if item.startswith("weights.")] == options[1:]


def test_a_checkpoint_replaces_the_trainings_of_its_row_and_of_those_that_share_it() -> None:
    for plan in plan_of({"name": "one"}, {"one": "here"}) + plan_of({"name": "one", "checkpoint": "here"}):
        assert plan.trainings == ()
        assert plan.model == "here"
        assert "here" in plan.infer


def test_published_weights_are_run_or_trained_on() -> None:
    plan, _ = plan_of({"name": "one", "weights": "published", "stages": []})
    assert "--weights" not in plan.infer and "cutie-small" in plan.infer
    plan, _ = plan_of({"name": "one", "weights": "published"})
    assert any(item.endswith("cutie-small-mega.pth") for item in plan.trainings[0].command)
    with pytest.raises(ValueError, match="cutie-geo-large has no published weights"):
        plan_of({"name": "one", "weights": "published"}, model="cutie-geo-large")


def test_a_sam2_is_run_by_its_name_with_its_own_changes(tmp_path: Path) -> None:
    name, changes = "sam2.1-hiera-tiny", ["model.image_size=64", "++model.compile_image_encoder=false"]
    plan, _ = plan_of({"name": "one", "stages": [], "weights": "none"}, model=name, options=[*changes, "steps=3"])
    assert plan.infer[4:10] == (*changes, "--model", name, "--weights", "none")
    stage = str(config_root() / "sam2" / "visor_finetune_train.yaml")
    plan, after = plan_of({"name": "one"}, model=name, stages=[stage])
    assert plan.trainings[0].root == Path("o/one") / name / "visor_finetune_train"
    assert after.infer[4:6] == ("--model", f"o/one/{name}/visor_finetune_train/final")
    plan, _ = plan_of({"name": "one"}, {"one": "tuned.pt"}, model=name, stages=[stage])
    assert (plan.trainings, plan.infer[4:8]) == ((), ("--model", name, "--weights", "tuned.pt"))


def chain(checkpoints: dict[str, str] | None = None, **changes: Any) -> list[RowPlan]:
    """A row, one that starts from it, and one that starts from that."""
    rows = [
        {"name": name, "starts_from": before, "paper": {"J&F": 80.0}, **(changes if name == "b" else {})}
        for name, before in (("a", ""), ("b", "a"), ("c", "b"))
    ]
    config = build(AblationConfig, a_table(rows=rows, model="cutie-base", stages=["stage2"]))
    setting = Setting(config, "t", Path("o"), Path("d"), ("python",), checkpoints or {}, fetch=False)
    return [plan_row(setting, row) for row in config.rows]


def test_a_row_may_start_from_the_trained_weights_of_another() -> None:
    a, b, c = chain()
    assert c.trainings == (*b.trainings, c.trainings[2]) and b.trainings == (*a.trainings, b.trainings[1])
    assert [training.home for training in c.trainings] == [Path("o/a"), Path("o/b"), Path("o/c")]
    for training, before in zip(c.trainings[1:], c.trainings):
        assert training.command[training.command.index("--weights") + 1] == str(before.final)
    a, b, c = chain({"b": "here"})
    assert (len(a.trainings), len(b.trainings), len(c.trainings)) == (1, 0, 1)
    assert "here" in c.trainings[0].command
    with pytest.raises(ValueError, match="starts_from: got no stages"):
        chain(stages=[])


def test_stages_that_are_files_are_looked_for_beside_the_table(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "own.yaml").write_text("base: tiny_rendered\nstage: own\n")
    path = write_table_file(tmp_path / "tables", rows=[a_row(stages=["../own.yaml"])])
    monkeypatch.chdir(tmp_path / "tables")
    assert ablate(path, "--dry-run") == 0
    assert f"train --config {tmp_path / 'own.yaml'} " in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------- table
@pytest.mark.slow
def test_a_table_shows_differences_and_what_is_missing() -> None:
    ours = {"J&F": 81.5, "J": 79.0, "F": 84.0}
    rows = [
        TableRow("a | b", PAPER, ours),
        TableRow("sent", PAPER, submission=Path("x.zip")),
        TableRow("bad", PAPER, error="why"),
        TableRow("open", PAPER),
        TableRow("mean only", {"J&F": 80.0}, ours),
    ]
    printed = lines(rows)
    assert printed[1].split()[-9:] == ["81.50", "80.00", "+1.50", "79.00", "79.00", "+0.00", "84.00", "81.00", "+3.00"]
    assert printed[2].split()[1] == "submission"
    assert printed[4].split()[1:4] == ["n/a", "80.00", "n/a"]
    assert printed[5].split()[2:] == ["81.50", "80.00", "+1.50", "79.00", "n/a", "n/a", "84.00", "n/a", "n/a"]
    assert printed[6:] == ["submission of sent: x.zip", "failed: bad: why"]
    page = markdown("A table", "Take care.", rows)
    assert "| a \\| b | 81.50 | 80.00 | +1.50 |" in page
    assert "Take care." in page
    assert bars(rows).height > 5 * 3 * 20


def test_a_table_without_a_paper_has_only_our_columns() -> None:
    rows = [TableRow("a", ours={"J&F": 81.5, "J": 79.0, "F": 84.0}), TableRow("open")]
    assert [line.split() for line in lines(rows)] == [
        ["row", "J&F", "J", "F"], ["a", "81.50", "79.00", "84.00"], ["open", "n/a", "n/a", "n/a"],
    ]  # fmt: skip
    assert rows[0].difference() == {}
    mixed = lines([*rows, TableRow("b", PAPER)])
    assert mixed[1].split() == ["a", "81.50", "n/a", "n/a", "79.00", "n/a", "n/a", "84.00", "n/a", "n/a"]
    assert bars(rows).height > 2 * 3 * 20


# ------------------------------------------------------------------------------------------------------------ stand-ins
PROGRAM = '''
"""Does what `python -m cutie_geo train` or `infer` would, at once; tells what it was asked in calls.txt."""
import json, shutil, signal, sys, time
from pathlib import Path
here, argv = Path(__file__).parent, sys.argv[3:]
with (here / "calls.txt").open("a") as file:
    file.write(" ".join(argv) + "\\n")
option = {name: argv[k + 1] for k, name in enumerate(argv[:-1]) if name.startswith("--")}
if argv[0] == "train":
    if "seed=1" in argv and (here / "broken").exists():
        sys.exit(2)
    if (here / "slow").exists():
        def stop(*_):
            (here / "told").open("a").write("x")
            time.sleep(0.5)
            (here / "saved").touch()
            sys.exit(143)
        signal.signal(signal.SIGTERM, stop)
        (here / "training").touch()
        time.sleep(60)
    run = Path(option["--output"]) / "cutie-small" / option["--stage"]
    (run / "final").mkdir(parents=True, exist_ok=True)
    (run / "final" / "config.json").write_text("{}")
    (run / "log.jsonl").write_text(json.dumps({"step": 1, "loss/total": 2.0}) + "\\n" + '{"step": 2, "loss')
else:
    masks = Path(option["--output"])
    if not masks.is_dir():
        shutil.copytree(Path(option["--data-root"]) / "Annotations", masks / "Annotations")
'''


@pytest.fixture
def toy(tmp_path: Path) -> list[str]:
    """Arguments for a run of a toy table with programs that do nothing but what counts here."""
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    write_data(tmp_path / "data")
    launch = shlex.join([sys.executable, str(tmp_path / "program.py")])
    where = ["--data-root", tmp_path / "data", "--output", tmp_path / "out", "--launch", launch, "--tracker", "none"]
    return [str(item) for item in (write_table_file(tmp_path), *where)]


def calls(folder: Path) -> list[str]:
    """Which commands were run on which rows, in order."""
    path = folder / "calls.txt"
    told = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [f"{words[0]} {words[words.index('--output') + 1].removeprefix(str(folder))}" for words in told]


def times(folder: Path) -> dict[str, int]:
    """When each file was last written; `infer` renews its summary and the time of a folder is no matter."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.json"]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
def test_rows_are_trained_segmented_scored_and_tabled(toy: list[str], tmp_path: Path, capsys: Said) -> None:
    assert ablate(*toy) == 0
    assert calls(tmp_path) == [
        "train /out/plain", "infer /out/plain/masks", "train /out/more", "infer /out/more/masks",
        "infer /out/plain-flipped/masks",
    ]  # fmt: skip
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [(row["name"], row["status"], row["ours"]["J"]) for row in table["rows"]] == [
        ("plain", "scored", 100.0), ("+ more", "scored", 100.0), ("plain, flipped", "scored", 100.0),
    ]  # fmt: skip
    assert table["rows"][0]["difference"] == {"J&F": 20.0, "J": 21.0, "F": 19.0}
    assert "| plain | 100.00 | 80.00 | +20.00 |" in (tmp_path / "out" / "table.md").read_text()
    with Image.open(tmp_path / "out" / "table.png") as picture:
        assert picture.format == "PNG"
    assert "+20.00" in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_command_again_finds_nothing_to_do(toy: list[str], tmp_path: Path) -> None:
    assert ablate(*toy) == 0
    before = times(tmp_path / "out")
    (tmp_path / "calls.txt").unlink()
    assert ablate(*toy) == 0
    assert all(call.startswith("infer") for call in calls(tmp_path))  # which looks for itself what is complete
    assert times(tmp_path / "out") == before


@pytest.mark.slow
def test_other_masks_are_scored_anew(toy: list[str], tmp_path: Path) -> None:
    assert ablate(*toy) == 0
    write_mask(tmp_path / "out" / "plain" / "masks" / "Annotations" / "bear" / "00001.png", regions((1,)))
    assert ablate(*toy) == 0
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert table["rows"][0]["ours"]["J"] < 100.0 == table["rows"][1]["ours"]["J"]


@pytest.mark.slow
def test_a_row_that_starts_from_another_trains_that_once(toy: list[str], tmp_path: Path) -> None:
    rows = [a_row(), a_row(name="two", starts_from="one")]
    write_table_file(tmp_path, rows=rows)
    assert ablate(*toy, "--rows", "two") == 0
    assert calls(tmp_path) == ["train /out/one", "train /out/two", "infer /out/two/masks"]
    assert ablate(*toy) == 0
    assert calls(tmp_path)[3:] == ["infer /out/one/masks", "infer /out/two/masks"]


@pytest.mark.slow
def test_chosen_rows_leave_the_others_as_they_are(toy: list[str], tmp_path: Path) -> None:
    assert ablate(*toy, "--rows", "plain, flipped") == 0  # which needs the weights of another
    assert calls(tmp_path) == ["train /out/plain", "infer /out/plain-flipped/masks"]
    assert ablate(*toy, "--rows", "+ more") == 0
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["status"] for row in table["rows"]] == ["not done", "scored", "scored"]


@pytest.mark.slow
def test_a_row_that_fails_fails_alone(toy: list[str], tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "broken").touch()
    rows = [
        *a_table()["rows"],
        a_row(name="odd", options=["colour=red"]),
        a_row(name="after", same_weights_as="+ more"),
        a_row(name="onwards", starts_from="+ more"),
    ]
    write_table_file(tmp_path, rows=rows)
    assert ablate(*toy) == 2
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["status"] for row in table["rows"]] == ["scored", "failed", "scored", "failed", "failed", "failed"]
    printed = capsys.readouterr().out
    assert "error: + more: training tiny_rendered ended with exit status 2" in printed
    assert "unknown colour" in table["rows"][3]["error"]
    assert table["rows"][4]["error"] == "its weights are those of + more, which failed"
    assert table["rows"][5]["error"] == "it starts from + more, which failed"
    (tmp_path / "broken").unlink()
    write_table_file(tmp_path)
    assert ablate(*toy) == 0


@pytest.mark.slow
def test_masks_that_cannot_be_scored_fail_their_row(toy: list[str], tmp_path: Path) -> None:
    assert ablate(*toy) == 0
    (tmp_path / "out" / "plain" / "masks" / "Annotations" / "bear" / "00001.png").unlink()
    assert ablate(*toy) == 2
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert "bear/00001: the prediction is missing" in table["rows"][0]["error"]
    assert table["rows"][2]["status"] == "scored"


def test_true_masks_may_lie_elsewhere(toy: list[str], tmp_path: Path) -> None:
    (tmp_path / "data" / "Annotations").rename(tmp_path / "data" / "truth")
    write_data(tmp_path / "data")
    write_table_file(tmp_path, truth=["nowhere", "truth"], rows=[a_row()])
    assert ablate(*toy) == 0
    assert json.loads((tmp_path / "out" / "one" / "scores.json").read_text())["gt"].endswith("truth")
    write_table_file(tmp_path, truth="nowhere", rows=[a_row()])
    assert ablate(*toy) == 2


def test_some_videos_of_a_data_set_in_a_folder_below_are_segmented_and_scored(
    toy: list[str], tmp_path: Path, capsys: Said
) -> None:
    (tmp_path / "data").rename(tmp_path / "beside")
    (tmp_path / "data").mkdir()
    (tmp_path / "beside").rename(tmp_path / "data" / "toys")
    rows = [{"name": "own"}]
    write_table_file(tmp_path, rows=rows, root="toys", videos=["cat"])
    assert ablate(*toy) == 0
    told = (tmp_path / "calls.txt").read_text().splitlines()
    assert f"--data-root {tmp_path / 'data'} " in told[0]
    assert f"--data-root {tmp_path / 'data' / 'toys'} --videos cat " in told[1]
    assert list(json.loads((tmp_path / "out" / "own" / "scores.json").read_text())["sequences"]) == ["cat"]
    write_table_file(tmp_path, rows=rows, root="toys", videos=["cat", "dog"])
    assert ablate(*toy) == 2
    assert "toys has no dog" in capsys.readouterr().out


def test_where_truth_is_not_public_a_zip_is_made(toy: list[str], tmp_path: Path, capsys: Said) -> None:
    write_table_file(tmp_path, dataset="mose-valid", submission="zip", rows=[a_row()])
    assert ablate(*toy) == 0
    path = tmp_path / "out" / "one" / "submission.zip"
    assert f"submission of one: {path}" in capsys.readouterr().out
    before = times(tmp_path / "out")
    assert ablate(*toy) == 0
    assert times(tmp_path / "out") == before


@pytest.mark.parametrize("masks", [False, True])
def test_the_container_of_visor_is_explained(masks: bool, toy: list[str], tmp_path: Path, capsys: Said) -> None:
    root = tmp_path / "data"
    if masks:
        for kind in ("JPEGImages", "Annotations"):
            (root / kind).rename(root / "480p")
            (root / kind).mkdir()
            (root / "480p").rename(root / kind / "480p")
        (root / "ImageSets" / "2022").mkdir(parents=True)
        (root / "ImageSets" / "2022" / "test.txt").write_text("bear\ncat\n")
    rows = [a_row(), a_row(name="two", same_weights_as="one", infer=["--ms", "1.2", "--flip"])]
    write_table_file(tmp_path, dataset="visor-test", submission="container", rows=rows)
    assert ablate(*toy) == 0
    assert [call.split()[0] for call in calls(tmp_path)] == (["train", "infer", "infer"] if masks else ["train"])
    page = (tmp_path / "out" / "two" / "submission.md").read_text()
    assert f"cp {tmp_path}/out/one/cutie-small/tiny_rendered/final/* docker/visor/model/" in page
    assert "cutie-geo-visor --ms 1.2 --flip" in page
    assert "submission of two" in capsys.readouterr().out


def wait_for(path: Path, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.slow
def test_an_interruption_lets_the_training_save(toy: list[str], tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "cutie_geo", "ablate", *toy], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    wait_for(tmp_path / "training")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 143
    assert "interrupted; the same command resumes" in said
    assert (tmp_path / "saved").exists()  # it waited for that
    assert (tmp_path / "told").read_text() == "x"  # a second signal would have ended it without
    (tmp_path / "slow").unlink()
    assert ablate(*toy) == 0


# ----------------------------------------------------------------------------------------------------------------- W&B
class FakeRun:
    """Remembers what a run of W&B is told."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.began: list[dict[str, Any]] = []

    def init(self, **options: Any) -> "FakeRun":
        self.began.append(options)
        return self

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self) -> None: ...


@pytest.mark.slow
def test_curves_and_scores_are_logged_once(toy: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    run = FakeRun()
    monkeypatch.setattr("wandb.init", run.init)
    argv = [*toy[:-1], "wandb", "--rows", "plain", "plain, flipped"]
    assert ablate(*argv) == 0
    assert ablate(*argv) == 0
    assert [(began["name"], began["group"]) for began in run.began] == [("plain", "toy"), ("plain, flipped", "toy")]
    assert run.logged == [{"tiny_rendered/step": 1, "tiny_rendered/loss/total": 2.0}]  # a torn line is left out
    assert run.summary["J&F"] == 100.0 and run.summary["difference/J&F"] == 20.0
    # other masks: the same run again, without its curves
    write_mask(tmp_path / "out" / "plain" / "masks" / "Annotations" / "bear" / "00001.png", regions((1,)))
    assert ablate(*argv) == 0
    assert len(run.began) == 3 and run.began[2]["id"] == run.began[0]["id"]
    assert len(run.logged) == 1


@pytest.mark.slow
def test_a_tracker_that_fails_costs_no_row(toy: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")

    def offline(**_: Any) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr("wandb.init", offline)
    assert ablate(*toy[:-1], "wandb") == 0


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert read_log(tmp_path / "log.jsonl") == []


# ----------------------------------------------------------------------------------------------------------- end to end
@pytest.mark.slow
def test_a_tiny_table_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_options(tmp_path)
    write_data(tmp_path / "data")
    infer = ["--precision", "fp32", "--device", "cpu", "--cpu-threads", "1"]
    rows = [
        a_row(), a_row(name="two", options=["seed=2"]), a_row(name="broken", options=["data=[{name: visor-train}]"]),
        a_row(name="flipped", same_weights_as="one", infer=["--flip"]),
    ]  # fmt: skip
    for row in rows[:3]:
        row["weights"] = "none"
    path = write_table_file(tmp_path, model=str(tmp_path / "tiny.yaml"), options=STAGE, infer=infer, rows=rows)
    output = tmp_path / "out"
    tracker = "wandb" if find_spec("wandb") else "none"
    argv = [path, "--data-root", tmp_path / "data", "--output", output, "--tracker", tracker, "--workers", 0]
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "cutie_geo", "ablate", *map(str, argv)]
    first = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    table = json.loads((output / "table.json").read_text())
    statuses = [row["status"] for row in table["rows"]]
    assert statuses == ["scored", "scored", "failed", "scored"], first.stdout + first.stderr
    assert first.returncode == 2
    assert all(0 <= row["ours"]["J&F"] <= 100 for row in table["rows"] if row["ours"])
    assert (output / "one" / "tiny" / "tiny_rendered" / "final" / "model.safetensors").is_file()
    before = times(output)
    if tracker == "wandb":
        assert len([name for name in before if name.endswith(".wandb")]) == 3
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.returncode == 2
    assert times(output) == before


@pytest.mark.slow
def test_a_tiny_table_of_sam2_from_end_to_end(tmp_path: Path) -> None:
    """As published but for its weights, which are random; fine-tuned; and fine-tuned further in another way."""
    write_data(tmp_path / "data")
    stage = {
        "stage": "first", "model": "sam2.1-hiera-tiny", "start": "none", "steps": 2, "batch": 1, "precision": "fp32",
        "data": [{"name": "rendered", "clips": 2, "scene": ["max_objects=2", "min_size=0.2"]}],
        "clips": {"length": 3, "crop": 64, "max_objects": 2, "max_skip": [[0.0, 2]]},
        "save_every": 2, "log_every": 1, "images_every": 0,
    }  # fmt: skip
    bicubic = ["model.image_encoder.neck.fpn_interp_model=bicubic"]
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(stage))
    (tmp_path / "second.yaml").write_text(
        yaml.safe_dump({"base": "first.yaml", "stage": "second", "model_options": bicubic})
    )
    mean = {"J&F": 77.0}
    rows = [
        a_row(name="zero-shot", stages=[], weights="none", paper=mean), a_row(name="tuned", paper=mean),
        a_row(name="further", starts_from="tuned", stages=["second.yaml"], paper=mean),
    ]  # fmt: skip
    infer = ["--precision", "fp32", "--device", "cpu", "--cpu-threads", "1"]
    path = write_table_file(
        tmp_path, model=stage["model"], stages=["first.yaml"], options=list(TINY), infer=infer, rows=rows
    )
    output = tmp_path / "out"
    argv = [path, "--data-root", tmp_path / "data", "--output", output, "--tracker", "none", "--workers", 0]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "cutie_geo", "ablate", *map(str, argv)]
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
    table = json.loads((output / "table.json").read_text())
    assert [row["status"] for row in table["rows"]] == ["scored"] * 3
    for row in table["rows"]:
        assert 0 <= row["ours"]["J&F"] <= 100
        assert row["difference"] == {"J&F": row["ours"]["J&F"] - 77.0}
    runs = {name: json.loads((output / name / "masks" / "run.json").read_text()) for name in ("zero-shot", "further")}
    assert runs["zero-shot"]["settings"]["model"] == {"name": "sam2.1-hiera-tiny", "overrides": list(TINY)}
    final = output / "further" / "sam2.1-hiera-tiny" / "second" / "final"
    assert runs["further"]["model"] == str(final)
    assert json.loads((final / "config.json").read_text())["sam2"]["overrides"] == [*bicubic, *TINY]


@pytest.mark.slow
def test_a_tiny_table_of_semantic_maps_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SAM 2 with random weights refines the true maps of some clips, in two ways; and other maps are scored anew."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    root = tmp_path / "data" / "VSPW_480p"
    write_vspw(root, {"val.txt": range(3)}, SceneConfig(height=48, width=64, frames=9, max_objects=2))
    for mask in root.glob("data/*/mask/*.png"):
        path = tmp_path / "data" / "base" / mask.parent.parent.name / mask.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(Image.open(mask)) - 1).save(path)  # VSPW counts its classes from 1
    table = {
        "title": "A table", "command": "refine", "dataset": "vspw-val", "protocol": "vspw",
        "model": "sam2.1-hiera-tiny", "options": list(TINY), "videos": ["clip0", "clip2"], "rows": [
            {
                "name": "windows of 9", "weights": "none", "refine": ["--window", "9"],
                "paper": {"mIoU": 90.0, "mVC8": 80.0},
            },
            {"name": "windows of 3", "weights": "none", "refine": ["--window", "3"]},
        ],
        "refine": [
            "--semantic", "{data}/base", "--grid", "2", "--predicted-iou", "0", "--stability", "0", "--device", "cpu",
            "--precision", "fp32", "--cpu-threads", "1",
        ],
    }  # fmt: skip
    file = tmp_path / "toy.yaml"
    file.write_text(yaml.safe_dump(table))
    argv = [file, "--data-root", tmp_path / "data", "--output", tmp_path / "out", "--tracker", "none"]
    assert ablate(*argv) == 0
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["scored", "scored"]
    for row in rows:
        assert set(row["ours"]) == {"mIoU", "wIoU", "mBIoU", "mVC8"}  # 9 frames are too few for mVC16
        assert 0 < row["ours"]["mIoU"] <= 100
    assert rows[0]["difference"] == {name: rows[0]["ours"][name] - value for name, value in rows[0]["paper"].items()}
    report = json.loads((tmp_path / "out" / "windows-of-9" / "scores.json").read_text())
    assert sorted(report["clips"]) == ["clip0", "clip2"]
    before = times(tmp_path / "out")
    assert ablate(*argv) == 0
    assert times(tmp_path / "out") == before
    (path,) = (tmp_path / "out" / "windows-of-3" / "masks" / "Annotations" / "clip0").glob("*3.png")
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(path)
    assert ablate(*argv) == 0
    after = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert after[0]["ours"] == rows[0]["ours"]
    assert after[1]["ours"]["mIoU"] < rows[1]["ours"]["mIoU"]
