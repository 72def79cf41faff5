"""An engine that another package brings, in runs from end to end."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import MakeDataset
from tests.datasets import Recording
from tests.plugins.conftest import Environment

CALLS = "SELECT engine, model_id, versions, count(*) AS n FROM calls WHERE outcome = 'answered' GROUP BY ALL"
SUBTASKS = "SELECT DISTINCT content FROM rows WHERE style = 'subtask'"


@pytest.fixture(scope="module")
def process(start: "Callable[..., subprocess.Popen[str]]") -> "subprocess.Popen[str]":
    return start("echo_engine")


@pytest.fixture
def environment(process: "subprocess.Popen[str]", tmp_path: Path) -> Environment:
    return Environment(process, tmp_path)


@pytest.fixture
def root(make_dataset: MakeDataset, tmp_path: Path) -> Path:
    return make_dataset(tmp_path, [Recording(1), Recording(2)])


def test_its_answers_are_kept_under_its_model_locked_carded_and_never_asked_for_again(
    environment: Environment, root: Path
) -> None:
    _, notes = environment.run("sync", root, "--vlm.backend", "echo", "--vlm.engine_kwargs", '{"version": "7"}')
    assert "engine: echo – no model; the task is the only subtask" in notes
    assert "vqa: left out, the echo engine sees no pixels" in notes
    assert "is not used by" not in notes
    (call,) = environment.query(root, CALLS)
    assert (call["engine"], call["model_id"], call["n"]) == ("echo", "echo.v1", 2)
    assert "7" in str(call["versions"])
    assert environment.query(root, SUBTASKS)
    assert json.loads((root / "meta" / "annotations.lock.json").read_text())["model"]["model_id"] == "echo.v1"
    assert "--vlm.backend echo" in (root / "README.md").read_text()
    environment.run("validate", root)
    environment.run("verify", root)

    before = environment.query(root, "SELECT count(*) AS n FROM calls")
    environment.run("sync", root, "--vlm.backend", "echo", "--offline")
    assert environment.query(root, "SELECT count(*) AS n FROM calls") == before
    environment.run("sync", root, "--vlm.backend", "echo", "--locked")


def test_its_settings_are_checked_before_a_store_is_made(environment: Environment, root: Path) -> None:
    _, refused = environment.run("sync", root, "--vlm.backend", "echo", "--vlm.engine_kwargs", '{"loud": 1}', status=2)
    assert "echo has no such setting – --vlm.engine_kwargs – loud" in refused
    assert not (root / ".annotator").exists()


def test_what_it_does_not_use_is_noted_and_the_doctor_lists_it(environment: Environment, root: Path) -> None:
    _, notes = environment.run("sync", root, "--vlm.backend", "echo", "--vlm.num_gpus", "2")
    assert "note: --vlm.num_gpus is not used by echo" in notes
    examined, _ = environment.run("doctor", "--vlm.backend", "echo")
    assert "annotator-echo-engine 1.0" in examined
    _, unknown = environment.run("sync", root, "--vlm.backend", "ohce", status=2)
    assert "offline, echo" in unknown
