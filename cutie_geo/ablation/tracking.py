"""One W&B run for each row: its settings, the curves of its stages, its scores."""

import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cutie_geo.ablation.plan import RowPlan, Setting, Training
from cutie_geo.ablation.table import TableRow
from cutie_geo.config import parse_json, read_yaml
from cutie_geo.runs.training_run import CONFIG_FILE, PROJECT

log = logging.getLogger(__name__)

RUN_ID, LOGGED = "wandb_id", "logged"
"""Keys in the note of a row: the id of its W&B run, and what was logged to it already."""


def track_row(setting: Setting, plan: RowPlan, outcome: TableRow, note: Mapping[str, Any]) -> dict[str, Any]:
    """Log what is new to a row's W&B run; return the entries for the row's note. Sends nothing if nothing is new.

    Raises:
        Exception: any error of wandb, for example without a network.
    """
    logged = note.get(LOGGED, {})
    own = [training for training in plan.trainings if training.home == plan.folder]
    curves = {training.config.stage: read_log(training.log) for training in own}
    reached = {stage: lines[-1]["step"] for stage, lines in curves.items() if lines}
    now = {"curves": logged.get("curves", {}) | reached, "scores": summary(outcome)}
    if now == logged:
        return {}
    import wandb

    run_id = note.get(RUN_ID) or secrets.token_hex(4)
    run = wandb.init(
        project=PROJECT, id=run_id, resume="allow", name=plan.row.name, group=setting.name, job_type="ablation",
        dir=str(plan.folder), config=facts(setting, plan),
    )  # fmt: skip
    try:
        for stage, lines in curves.items():
            _replay(run, stage, lines, after=logged.get("curves", {}).get(stage, 0))
        run.summary.update(now["scores"])
    finally:
        run.finish()
    return {RUN_ID: run_id, LOGGED: now}


def _replay(run: Any, stage: str, lines: Sequence[Mapping[str, Any]], after: int) -> None:
    """Log the lines of a stage after a step. Each stage has its own step axis, because each counts from 1."""
    run.define_metric(f"{stage}/step", hidden=True)
    run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
    for line in lines:
        if line["step"] > after:
            run.log({f"{stage}/{name}": value for name, value in line.items() if isinstance(value, (int, float))})


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `log.jsonl` in order, without a line that was cut off by a crash."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = parse_json(text, str(path))
            lines.append({**line, "step": int(line["step"])})
        except (ValueError, KeyError, TypeError):
            log.warning("%s: left out a line that is no JSON with a step: %.60s", path, text)
    return sorted(lines, key=lambda line: line["step"])


def summary(outcome: TableRow) -> dict[str, Any]:
    """Return a row's final numbers by flat names."""
    parts = {"": outcome.ours, "paper/": outcome.paper, "difference/": outcome.difference()}
    numbers = {f"{prefix}{name}": value for prefix, part in parts.items() for name, value in (part or {}).items()}
    return {**numbers, "status": outcome.status, "submission": str(outcome.submission or "")}


def facts(setting: Setting, plan: RowPlan) -> dict[str, Any]:
    """Return what determines a row's scores: settings of the table, and resolved settings of each stage."""
    config, row = setting.config, plan.row
    return {
        "ablation": config.title,
        "row": row.name,
        "model": plan.model,
        "same_weights_as": row.same_weights_as,
        "dataset": config.dataset,
        "protocol": config.protocol,
        "infer": [*config.infer, *row.infer],
        "training": {training.config.stage: _resolved(training) for training in plan.trainings},
    }


def _resolved(training: Training) -> dict[str, Any]:
    """Return the settings that `train` wrote for a stage; only its arguments if the model was trained elsewhere."""
    path = training.root / CONFIG_FILE
    content = read_yaml(path) if path.is_file() else None
    return content if isinstance(content, dict) else {"arguments": list(training.arguments)}
