"""Run a table: train, run and score each of its rows, and compare the scores with a paper's, if there are any."""

import hashlib
import json
import logging
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutie_geo.ablation.config import AblationConfig, AblationRow, ablation_file, read_ablation
from cutie_geo.ablation.plan import RowPlan, Setting, Training, launcher, plan_row, server_of
from cutie_geo.ablation.subprocesses import run_child
from cutie_geo.ablation.table import TableRow, lines, write_changed, write_table
from cutie_geo.ablation.tracking import track_row
from cutie_geo.config import read_json, require
from cutie_geo.config.choices import SEMANTIC_MEASURES as MAIN
from cutie_geo.config.choices import SEMANTIC_PROTOCOLS, VSPW_SPLITS
from cutie_geo.data.index import VideoRecord, dataset, dataset_names
from cutie_geo.data.io_threads import write_json
from cutie_geo.errors import reason
from cutie_geo.evaluation.compare import MEASURES, read_report
from cutie_geo.evaluation.protocols import PROTOCOLS
from cutie_geo.evaluation.run import EvaluateOptions, evaluate
from cutie_geo.evaluation.tables import report_lines
from cutie_geo.progress import watched
from cutie_geo.runs.submit import PackOptions, pack, problem_lines
from cutie_geo.runs.training_run import tracker_names

log = logging.getLogger(__name__)

NOTE, ERROR = "row.json", "error"
"""File in a row's folder with the finished steps, and its key for the last failure."""
ZIP, PAGE, SEQUENCES = "submission.zip", "submission.md", "sequences.txt"
PLACEHOLDER = Path("DATA_ROOT")
"""Data root in a dry run without one."""
CONTAINER = "visor-test"
"""Data set that its organisers segment themselves, with a container."""
Say = Callable[[str], None]
"""Prints lines on the terminal."""


@dataclass(frozen=True)
class AblationOptions:
    """Options of `ablate`."""

    file: Path
    data_root: Path | None = None
    """Folder of the data sets. None: dry runs only."""
    output: Path | None = None
    """Folder of the results. None: runs/ablations/<name of the file>."""
    rows: tuple[str, ...] = ()
    """Rows to run. Empty: all."""
    checkpoints: tuple[str, ...] = ()
    """`ROW=PATH` items: trained models, used instead of training the rows."""
    launch: str | None = None
    """Program that runs training and inference, such as "accelerate launch --num_processes 8". None: this Python."""
    tracker: str = "auto"
    workers: int | None = None
    """Loader workers of training. None: the default of `train`."""
    dry_run: bool = False
    """Print the commands and the paper's figures only."""
    overrides: tuple[str, ...] = ()
    """`key=value` overrides for every training stage."""


def run_ablation(options: AblationOptions, say: Say) -> bool:
    """Train, run and score all rows; return True if all succeeded.

    Finished rows are not repeated, so an interrupted table resumes. A failed row does not stop the others.

    Raises:
        ValueError: for invalid options and tables.
    """
    setting = _setting(options)
    rows = [setting.config.row(name) for name in options.rows] if options.rows else list(setting.config.rows)
    if options.dry_run:
        return _dry_run(setting, rows, say)
    trackers = tracker_names(options.tracker)
    failed = set[str]()
    for row in rows:
        try:
            _do_row(setting, row, failed, "wandb" in trackers, say)
        except Exception as error:  # the other rows are run nevertheless
            failed.add(row.name)
            text = reason(error, row.name)
            say(f"error: {row.name}: {text}")
            log.info("traceback:", exc_info=True)
            _add_note(setting.folder(row), {ERROR: text})
        measures = measures_of(setting.config)
        write_table(setting.output, setting.config.title, setting.config.note, _table(setting), measures)
    _say_table(setting, _table(setting), say)
    say(f"results: {setting.output}")
    return not failed


# ------------------------------------------------------------------------------------------------------------ planning
def _setting(options: AblationOptions) -> Setting:
    """Return what all rows share. Raises ValueError for invalid options."""
    file = ablation_file(str(options.file))
    config = read_ablation(file)
    stray = [item for item in options.overrides if "=" not in item]
    require(not stray, f"{' '.join(stray)}: expected an option such as --rows before it, or key=value")
    there = options.data_root is not None or options.dry_run
    require(there, "--data-root: got none, expected the folder that holds the data sets")
    require(options.workers is None or options.workers >= 0, f"--workers: got {options.workers}, expected 0 or more")
    _require_scorable(config, file)
    plain = tuple(shlex.split(options.launch or "python"))
    return Setting(
        config=config,
        name=file.stem,
        output=options.output or Path("runs") / "ablations" / file.stem,
        data_root=options.data_root or PLACEHOLDER,
        launch=plain if options.dry_run else launcher(options.launch),
        checkpoints=_checkpoints(config, options.checkpoints),
        options=options.overrides,
        workers=options.workers,
        fetch=not options.dry_run,
    )


def _require_scorable(config: AblationConfig, file: Path) -> None:
    """Raise ValueError for unknown data sets, protocols and measures."""
    semantic = config.command != "infer"
    datasets = list(VSPW_SPLITS) if semantic else dataset_names()
    protocols = list(SEMANTIC_PROTOCOLS if semantic else PROTOCOLS)
    known = config.dataset in datasets
    require(known, f"{file}.dataset: got {config.dataset}, expected one of {', '.join(datasets)}")
    known = config.protocol in protocols
    require(known, f"{file}.protocol: got {config.protocol}, expected one of {', '.join(protocols)}")
    for place, row in enumerate(config.rows):
        strange = sorted(set(row.paper) - set(measures_of(config)))
        expected = f"expected some of {', '.join(measures_of(config))}"
        require(not strange, f"{file}.rows[{place}].paper: got {', '.join(strange)}, {expected}")
    scored = config.submission == "none" or not semantic
    require(scored, f"{file}.submission: got {config.submission} for {config.command}, expected none")
    if config.submission == "zip":
        server_of(config.dataset)
    fits = config.submission != "container" or config.dataset == CONTAINER
    require(fits, f"{file}.submission: got container for {config.dataset}, expected {CONTAINER}")


def _checkpoints(config: AblationConfig, items: Iterable[str]) -> dict[str, str]:
    """Return paths by row. Names and paths may contain =, so the rows' names decide where the path starts."""
    found = {}
    for item in items:
        row = next((row for row in config.rows if item.startswith(f"{row.name}=")), None)
        names = ", ".join(row.name for row in config.rows)
        if row is None:
            raise ValueError(f"--checkpoint: got {item!r}, expected ROW=PATH with one of the rows {names}")
        found[row.name] = item.removeprefix(f"{row.name}=")
    return found


def _dry_run(setting: Setting, rows: Iterable[AblationRow], say: Say) -> bool:
    """Say what would be done; return False if a row cannot be planned."""
    fine, shown = True, set[Path]()
    for row in rows:
        say(f"# {row.name}")
        try:
            plan = plan_row(setting, row)
        except ValueError as error:
            say(f"error: {error}")
            fine = False
            continue
        commands = [training.command for training in plan.trainings if training.root not in shown]
        shown |= {training.root for training in plan.trainings}
        for command in (*commands, plan.infer):
            say(shlex.join(command))
        say(f"# then: {_ending(setting, plan)}\n")
    _say_table(setting, [TableRow(row.name, row.paper) for row in setting.config.rows], say)
    return fine


def _ending(setting: Setting, plan: RowPlan) -> str:
    """Describe what is made of a row's masks."""
    kind = setting.config.submission
    if kind == "none":
        return f"scored by the protocol {setting.config.protocol} into {plan.scores}"
    return f"submission: {plan.folder / (ZIP if kind == 'zip' else PAGE)}"


# ---------------------------------------------------------------------------------------------------------------- rows
def _do_row(setting: Setting, row: AblationRow, failed: Collection[str], track: bool, say: Say) -> None:
    """Train, segment, score or pack, and log one row; finished steps are skipped. Raises ValueError and OSError."""
    plan = plan_row(setting, row)
    trained = all(_is_finished(training) for training in plan.trainings)
    lost = [name for name in setting.needed(row) if name in failed]
    how = "it starts from" if row.starts_from else "its weights are those of"
    require(not lost or trained, f"{how} {', '.join(lost)}, which failed")
    for training in plan.trainings:
        _train(plan, training, say)
    if setting.config.submission == "container":
        _prepare_container(setting, plan, say)
    else:
        _segment(plan, say)
        if setting.config.command != "infer":
            _score_semantic(setting, plan, say)
        elif setting.config.submission == "none":
            _score(setting, plan, _records(setting), say)
        else:
            _pack(setting, plan, _records(setting), say)
    _add_note(plan.folder, {ERROR: ""})
    if track:
        _track(setting, plan)


def _train(plan: RowPlan, training: Training, say: Say) -> None:
    """Train one stage unless it is finished.

    `train` resumes from its checkpoints. Where these were deleted it would start again, so it is not called for a
    finished model.
    """
    done = _read_note(training.home).get("trained", {})
    if _is_finished(training) and done.get(training.config.stage) == list(training.arguments):
        return
    _call(plan, f"training {training.config.stage}", training.command, say)
    trained = done | {training.config.stage: list(training.arguments)}
    _add_note(training.home, {"trained": trained})


def _is_finished(training: Training) -> bool:
    return (training.final / "config.json").is_file()


def _segment(plan: RowPlan, say: Say) -> None:
    """Make the masks; `infer` skips complete videos and refuses to mix settings."""
    _call(plan, "segmenting", plan.infer, say)


def _call(plan: RowPlan, what: str, command: Sequence[str], say: Say) -> None:
    """Run a program, which prints to the terminal itself. Raises ValueError if it fails."""
    say(f"{plan.row.name}: {what}")
    log.info("%s", shlex.join(command))
    status = run_child(command)
    require(status == 0, f"{what} ended with exit status {status}, see above; it was {shlex.join(command)}")


def _records(setting: Setting) -> list[VideoRecord]:
    """Return the table's videos. Raises ValueError for a missing data set or video."""
    records, videos = dataset(setting.config.dataset, setting.dataset_root)[1], setting.config.videos
    missing = sorted(set(videos) - {record.name for record in records})
    require(not missing, f"videos: {setting.config.dataset} in {setting.dataset_root} has no {', '.join(missing)}")
    return [record for record in records if not videos or record.name in videos]


def _score(setting: Setting, plan: RowPlan, records: Sequence[VideoRecord], say: Say) -> None:
    """Write `scores.json`, the report of `evaluate`, unless it exists for the same masks."""
    truth = _truth(setting, records)
    names = sorted(record.name for record in records)
    state = {"masks": masks_digest(plan.masks, names), "truth": str(truth), "protocol": setting.config.protocol}
    if plan.scores.is_file() and _read_note(plan.folder).get("scored") == state:
        return
    listed = plan.folder / SEQUENCES
    write_changed(listed, "".join(f"{name}\n" for name in names).encode())
    options = EvaluateOptions(truth, plan.masks, setting.config.protocol, listed)
    report = evaluate(options, watched("scoring", "sequence"))
    write_json(plan.scores, report)
    say("\n".join(report_lines(report)))
    _add_note(plan.folder, {"scored": state})


def _score_semantic(setting: Setting, plan: RowPlan, say: Say) -> None:
    """Write `scores.json` of semantic maps, unless it exists for the same maps."""
    truth = _named_truth(setting) or setting.dataset_root
    names = [path.name for path in plan.masks.iterdir() if path.is_dir()]
    state = {"masks": masks_digest(plan.masks, names), "truth": str(truth), "protocol": setting.config.protocol}
    if plan.scores.is_file() and _read_note(plan.folder).get("scored") == state:
        return
    listed = plan.folder / SEQUENCES
    write_changed(listed, "".join(f"{name}\n" for name in setting.config.videos).encode())
    chosen = ["--sequences", listed] if setting.config.videos else []
    command = [sys.executable, "-m", "cutie_geo", "evaluate", "--gt", truth, "--pred", plan.masks, *chosen]
    command += ["--protocol", setting.config.protocol, "--json", plan.scores]
    _call(plan, "scoring", [str(word) for word in command], say)
    _add_note(plan.folder, {"scored": state})


def _named_truth(setting: Setting) -> Path | None:
    """Return the first existing folder of the table's `truth`; None if `truth` is empty.

    Raises:
        ValueError: if none of the folders exists.
    """
    given = setting.config.truth
    places = [setting.data_root / place for place in ([given] if isinstance(given, str) else given)]
    if not places:
        return None
    found = [place for place in places if place.is_dir()]
    require(bool(found), f"truth: none of the folders {', '.join(map(str, places))}")
    return found[0]


def _truth(setting: Setting, records: Sequence[VideoRecord]) -> Path:
    """Return the folder of the ground truth. Raises ValueError if there is none or more than one."""
    if named := _named_truth(setting):
        return named
    roots = {path.parent.parent for record in records for path in record.masks.values()}
    require(
        len(roots) == 1,
        f"truth: got masks in {len(roots)} folders for {setting.config.dataset}, expected truth: FOLDER in the table",
    )
    return roots.pop()


def _pack(setting: Setting, plan: RowPlan, records: Sequence[VideoRecord], say: Say) -> None:
    """Write the zip file for the server, unless it exists for the same masks. Raises ValueError for invalid masks."""
    state = masks_digest(plan.masks, [record.name for record in records])
    path = plan.folder / ZIP
    if path.is_file() and _read_note(plan.folder).get("packed") == state:
        return
    server, split = server_of(setting.config.dataset)
    packed = pack(PackOptions(server, plan.masks, setting.dataset_root, path, split))
    for line in problem_lines(packed.problems):
        say(line)
    require(not packed.problems, f"{path} was not written, see above")
    say(f"written: {path.absolute()}")
    _add_note(plan.folder, {"packed": state})


def _prepare_container(setting: Setting, plan: RowPlan, say: Say) -> None:
    """Write how to build VISOR's container with the row's model; segment too where there are first masks."""
    options = [*setting.config.infer, *plan.row.infer]
    write_changed(plan.folder / PAGE, _container_page(setting, plan, options).encode())
    if _has_first_masks(setting):
        _segment(plan, say)
    else:
        say(
            f"{plan.row.name}: no first masks of {setting.config.dataset} in {setting.dataset_root}, nothing to segment"
        )


def _container_page(setting: Setting, plan: RowPlan, options: Sequence[str]) -> str:
    model = Path(plan.model)
    preset = setting.model(plan.row)
    copies = f"cp {shlex.quote(str(model))}/* docker/visor/model/\n" if model.is_dir() else ""
    command = "docker run --rm --gpus all --network none -v $PWD/VISOR_2022:/app/data cutie-geo-visor"
    return (
        f"# {setting.config.title}: {plan.row.name}\n\n"
        "At the top of the repository (see docs/submitting.md):\n\n"
        f"```bash\n{copies}docker build -f docker/visor/Dockerfile --build-arg MODEL={preset} -t cutie-geo-visor .\n"
        "docker save cutie-geo-visor | gzip > cutie-geo-visor.tar.gz\n```\n\n"
        f"The organisers have to run it with this row's options:\n\n```bash\n{command} {shlex.join(options)}\n```\n"
    )


def _has_first_masks(setting: Setting) -> bool:
    """Return True if any video has a mask to start from."""
    try:
        return any(record.masks for record in _records(setting))
    except ValueError as error:
        log.warning("%s", error)
        return False


def _track(setting: Setting, plan: RowPlan) -> None:
    """Log the row. A failure costs no row: the next call tries again."""
    try:
        news = track_row(setting, plan, _outcome(setting, plan.row), _read_note(plan.folder))
    except Exception as error:
        log.warning("%s: not logged to W&B: %s", plan.row.name, reason(error, "wandb"))
        return
    if news:
        _add_note(plan.folder, news)


# --------------------------------------------------------------------------------------------------------------- notes
def masks_digest(folder: Path, videos: Iterable[str]) -> str:
    """Return the SHA-256 of the names and contents of all masks of some videos."""
    hasher = hashlib.sha256()
    for video in sorted(videos):
        for path in sorted((folder / video).glob("*.png")):
            content = path.read_bytes()
            hasher.update(f"{video}/{path.name} {len(content)}\n".encode() + content)
    return hasher.hexdigest()


def _read_note(folder: Path) -> dict[str, Any]:
    """Return a row's note, empty where it is missing or unreadable."""
    try:
        content = read_json(folder / NOTE)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _add_note(folder: Path, news: Mapping[str, Any]) -> None:
    content = json.dumps({**_read_note(folder), **news}, indent=1) + "\n"
    write_changed(folder / NOTE, content.encode())


# --------------------------------------------------------------------------------------------------------------- table
def _table(setting: Setting) -> list[TableRow]:
    """Return all rows of the file, with results of earlier calls."""
    return [_outcome(setting, row) for row in setting.config.rows]


def _outcome(setting: Setting, row: AblationRow) -> TableRow:
    """Return the result in a row's folder."""
    folder, paper, note = setting.folder(row), row.paper, _read_note(setting.folder(row))
    kind = setting.config.submission
    if error := note.get(ERROR):
        return TableRow(row.name, paper, error=error)
    if kind == "none":
        path = folder / "scores.json"
        ours = _main_scores(path, setting.config) if path.is_file() and "scored" in note else None
        return TableRow(row.name, paper, ours)
    path = folder / (ZIP if kind == "zip" else PAGE)
    return TableRow(row.name, paper, submission=path if path.is_file() else None)


def _main_scores(path: Path, config: AblationConfig) -> dict[str, float]:
    """Return a report's scores by measure, without undefined ones: mVC needs clips of some length."""
    report = read_report(path) if config.protocol in PROTOCOLS else read_json(path)
    return {name: report[name] for name in measures_of(config) if report[name] is not None}


def measures_of(config: AblationConfig) -> tuple[str, ...]:
    """Return the measures of a table's protocol."""
    return MEASURES if config.protocol in PROTOCOLS else MAIN


def _say_table(setting: Setting, rows: Sequence[TableRow], say: Say) -> None:
    say(setting.config.title)
    say("\n".join(lines(rows, measures_of(setting.config))))
    if setting.config.note:
        say(setting.config.note)
