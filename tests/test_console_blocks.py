"""Every console block in README, docs and examples runs, in order, as a reader would run it.

A line that starts with `$ ` is a command; the lines under it, if there are any, are what it prints on stdout.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PAGES = sorted(
    page
    for page in [REPO / "README.md", *(REPO / "docs").glob("**/*.md"), *(REPO / "examples").glob("*.md")]
    if "```console" in page.read_text(encoding="utf-8")
)


def commands(page: Path) -> list[tuple[str, str]]:
    """Read a page's commands, each with the output it shows."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output.strip()))
    return found


def test_there_are_pages_with_console_blocks() -> None:
    assert REPO / "README.md" in PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_the_console_blocks_run_and_print_what_they_show(page: Path, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(REPO / "examples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "NO_COLOR": "1", "COLUMNS": "120"}
    for command, shown in commands(page):
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"$ {command}\n{done.stderr}"
        if shown:
            printed = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
            assert printed == shown, f"$ {command}"
