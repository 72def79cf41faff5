"""The commands that the dataset card gives do what it says, word for word, from the dataset's own folder."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from annotator_store.log.query import run_query
from tests.conftest import MakeDataset
from tests.datasets import Recording
from tests.pipeline.conftest import BANANA, REPO

Command = Callable[..., str]
FILES = ("meta/annotations.lock.json", "README.md", "meta/info.json")


def run_card(root: Path) -> subprocess.CompletedProcess[str]:
    """Run the card's block of commands in the dataset's folder, as one who reads it would."""
    (block,) = re.findall(r"```sh\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    shell = f'set -e\nannotator() {{ "{sys.executable}" -m annotator.cli.main "$@"; }}\n{block}'
    environment = os.environ | {"PYTHONPATH": f"{REPO}:{REPO}/store"}
    return subprocess.run(["bash", "-c", shell], cwd=root, env=environment, capture_output=True, text=True, check=False)


def held(root: Path) -> dict[str, tuple[bytes, int]]:
    paths = [*(root / name for name in FILES), *sorted((root / "data").rglob("*.parquet"))]
    return {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def holds(root: Path, elsewhere: Path) -> None:
    """Run the commands in a copy; fail unless they find nothing wrong, ask nothing and change nothing."""
    shutil.copytree(root, elsewhere)
    before = held(elsewhere)
    done = run_card(elsewhere)
    assert done.returncode == 0, done.stderr
    assert "nothing is wrong" in done.stderr
    assert held(elsewhere) == before
    last = run_query(elsewhere / ".annotator", "SELECT * FROM runs ORDER BY started_at").to_pylist()[-1]
    assert (last["outcome"], last["calls_failed"], last["calls_answered"]) == ("done", 0, 0)


@pytest.mark.parametrize(
    "flags",
    [
        ("--vlm.backend", "signals"),
        ("--vlm.backend", "signals", "--seed", "7", "--plan.emit_memory=false", "--interjections.enabled=false"),
        (
            "--vlm.backend",
            "scripted",
            "--vqa.question_types",
            "count,spatial",
            "--vlm.camera_key",
            "top",
        ),
        ("--vlm.backend", "scripted", "--vocabulary.enabled=false", "--vqa.enabled=false", "--plan.view", "video"),
    ],
)
def test_the_cards_commands_find_nothing_to_do(
    make_dataset: MakeDataset, command: Command, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    cameras = () if "signals" in flags else ("side", "top")
    root = make_dataset(tmp_path / "cups", [Recording(n, frames=40) for n in (1, 2)], cameras=cameras)
    command("sync", root, *flags)
    holds(root, tmp_path / "elsewhere")


def test_the_cards_commands_name_the_model_of_a_server(command: Command, server: str, tmp_path: Path) -> None:
    root = Path(shutil.copytree(BANANA.parent / "so101_static", tmp_path / "cups"))
    flags = ("--vlm.api_base", server, "--vlm.model_id", "test-model", "--vlm.temperature", "0.5", "--seed", "3")
    command("sync", root, *flags, "--vqa.enabled=false")
    assert "--vlm.model_id test-model --vlm.temperature 0.5 --seed 3" in (root / "README.md").read_text()
    holds(root, tmp_path / "elsewhere")
