"""`cutie-geo doctor`: what this machine has, what is missing, and what to do about it.

The doctor must be able to speak where the patient can't: packages that may be missing are imported inside the checks.
"""

import argparse
import importlib
import json
import os
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

HELP = "report device, versions, weights and data, and what to do about what is missing"

PACKAGE = "cutie_geo"
DECODERS = ("h264", "hevc", "vp9", "av1", "mpeg4")
ENCODER = "libx264"
LOW_SPACE = 3 * 10**9
"""Bytes free in the cache below which the doctor warns: the files of the largest model and some room."""
COLUMNS = ("videos", "frames", "masks", "objects")
"""What is counted of a dataset."""
SHOWN = 10
"""Problems of a dataset that are printed; the JSON file has all."""


@dataclass
class Section:
    """What one check found."""

    title: str
    facts: dict[str, Any] = field(default_factory=dict)
    """Ready for JSON, in the order of the report."""
    advice: list[str] = field(default_factory=list)
    """One line for each thing missing."""
    broken: bool = False
    """Something doesn't work that everything needs, or that was asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--data", action="store_true", help="check the files under --data-root instead")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="root of a dataset, for --data")
    parser.add_argument("--dataset", metavar="NAME", help="the dataset expected there; otherwise each one is tried")
    parser.add_argument("--deep", action="store_true", help="decode every file, not only the first of each video")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file too")


def run(args: argparse.Namespace) -> int:
    """Print the report. Returns 0, 1 if something needed is broken, or 2 for options that make no sense."""
    try:
        sections = [check_data(args.data_root, args.dataset, args.deep)] if _wants_data(args) else check_machine()
        _print(sections)
        if args.json:
            _write_json(args.json, sections)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(any(section.broken for section in sections))


def _wants_data(args: argparse.Namespace) -> bool:
    """Whether --data was given. Raises ValueError if the options that go with it don't."""
    if args.data and args.data_root is None:
        raise ValueError("--data: no root given, wanted --data-root DIR")
    if not args.data and (args.data_root or args.dataset or args.deep):
        raise ValueError("--data-root, --dataset and --deep: wanted together with --data")
    return args.data


# ---------------------------------------------------------------------------------------------------------- machine
def check_machine() -> list[Section]:
    """Every check that needs no data."""
    return [check_device(), check_versions(), check_weights(), check_video(), check_example()]


def check_device() -> Section:
    """Processor and accelerators."""
    section = Section("device", {"system": platform.platform(), "cpu": _cpu_model(), "cores": os.cpu_count()})
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
        section.advice.append("torch can't use this machine's NVIDIA GPU: install a build that fits its driver")
    elif not usable and not section.facts["mps"]:
        section.advice.append("no GPU found: everything works on the processor, but slowly")
    return section


def _describe_gpu(torch: Any, index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, sm_{properties.major}{properties.minor}"


def _cpu_model() -> str:
    """The processor's name where the system tells, else its architecture."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        info = ""
    found = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def check_versions() -> Section:
    """Python, this package, and the packages it depends on against what it asks for."""
    section = Section("versions", {"python": platform.python_version(), PACKAGE: _version(PACKAGE) or "a checkout"})
    for requirement in _requirements():
        name, _, least = requirement.partition(">=")
        section.facts[name] = version = _version(name)
        if version is None or _release(version) < _release(least):
            section.broken = True
            section.advice.append(
                f"{name}: got {version or 'none'}, wanted {least or 'any'} or later: pip install '{requirement}'"
            )
    return section


def _requirements() -> list[str]:
    """What the package asks for, as `name>=version`: from its metadata, or from the checkout that it runs in."""
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
    """The leading numbers of a version, without trailing zeros, so that 1.0 equals 1."""
    numbers = re.match(r"[\d.]*", version)
    parts = [int(part) for part in (numbers[0] if numbers else "").split(".") if part]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def check_weights() -> Section:
    """The cache, its free space, and the state of each file."""
    section = Section("weights")
    weights = _import("cutie_geo.model.weights", section)
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
        if state in ("damaged", "partial"):  # somebody wanted these; the others are advised on by model
            section.broken |= state == "damaged"
            force = " --force" if state == "damaged" else ""
            section.advice.append(f"{name} is {state}: cutie-geo download {name}{force}")
    section.facts |= (models := _model_states(states, section))
    if lacking := [model for model, fact in models.items() if fact != "ready"]:
        section.advice.append(
            f"cutie-geo download MODEL gets what is missing of {', '.join(lacking)}; you need only those that you use"
        )
    return section


def _model_states(states: dict[str, str], section: Section) -> dict[str, str]:
    """For each preset whether the published files that it needs are here, and which of them are not."""
    load, config = _import("cutie_geo.model.load", section), _import("cutie_geo.config", section)
    models = {}
    for model in config.preset_names() if load and config else ():
        lacking = [name for name in load.needed_files(model).values() if states[name] != "ready"]
        models[model] = f"needs {', '.join(lacking)}" if lacking else "ready"
    return models


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def check_video() -> Section:
    """What can be decoded, and whether mp4 files can be written."""
    section = Section("video")
    av = _import("av", section)
    if av is None:
        return section
    section.facts |= {"ffmpeg program": shutil.which("ffmpeg") or "none (not needed)"}
    section.facts |= {f"read {name}": _has_codec(av, name, "r") for name in DECODERS}
    section.facts |= {f"write mp4 ({ENCODER})": _has_codec(av, ENCODER, "w")}
    for name in DECODERS:
        if not section.facts[f"read {name}"]:
            section.advice.append(f"no {name} decoder: such videos can't be read; PyPI's av wheels have it")
    if not section.facts[f"write mp4 ({ENCODER})"]:
        section.advice.append(f"no {ENCODER}: overlay videos can't be H.264; PyPI's av wheels have it")
    return section


def _has_codec(av: Any, name: str, mode: str) -> bool:
    try:
        av.codec.Codec(name, mode)
    except ValueError:  # PyAV's UnknownCodecError is one
        return False
    return True


def check_example() -> Section:
    """Whether the bundled clip is there."""
    section = Section("example")
    example = _import("cutie_geo.data.example", section)
    if example is None:
        return section
    folders = {"frames": example.example_frames(), "masks": example.example_masks()}
    for kind, folder in folders.items():
        section.facts[kind] = len(list(folder.iterdir())) if folder.is_dir() else 0
    if not all(section.facts.values()):
        section.advice.append("the bundled example is missing: install the package anew")
    return section


def _import(name: str, section: Section) -> Any:
    """The module, or None, which makes the section broken."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a shared library that doesn't load
        section.broken = True
        section.advice.append(f"{name} can't be imported: {_one_line(error)}")
        return None


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


# ------------------------------------------------------------------------------------------------------------- data
def check_data(root: Path, name: str | None, deep: bool = False) -> Section:
    """The files under `root`, as the dataset `name` or as each one that they can be read as.

    deep: decode every file. Raises ValueError for an unknown name or a root that isn't there.
    """
    section = Section("data", {"root": str(root)})
    checks = _import("cutie_geo.data.check", section)
    bars = _import("cutie_geo.progress", section)
    if checks is None or bars is None:
        return section
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder, wanted the root of a dataset")

    def watch(looks: Iterable[Any], total: int) -> Iterator[Any]:
        with bars.progress(total, "files", "file", show=deep) as bar:
            for look in looks:
                bar.update()
                yield look

    names = [name] if name else checks.checkable_names()
    found = checks.check(names, root, deep, os.cpu_count() or 1, watch)
    readable = {each: findings for each, findings in found.items() if findings.usable}
    # a root fits several names, and says nothing about those that it fits not at all
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
    """Those without problems, and those that find something where none of these does: several layouts look alike."""
    clean = set().union(*(findings.folders for findings in found.values() if not findings.problems))
    return {
        name: findings
        for name, findings in found.items()
        if findings.videos and (not findings.problems or not findings.folders <= clean or not clean)
    }


def _row(findings: Any) -> dict[str, Any]:
    """The findings of one dataset, ready for JSON."""
    return {column: getattr(findings, column) for column in (*COLUMNS, "problems")}


# ----------------------------------------------------------------------------------------------------------- report
def _print(sections: list[Section]) -> None:
    for section in sections:
        print(f"{section.title}{' (broken)' if section.broken else ''}")
        tables = {name: fact for name, fact in section.facts.items() if isinstance(fact, dict)}
        for name, fact in section.facts.items():
            if name not in tables:
                print(f"  {name:<24} {_readable(fact)}")
        if tables:
            _print_table(tables)
        for line in section.advice:
            print(f"  -> {line}")


def _print_table(rows: dict[str, dict[str, Any]]) -> None:
    """A row for each dataset, its first problems below, and the others that find just the same."""
    print(f"  {'dataset':<24} {' '.join(f'{column:>8}' for column in (*COLUMNS, 'problems'))}")
    same = {name: next(other for other in rows if rows[other] == row) for name, row in rows.items()}
    for name in dict.fromkeys(same.values()):
        row = rows[name]
        numbers = (*(row[column] for column in COLUMNS), len(row["problems"]))
        print(f"  {name:<24} {' '.join(f'{number:>8}' for number in numbers)}")
        for line in row["problems"][:SHOWN]:
            print(f"    {line}")
        if len(row["problems"]) > SHOWN:
            print(f"    and {len(row['problems']) - SHOWN} more")
        if others := [other for other in rows if other != name and same[other] == name]:
            print(f"    the same as {', '.join(others)}")


def _readable(fact: Any) -> str:
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if isinstance(fact, list):
        return "; ".join(map(str, fact)) or "none"
    return "missing" if fact is None else str(fact)


def _write_json(path: Path, sections: list[Section]) -> None:
    """The report as one JSON object. Raises ValueError if the file can't be written."""
    content = {s.title: {"facts": s.facts, "advice": s.advice, "broken": s.broken} for s in sections}
    content |= {"ok": not any(section.broken for section in sections)}
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: can't be written: {error.strerror}") from None
