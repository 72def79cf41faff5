"""An engine is opened for the first call that must be made: with every answer in the log, nobody has to be there."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from store.query import run_query
from tests.engine.conftest import running_server

Run = Callable[..., subprocess.CompletedProcess[str]]
QUICK = (
    *("--vlm.backend", "openai", "--vlm.model_id", "test-model", "--only_episodes", "0,1", "--vqa.enabled", "false"),
    *("--plan.frames_per_second", "0.5", "--plan.contact_sheet_frame_width", "64", "--vocabulary.enabled", "false"),
)


@pytest.fixture
def annotated(banana: Path, annotator: Run) -> tuple[Path, str]:
    """Two annotated episodes, and the address of a server that is gone."""
    with running_server("--horizon-s", "34") as server:
        annotator("sync", banana, *QUICK, "--vlm.api_base", server.api_base)
        return banana, server.api_base


def test_a_setting_whose_answers_are_all_in_the_log_needs_no_server(
    annotated: tuple[Path, str], annotator: Run
) -> None:
    root, gone = annotated
    said = annotator("sync", root, *QUICK, "--vlm.api_base", gone, "--plan.emit_plan", "false").stderr
    assert "engine          none needed" in said
    assert "2 annotated" in said
    query = "SELECT DISTINCT engine, style IN ('plan') AS plans FROM rows WHERE module = 'plan' ORDER BY ALL"
    assert run_query(root / ".annotator", query).to_pylist() == [{"engine": "log", "plans": False}]


def test_what_must_be_asked_ends_the_run_with_one_word_about_the_server(
    annotated: tuple[Path, str], annotator: Run
) -> None:
    root, gone = annotated
    said = annotator("sync", root, *QUICK, "--vlm.api_base", gone, "--seed", "9", status=2).stderr
    assert said.count("error: no model server answers") == 1
    assert "failed: episode" not in said
    failures = run_query(root / ".annotator", "SELECT count(*) AS n FROM failures WHERE NOT superseded").to_pylist()
    assert failures == [{"n": 0}]
