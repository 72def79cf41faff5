"""The log answers questions while a run is writing it, and only one run at a time writes it. Real processes."""

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import (
    REPO,
    Server,
    copy_banana,
    environment,
    finish,
    kept_steps,
    litter,
    model_server,
    start,
    start_sync,
    wait_for,
)

COUNTS = """
SELECT (SELECT count(*) FROM calls WHERE outcome = 'answered') AS calls, (SELECT count(*) FROM rows) AS rows,
       (SELECT count(*) FROM runs) AS runs
"""

Env = dict[str, str]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Env:
    return environment(tmp_path_factory)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, env: Env) -> Iterator[Server]:
    with model_server(tmp_path_factory.mktemp("server") / "answers", delay_ms=250, env=env) as running:
        yield running


@pytest.fixture
def banana(tmp_path: Path) -> Path:
    return copy_banana(tmp_path / "banana")


def query(root: Path, env: Env) -> dict[str, int]:
    """Ask for all counts with `annotator query`, as another person would during a run."""
    asking = start("query", COUNTS, "--root", root, "--format", "json", env=env)
    said, complaint = asking.communicate(timeout=60)
    assert asking.returncode == 0, complaint
    assert complaint == ""
    return json.loads(said)


def two_more_answers(server: Server) -> Callable[[], bool]:
    least = server.count() + 2
    return lambda: server.count() >= least


def only_grow(seen: list[dict[str, int]], *names: str) -> bool:
    return all(earlier[name] <= later[name] for earlier, later in itertools.pairwise(seen) for name in names)


def test_a_second_process_sees_calls_and_rows_grow_while_a_run_goes_on_and_never_fails(
    banana: Path, server: Server, env: Env
) -> None:
    server.forget()
    run = start_sync(banana, server.api_base, "--vlm.client_concurrency", 1, env=env)
    wait_for((banana / ".annotator" / "lock").exists, "a store", run)
    seen = [query(banana, env)]
    for _ in range(3):
        wait_for(two_more_answers(server), "two more answers", run)
        server.process.send_signal(signal.SIGSTOP)  # however slow the query is, the run is not done before it
        seen.append(query(banana, env))
        server.process.send_signal(signal.SIGCONT)
    growing = [counts["calls"] for counts in seen[1:]]
    assert growing == sorted(set(growing))
    assert {counts["runs"] for counts in seen} == {0}
    while run.poll() is None:
        seen.append(query(banana, env))
    finish(run)
    seen.append(query(banana, env))
    assert only_grow(seen, "calls", "rows", "runs")
    assert seen[-1]["rows"] > 0
    assert seen[-1]["runs"] == 1
    assert kept_steps(banana).total() == seen[-1]["calls"]


ASKING = """
import json, sys
from pathlib import Path
from annotator_store.log.query import run_query

store, sql, done = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
asked_after = 0
while asked_after < 3:
    asked_after += done.exists()
    print(json.dumps(run_query(store, sql).to_pylist()[0]), flush=True)
"""
"""Asks without a pause, in one process, until a little after the last run is done."""


def test_questions_asked_without_a_pause_around_the_end_of_runs_neither_fail_nor_disturb_them(
    banana: Path, server: Server, env: Env, tmp_path: Path
) -> None:
    """The run seals its journal, folds its cache and lets go of it while another process asks, over and over."""
    finish(start_sync(banana, server.api_base, "--only_episodes", 0, env=env))
    done = tmp_path / "done"
    command = [sys.executable, "-c", ASKING, str(banana / ".annotator"), COUNTS, str(done)]
    piped = subprocess.PIPE
    asking = subprocess.Popen(command, stdout=piped, stderr=piped, text=True, cwd=REPO, env=env)
    for count in (1, 2):  # each run is short: one episode, one call anew
        finish(start_sync(banana, server.api_base, "--only_episodes", 0, "--plan.n_task_rephrasings", count, env=env))
    done.touch()
    said, complaint = asking.communicate(timeout=60)
    assert asking.returncode == 0, complaint
    seen = [json.loads(line) for line in said.splitlines()]
    assert only_grow(seen, "calls", "runs")
    assert {counts["runs"] for counts in seen} == {1, 2, 3}
    assert len(seen) > 10
    assert litter(banana) == []


def test_a_second_run_on_the_same_store_is_refused_and_the_first_goes_on(
    banana: Path, server: Server, env: Env
) -> None:
    server.forget()
    first = start_sync(banana, server.api_base, "--vlm.client_concurrency", 1, env=env)
    wait_for(lambda: server.count() > 0, "an answer", first)
    first.send_signal(signal.SIGSTOP)  # it holds the store, and cannot be done before the second has come
    said = finish(start_sync(banana, server.api_base, env=env), status=1)
    assert f"error: another process is writing this store – {banana / '.annotator'} – pid {first.pid} on " in said
    assert "hint: wait until it is done; `annotator query` reads the store meanwhile" in said
    assert "Traceback" not in said
    first.send_signal(signal.SIGCONT)
    finish(first)
    assert kept_steps(banana).total() > 0
