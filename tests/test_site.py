"""The site builds without a warning, its links lead somewhere, and the commands of its pages work."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from toy_videos import regions, write_film, write_frames, write_mask

from cutie_geo.__main__ import COMMANDS, main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"(?ms)^```bash([^\n]*)\n(.*?)^```")
PROGRAMS = {"infer.py": "infer", "train.py": "train"}
ELSEWHERE = ("export.md", "deployment.md", "app.md", "session.md", "python.md", "experiments.md")
"""Pages whose commands other tests run."""
TESTED = ("python infer.py --overlay", "python infer.py --overlay --output out")
"""Commands on the bundled clip, which tests/test_end_to_end.py segments."""


class Line(NamedTuple):
    """One command of a page."""

    page: str
    text: str
    marked: bool
    """It needs a download, a GPU or a benchmark."""


def lines_of(page: Path) -> list[Line]:
    """Return the commands of a page, continued lines joined, without comments."""
    found = []
    for mark, block in FENCE.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            text = re.sub(r"\s#.*", "", line).strip()
            if text and not text.startswith("#"):
                found.append(Line(page.name, " ".join(text.split()), "needs" in mark))
    return found


LINES = [line for page in PAGES for line in lines_of(page)]


def command_of(text: str) -> tuple[str, list[str]] | None:
    """Return our command in a line, and its arguments; None for other programs."""
    words = shlex.split(text.split(" && ")[-1].split(" | ")[0])
    for place, word in enumerate(words):
        if Path(word).name in PROGRAMS:
            return PROGRAMS[Path(word).name], words[place + 1 :]
        if Path(word).name in ("cutie-geo", "cutie_geo") and len(words) > place + 1:
            return words[place + 1], words[place + 2 :]
    return None


def module_of(name: str, arguments: list[str]) -> tuple[object, list[str]]:
    module = import_module(f"cutie_geo.commands.{name}")
    if arguments and arguments[0] in getattr(module, "KINDS", ()):
        return import_module(f"cutie_geo.commands.{name}_{arguments[0]}"), arguments[1:]
    return module, arguments


def known_options(module: object) -> set[str]:
    import argparse

    from cutie_geo.commands.limits import add_limits

    parser = argparse.ArgumentParser()
    module.add_arguments(parser)  # type: ignore[attr-defined]
    add_limits(parser)
    return set(parser._option_string_actions)


def test_every_option_in_a_command_of_the_pages_exists() -> None:
    checked = 0
    for line in LINES:
        found = command_of(line.text)
        if found is None or found[0] not in COMMANDS or "{" in line.text:
            continue
        module, arguments = module_of(*found)
        used = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert used <= known_options(module), f"{line.page}: {line.text}"
        checked += 1
    assert checked > 60


def test_every_command_has_a_section_with_its_options() -> None:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    text = hooks.command_line()
    for name in COMMANDS:
        assert re.search(rf"(?m)^## {name}\b", text), name
    assert "| `--finetune` DATA | fine-tune --model on own videos" in text
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in text.splitlines() if row.startswith("|"))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a new user: a clip with a mask, own videos, and the repository's programs."""
    folder = tmp_path_factory.mktemp("desk")
    write_film(folder / "clip.mp4", 3, (360, 720))  # large enough for the points and boxes on the pages
    first = np.zeros((360, 720), np.uint8)
    first[100:250, 300:500] = 1
    write_mask(folder / "first.png", first)
    for n, name in enumerate(("garden", "kitchen", "street", "yard")):
        write_frames(folder / "data" / "videos" / name, 5, seed=n)
        for time in (0, 1, 2, 4):
            write_mask(folder / f"data/masks/{name}/{time:05d}.png", np.roll(regions(), 2 * time, axis=1))
    for name in PROGRAMS:
        shutil.copy(ROOT / name, folder / name)
    return folder


SHORTER = ["validation.size=64", "clips.crop=32", "clips.length=2", "batch=1", "validation.every=1", "save_every=1"]
"""Settings by which fine-tuning of these small clips takes seconds."""


@pytest.mark.slow
def test_commands_for_new_users_run(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run every command without a mark as it is typed, but for fine-tuning, which gets fewer steps."""
    monkeypatch.chdir(desk)
    done = []
    texts = {line.text: line for line in LINES if line.page not in ELSEWHERE and not line.marked}
    for line in texts.values():
        found = command_of(line.text)
        if found is None or line.text.split(" && ")[-1] in TESTED:
            continue
        name, arguments = found
        if name == "app":  # serves until it is stopped; tests/app run it
            continue
        if name == "train":
            arguments = [a for a in arguments if not a.startswith("steps=")] + ["steps=1", *SHORTER]
        command = [name, *arguments]
        if name in ("infer", "train"):
            command += ["--device", "cpu", "--cpu-threads", "1"]
        if name == "infer":
            command += ["--overwrite"]
        status, said = main(command), capsys.readouterr().err
        assert status == 0 or (name == "doctor" and "--data" not in arguments), f"{line}: {said}"
        done.append(name)
    assert {"infer", "train", "doctor"} <= set(done)


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) > 20
    ids = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    for path, text in pages.items():
        for target in re.findall(r'(?:href|src)="([^"]+)"', text):
            if re.match(r"[a-z]+:|//|#__|/", target) or path.name == "404.html":
                continue
            file, _, anchor = target.partition("#")
            place = (path.parent / file).resolve() if file else path
            assert place.is_file(), f"{path.name}: {target}"
            assert not anchor or place not in ids or anchor in ids[place] or anchor == "", f"{path.name}: {target}"
    reference = pages[site / "reference" / "python.html"]
    assert "load_model" in reference
    assert "Args:" not in re.sub(r"<[^>]+>", "", reference), "docstrings are parsed"
    offline = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', "".join(pages.values()))
    assert not offline, "the site needs no network"
