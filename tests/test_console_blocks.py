"""Every console block in README, docs and examples runs, in order, as a reader would run it.

A line that starts with `$ ` is a command; the lines under it, if there are any, are what it prints on stdout. Another
block that names a file, such as ```python annotate.py, is a file of this repository, word for word, or one that the
reader makes. The packages of tests/plugins are importable for the page that shows them.
"""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PAGES = sorted(
    page
    for page in [REPO / "README.md", *(REPO / "docs").glob("**/*.md"), *(REPO / "examples").glob("*.md")]
    if "```console" in page.read_text(encoding="utf-8")
)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Read a page's blocks: language, file (or nothing), text."""
    return re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[tuple[str, str]]:
    """Read the commands of a console block, each with the output it shows."""
    parts = [part.partition("\n") for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(command, output.strip()) for command, _, output in parts]


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the packages of tests/plugins and unpack them into one folder, as pip would."""
    built, folder = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("plugins")
    for package in ("scene_module", "echo_engine"):
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
        subprocess.run(command, cwd=REPO / "tests" / "plugins" / package, check=True, capture_output=True)
    for wheel in built.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_there_are_pages_with_console_blocks() -> None:
    assert REPO / "README.md" in PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_the_blocks_run_and_print_what_they_show(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "examples").symlink_to(REPO / "examples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "NO_COLOR": "1", "COLUMNS": "120"}
    if page.name == "extending.md":
        environment["PYTHONPATH"] = str(request.getfixturevalue("plugins"))
    for language, file, text in blocks(page):
        if file and (REPO / file).exists():
            assert text == (REPO / file).read_text(encoding="utf-8"), file
        elif file:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(text, encoding="utf-8")
        for command, shown in commands(text) if language == "console" else ():
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"$ {command}\n{done.stderr}"
            if shown:
                printed = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
                assert printed == shown, f"$ {command}"
