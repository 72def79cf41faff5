"""A whole run over servers that it starts itself, and that die while it asks. Real processes throughout."""

import signal
from pathlib import Path

import pytest

from tests.e2e.processes import ask_log, copy_banana, environment, finish, kept_steps, shown, wait_for
from tests.pipeline.test_endpoints import begin, failures, serving, spawned

IN_FLIGHT = 2
"""What a run of these tests allows at each of its two servers."""


def test_a_run_whose_own_servers_are_all_killed_once_carries_on_and_asks_again_only_what_was_in_flight(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    env = environment(tmp_path_factory) | {"CUDA_VISIBLE_DEVICES": ""}
    banana, answers = copy_banana(tmp_path / "banana"), tmp_path / "answers"
    some = ("--only_episodes", "0-1")
    run = begin(banana, "", *serving(banana, delay_ms=100), *some, env=env)
    wait_for(lambda: answers.exists() and answers.read_bytes().count(b"\n") >= 2, "2 answers", run)
    killed = [one for one in spawned(banana) if "watchdog.py" not in " ".join(one.cmdline())]
    for server in killed:
        server.send_signal(signal.SIGKILL)
    said = finish(run)
    assert killed
    assert "died with status 137; starting it again" in said
    assert "given up" not in said
    wait_for(lambda: spawned(banana) == [], "the end of the servers")
    assert failures(banana) == {}
    kept = kept_steps(banana).total()
    assert answers.read_bytes().count(b"\n") - kept <= 2 * IN_FLIGHT, "a kept answer was asked for again"
    (sent,) = ask_log(banana, "SELECT sum(attempts)::BIGINT AS calls FROM calls")
    assert sent["calls"] - kept <= 2 * IN_FLIGHT

    before = shown(banana)
    assert "engine: serve" not in finish(begin(banana, "", *serving(banana), *some, env=env)), "something was missing"
    assert shown(banana) == before
