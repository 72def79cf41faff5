"""A whole run over servers that die, refuse, talk nonsense, or are the run's own. Real processes throughout."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.processes import (
    SERVER,
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

Env = dict[str, str]
IN_FLIGHT = 2
"""What `QUICKER` allows at each endpoint."""
LIGHT = ("--vqa.enabled", "false", "--interjections.enabled", "false")
"""Fewer calls than usual."""


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Env:
    return environment(tmp_path_factory)


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory, env: Env) -> Iterator[Server]:
    with model_server(tmp_path_factory.mktemp("steady") / "answers", delay_ms=30, env=env) as running:
        yield running


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, steady: Server, env: Env) -> Path:
    """A copy of the dataset that one server annotated, undisturbed."""
    root = copy_banana(tmp_path_factory.mktemp("reference") / "banana")
    steady.control("reset", [])  # whichever test comes first: the server may still hold the faults of another one
    finish(begin(root, steady.api_base, env=env))
    return root


@pytest.fixture
def server(steady: Server) -> Server:
    steady.forget()
    steady.control("reset", [])
    return steady


@pytest.fixture
def banana(tmp_path: Path) -> Path:
    return copy_banana(tmp_path / "banana")


def begin(root: Path, api_base: str, *more: object, env: Env) -> "subprocess.Popen[str]":
    return start_sync(root, api_base, *LIGHT, *more, env=env)


def sent(root: Path) -> int:
    """How many requests the log says were sent."""
    return int(ask_log(root, "SELECT coalesce(sum(attempts), 0)::BIGINT AS n FROM calls")[0]["n"])


def failures(root: Path) -> Counter[str]:
    return Counter(row["kind"] for row in ask_log(root, "SELECT kind FROM failures WHERE outcome = 'failed'"))


@pytest.fixture
def pair(tmp_path: Path, env: Env) -> Iterator[tuple[Server, Server]]:
    """Two servers that a test may kill."""
    logs = (tmp_path / "one", tmp_path / "two")
    with model_server(logs[0], delay_ms=40, env=env) as one, model_server(logs[1], delay_ms=40, env=env) as two:
        yield one, two


def test_a_run_over_two_servers_survives_the_death_of_one_and_repeats_only_what_was_in_flight(
    banana: Path, pair: tuple[Server, Server], env: Env, reference: Path
) -> None:
    dying, other = pair
    dying.control("faults", [{"fault": "die", "skip": 1}])  # an episode has three requests, and each server an episode
    said = finish(begin(banana, f"{dying.api_base},{other.api_base}", env=env))
    kept, answered = kept_steps(banana), dying.count() + other.count()
    assert kept == kept_steps(reference)
    assert answered - kept.total() <= IN_FLIGHT, "an answer that was kept was asked for again"
    assert sent(banana) - kept.total() <= IN_FLIGHT
    assert failures(banana) == {}
    assert shown(banana) == shown(reference)
    assert f"{dying.api_base} does not answer (connection): going on with the others" in said
    by_endpoint = ask_log(banana, "SELECT endpoint, count(*) AS n FROM calls GROUP BY endpoint")
    assert {row["endpoint"] for row in by_endpoint} == {dying.api_base, other.api_base}


def test_a_run_whose_servers_all_die_says_so_keeps_every_answer_and_ends_with_1(
    banana: Path, pair: tuple[Server, Server], server: Server, env: Env, reference: Path
) -> None:
    for one in pair:
        one.control("faults", [{"fault": "die", "skip": 3}])
    bases = f"{pair[0].api_base}, {pair[1].api_base}"
    said = finish(begin(banana, bases, "--vlm.request_max_retries", 1, env=env), status=1)
    answers = pair[0].answers() + pair[1].answers()
    assert "what was answered is kept\nhint: is the server up? --vlm.api_base says where it is" in said
    assert "Traceback" not in said
    assert kept_steps(banana) == Counter(answer.step for answer in answers)
    assert set(failures(banana)) == {"connection"}
    named = ask_log(banana, "SELECT DISTINCT endpoint FROM calls WHERE outcome = 'failed'")
    assert {row["endpoint"] for row in named} <= {one.api_base for one in pair}

    finish(begin(banana, server.api_base, env=env))
    assert server.count() == kept_steps(reference).total() - len(answers)
    assert shown(banana) == shown(reference)


PASSING: list[dict[str, Any]] = [
    {"fault": "http_500", "times": 2},
    {"fault": "http_429", "times": 1, "skip": 2, "retry_after": 0.3},
    {"fault": "http_503", "times": 1, "skip": 3, "retry_after": 0.3},
    {"fault": "reset", "times": 1, "skip": 4},
    {"fault": "html_502", "times": 1, "skip": 5},
    {"fault": "silence", "times": 1, "skip": 6, "seconds": 60},
    {"fault": "disconnect", "times": 1, "skip": 7},
]


def test_faults_that_pass_cost_retries_alone_and_the_log_says_how_many(
    banana: Path, server: Server, env: Env, reference: Path
) -> None:
    server.control("faults", PASSING)
    finish(begin(banana, server.api_base, "--vlm.request_timeout_s", 2, env=env))
    assert kept_steps(banana) == kept_steps(reference)
    assert shown(banana) == shown(reference)
    faults = sum(rule["times"] for rule in PASSING)
    assert server.control("stats")["received"] == sent(banana) == kept_steps(reference).total() + faults


LASTING = (
    {"garbage": "bad_reply", "truncated": "bad_reply", "empty_choices": "bad_reply", "html_200": "bad_reply"},
    {"http_500": "http_500", "reset": "connection", "silence": "timeout", "wrong_schema": "rejected"},
)
"""Fault → what the log says of it. Four to a run, one for the task's wordings of each of four episodes."""
ASKED_TWICE = ("http_500", "reset", "silence", "wrong_schema")


def test_a_fault_that_lasts_is_one_recorded_failure_and_the_next_run_asks_for_nothing_else(
    banana: Path, server: Server, env: Env
) -> None:
    one_by_one = ("--only_episodes", "0-3", "--executor.episode_parallelism", 1, "--vlm.client_concurrency", 1)
    flags = (*one_by_one, "--vlm.request_timeout_s", 1, "--vlm.request_max_retries", 1)
    for number, faults in enumerate(LASTING):
        rules = [
            {"fault": f, "step": "plan_task_rephrasings", "times": 1 + (f in ASKED_TWICE), "seconds": 60}
            for f in faults
        ]
        server.control("faults", rules)
        finish(begin(banana, server.api_base, *flags, env=env), status=1)
        last = "run_id = (SELECT run_id FROM runs ORDER BY started_at DESC LIMIT 1)"
        found = ask_log(banana, f"SELECT coalesce(kind, outcome) AS kind, attempts FROM failures WHERE {last}")
        twice = {"rejected": 1} if "wrong_schema" in faults else {}  # both replies are on record
        assert Counter(row["kind"] for row in found) == Counter(faults.values()) + Counter(twice)
        assert all(row["attempts"] in (None, 1, 2) for row in found)
        calls = ask_log(banana, f"SELECT step, attempts FROM calls WHERE {last}")
        assert server.control("stats")["received"] == sum(row["attempts"] for row in calls)
        # A failed call ends its module: what was still to come in that episode is asked by a later run, nothing else.
        asked = Counter(row["step"] for row in calls)
        assert asked["plan.task_rephrasings"] == 4 + len(twice)
        assert number == 0 or set(asked) <= {"plan.task_rephrasings", "plan.milestones"}


def test_a_run_stops_asking_after_the_failures_it_was_allowed(banana: Path, server: Server, env: Env) -> None:
    server.control("faults", [{"fault": "http_400"}])
    off = ("--vocabulary.enabled", "false", "--max_failures", 2)
    said = finish(begin(banana, server.api_base, *off, env=env), status=1)
    assert "asking nothing more in this run: 2 calls failed (--max_failures)" in said
    assert 2 <= failures(banana)["http_400"] <= 1 + IN_FLIGHT, "calls that waited for their turn were sent all the same"
    assert server.control("stats")["received"] == sent(banana)


# Servers of the run's own

SPAWN = f"{sys.executable} {SERVER} --port {{port}} --horizon-s 34"


def spawned(root: Path) -> list[psutil.Process]:
    """The processes that are there because of a dataset's run, watchdogs and servers: they carry its path."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if str(root) in " ".join(process.cmdline()) and "-m annotator sync" not in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != os.getpid()]


def serving(root: Path, delay_ms: int = 0) -> tuple[str, ...]:
    command = f"{SPAWN} --delay-ms {delay_ms} --log {root}/../answers"
    return ("--vlm.backend", "serve", "--vlm.parallel_servers", "2", "--vlm.serve_command", command)


def test_a_run_starts_its_own_servers_and_stops_them_and_a_second_run_starts_none(
    banana: Path, env: Env, reference: Path
) -> None:
    env = env | {"CUDA_VISIBLE_DEVICES": ""}
    said = finish(begin(banana, "", *serving(banana), env=env))
    assert "engine: serve – starting 2 servers of test-model" in said
    wait_for(lambda: spawned(banana) == [], "the end of the servers")
    assert kept_steps(banana) == kept_steps(reference)
    assert shown(banana) == shown(reference)
    assert litter(banana) == [".annotator/serve/server-0.log", ".annotator/serve/server-1.log"]
    assert "engine: serve" not in finish(begin(banana, "", *serving(banana), env=env))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_server_outlives_a_run_that_is_ended_from_outside(banana: Path, env: Env, number: signal.Signals) -> None:
    env = env | {"CUDA_VISIBLE_DEVICES": ""}
    answers = banana.parent / "answers"
    run = begin(banana, "", *serving(banana, delay_ms=100), env=env)
    wait_for(lambda: answers.exists() and answers.read_bytes().count(b"\n") >= 2, "2 answers", run)
    assert spawned(banana)
    run.send_signal(number)
    run.communicate(timeout=60)
    assert run.returncode == (143 if number is signal.SIGTERM else -signal.SIGKILL)
    wait_for(lambda: spawned(banana) == [], "the end of the servers")
