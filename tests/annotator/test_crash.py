"""A run that ends early loses no answer, and the next run goes on from there. Real processes, real signals."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from tests.annotator.processes import (
    QUICKER,
    REPO,
    Answer,
    Server,
    ask_log,
    copy_banana,
    environment,
    finish,
    kept_steps,
    litter,
    model_server,
    shown,
    start_sync,
    wait_for,
)

DELAY_MS = 60
GRACE_S = 0.2
"""An answer that left the server longer ago than this is on disk. A machine that is late itself gets its lateness."""
MOMENTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 11)

Env = dict[str, str]
RunServer = Callable[[], Server]


class Reference(msgspec.Struct, frozen=True):
    """What an undisturbed run asked, step by step and request by request, and what it left to be read."""

    root: Path
    requests: Counter[str]
    steps: Counter[str]
    shown: Mapping[str, bytes]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Env:
    return environment(tmp_path_factory.mktemp("bytecode"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, env: Env) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    root = copy_banana(folder / "banana")
    with model_server(folder / "answers", delay_ms=0) as server:
        finish(start_sync(root, server.api_base, env=env))
        answers = server.answers()
    assert len(answers) > MOMENTS[-1]
    requests = Counter(answer.request for answer in answers)
    return Reference(root, requests, Counter(answer.step for answer in answers), shown(root))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with model_server(tmp_path / "answers", delay_ms=DELAY_MS) as running:
        yield running


@pytest.fixture
def banana(tmp_path: Path) -> Path:
    return copy_banana(tmp_path / "banana")


def asked_again(before: list[Answer], after: list[Answer], reference: Reference) -> Counter[str]:
    """Requests that two runs together made more often than one undisturbed run does."""
    return Counter(answer.request for answer in [*before, *after]) - reference.requests


def finishes(root: Path, server: Server, env: Env, reference: Reference, known_to_be_kept: list[Answer]) -> None:
    """Run again: only what the log lacks is asked, and the dataset reads as if nothing had happened."""
    kept, before = kept_steps(root), server.count()
    finish(start_sync(root, server.api_base, env=env))
    second = server.answers()[before:]
    assert Counter(answer.step for answer in second) == reference.steps - kept
    assert not asked_again(known_to_be_kept, second, reference)
    assert shown(root) == reference.shown
    assert litter(root) == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_after_some_answers_keeps_them_and_the_next_asks_only_what_is_missing(
    moment: int, banana: Path, server: Server, env: Env, reference: Reference
) -> None:
    run = start_sync(banana, server.api_base, env=env)
    lag_s = wait_for(lambda: server.count() >= moment, f"{moment} answers", run)
    killed_at = time.time()
    run.kill()
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    server.settle()
    answered = server.answers()
    old = [answer for answer in answered if answer.at < killed_at - GRACE_S - lag_s]

    kept = kept_steps(banana)
    assert not Counter(answer.step for answer in old) - kept
    assert not kept - Counter(answer.step for answer in answered)
    assert [p.name for p in banana.glob("data/**/*.parquet")] == ["file-000.parquet"]
    finishes(banana, server, env, reference, old)


def test_answers_are_on_disk_soon_after_they_arrive_and_not_only_when_a_run_ends(
    banana: Path, server: Server, env: Env
) -> None:
    run = start_sync(banana, server.api_base, env=env)
    lag_s = wait_for(lambda: server.count() >= 3, "3 answers", run)
    three = time.monotonic()
    wait_for(lambda: kept_steps(banana).total() >= 3, "3 kept answers")
    late_s = time.monotonic() - three
    run.kill()
    run.communicate()
    assert late_s < GRACE_S + lag_s + 0.3  # the query itself takes some of it


DYING = """
import os, signal, sys
from store import info, replace, shards
from annotator.cli import main

module, when, replace_durably = {"shards": shards, "info": info}[sys.argv[1]], sys.argv[2], replace.replace_durably

def dying(temporary, target):
    if when == "after":
        replace_durably(temporary, target)
    os.kill(os.getpid(), signal.SIGKILL)

module.replace_durably = dying
main(sys.argv[3:])
"""
"""`annotator`, killed by itself just before or after the rename that puts a new file in its place."""


def test_a_run_killed_around_each_rename_of_its_projection_leaves_whole_files_and_the_next_finishes(
    banana: Path, env: Env, reference: Reference
) -> None:
    shutil.copytree(reference.root / ".annotator" / "journal", banana / ".annotator" / "journal")
    untouched, known = shown(banana), kept_steps(banana)
    assert known == reference.steps
    arguments = ["sync", str(banana), *QUICKER, "--vlm.api_base", "http://127.0.0.1:1/v1"]
    places = [(file, when) for file in ("shards", "info") for when in ("before", "after")]
    for file, when in places:
        command = [sys.executable, "-c", DYING, file, when, *arguments]
        died = subprocess.run(command, capture_output=True, text=True, cwd=REPO, env=env, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr
        now = shown(banana)
        assert now.keys() == untouched.keys()
        for name, held in now.items():
            new = (file, when) in places[1:] if name.startswith("data/") else (file, when) == places[-1]
            assert held == (reference.shown if new else untouched)[name]
    finish(start_sync(banana, "http://127.0.0.1:1/v1", env=env))
    assert ask_log(banana, "SELECT calls_answered + calls_hit AS n FROM runs ORDER BY started_at")[-1]["n"] == 0
    assert shown(banana) == reference.shown
    assert litter(banana) == []


def test_ctrl_c_exits_130_with_a_hint_and_the_next_run_finishes(
    banana: Path, server: Server, env: Env, reference: Reference
) -> None:
    run = start_sync(banana, server.api_base, env=env)
    lag_s = wait_for(lambda: server.count() >= 5, "5 answers", run)
    stopped_at = time.time()
    run.send_signal(signal.SIGINT)
    said = finish(run, status=130)
    assert "interrupted\nhint: every answer that arrived is kept; run the same command to go on" in said
    assert "Traceback" not in said
    server.settle()
    old = [answer for answer in server.answers() if answer.at < stopped_at - GRACE_S - lag_s]
    assert not Counter(answer.step for answer in old) - kept_steps(banana)
    assert [row["outcome"] for row in ask_log(banana, "SELECT outcome FROM runs")] == ["interrupted"]
    assert litter(banana) == []
    finishes(banana, server, env, reference, old)


def test_a_terminated_run_keeps_what_was_answered_and_the_next_finishes(
    banana: Path, server: Server, env: Env, reference: Reference
) -> None:
    run = start_sync(banana, server.api_base, env=env)
    lag_s = wait_for(lambda: server.count() >= 5, "5 answers", run)
    stopped_at = time.time()
    run.terminate()
    _, said = run.communicate()
    assert run.returncode != 0
    assert "Traceback" not in said
    server.settle()
    old = [answer for answer in server.answers() if answer.at < stopped_at - GRACE_S - lag_s]
    assert not Counter(answer.step for answer in old) - kept_steps(banana)
    finishes(banana, server, env, reference, old)


def test_a_server_that_dies_ends_the_run_with_a_clear_message_and_another_server_answers_only_the_rest(
    banana: Path, server: Server, env: Env, reference: Reference, tmp_path: Path
) -> None:
    run = start_sync(banana, server.api_base, "--vlm.request_max_retries", 1, env=env)
    wait_for(lambda: server.count() >= 5, "5 answers", run)
    server.process.kill()
    said = finish(run, status=1)
    assert "the server cannot be reached, or it hung up" in said
    assert server.api_base in said
    assert "what was answered is kept" in said
    assert "hint: is the server up? --vlm.api_base says where it is" in said
    assert "Traceback" not in said
    # The client was alive when the last answer left: every single one is kept.
    first = server.answers()
    assert kept_steps(banana) == Counter(answer.step for answer in first)
    failed = {row["kind"] for row in ask_log(banana, "SELECT kind FROM failures WHERE outcome = 'failed'")}
    assert failed == {"connection"}
    with model_server(tmp_path / "answers elsewhere", delay_ms=0) as other:
        assert other.api_base != server.api_base
        finishes(banana, other, env, reference, first)
        assert other.count() == reference.steps.total() - len(first)


def test_a_disk_that_fills_up_while_recording_is_one_message_with_a_hint_and_what_was_kept_stays(
    banana: Path, server: Server, env: Env, reference: Reference
) -> None:
    # No file may grow beyond this; the journal's gets there first. Bytecode would be cut off too, so none is written.
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))}
    command = [sys.executable, "-m", "annotator.cli", "sync", str(banana), *QUICKER, "--vlm.api_base", server.api_base]
    full = subprocess.run(
        command, capture_output=True, text=True, cwd=REPO, env=env | {"PYTHONDONTWRITEBYTECODE": "1"}, check=False, **limit
    )
    assert full.returncode == 1
    assert full.stderr.count("error: ") == 1
    assert "error: events could not be recorded" in full.stderr
    assert "hint: free some space on this disk" in full.stderr
    assert "Traceback" not in full.stderr
    server.settle()
    assert 0 < kept_steps(banana).total() < reference.steps.total()
    finishes(banana, server, env, reference, [])
