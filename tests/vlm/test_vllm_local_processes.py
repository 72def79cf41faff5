"""The processes that vLLM starts for itself: however a run ends, none is left. Stand-ins play them."""

import asyncio
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from annotator.vlm.vllm_local.engine import VllmEngine
from annotator.vlm.vllm_local.processes import EngineProcesses
from annotator.vlm.watchdog import kill_trees

RUN = """
import multiprocessing, subprocess, sys, time
from annotator.vlm.vllm_local.processes import EngineProcesses

def boot(abandoned):
    core = multiprocessing.get_context("spawn").Process(target=subprocess.run, args=(["sleep", "1000"],))
    core.start()
    if sys.argv[1] == "while it loads":
        core.join()

processes = EngineProcesses()
processes.load(boot)
time.sleep(1000)
"""
"""A run whose engine is a process that starts a worker."""

LOADS_FOREVER = """
import multiprocessing, time

class AsyncLLM:
    @classmethod
    def from_engine_args(cls, arguments):
        core = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(1000,))
        core.start()
        core.join()
        raise RuntimeError("Engine core initialization failed")
"""


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def watchdogs() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "watchdog.py" in " ".join(p.cmdline())]


def sleeping(seconds: float = 1000) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(seconds,))
    process.start()
    return process


@pytest.fixture
def other() -> Iterator[BaseProcess]:
    """A process of this run's own, which no engine started."""
    process = sleeping()
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize("when", ["while it loads", "when it is loaded"])
def test_a_run_that_is_killed_leaves_no_process_of_its_engine_and_no_watchdog(when: str) -> None:
    run = psutil.Popen([sys.executable, "-c", RUN, when])
    wait_until(lambda: any(p.name() == "sleep" for p in run.children(recursive=True)))
    time.sleep(1.0)  # it is told of, which is done five times a second
    started = run.children(recursive=True)
    (watchdog,) = (p for p in started if "watchdog.py" in " ".join(p.cmdline()))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        watchdog.send_signal(number)  # as a terminal or a batch system would, to all
    run.kill()
    run.wait()
    wait_until(lambda: not any(lives(process) for process in started))


def test_closing_kills_what_is_left_of_the_engine_and_nobody_else_and_ends_the_watchdog(other: BaseProcess) -> None:
    processes = EngineProcesses()
    core = processes.load(lambda _: sleeping())
    (watchdog,) = watchdogs()
    assert core.is_alive()
    processes.close()
    processes.close()
    core.join(5)
    assert core.exitcode == -signal.SIGKILL
    assert other.is_alive()
    assert not watchdog.is_running()


def test_a_load_that_nobody_waits_for_ends_at_once(other: BaseProcess) -> None:
    def boot(abandoned: Callable[[], bool]) -> bool:
        while not abandoned():
            core = sleeping()
            core.join()
        return abandoned()

    processes = EngineProcesses()
    begun = time.monotonic()
    threading.Timer(0.5, processes.abandon).start()
    assert processes.load(boot)
    assert time.monotonic() - begun < 10
    assert other.is_alive()
    assert not watchdogs()


def test_a_pid_that_was_given_to_another_process_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        before = psutil.Process(sleeper.pid)
        # psutil tells processes of one pid apart by when they were started.
        other = psutil.Process(sleeper.pid)
        other._create_time, other._ident = 1.0, (sleeper.pid, 1.0)  # pyright: ignore[reportAttributeAccessIssue]
        kill_trees([other])
        time.sleep(0.1)
        assert sleeper.poll() is None
        kill_trees([before])
    assert sleeper.returncode == -signal.SIGKILL


def test_an_engine_that_is_closed_while_it_loads_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"engine/arg_utils": "AsyncEngineArgs = dict", "v1/engine/async_llm": LOADS_FOREVER}.items():
        file = tmp_path / "vllm" / f"{name}.py"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("VLLM_WORKER_MULTIPROC_METHOD", "VLLM_LOGGING_STREAM", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")  # what is set before vLLM is imported goes again with the test

    async def scenario() -> float:
        engine = VllmEngine(model_id="any")
        start = asyncio.create_task(engine.start())
        await asyncio.to_thread(wait_until, multiprocessing.active_children)
        start.cancel()
        begun = time.monotonic()
        await engine.aclose()
        return time.monotonic() - begun

    try:
        assert asyncio.run(asyncio.wait_for(scenario(), 30)) < 10
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
            del sys.modules[name]
    assert not watchdogs()
