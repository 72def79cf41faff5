"""The built wheel, installed without the checkout and run in a folder whose own modules have unlucky names."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import MakeDataset

REPO = Path(__file__).parents[2]
SOURCES = {"annotator": REPO / "annotator", "annotator_store": REPO / "store" / "annotator_store"}
TEMPLATES = "annotator/prompting/templates"
HOSTILE = "from pathlib import Path\nPath(__file__).with_suffix('.imported').touch()\nraise SystemExit(3)\n"
"""A module that leaves a mark when it is imported."""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel and its dependencies, and a working folder with a hostile `store` and `prompts`."""

    bin: Path
    folder: Path

    def run(self, *command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, `python` or `annotator`, in the working folder."""
        program, *arguments = map(str, command)
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        environment = {**kept, "HOME": str(self.folder), "NO_COLOR": "1", "COLUMNS": "120"}
        return subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=cwd or self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=REPO, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment that finds the dependencies where this interpreter has them.

    A folder named in a .pth file is only looked into: the .pth file there that leads to the checkout is not followed.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    (site_packages,) = folder.glob("lib/python3*/site-packages")
    places = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site_packages / "dependencies.pth").write_text("".join(f"{place}\n" for place in places))
    return folder


@pytest.fixture
def installed(environment: Path, tmp_path: Path) -> Iterator[Installed]:
    marks = [tmp_path / "store.py", tmp_path / "prompts" / "__init__.py"]
    for path in marks:
        path.parent.mkdir(exist_ok=True)
        path.write_text(HOSTILE)
    yield Installed(environment / "bin", tmp_path)
    assert not list(tmp_path.rglob("*.imported"))


def files_of(package: str) -> set[str]:
    """List the files of a package in the checkout, as they are named in the wheel."""
    root = SOURCES[package]
    paths = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"{package}/{path.relative_to(root).as_posix()}" for path in paths}


def test_the_wheel_holds_both_packages_whole_the_prompts_as_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        tops = {name.partition("/")[0] for name in archive.namelist()}
        prompts = {path.name: path.read_bytes() for path in (REPO / "prompts").iterdir()}
        assert names == files_of("annotator") | files_of("annotator_store") | {
            f"{TEMPLATES}/{name}" for name in prompts
        }
        assert {name: archive.read(f"{TEMPLATES}/{name}") for name in prompts} == prompts
    version = wheel.name.split("-")[1]
    assert tops == {"annotator", "annotator_store", f"episode_annotator-{version}.dist-info"}
    assert {"annotator/py.typed", "annotator_store/py.typed"} <= names


def test_what_is_imported_is_the_wheel_and_neither_store_nor_prompts_is_a_module_of_it(installed: Installed) -> None:
    where = "import annotator, annotator_store; print(annotator.__file__); print(annotator_store.__file__)"
    imported = installed.run("python", "-c", where)
    assert imported.returncode == 0, imported.stderr
    assert all(Path(line).is_relative_to(installed.bin.parent) for line in imported.stdout.splitlines())
    elsewhere = installed.folder / "elsewhere"
    elsewhere.mkdir()
    for name in ("store", "prompts", "scripts", "tests"):
        attempt = installed.run("python", "-c", f"import {name}", cwd=elsewhere)
        assert f"No module named '{name}'" in attempt.stderr, attempt.stderr


def test_a_dataset_is_annotated_and_queried_beside_a_hostile_store_and_prompts(
    installed: Installed, make_dataset: MakeDataset
) -> None:
    dataset = make_dataset(installed.folder, name="tiny")
    sync = installed.run("annotator", "sync", dataset, "--vlm.backend", "signals")
    assert sync.returncode == 0, sync.stderr
    again = installed.run("python", "-P", "-m", "annotator", "sync", dataset, "--vlm.backend", "signals", "--locked")
    assert again.returncode == 0, again.stderr
    sql = "SELECT count(DISTINCT episode_index) AS episodes FROM rows"
    query = installed.run("annotator", "query", "--root", dataset, sql, "--format", "json")
    assert (query.returncode, query.stdout) == (0, '{"episodes":3}\n'), query.stderr


@pytest.mark.parametrize(
    "command", [("annotator",), ("python", "-P", "-m", "annotator"), ("python", "-m", "annotator")]
)
def test_the_prompts_are_found(installed: Installed, command: tuple[str, ...]) -> None:
    listed = installed.run(*command, "prompts")
    assert listed.returncode == 0, listed.stderr
    assert all(path.stem.replace("_", ".", 1) in listed.stdout for path in (REPO / "prompts").glob("*.md"))
    ejected = installed.run(*command, "prompts", "eject", "mine")
    assert ejected.returncode == 0, ejected.stderr
    shipped, mine = (sorted(folder.glob("*.md")) for folder in (REPO / "prompts", installed.folder / "mine"))
    assert [(path.name, path.read_text()) for path in mine] == [(path.name, path.read_text()) for path in shipped]
