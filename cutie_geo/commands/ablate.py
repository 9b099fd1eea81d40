"""Repeat a table: train, run and score each of its rows, and put the figures beside a paper's, if there are any."""

import argparse
import hashlib
import json
import logging
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cutie_geo.commands import evaluate, submit
from cutie_geo.commands.ablation_plan import RowPlan, Setting, Training, launcher, plan_row, server_of
from cutie_geo.commands.ablation_table import TableRow, lines, write_changed, write_table
from cutie_geo.commands.ablation_tracking import track_row
from cutie_geo.commands.children import run_child
from cutie_geo.commands.evaluate_semantic import SEMANTIC
from cutie_geo.commands.masklets import SPLITS
from cutie_geo.commands.training_run import tracker_names
from cutie_geo.config import require
from cutie_geo.config.ablation import AblationConfig, AblationRow, read_ablation
from cutie_geo.data.index import VideoRecord, dataset, dataset_names
from cutie_geo.errors import reason
from cutie_geo.evaluation.compare import MEASURES, read_report
from cutie_geo.evaluation.protocols import PROTOCOLS
from cutie_geo.evaluation.semantic.report import MAIN

log = logging.getLogger(__name__)

HELP = "repeat a table, a paper's or one of your own: train, run and score its rows"
RESUMES = True
TRACKERS = ("auto", "wandb", "none")
NOTE, ERROR = "row.json", "error"
"""In a row's folder: what of it is done; in that, why it failed the last time, if it did."""
ZIP, PAGE, SEQUENCES = "submission.zip", "submission.md", "sequences.txt"
SOMEWHERE = Path("DATA_ROOT")
"""Stands for the data in a dry run without any."""
CONTAINER = "visor-test"
"""The data set whose masks nobody but its organisers makes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which table, with which data and machines."""
    parser.add_argument("file", type=Path, help="such as configs/ablations/visor_table2.yaml")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder that holds the data sets")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/ablations/<the file's name>")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows")
    parser.add_argument(
        "--checkpoint", nargs="+", default=[], metavar="ROW=PATH", help="a trained model in place of a row's trainings"
    )
    parser.add_argument(
        "--launch", metavar="COMMAND", help="what trains and segments, such as 'accelerate launch --num_processes 8'"
    )
    parser.add_argument("--tracker", choices=TRACKERS, default="auto", help="where curves and scores go to")
    parser.add_argument("--workers", type=int, metavar="N", help="of train: processes that draw clips")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and a paper's figures")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for every training, such as steps=1000")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")


def run(args: argparse.Namespace) -> int:
    """Do all rows; return the exit status: 0, or 2 where a row failed. Raises ValueError for what makes no sense."""
    setting = _setting(args)
    rows = [setting.config.row(name) for name in args.rows] if args.rows else list(setting.config.rows)
    if args.dry_run:
        return _dry_run(setting, rows)
    trackers = tracker_names(args.tracker)
    failed = set[str]()
    for row in rows:
        try:
            _do_row(setting, row, failed, track="wandb" in trackers)
        except Exception as error:  # whatever it is, the other rows are worth having
            failed.add(row.name)
            text = reason(error, row.name)
            print(f"error: {row.name}: {text}", flush=True)
            log.info("where that came from:", exc_info=True)
            _add_note(setting.folder(row), {ERROR: text})
        measures = measures_of(setting.config)
        write_table(setting.output, setting.config.title, setting.config.note, _table(setting), measures)
    _print_table(setting, _table(setting))
    print(f"results: {setting.output}")
    return 2 if failed else 0


# ------------------------------------------------------------------------------------------------------------ planning
def _setting(args: argparse.Namespace) -> Setting:
    """What is meant. Raises ValueError for what makes no sense."""
    config = read_ablation(args.file)
    stray = [item for item in args.overrides if "=" not in item]
    require(not stray, f"{' '.join(stray)}: wanted an option such as --rows before it, or key=value")
    require(args.data_root is not None or args.dry_run, "--data-root: wanted the folder that holds the data sets")
    require(args.workers is None or args.workers >= 0, f"--workers: got {args.workers}, wanted 0 or more")
    _require_scorable(config, args.file)
    return Setting(
        config=config,
        name=args.file.stem,
        output=args.output or Path("runs") / "ablations" / args.file.stem,
        data_root=args.data_root or SOMEWHERE,
        launch=tuple(shlex.split(args.launch or "python")) if args.dry_run else launcher(args.launch),
        checkpoints=_checkpoints(config, args.checkpoint),
        options=tuple(args.overrides),
        workers=args.workers,
        fetch=not args.dry_run,
    )


def _require_scorable(config: AblationConfig, file: Path) -> None:
    """Raises ValueError for names that nothing here knows."""
    semantic = config.command != "infer"
    datasets, protocols = (SPLITS, SEMANTIC) if semantic else (dataset_names(), PROTOCOLS)
    known = config.dataset in datasets
    require(known, f"{file}.dataset: got {config.dataset}, wanted one of {', '.join(datasets)}")
    known = config.protocol in protocols
    require(known, f"{file}.protocol: got {config.protocol}, wanted one of {', '.join(protocols)}")
    for place, row in enumerate(config.rows):
        strange = sorted(set(row.paper) - set(measures_of(config)))
        wanted = f"wanted names of {', '.join(measures_of(config))}"
        require(not strange, f"{file}.rows[{place}].paper: got {', '.join(strange)}, {wanted}")
    scored = config.submission == "none" or not semantic
    require(scored, f"{file}.submission: got {config.submission} for {config.command}, wanted none")
    if config.submission == "zip":
        server_of(config.dataset)
    wanted = config.submission != "container" or config.dataset == CONTAINER
    require(wanted, f"{file}.submission: got container for {config.dataset}, wanted that for {CONTAINER} only")


def _checkpoints(config: AblationConfig, items: Iterable[str]) -> dict[str, str]:
    """ROW=PATH items. Both may hold a =, so it is the rows' names that say where one ends."""
    found = {}
    for item in items:
        row = next((row for row in config.rows if item.startswith(f"{row.name}=")), None)
        names = ", ".join(row.name for row in config.rows)
        if row is None:
            raise ValueError(f"--checkpoint: got {item!r}, wanted ROW=PATH with one of the rows {names}")
        found[row.name] = item.removeprefix(f"{row.name}=")
    return found


def _dry_run(setting: Setting, rows: Iterable[AblationRow]) -> int:
    """Print what would be done; 2 if a row can't be planned."""
    status, shown = 0, set[Path]()
    for row in rows:
        print(f"# {row.name}")
        try:
            plan = plan_row(setting, row)
        except ValueError as error:
            print(f"error: {error}")
            status = 2
            continue
        commands = [training.command for training in plan.trainings if training.root not in shown]
        shown |= {training.root for training in plan.trainings}
        for command in (*commands, plan.infer):
            print(shlex.join(command))
        print(f"# then: {_ending(setting, plan)}\n")
    _print_table(setting, [TableRow(row.name, row.paper) for row in setting.config.rows])
    return status


def _ending(setting: Setting, plan: RowPlan) -> str:
    """What is made of a row's masks, in words."""
    kind = setting.config.submission
    if kind == "none":
        return f"scored by the protocol {setting.config.protocol} into {plan.scores}"
    return f"submission: {plan.folder / (ZIP if kind == 'zip' else PAGE)}"


# ---------------------------------------------------------------------------------------------------------------- rows
def _do_row(setting: Setting, row: AblationRow, failed: Collection[str], track: bool) -> None:
    """Train, segment, score or pack, and log one row, each unless that is done. Raises ValueError and OSError."""
    plan = plan_row(setting, row)
    trained = all(_is_finished(training) for training in plan.trainings)
    lost = [name for name in setting.needed(row) if name in failed]
    how = "it starts from" if row.starts_from else "its weights are those of"
    require(not lost or trained, f"{how} {', '.join(lost)}, which failed")
    for training in plan.trainings:
        _train(plan, training)
    if setting.config.submission == "container":
        _prepare_container(setting, plan)
    else:
        _segment(plan)
        if setting.config.command != "infer":
            _score_semantic(setting, plan)
        elif setting.config.submission == "none":
            _score(setting, plan, _records(setting))
        else:
            _pack(setting, plan, _records(setting))
    _add_note(plan.folder, {ERROR: ""})
    if track:
        _track(setting, plan)


def _train(plan: RowPlan, training: Training) -> None:
    """One stage, unless the same one is finished. `train` goes on where it stopped; with its checkpoints deleted it
    would begin anew, so a finished model is not asked for again."""
    done = _read_note(training.home).get("trained", {})
    if _is_finished(training) and done.get(training.config.stage) == list(training.arguments):
        return
    _call(plan, f"training {training.config.stage}", training.command)
    trained = done | {training.config.stage: list(training.arguments)}
    _add_note(training.home, {"trained": trained})


def _is_finished(training: Training) -> bool:
    return (training.final / "config.json").is_file()


def _segment(plan: RowPlan) -> None:
    """The masks; `infer` skips videos that are complete, and refuses to mix settings."""
    _call(plan, "segmenting", plan.infer)


def _call(plan: RowPlan, what: str, command: Sequence[str]) -> None:
    """A program with its own output. Raises ValueError if it fails."""
    print(f"{plan.row.name}: {what}", flush=True)
    log.info("%s", shlex.join(command))
    status = run_child(command)
    require(status == 0, f"{what} ended with exit status {status}, see above; it was {shlex.join(command)}")


def _records(setting: Setting) -> list[VideoRecord]:
    """The videos of the table. Raises ValueError for a data set that isn't there, or lacks one of them."""
    records, videos = dataset(setting.config.dataset, setting.dataset_root)[1], setting.config.videos
    missing = sorted(set(videos) - {record.name for record in records})
    require(not missing, f"videos: {setting.config.dataset} in {setting.dataset_root} has no {', '.join(missing)}")
    return [record for record in records if not videos or record.name in videos]


def _score(setting: Setting, plan: RowPlan, records: Sequence[VideoRecord]) -> None:
    """`scores.json`, as `evaluate` writes it, unless it is there for the same masks."""
    truth = _truth(setting, records)
    names = sorted(record.name for record in records)
    state = {"masks": masks_digest(plan.masks, names), "truth": str(truth), "protocol": setting.config.protocol}
    if plan.scores.is_file() and _read_note(plan.folder).get("scored") == state:
        return
    listed = plan.folder / SEQUENCES
    write_changed(listed, "".join(f"{name}\n" for name in names).encode())
    argv = ["--gt", truth, "--pred", plan.masks, "--sequences", listed, "--protocol", setting.config.protocol]
    _parse_and_run(evaluate, [*argv, "--json", plan.scores])
    _add_note(plan.folder, {"scored": state})


def _score_semantic(setting: Setting, plan: RowPlan) -> None:
    """As `_score`, of semantic maps."""
    truth = _named_truth(setting) or setting.dataset_root
    names = [path.name for path in plan.masks.iterdir() if path.is_dir()]
    state = {"masks": masks_digest(plan.masks, names), "truth": str(truth), "protocol": setting.config.protocol}
    if plan.scores.is_file() and _read_note(plan.folder).get("scored") == state:
        return
    listed = plan.folder / SEQUENCES
    write_changed(listed, "".join(f"{name}\n" for name in setting.config.videos).encode())
    chosen = ["--sequences", listed] if setting.config.videos else []
    argv = ["--gt", truth, "--pred", plan.masks, *chosen, "--protocol", setting.config.protocol]
    _parse_and_run(evaluate, [*argv, "--json", plan.scores])
    _add_note(plan.folder, {"scored": state})


def _named_truth(setting: Setting) -> Path | None:
    """The first of the folders that the table names for the true masks; None if it names none. Raises ValueError if
    none of them is there."""
    given = setting.config.truth
    places = [setting.data_root / place for place in ([given] if isinstance(given, str) else given)]
    if not places:
        return None
    found = [place for place in places if place.is_dir()]
    require(bool(found), f"truth: none of the folders {', '.join(map(str, places))}")
    return found[0]


def _truth(setting: Setting, records: Sequence[VideoRecord]) -> Path:
    """The folder of the true masks. Raises ValueError if there is none, or no telling which."""
    if named := _named_truth(setting):
        return named
    roots = {path.parent.parent for record in records for path in record.masks.values()}
    require(len(roots) == 1, f"truth: got masks in {len(roots)} folders for {setting.config.dataset}, wanted its name")
    return roots.pop()


def _pack(setting: Setting, plan: RowPlan, records: Sequence[VideoRecord]) -> None:
    """The zip file for the server, unless it is there for the same masks. Raises ValueError if masks are wrong."""
    state = masks_digest(plan.masks, [record.name for record in records])
    path = plan.folder / ZIP
    if path.is_file() and _read_note(plan.folder).get("packed") == state:
        return
    server, split = server_of(setting.config.dataset)
    argv = [server, "--pred", plan.masks, "--data-root", setting.dataset_root, "--split", split, "--output", path]
    require(_parse_and_run(submit, argv) == 0, f"{path} was not written, see above")
    _add_note(plan.folder, {"packed": state})


def _prepare_container(setting: Setting, plan: RowPlan) -> None:
    """How to build VISOR's container with the row's model; masks too, where the first ones are there."""
    options = [*setting.config.infer, *plan.row.infer]
    write_changed(plan.folder / PAGE, _container_page(setting, plan, options).encode())
    if _has_first_masks(setting):
        _segment(plan)
    else:
        print(
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
    """Whether there is anything that a tracker could start from."""
    try:
        return any(record.masks for record in _records(setting))
    except ValueError as error:
        log.warning("%s", error)
        return False


def _parse_and_run(command: Any, argv: Iterable[Any]) -> int:
    """One of the other commands in this process; its exit status."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(item) for item in argv]))


def _track(setting: Setting, plan: RowPlan) -> None:
    """Log the row. That failing costs no row: the next call of the command tries again."""
    try:
        news = track_row(setting, plan, _outcome(setting, plan.row), _read_note(plan.folder))
    except Exception as error:
        log.warning("%s: not logged to W&B: %s", plan.row.name, reason(error, "wandb"))
        return
    if news:
        _add_note(plan.folder, news)


# --------------------------------------------------------------------------------------------------------------- notes
def masks_digest(folder: Path, videos: Iterable[str]) -> str:
    """SHA-256 of all masks of some videos, their names included."""
    hasher = hashlib.sha256()
    for video in sorted(videos):
        for path in sorted((folder / video).glob("*.png")):
            content = path.read_bytes()
            hasher.update(f"{video}/{path.name} {len(content)}\n".encode() + content)
    return hasher.hexdigest()


def _read_note(folder: Path) -> dict[str, Any]:
    """What is noted of a row; nothing where the note is missing or can't be read."""
    try:
        content = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _add_note(folder: Path, news: Mapping[str, Any]) -> None:
    content = json.dumps({**_read_note(folder), **news}, indent=1) + "\n"
    write_changed(folder / NOTE, content.encode())


# --------------------------------------------------------------------------------------------------------------- table
def _table(setting: Setting) -> list[TableRow]:
    """All rows of the file, those of earlier calls included."""
    return [_outcome(setting, row) for row in setting.config.rows]


def _outcome(setting: Setting, row: AblationRow) -> TableRow:
    """What a row's folder says."""
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
    """A report's scores by measure, those that there are: mVC wants clips of some length."""
    report = read_report(path) if config.protocol in PROTOCOLS else json.loads(path.read_text(encoding="utf-8"))
    return {name: report[name] for name in measures_of(config) if report[name] is not None}


def measures_of(config: AblationConfig) -> tuple[str, ...]:
    """What a table's protocol measures."""
    return MEASURES if config.protocol in PROTOCOLS else MAIN


def _print_table(setting: Setting, rows: Sequence[TableRow]) -> None:
    print(setting.config.title)
    print("\n".join(lines(rows, measures_of(setting.config))))
    if setting.config.note:
        print(setting.config.note)
