"""Checks of this machine and of data sets, with advice for what is missing.

Packages that may be missing or broken are imported inside the checks, so that the report comes out without them.
"""

import importlib
import os
import platform
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from cutie_geo.runs.machine import cpu_name

PACKAGE = "cutie_geo"
DECODERS = ("h264", "hevc", "vp9", "av1", "mpeg4")
ENCODER = "libx264"
LOW_SPACE = 3 * 10**9
"""Free bytes in the cache below which there is a warning: the largest model's files and a reserve."""
COLUMNS = ("videos", "frames", "masks", "objects")
"""Counts for each data set."""
SHOWN = 10
"""Problems of a data set that are printed; the JSON report has all."""


@dataclass
class Section:
    """Findings of one check."""

    title: str
    facts: dict[str, Any] = field(default_factory=dict)
    """Findings by name, ready for JSON."""
    advice: list[str] = field(default_factory=list)
    """One line for each missing thing."""
    broken: bool = False
    """Something does not work that all commands need, or that was asked for."""


# ---------------------------------------------------------------------------------------------------------- machine
def check_machine() -> list[Section]:
    """Run all checks that need no data."""
    return [check_device(), check_versions(), check_weights(), check_video(), check_example()]


def check_device() -> Section:
    """Check processor and accelerators."""
    section = Section("device", {"system": platform.platform(), "cpu": cpu_name(), "cores": os.cpu_count()})
    torch = _import("torch", section)
    if torch is None:
        return section
    with warnings.catch_warnings(record=True) as caught:  # a driver too old for torch is only warned about
        warnings.simplefilter("always")
        gpus = [_describe_gpu(torch, index) for index in range(torch.cuda.device_count())]
        usable = bool(gpus) and torch.cuda.is_available()
    section.facts |= {"threads": torch.get_num_threads(), "gpus": gpus, "mps": torch.backends.mps.is_available()}
    section.facts |= {"cuda warnings": [_one_line(item.message) for item in caught]} if caught else {}
    if not usable and shutil.which("nvidia-smi"):
        section.advice.append("torch cannot use this machine's NVIDIA GPU: install a build that fits its driver")
    elif not usable and not section.facts["mps"]:
        section.advice.append("no GPU found: everything works on the processor, but slowly")
    return section


def _describe_gpu(torch: Any, index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, sm_{properties.major}{properties.minor}"


def check_versions() -> Section:
    """Check Python, this package, and the versions of its dependencies."""
    section = Section("versions", {"python": platform.python_version(), PACKAGE: _version(PACKAGE) or "a checkout"})
    for requirement in _requirements():
        name, _, least = requirement.partition(">=")
        section.facts[name] = version = _version(name)
        if version is None or _release(version) < _release(least):
            section.broken = True
            section.advice.append(
                f"{name}: got {version or 'none'}, expected {least or 'any'} or later: pip install '{requirement}'"
            )
    return section


def _requirements() -> list[str]:
    """Return the dependencies as `name>=version`, from the metadata or from the checkout's pyproject.toml."""
    try:
        listed = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        text = project.read_text(encoding="utf-8") if project.is_file() else ""
        block = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
        listed = re.findall(r'"([^"]+)"', block[1]) if block else []
    return [item.split(";")[0].replace(" ", "") for item in listed if "extra ==" not in item]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version without trailing zeros, so that 1.0 equals 1."""
    numbers = re.match(r"[\d.]*", version)
    parts = [int(part) for part in (numbers[0] if numbers else "").split(".") if part]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def check_weights() -> Section:
    """Check the cache, its free space, and the state of each file."""
    section = Section("weights")
    weights = _import("cutie_geo.checkpoints.catalogue", section)
    if weights is None:
        return section
    folder = weights.cache_dir()
    free = shutil.disk_usage(_existing(folder)).free
    section.facts |= {"cache": str(folder), "free": f"{free / 10**9:.1f} GB"}
    if free < LOW_SPACE:
        section.advice.append(f"{folder}: little space; CUTIE_GEO_CACHE=DIR puts the cache elsewhere")
    states = {name: weights.state(name) for name in weights.CATALOGUE}
    section.facts["files here"] = [name for name, state in states.items() if state == "ready"]
    for name, state in states.items():
        if state in ("damaged", "partial"):  # these were downloaded once; for the others there is advice by model
            section.broken |= state == "damaged"
            force = " --force" if state == "damaged" else ""
            section.advice.append(f"{name} is {state}: cutie-geo download {name}{force}")
    section.facts |= (models := _model_states(weights, states, section))
    if lacking := [model for model, fact in models.items() if fact != "ready"]:
        names = ", ".join(lacking)
        section.advice.append(
            f"cutie-geo download MODEL gets the missing files of {names}; you need those of your model only"
        )
    return section


def _model_states(weights: Any, states: dict[str, str], section: Section) -> dict[str, str]:
    """Return by preset "ready" or the published files that are missing."""
    load, config = _import("cutie_geo.checkpoints.load", section), _import("cutie_geo.config", section)
    models = {}
    for model in config.preset_names() if load and config else ():
        needed = load.needed_files(model).values()
        lacking = [name for name in needed if (states.get(name) or weights.state(name)) != "ready"]
        models[model] = f"needs {', '.join(lacking)}" if lacking else "ready"
    return models


def _existing(folder: Path) -> Path:
    """Return the folder or its nearest existing parent."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def check_video() -> Section:
    """Check which videos can be decoded, and whether MP4 files can be written."""
    section = Section("video")
    av = _import("av", section)
    if av is None:
        return section
    section.facts |= {"ffmpeg program": shutil.which("ffmpeg") or "none (not needed)"}
    section.facts |= {f"read {name}": _has_codec(av, name, "r") for name in DECODERS}
    section.facts |= {f"write mp4 ({ENCODER})": _has_codec(av, ENCODER, "w")}
    for name in DECODERS:
        if not section.facts[f"read {name}"]:
            section.advice.append(f"no {name} decoder: such videos cannot be read; PyPI's av wheels have it")
    if not section.facts[f"write mp4 ({ENCODER})"]:
        section.advice.append(f"no {ENCODER}: overlay videos cannot be H.264; PyPI's av wheels have it")
    return section


def _has_codec(av: Any, name: str, mode: str) -> bool:
    try:
        av.codec.Codec(name, mode)
    except ValueError:  # PyAV's UnknownCodecError is one
        return False
    return True


def check_example() -> Section:
    """Check that the bundled clip is there."""
    section = Section("example")
    example = _import("cutie_geo.data.example", section)
    if example is None:
        return section
    folders = {"frames": example.example_frames(), "masks": example.example_masks()}
    for kind, folder in folders.items():
        section.facts[kind] = len(list(folder.iterdir())) if folder.is_dir() else 0
    if not all(section.facts.values()):
        section.advice.append("the bundled example is missing: install the package again")
    return section


def _import(name: str, section: Section) -> Any:
    """Return the module; mark the section as broken and return None if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a shared library that doesn't load
        section.broken = True
        section.advice.append(f"{name} cannot be imported: {_one_line(error)}")
        return None


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


# ------------------------------------------------------------------------------------------------------------- data
def check_data(root: Path, name: str | None, deep: bool = False, wings: Iterable[str] = ()) -> Section:
    """Check the files under `root` as the data set `name`, or as each one that they fit.

    Args:
        deep: decode every file, not only the first of each video.
        wings: modules with further data sets, as SEMANTIC_DATASETS.

    Raises:
        ValueError: for an unknown name or a missing root.
    """
    section = Section("data", {"root": str(root)})
    checks = _import("cutie_geo.data.check", section)
    bars = _import("cutie_geo.progress", section)
    index, more = _import("cutie_geo.data.index", section), [_import(wing, section) for wing in wings]
    if checks is None or bars is None or index is None or None in more:
        return section
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder, expected the root of a data set")

    def watch(looks: Iterable[Any], total: int) -> Iterator[Any]:
        with bars.progress(total, "files", "file", show=deep) as bar:
            for look in looks:
                bar.update()
                yield look

    labelled = dict(index.LABELLED)
    for wing in more:
        labelled |= wing.SEMANTIC_DATASETS
    names = [name] if name else [each for each in checks.checkable_names(labelled) if not each.startswith(checks.OWN)]
    found = checks.check(names, root, deep, os.cpu_count() or 1, watch, labelled)
    readable = {each: findings for each, findings in found.items() if findings.usable}
    if not name and not readable:  # own videos may be in nearly any folder, so this layout is tried last
        own = checks.check([checks.OWN], root, deep, os.cpu_count() or 1, watch, labelled)
        readable = {each: findings for each, findings in own.items() if findings.usable}
    # a root can fit several names; those that it does not fit at all are left out
    shown = found if name else _best_readings(readable or found)
    section.facts |= {each: _row(findings) for each, findings in shown.items()}
    section.broken = not readable or any(findings.problems for findings in shown.values())
    if not readable:
        more = "" if name else "; --dataset NAME says what one lacks"
        section.advice.append(f"{root}: no video that can be used; docs/data.md has the layouts{more}")
    elif not deep:
        section.advice.append("most files were only listed: --deep decodes every one")
    return section


def _best_readings(found: dict[str, Any]) -> dict[str, Any]:
    """Return readings without problems, and others for folders that none of these reads: several layouts look alike."""
    clean = set().union(*(findings.folders for findings in found.values() if not findings.problems))
    return {
        name: findings
        for name, findings in found.items()
        if findings.videos and (not findings.problems or not findings.folders <= clean or not clean)
    }


def _row(findings: Any) -> dict[str, Any]:
    """Return the findings of one data set, ready for JSON."""
    return {column: getattr(findings, column) for column in (*COLUMNS, "problems")}


# ----------------------------------------------------------------------------------------------------------- report
def report_lines(sections: list[Section]) -> list[str]:
    """Return the report for a terminal."""
    lines = []
    for section in sections:
        lines.append(f"{section.title}{' (broken)' if section.broken else ''}")
        tables = {name: fact for name, fact in section.facts.items() if isinstance(fact, dict)}
        lines += [f"  {name:<24} {_readable(fact)}" for name, fact in section.facts.items() if name not in tables]
        if tables:
            lines += _table_lines(tables)
        lines += [f"  -> {line}" for line in section.advice]
    return lines


def _table_lines(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return a row for each data set with its first problems and the names of others with the same findings."""
    lines = [f"  {'dataset':<24} {' '.join(f'{column:>8}' for column in (*COLUMNS, 'problems'))}"]
    same = {name: next(other for other in rows if rows[other] == row) for name, row in rows.items()}
    for name in dict.fromkeys(same.values()):
        row = rows[name]
        numbers = (*(row[column] for column in COLUMNS), len(row["problems"]))
        lines.append(f"  {name:<24} {' '.join(f'{number:>8}' for number in numbers)}")
        lines += [f"    {line}" for line in row["problems"][:SHOWN]]
        if len(row["problems"]) > SHOWN:
            lines.append(f"    and {len(row['problems']) - SHOWN} more")
        if others := [other for other in rows if other != name and same[other] == name]:
            lines.append(f"    the same as {', '.join(others)}")
    return lines


def _readable(fact: Any) -> str:
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if isinstance(fact, list):
        return "; ".join(map(str, fact)) or "none"
    return "missing" if fact is None else str(fact)


def report(sections: list[Section]) -> dict[str, Any]:
    """Return everything that was found, ready for JSON."""
    content = {s.title: {"facts": s.facts, "advice": s.advice, "broken": s.broken} for s in sections}
    return content | {"ok": not any(section.broken for section in sections)}
