"""Environments in which packages of this folder are installed by pip, as wheels that are built here, offline."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[2]
PACKAGES = Path(__file__).parent
SERVE = """
import contextlib, io, json, os, sys
from annotator.cli.main import main
for line in sys.stdin:
    folder, words = json.loads(line)
    os.chdir(folder)
    out, err = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = exec(words[1], {}) if words[0] == "-c" else main(words)
        except SystemExit as leaving:
            status = leaving.code
    texts = [(stream.flush(), stream.buffer.getvalue().decode())[1] for stream in (out, err)]
    print(json.dumps([status, *texts]), flush=True)
"""
"""Runs one `annotator` command, or Python code, after the other in one process, which spares the start of each."""


@dataclass(frozen=True)
class Environment:
    """A process of an environment that runs commands, and the folder to run them in."""

    process: "subprocess.Popen[str]"
    folder: Path

    def run(self, *command: str | Path, status: int | None = 0) -> tuple[str, str]:
        """Run an `annotator` command; returns what it wrote to stdout and stderr."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(self.folder), [str(word) for word in command]]) + "\n")
        self.process.stdin.flush()
        got, out, err = json.loads(self.process.stdout.readline())
        assert got == status, err
        return out, err

    def execute(self, code: str) -> str:
        """Execute Python; returns what it printed."""
        out, _ = self.run("-c", code, status=None)
        return out

    def query(self, root: Path, sql: str) -> list[dict[str, Any]]:
        """Ask the log of a dataset."""
        out, _ = self.run("query", sql, "--root", root, "--format", "json")
        return [json.loads(line) for line in out.splitlines()]


def build(package: Path, folder: Path) -> Path:
    """Build the wheel of a package."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=package, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(packages: Sequence[str], folder: Path) -> Path:
    """Make an environment in `folder` with some packages beside the checkout; returns its interpreter."""
    venv.create(folder / "environment", with_pip=True)
    python = folder / "environment" / "bin" / "python"
    wheels = [str(build(PACKAGES / name, folder / name)) for name in packages]
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, *wheels], check=True, capture_output=True)
    # The checkout, and this interpreter's libraries: a folder named in a .pth file is looked into, and no more.
    places = [REPO, REPO / "store", *(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))]
    (site_packages,) = (folder / "environment").glob("lib/python3*/site-packages")
    (site_packages / "checkout.pth").write_text("".join(f"{place}\n" for place in dict.fromkeys(places)))
    return python


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Install some packages of this folder into a new environment, and start a process of it that takes commands."""
    with ExitStack() as stack:

        def start_with(*packages: str) -> "subprocess.Popen[str]":
            command = [str(install(packages, tmp_path_factory.mktemp("plugins"))), "-P", "-c", SERVE]
            variables = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}
            pipe = subprocess.PIPE
            process = stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=variables))
            assert process.stdin is not None
            stack.callback(process.stdin.close)
            return process

        yield start_with
