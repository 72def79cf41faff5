"""An engine is opened for the first call that must be made: with every answer in the log, nobody has to be there."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from annotator_store.log.query import run_query
from tests.vlm.conftest import running_server

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


def test_what_cannot_be_used_refuses_the_run_and_not_each_episode(annotated: tuple[Path, str], annotator: Run) -> None:
    root, gone = annotated
    wrong = ("--vlm.api_base", gone, "--vlm.api_key_env", "NO_SUCH_VARIABLE", "--seed", "9")
    said = annotator("sync", root, *QUICK, *wrong, status=2).stderr
    assert said.count("the API key is not set") == 1
    assert "failed: episode" not in said


def test_servers_that_do_not_start_are_not_started_for_each_call(
    annotated: tuple[Path, str], annotator: Run, tmp_path: Path
) -> None:
    """Many calls wait for the engine; the first to find that there is none tells all."""
    root, _ = annotated
    script = tmp_path / "start"
    script.write_text(f"#!/bin/sh\necho started >> {tmp_path}/starts\nexit 3\n")
    script.chmod(0o755)
    served = ("--vlm.backend", "serve", "--vlm.serve_command", f"{script} {{port}}", "--seed", "9")
    said = annotator("sync", root, *QUICK, *served, status=2).stderr
    assert said.count("error: no server got ready") == 1
    assert (tmp_path / "starts").read_text() == "started\n"


def test_a_refusal_from_the_log_names_who_refused(banana: Path, annotator: Run) -> None:
    signals = ("--vlm.backend", "signals", "--only_episodes", "0", "--plan.subtask_seeded_relabel", "true")
    first = annotator("sync", banana, *signals).stderr
    (refusal,) = (line for line in first.splitlines() if line.startswith("plan.relabel: signals declines"))
    again = annotator("sync", banana, *signals, "--plan.emit_plan", "false").stderr
    assert "engine          none needed" in again
    assert refusal in again.splitlines()
