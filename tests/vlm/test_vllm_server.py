"""Servers that a run starts for itself. Real processes: a small OpenAI-compatible server in the place of vLLM's."""

import asyncio
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from annotator.config.settings import VlmSettings
from annotator.errors import CallError, NoEngine, UsageError
from annotator.vlm.base import EngineContext, Reply
from annotator.vlm.openai import client as openai_client
from annotator.vlm.openai.engine import OpenAIEngine
from annotator.vlm.registry import check_engine, choose_engine
from annotator.vlm.vllm_server import engine as serve_engine
from annotator.vlm.vllm_server import process as serve_process
from annotator.vlm.vllm_server.command import (
    ServerPlan,
    availability,
    default_command,
    plan_servers,
    share_gpus,
    visible_gpus,
)
from annotator.vlm.vllm_server.engine import ServeEngine, StartupPolicy, serve
from tests.contracts.engine_contract import make_picture, make_request

SERVER = Path(__file__).parents[1] / "fakes" / "openai_server.py"
REPO = SERVER.parents[2]
QUICK = StartupPolicy(ready_s=30, pause_s=0.05)
COMMAND = (sys.executable, str(SERVER), "--port", "{port}")


def plan(tmp_path: Path, command: tuple[str, ...] = COMMAND, number: int = 0) -> ServerPlan:
    return ServerPlan(
        label=f"server {number}",
        command=command,
        environment={**os.environ, "ANNOTATOR_TEST": str(tmp_path)},
        log=tmp_path / "serve" / f"server-{number}.log",
    )


def in_shell(script: str) -> tuple[str, ...]:
    """A command that runs a script first; `$SERVER` is the server's command."""
    return ("bash", "-c", script.replace("$SERVER", " ".join(COMMAND)))


@asynccontextmanager
async def serving(
    plans: list[ServerPlan], notes: list[str] | None = None, policy: StartupPolicy = QUICK, **asking: Any
) -> AsyncGenerator[ServeEngine, None]:
    said: list[str] = [] if notes is None else notes
    engine = await serve(plans, OpenAIEngine(api_base=(), **asking), "test-model", said.append, policy)
    try:
        yield engine
    finally:
        await engine.aclose()


def started(tmp_path: Path) -> list[psutil.Process]:
    """Every process that was started with this test's environment, whoever its parent is now."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ANNOTATOR_TEST") == str(tmp_path) and process.status() != "zombie":
                found.append(process)
        except psutil.Error:
            continue
    return found


def servers(tmp_path: Path) -> list[psutil.Process]:
    """The model servers among them: neither watchdogs nor shells."""
    return [p for p in started(tmp_path) if "watchdog.py" not in " ".join(p.cmdline()) and p.name() != "bash"]


def wait_until(happened: Callable[[], object], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def all_gone(tmp_path: Path) -> None:
    """Check that nothing is left of what was started; the kernel takes a moment to end what was killed."""
    wait_until(lambda: started(tmp_path) == [], timeout_s=5)


def run(scenario: Any) -> Any:
    return asyncio.run(asyncio.wait_for(scenario, 60))


# Start and stop


def test_servers_are_started_answer_on_loopback_alone_and_are_gone_after_the_run(tmp_path: Path) -> None:
    notes: list[str] = []

    async def scenario() -> None:
        async with serving([plan(tmp_path, number=0), plan(tmp_path, number=1)], notes) as engine:
            assert len(servers(tmp_path)) == 2
            reply = await engine.generate(make_request())
            assert reply.endpoint is not None
            assert reply.endpoint.startswith("http://127.0.0.1:")
            assert reply.text
            listening = [
                c.laddr.ip for p in servers(tmp_path) for c in p.net_connections("tcp") if c.status == "LISTEN"
            ]
            assert set(listening) == {"127.0.0.1"}
            await engine.aclose()  # and again at the end: twice is safe
            all_gone(tmp_path)

    run(scenario())
    assert any(re.fullmatch(r"server \d is ready at http://127.0.0.1:\d+/v1, after \d+ s", note) for note in notes)
    assert (tmp_path / "serve" / "server-0.log").read_text().startswith(f"$ {sys.executable} {SERVER} --port ")


def test_what_a_server_started_itself_goes_with_it_also_when_it_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving([plan(tmp_path, in_shell("sleep 1000 & exec $SERVER"))]) as engine:
            (sleeper,) = (p for p in started(tmp_path) if p.name() == "sleep")
            (server,) = (p for p in servers(tmp_path) if p.name() != "sleep")
            server.send_signal(signal.SIGKILL)
            await asyncio.to_thread(wait_until, lambda: sleeper not in started(tmp_path))
            assert (await engine.generate(make_request())).text
        all_gone(tmp_path)

    run(scenario())


def watchdogs(tmp_path: Path) -> list[psutil.Process]:
    return [p for p in started(tmp_path) if "watchdog.py" in " ".join(p.cmdline())]


def test_what_a_server_started_goes_also_when_its_watchdog_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving([plan(tmp_path, in_shell("sleep 1000 & exec $SERVER"))]) as engine:
            before = [p for p in started(tmp_path) if p.name() == "sleep"]
            (watchdog,) = watchdogs(tmp_path)
            watchdog.send_signal(signal.SIGKILL)
            await asyncio.to_thread(wait_until, lambda: before[0] not in started(tmp_path))
            assert (await engine.generate(make_request())).text
        all_gone(tmp_path)

    run(scenario())


def test_a_server_that_does_not_stop_when_asked_is_killed(tmp_path: Path) -> None:
    code = "from annotator.vlm import watchdog as w; import os, sys; w.GRACE_S = 0.3; os._exit(w.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "bash", "-c", "trap '' TERM; echo ready; while true; do sleep 0.1; done"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=plan(tmp_path).environment, cwd=REPO) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.stdin.close()
        assert process.wait(10) == 128 + signal.SIGKILL
    all_gone(tmp_path)


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.vlm.test_vllm_server import plan, serving

async def main():
    async with serving([plan(Path(sys.argv[1]))]):
        print("ready", flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_server_outlives_a_run_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True, cwd=REPO) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wait_until(lambda: len(servers(tmp_path)) == 1)
        process.send_signal(number)
        process.wait(20)
    all_gone(tmp_path)


# Starts that fail


def no_engine(plans: list[ServerPlan], policy: StartupPolicy = QUICK) -> NoEngine:
    async def scenario() -> None:
        async with serving(plans, policy=policy):
            pass

    with pytest.raises(NoEngine) as caught:
        run(scenario())
    return caught.value


def test_a_server_that_ends_before_it_is_ready_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    script = "for i in {1..99}; do echo line $i; done; echo torch.OutOfMemoryError >&2; exit 3"
    error = no_engine([plan(tmp_path, in_shell(script))])
    assert "ended with status 3 before it was ready" in error.got
    assert error.got.endswith("  line 99\n  torch.OutOfMemoryError")
    assert "line 9\n" not in error.got
    assert error.hint == f"the whole log: {tmp_path / 'serve' / 'server-0.log'}"
    all_gone(tmp_path)


def test_the_cause_is_shown_and_met_with_a_hint_where_the_end_of_the_log_only_points_at_it(tmp_path: Path) -> None:
    cause = "(EngineCore pid=7) ValueError: To serve at least one request, 36.00 GiB KV cache is needed"
    end = "RuntimeError: Engine core initialization failed. See root cause above."
    script = f"echo '{cause}'; for i in {{1..99}}; do echo line $i; done; echo '{end}'; exit 1"
    error = no_engine([plan(tmp_path, in_shell(script))])
    assert f"\n  {cause}\n  …\n  line 86\n" in error.got
    assert error.got.endswith(f"\n  line 99\n  {end}")
    assert error.hint.startswith("lower --vlm.max_model_len")
    assert error.hint.endswith(f"the whole log: {tmp_path / 'serve' / 'server-0.log'}")


def test_a_server_that_does_not_get_ready_in_time_is_stopped_and_reported(tmp_path: Path) -> None:
    error = no_engine([plan(tmp_path, ("bash", "-c", "echo loading; sleep 1000"))], StartupPolicy(ready_s=0.5))
    assert error.got == "was not ready after 0.5 s (--vlm.serve_ready_timeout_s)\n  loading"
    all_gone(tmp_path)


def test_a_server_of_another_model_is_refused(tmp_path: Path) -> None:
    assert "has other, not test-model" in no_engine([plan(tmp_path, (*COMMAND, "--model", "other"))]).got


def test_the_server_and_the_log_that_are_named_belong_to_what_is_shown(tmp_path: Path) -> None:
    slow = plan(tmp_path, in_shell("sleep 0.5; echo slow; exit 3"), number=0)
    error = no_engine([slow, plan(tmp_path, in_shell("echo quick; exit 4"), number=1)])
    assert (error.where, error.got) == ("server 1", "ended with status 4 before it was ready\n  quick")
    assert error.hint.endswith("server-1.log")


def test_no_second_start_is_tried_where_every_first_one_fails(tmp_path: Path) -> None:
    plans = [plan(tmp_path, ("false",), number) for number in range(2)]
    no_engine(plans, StartupPolicy(ready_s=30, pause_s=0))
    assert [one.log.read_text() for one in plans] == ["$ false\n"] * 2


@pytest.mark.parametrize("fails", ["", "sleep 1.5; "], ids=["before", "after"])
def test_a_server_that_fails_to_start_before_or_after_another_is_ready_is_named_and_tried_again(
    tmp_path: Path, fails: str
) -> None:
    notes: list[str] = []
    marker = tmp_path / "failed"
    script = f"if [ ! -e {marker} ]; then touch {marker}; {fails}echo OOM; exit 3; fi; exec $SERVER"

    async def scenario() -> None:
        async with serving([plan(tmp_path, in_shell(script)), plan(tmp_path, number=1)], notes) as engine:
            replies = await asyncio.gather(*(engine.generate(make_request(seed=seed)) for seed in range(6)))
            assert len(replies) == 6
            await asyncio.to_thread(wait_until, lambda: any("server 0 is ready" in note for note in notes))

    run(scenario())
    log = tmp_path / "serve" / "server-0.log"
    assert f"server 0 ended with status 3 before it was ready; starting it again (its log: {log})" in notes


def test_a_server_that_never_starts_beside_one_that_runs_is_given_up_after_five_tries(tmp_path: Path) -> None:
    notes: list[str] = []

    async def scenario() -> None:
        plans = [plan(tmp_path, in_shell("echo OOM; exit 3")), plan(tmp_path, number=1)]
        async with serving(plans, notes, StartupPolicy(ready_s=30, pause_s=0.01)) as engine:
            await asyncio.to_thread(wait_until, lambda: any("given up" in note for note in notes))
            assert (await engine.generate(make_request())).text

    run(scenario())
    assert "server 0 is given up: ended with status 3 before it was ready\n  OOM" in notes
    assert (tmp_path / "serve" / "server-0.log").read_text().count("$ bash") == 5


def test_a_server_whose_log_cannot_be_written_is_given_up_and_the_others_run(tmp_path: Path) -> None:
    notes: list[str] = []
    (tmp_path / "serve" / "server-0.log").mkdir(parents=True)

    async def scenario() -> None:
        async with serving([plan(tmp_path), plan(tmp_path, number=1)], notes) as engine:
            await asyncio.to_thread(wait_until, lambda: any("given up" in note for note in notes))
            assert (await engine.generate(make_request())).text

    run(scenario())
    assert any(note.startswith("server 0 is given up: cannot be started: [Errno 21]") for note in notes)


def test_a_port_that_somebody_else_took_first_is_exchanged_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = serve_process.free_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(serve_process, "free_port", lambda: ports.pop() if ports else real())

        async def scenario() -> None:
            async with serving([plan(tmp_path)], policy=StartupPolicy(ready_s=30)) as engine:
                assert (await engine.generate(make_request())).text

        run(scenario())
    assert "address already in use" in (tmp_path / "serve" / "server-0.log").read_text()


# Deaths


def in_flight(notes: list[str]) -> int:
    """How many requests the first server has at the moment."""
    (base,) = re.findall(r"server 0 is ready at (http://\S+)/v1", "\n".join(notes))
    with urllib.request.urlopen(f"{base}/control/stats", timeout=30) as reply:
        return int(json.load(reply)["in_flight"])


def test_a_killed_server_is_started_again_and_the_calls_it_had_are_answered(tmp_path: Path) -> None:
    notes: list[str] = []

    async def scenario() -> None:
        async with serving([plan(tmp_path, (*COMMAND, "--delay-ms", "1000"))], notes) as engine:
            calls = [asyncio.create_task(engine.generate(make_request(seed=seed))) for seed in range(4)]
            await asyncio.to_thread(wait_until, lambda: in_flight(notes) == 4)
            (server,) = servers(tmp_path)
            server.send_signal(signal.SIGKILL)
            replies = await asyncio.gather(*calls)
            assert {reply.attempts for reply in replies} == {2}
            assert servers(tmp_path) != [server]

    run(scenario())
    log = tmp_path / "serve" / "server-0.log"
    assert f"server 0 died with status 137; starting it again (its log: {log})" in notes
    assert log.read_text().count(f"$ {sys.executable}") == 2


def test_a_server_that_runs_but_answers_no_more_is_stopped_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_engine, "_PROBE_EVERY_S", 0.1)
    monkeypatch.setattr(serve_engine, "_HUNG_AFTER", 3)
    monkeypatch.setattr(openai_client, "SIDE_TIMEOUT_S", 0.5)
    notes: list[str] = []

    async def scenario() -> None:
        async with serving([plan(tmp_path, (*COMMAND, "--delay-ms", "300"))], notes) as engine:
            call = asyncio.create_task(engine.generate(make_request()))
            await asyncio.sleep(0.1)
            (halted,) = servers(tmp_path)
            halted.send_signal(signal.SIGSTOP)
            assert (await call).text
            await asyncio.to_thread(wait_until, lambda: sum("is ready" in note for note in notes) == 2)
            assert (await engine.generate(make_request(seed=2))).text
            assert servers(tmp_path) != [halted]

    run(scenario())
    log = tmp_path / "serve" / "server-0.log"
    assert f"server 0 runs, but does not answer any more; starting it again (its log: {log})" in notes


@pytest.mark.parametrize("folder", ["gone", "a file now"])
def test_a_folder_of_logs_that_is_taken_away_ends_no_run(tmp_path: Path, folder: str) -> None:
    notes: list[str] = []

    async def scenario() -> None:
        async with serving([plan(tmp_path), plan(tmp_path, number=1)], notes) as engine:
            await asyncio.to_thread(wait_until, lambda: sum("is ready" in note for note in notes) == 2)
            shutil.rmtree(tmp_path / "serve")
            if folder != "gone":
                (tmp_path / "serve").touch()
            servers(tmp_path)[0].send_signal(signal.SIGKILL)
            wanted = "starting it again" if folder == "gone" else "is given up: cannot be started: [Errno 17]"
            await asyncio.to_thread(wait_until, lambda: any(wanted in note for note in notes))
            assert (await engine.generate(make_request())).text

    run(scenario())


def test_a_server_that_keeps_dying_is_given_up_and_its_calls_fail_clearly(tmp_path: Path) -> None:
    notes: list[str] = []
    marker = tmp_path / "broken"
    script = f"if [ -e {marker} ]; then echo CUDA error; exit 9; fi; exec $SERVER"

    async def scenario() -> CallError:
        async with serving(
            [plan(tmp_path, in_shell(script))], notes, StartupPolicy(ready_s=30, pause_s=0.01)
        ) as engine:
            assert (await engine.generate(make_request())).text
            marker.touch()
            (server,) = servers(tmp_path)
            server.send_signal(signal.SIGKILL)
            await asyncio.to_thread(wait_until, lambda: not server.is_running())
            with pytest.raises(CallError) as caught:
                await engine.generate(make_request(seed=2))
            return caught.value

    error = run(scenario())
    assert (error.kind, error.what) == ("connection", "no server is left")
    assert notes[-1] == "server 0 is given up: ended with status 9 before it was ready\n  CUDA error"
    assert (tmp_path / "serve" / "server-0.log").read_text().count("$ bash") == 5


# What is planned


GPUS = ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("settings", "gpus", "shares"),
    [
        ({}, GPUS, [("0",), ("1",), ("2",), ("3",)]),
        ({"num_gpus": 2}, GPUS, [("0",), ("1",)]),
        ({"parallel_servers": 1}, GPUS, [("0",)]),
        ({"tensor_parallel_size": 2}, GPUS, [("0", "1"), ("2", "3")]),
        ({"tensor_parallel_size": 2, "num_gpus": 3}, GPUS, [("0", "1")]),
        ({}, [], [()]),
        ({"parallel_servers": 2}, [], [(), ()]),
    ],
)
def test_gpus_are_shared_out(settings: dict[str, Any], gpus: list[str], shares: list[tuple[str, ...]]) -> None:
    assert share_gpus(VlmSettings(**settings), gpus) == shares


@pytest.mark.parametrize(
    "settings",
    [
        {"num_gpus": 5},
        {"parallel_servers": 5},
        {"tensor_parallel_size": 8},
        {"num_gpus": 1, "tensor_parallel_size": 2},
    ],
)
def test_more_gpus_than_there_are_cannot_be_shared_out(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        share_gpus(VlmSettings(**settings), GPUS)


def test_each_server_sees_its_own_gpus_and_nothing_else_differs(tmp_path: Path) -> None:
    vlm = VlmSettings(serve_command=f"{sys.executable} x --port={{port}} {{model}}", model_id="me/model")
    environment = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b", "HF_TOKEN": "kept"}
    first, second = plan_servers(vlm, environment, tmp_path)
    assert first.environment == {**environment, "CUDA_VISIBLE_DEVICES": "GPU-a"}
    assert second.environment == {**environment, "CUDA_VISIBLE_DEVICES": "GPU-b"}
    assert first.with_port(1234) == [sys.executable, "x", "--port=1234", "me/model"]
    assert first.log != second.log


def test_gpus_are_counted_by_nvidia_smi_where_nobody_named_them(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0\necho 1\n")
    tool.chmod(0o755)
    assert visible_gpus({"PATH": f"{tmp_path}:{os.environ['PATH']}"}) == ["0", "1"]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus({"PATH": f"{tmp_path}:{os.environ['PATH']}"}) == []
    assert visible_gpus({"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}) == []


def test_the_default_command_asks_vllm_for_what_this_project_needs(tmp_path: Path) -> None:
    vllm = tmp_path / "vllm"
    vllm.touch(0o755)
    environment = {"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0,1"}
    vlm = VlmSettings(
        model_id="me/model", model_revision="abc", max_model_len=32768, tensor_parallel_size=2,
        gpu_memory_utilization=0.8,
    )  # fmt: skip
    (only,) = plan_servers(vlm, environment, tmp_path)
    words = only.with_port(8001)
    assert words[:7] == ["vllm", "serve", "me/model", "--host", "127.0.0.1", "--port", "8001"]
    flags = dict(zip(words[7:], [*words[8:], ""], strict=True))
    assert flags["--structured-outputs-config"] == '{"backend":"guidance","disable_any_whitespace":true}'
    assert flags["--limit-mm-per-prompt"] == '{"image":32,"video":8}'
    assert (flags["--revision"], flags["--max-model-len"], flags["--tensor-parallel-size"]) == ("abc", "32768", "2")
    assert flags["--gpu-memory-utilization"] == "0.8"
    assert flags["--default-chat-template-kwargs"] == '{"enable_thinking":false}'
    # Else vLLM wants room for the model's whole context: 36 GiB for one that fits a 24 GB card.
    assert "--max-model-len auto" in " ".join(default_command(VlmSettings(model_id="me/model")))
    assert {"--enable-prompt-tokens-details", "--trust-request-mm-kwargs"} <= flags.keys()


def test_a_command_beside_the_interpreter_is_found_where_the_path_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a virtual environment whose python is called by its path."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    environment = {"PATH": str(tmp_path / "nothing"), "CUDA_VISIBLE_DEVICES": "0"}
    context = EngineContext(vlm=VlmSettings(), environment=environment)
    assert run(availability(context)).missing == ("no command vllm",)
    with pytest.raises(UsageError) as caught:
        plan_servers(VlmSettings(), environment, tmp_path)
    assert caught.value.hint.startswith("pip install 'episode-annotator[vllm]'")
    (tmp_path / "vllm").touch(0o755)
    assert run(availability(context)).reason == "there are vLLM and a GPU"
    (only,) = plan_servers(VlmSettings(), environment, tmp_path)
    assert only.command[:2] == (str(tmp_path / "vllm"), "serve")


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("vllm serve {model} --port 8000", "the command has no {port}"),
        ("no-such-program --port {port}", "there is no such command"),
        ("vllm 'serve --port {port}", "the command cannot be read"),
    ],
)
def test_a_command_that_cannot_work_is_refused_before_anything_starts(command: str, what: str) -> None:
    vlm = VlmSettings(backend="serve", serve_command=command)
    with pytest.raises(UsageError) as caught:
        run(check_engine(vlm, offline=False))
    assert caught.value.what == what


def test_thinking_is_left_to_the_template_where_an_effort_is_asked_for(tmp_path: Path) -> None:
    assert "--default-chat-template-kwargs" in default_command(VlmSettings(reasoning_effort="none"))
    assert "--default-chat-template-kwargs" not in default_command(VlmSettings(reasoning_effort="high"))


def test_servers_of_the_default_command_are_told_the_times_of_frames_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of `vllm` there is a script that starts the test server at the port it is told."""
    vllm = tmp_path / "vllm"
    vllm.write_text(f'#!/bin/sh\nexec {sys.executable} {SERVER} --port "$6"\n')
    vllm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def last_body(reply: Reply) -> Any:
        with urllib.request.urlopen(f"{str(reply.endpoint).removesuffix('/v1')}/control/requests") as seen:
            return json.loads(json.loads(seen.read())[-1]["body"])

    async def told(vlm: VlmSettings) -> Any:
        engine = await choose_engine(vlm, lambda _: None, offline=False, logs=tmp_path / "serve")
        try:
            reply = await engine.generate(make_request(pictures=(make_picture("video", frames=3),)))
            return (await asyncio.to_thread(last_body, reply)).get("media_io_kwargs")
        finally:
            await engine.aclose()

    vlm = VlmSettings(backend="serve", model_id="test-model")
    assert run(told(vlm))["video"]["frames_indices"] == [0, 1, 2]
    own = msgspec.structs.replace(vlm, serve_command=" ".join(COMMAND))
    assert run(told(own)) is None


KEYED = f"sh -c 'exec {sys.executable} {SERVER} --port {{port}} --api-key $VLLM_API_KEY'"


def test_the_servers_of_a_run_answer_nobody_else_and_get_no_key_of_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("VLLM_API_KEY", "key-of-another-server")
    monkeypatch.setenv("PAID_KEY", "key-that-costs-money")
    vlm = VlmSettings(backend="serve", model_id="test-model", serve_command=KEYED, api_key_env="PAID_KEY")
    notes: list[str] = []

    def seen(base: str) -> list[Any]:
        with urllib.request.urlopen(f"{base.removesuffix('/v1')}/control/requests") as requests:
            return json.loads(requests.read())

    async def keys_sent() -> set[str]:
        engine = await choose_engine(vlm, notes.append, offline=False, logs=tmp_path / "serve")
        try:
            base = str((await engine.generate(make_request())).endpoint)
            other = OpenAIEngine(api_base=base, api_key="key-of-another-server")
            with pytest.raises(CallError, match="HTTP 401"):
                await other.generate(make_request())
            await other.aclose()
            return {one["headers"]["Authorization"] for one in await asyncio.to_thread(seen, base)}
        finally:
            await engine.aclose()

    first, second = run(keys_sent()), run(keys_sent())
    others = {"Bearer key-of-another-server"}
    assert first - others != second - others
    (held,) = first - others
    assert len(held) > len("Bearer ") + 40
    said = "\n".join([*notes, (tmp_path / "serve" / "server-0.log").read_text()])
    assert all(key.removeprefix("Bearer ") not in said for key in first | second)
    assert "key-that-costs-money" not in held + said


def test_a_key_can_be_an_argument_of_a_server_whatever_its_bytes_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base64 of these bytes begins with a hyphen, which argparse takes for an option."""
    monkeypatch.setattr(secrets, "token_bytes", lambda count: b"\xf8" * count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    vlm = VlmSettings(backend="serve", model_id="test-model", serve_command=KEYED)

    async def asked() -> str:
        engine = await choose_engine(vlm, lambda _: None, offline=False, logs=tmp_path / "serve")
        try:
            return (await engine.generate(make_request())).text
        finally:
            await engine.aclose()

    assert secrets.token_urlsafe(32).startswith("-")
    assert run(asked())


def test_auto_starts_servers_only_where_it_may_and_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotator.vlm.openai.engine.DEFAULT_API_BASE", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("ANNOTATOR_TEST", str(tmp_path))
    notes: list[str] = []
    able = VlmSettings(model_id="test-model", serve_command=" ".join(COMMAND))

    async def chosen(vlm: VlmSettings) -> str:
        engine = await choose_engine(vlm, notes.append, offline=False, logs=tmp_path / "serve")
        await engine.aclose()
        return engine.name

    assert run(chosen(able)) == "serve"
    assert (
        f"engine: serve – starting 1 server of test-model: {shlex.join(COMMAND)} (logs: {tmp_path / 'serve'})" in notes
    )
    run(check_engine(able, offline=False))
    all_gone(tmp_path)
    for unable in (VlmSettings(), VlmSettings(serve_command=able.serve_command, auto_serve=False)):
        with pytest.raises(NoEngine, match="no engine"):
            run(check_engine(unable, offline=False))
