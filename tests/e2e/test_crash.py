"""A run that ends early loses no answer, and the next run goes on from there. Real processes, real signals."""

import itertools
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import msgspec
import pytest

from tests.e2e.processes import (
    QUICKER,
    REPO,
    Answer,
    Server,
    ask_log,
    copy_banana,
    environment,
    finish,
    fsync_s,
    kept_steps,
    litter,
    model_server,
    shown,
    start_sync,
    wait_for,
)

GRACE_S = 0.2
"""An answer that left the server longer ago than this is on disk; how late machine and disk are comes on top."""

Env = dict[str, str]


class Reference(msgspec.Struct, frozen=True):
    """What an undisturbed run asked, by step and by request, and what it left to be read."""

    root: Path
    requests: Counter[str]
    steps: Counter[str]
    shown: Mapping[str, bytes]


class Stopped(msgspec.Struct, frozen=True):
    """How a run ended, what it said on stderr, and up to when (seconds, Unix) every answer must be on disk."""

    status: int
    said: str
    kept_until: float


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Env:
    return environment(tmp_path_factory)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory, env: Env) -> Iterator[Server]:
    with model_server(tmp_path_factory.mktemp("server") / "answers", delay_ms=60, env=env) as running:
        yield running


@pytest.fixture
def server(shared_server: Server) -> Server:
    shared_server.forget()
    return shared_server


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, shared_server: Server, env: Env) -> Reference:
    root = copy_banana(tmp_path_factory.mktemp("reference") / "banana")
    shared_server.forget()
    finish(start_sync(root, shared_server.api_base, env=env))
    answers = shared_server.answers()
    shared_server.forget()
    requests = Counter(answer.request for answer in answers)
    return Reference(root, requests, steps_of(answers), shown(root))


@pytest.fixture
def banana(tmp_path: Path) -> Path:
    return copy_banana(tmp_path / "banana")


def steps_of(answers: list[Answer]) -> Counter[str]:
    return Counter(answer.step for answer in answers)


def stop(
    how: signal.Signals,
    root: Path,
    server: Server,
    *,
    env: Env,
    after: int,
    rested: bool = False,
    before: Callable[[], object] | None = None,
) -> Stopped:
    """Start a run, send it a signal once the server has answered that often, and wait until both are quiet.

    The server answers no more than that. The signal comes with an answer on its way into the log; `rested`, only when
    all have had their time to get there.
    """
    with server.held(after - server.count()):
        run = start_sync(root, server.api_base, env=env, before=before)
        lag_s = wait_for(lambda: server.count() >= after, f"{after} answers", run)
        if rested:
            lag_s += fsync_s(root)
            time.sleep(2 * (GRACE_S + lag_s))
        stopped_at = time.time()
        run.send_signal(how)
        if not rested:
            lag_s += fsync_s(root)
        _, said = run.communicate()
        server.settle()
    return Stopped(run.returncode, said, stopped_at - GRACE_S - lag_s)


def finishes(root: Path, server: Server, env: Env, reference: Reference, kept: list[Answer]) -> None:
    """Run to the end: only what the log lacks is asked, and the dataset reads as if nothing had happened."""
    missing, before = reference.steps - kept_steps(root), server.count()
    finish(start_sync(root, server.api_base, env=env))
    asked = server.answers()[before:]
    assert steps_of(asked) == missing
    assert not Counter(answer.request for answer in [*kept, *asked]) - reference.requests
    assert shown(root) == reference.shown
    assert litter(root) == []


@pytest.mark.parametrize("moments", [(2, 5, 8, 10), (1, 4, 7), (3, 6, 9)])
def test_a_run_killed_again_and_again_keeps_every_answer_and_the_next_asks_only_what_is_missing(
    moments: tuple[int, ...], banana: Path, server: Server, env: Env, reference: Reference
) -> None:
    safe: list[Answer] = []
    known: Counter[str] = Counter()
    for moment in moments:
        before = server.count()
        stopped = stop(signal.SIGKILL, banana, server, env=env, after=moment, rested=moment % 2 == 0)
        assert stopped.status == -signal.SIGKILL
        answered, kept = server.answers()[before:], kept_steps(banana)
        old = [answer for answer in answered if answer.at < stopped.kept_until]
        assert len(old) >= moment - before or moment % 2, "the moments are mixed up"
        assert not known + steps_of(old) - kept, "an answer is lost"
        assert not kept - known - steps_of(answered), "the log holds an answer that nobody gave"
        assert not known + steps_of(answered) - reference.steps, "a kept answer was asked for again"
        assert [path.name for path in banana.glob("data/**/*.parquet")] == ["file-000.parquet"]
        safe, known = safe + old, kept
    finishes(banana, server, env, reference, safe)


DYING = """
import os, signal, sys
from annotator.cli.main import main
from annotator_store import atomic_files
from annotator_store.parquet import rewrite

name, when, rename = sys.argv[1], sys.argv[2], atomic_files.replace_durably

def dying(temporary, target):
    if target.name != name and target.suffix != name:
        return rename(temporary, target)
    if when == "after":
        rename(temporary, target)
    os.kill(os.getpid(), signal.SIGKILL)

atomic_files.replace_durably = rewrite.replace_durably = dying
main(sys.argv[3:])
"""
"""`annotator`, killed just before or after the rename that puts a new file in the place of the old one."""


def test_a_run_killed_around_each_rename_of_its_projection_leaves_whole_files_and_the_next_finishes(
    banana: Path, env: Env, reference: Reference
) -> None:
    nowhere = "http://127.0.0.1:1/v1"
    shutil.copytree(reference.root / ".annotator" / "journal", banana / ".annotator" / "journal")
    state = shown(banana)
    written = (".parquet", "info.json", "annotations.lock.json", "README.md")
    for file, when in itertools.product(written, ("before", "after")):
        arguments = [sys.executable, "-c", DYING, file, when, "sync", str(banana), *QUICKER, "--vlm.api_base", nowhere]
        died = subprocess.run(arguments, capture_output=True, text=True, cwd=REPO, env=env, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr
        if when == "after":
            folder = "data/" if file == ".parquet" else "meta/"
            state |= {name: held for name, held in reference.shown.items() if name.startswith(folder)}
        assert shown(banana) == state, f"killed {when} the rename of {file}"
    finish(start_sync(banana, nowhere, env=env))
    assert ask_log(banana, "SELECT calls_answered + calls_hit AS n FROM runs ORDER BY started_at")[-1]["n"] == 0
    assert shown(banana) == reference.shown
    assert litter(banana) == []


def test_ctrl_c_exits_130_with_a_hint_and_the_next_run_finishes(
    banana: Path, server: Server, env: Env, reference: Reference
) -> None:
    stopped = stop(signal.SIGINT, banana, server, env=env, after=5)
    assert stopped.status == 130, stopped.said
    assert "interrupted\nhint: every answer that arrived is kept; run the same command to go on" in stopped.said
    assert "Traceback" not in stopped.said
    old = [answer for answer in server.answers() if answer.at < stopped.kept_until]
    assert not steps_of(old) - kept_steps(banana)
    assert [row["outcome"] for row in ask_log(banana, "SELECT outcome FROM runs")] == ["interrupted"]
    assert litter(banana) == []
    finishes(banana, server, env, reference, old)


def test_a_terminated_run_ends_as_an_interrupted_one_with_143_and_the_next_finishes(
    banana: Path, server: Server, env: Env, reference: Reference
) -> None:
    stopped = stop(signal.SIGTERM, banana, server, env=env, after=6, rested=True)
    assert stopped.status == 143, stopped.said
    assert "terminated\nhint: every answer that arrived is kept; run the same command to go on" in stopped.said
    assert "Traceback" not in stopped.said
    old = [answer for answer in server.answers() if answer.at < stopped.kept_until]
    assert not steps_of(old) - kept_steps(banana)
    assert [row["outcome"] for row in ask_log(banana, "SELECT outcome FROM runs")] == ["interrupted"]
    assert litter(banana) == []
    finishes(banana, server, env, reference, old)


def test_a_terminated_run_ends_in_order_also_where_ctrl_c_is_ignored(banana: Path, server: Server, env: Env) -> None:
    # As a shell starts a job in the background of a script.
    deaf = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    stopped = stop(signal.SIGTERM, banana, server, env=env, after=3, before=deaf)
    assert stopped.status == 143, stopped.said
    assert "Traceback" not in stopped.said
    assert [row["outcome"] for row in ask_log(banana, "SELECT outcome FROM runs")] == ["interrupted"]


def test_a_server_that_dies_ends_the_run_with_a_clear_message_and_another_one_answers_only_the_rest(
    banana: Path, server: Server, env: Env, reference: Reference, tmp_path: Path
) -> None:
    with model_server(tmp_path / "answers", delay_ms=60, env=env) as dying:
        dying.control("faults", [{"fault": "die", "skip": 5}])
        said = finish(start_sync(banana, dying.api_base, "--vlm.request_max_retries", 1, env=env), status=1)
        first = dying.answers()
    assert re.search(rf"the server cannot be reached, or it hung up – plan\.\w+ at {dying.api_base}", said), said
    assert "what was answered is kept\nhint: is the server up? --vlm.api_base says where it is" in said
    assert "Traceback" not in said
    # The client lived on after the last answer: every single one is kept, without any grace.
    assert kept_steps(banana) == steps_of(first)
    failed = {row["kind"] for row in ask_log(banana, "SELECT kind FROM failures WHERE outcome = 'failed'")}
    assert failed == {"connection"}
    assert server.api_base != dying.api_base
    finishes(banana, server, env, reference, first)


def test_a_disk_that_fills_up_while_recording_is_one_message_with_a_hint_and_what_was_kept_stays(
    banana: Path, server: Server, env: Env, reference: Reference
) -> None:
    # No file may grow beyond this, and the journal gets there first. Bytecode would be cut off too: none is written.
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    arguments = [sys.executable, "-m", "annotator", "sync", banana, *QUICKER, "--vlm.api_base", server.api_base]
    env_there = env | {"PYTHONDONTWRITEBYTECODE": "1"}
    full = subprocess.run(
        arguments, capture_output=True, text=True, cwd=REPO, env=env_there, check=False, preexec_fn=little_room
    )
    assert full.returncode == 1
    assert full.stderr.count("error: ") == 1
    assert "error: events could not be recorded" in full.stderr
    assert "hint: free some space on this disk" in full.stderr
    assert "Traceback" not in full.stderr
    server.settle()
    assert 0 < kept_steps(banana).total() < reference.steps.total()
    finishes(banana, server, env, reference, [])
