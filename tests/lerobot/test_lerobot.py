"""LeRobot's own reader, streaming reader and recipe renderer read what `annotator sync` writes with every module on.

Runs where `lerobot` 0.6 or newer is installed beside the project; `make check-lerobot` brings its own.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lerobot.annotate import annotate

REPO = Path(__file__).parents[2]


def why_not() -> str | None:
    """Say what is missing, without importing LeRobot: that takes seconds, and it warns."""
    found = importlib.util.find_spec("lerobot")
    if found is None or found.origin is None:
        return "lerobot is not installed in this Python"
    if not (Path(found.origin).parent / "datasets/language_render.py").is_file():
        return "this lerobot knows no language columns; 0.6 and newer do"
    if importlib.util.find_spec("datasets") is None:
        return "lerobot is here without its dataset extra: pip install 'lerobot[dataset]'"
    return None


REASON = why_not()


@pytest.mark.slow
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.parametrize("cameras", ["two videos", "a video and images"])
def test_lerobot_reads_and_renders_every_style(tmp_path: Path, cameras: str) -> None:
    root = tmp_path / "sample"
    made = ("--episodes", "3", "--fps", "10", *(("--image-camera",) if cameras != "two videos" else ()))
    subprocess.run([sys.executable, str(REPO / "examples/make_sample.py"), str(root), *made], check=True)
    annotate(root)
    staging = str(tmp_path / "staging")
    subprocess.run([sys.executable, "-m", "annotator", "export", str(root), "--staging", staging], check=True)
    command = [sys.executable, str(REPO / "tests/lerobot/check_lerobot.py"), str(root), "--full", "--staging", staging]
    done = subprocess.run(
        command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok    ") == 13
