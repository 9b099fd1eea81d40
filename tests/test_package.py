"""The files that users install: the wheel, used from an empty folder, and the source archive."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from toy_videos import write_frames, write_mask

ROOT = Path(__file__).parent.parent


def test_the_package_is_typed_and_its_citation_is_of_this_version() -> None:
    import yaml

    import cutie_geo

    assert (Path(cutie_geo.__file__).parent / "py.typed").is_file()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == cutie_geo.__version__


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archives, built from a copy of the tracked and new files."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


@pytest.mark.slow
def test_the_source_archive_holds_all_that_the_tests_need(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    wanted = {"LICENSE", "README.md", "CITATION.cff", "infer.py", "train.py", "tests/conftest.py", "mkdocs.yml",
              "configs/training/stage1.yaml", "cutie_geo/py.typed", "docs/own-data.md"}  # fmt: skip
    assert wanted <= names


@pytest.mark.slow
def test_the_wheel_works_from_an_empty_folder(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        metadata = Parser().parsestr(file.read(next(n for n in file.namelist() if n.endswith("METADATA"))).decode())
    extras = set(metadata.get_all("Provides-Extra") or [])
    assert {"docs", "plots", "notebooks", "test"} <= extras
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    site = Path(subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                               capture_output=True, text=True, check=True).stdout.strip())  # fmt: skip
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(pip, check=True)
    # the other packages come from this environment, after those of the new one
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    folder = tmp_path / "empty"
    folder.mkdir()
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: object) -> str:
        done = subprocess.run([python, *map(str, arguments)], cwd=folder, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(site) in run("-c", "import cutie_geo; print(cutie_geo.__file__)")
    assert run("-m", "cutie_geo", "--version").startswith("cutie-geo ")
    run("-m", "cutie_geo", "train", "--stage", "tiny_rendered", "--dry-run", "--device", "cpu")
    write_frames(folder / "clip", 2)
    write_mask(folder / "first.png")
    run("-m", "cutie_geo", "infer", "--video", "clip", "--mask", "first.png", "--output", "out", "--device", "cpu")
    assert sorted(path.name for path in (folder / "out/Annotations/clip").iterdir()) == ["00000.png", "00001.png"]
    assert os.access(site / "bin" / "cutie-geo", os.X_OK)
