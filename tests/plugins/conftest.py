"""An environment in which packages of the tests are really installed: built as wheels, installed by pip, no network."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[2]
PACKAGES = Path(__file__).parent


@dataclass(frozen=True)
class Environment:
    """An environment's interpreter, and a folder to work in."""

    python: Path
    folder: Path

    def run(self, *command: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `annotator` in the folder; fails the test on another exit status than expected."""
        done = self._python("-P", "-m", "annotator", *map(str, command))
        assert done.returncode == status, done.stderr
        return done

    def execute(self, code: str) -> str:
        """Execute Python in the folder; returns what it printed."""
        done = self._python("-P", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _python(self, *words: str) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}
        command = [str(self.python), *words]
        return subprocess.run(command, cwd=self.folder, env=variables, capture_output=True, text=True, check=False)

    def query(self, root: Path, sql: str) -> list[dict[str, Any]]:
        """Ask the log of a dataset."""
        lines = self.run("query", sql, "--root", root, "--format", "json").stdout.splitlines()
        return [json.loads(line) for line in lines]


def build(package: Path, folder: Path) -> Path:
    """Build the wheel of a package."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=package, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[str]], Path]:
    """Make an environment with some packages of this folder beside the checkout; returns its interpreter."""

    def make(packages: Sequence[str]) -> Path:
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, with_pip=True)
        python = folder / "bin" / "python"
        wheels = [str(build(PACKAGES / name, tmp_path_factory.mktemp("wheel"))) for name in packages]
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--no-deps"]
        subprocess.run([*pip, *wheels], check=True, capture_output=True)
        # The checkout, and this interpreter's libraries: a folder named in a .pth file is looked into, and no more.
        places = [REPO, REPO / "store", *(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))]
        (site_packages,) = folder.glob("lib/python3*/site-packages")
        (site_packages / "annotator_tests.pth").write_text("".join(f"{place}\n" for place in dict.fromkeys(places)))
        return python

    return make
