"""The OpenAI engine against a real server process, whole and broken."""

import asyncio
import base64
import contextlib
import json
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import openai
import pytest

from annotator.errors import CallError, NoEngine, UsageError
from annotator.media.picture import Picture
from annotator.prompting.answers import Segmentation, Task
from annotator.vlm.base import Engine, Reply, Request
from annotator.vlm.openai.engine import OpenAIEngine, probe, require, served_at
from annotator.vlm.openai.wire import PictureParts, request_body
from annotator.vlm.reply_text import json_part
from annotator_store.keys import Model
from tests.contracts.engine_contract import AnsweringContract, FailingContract, make_picture, make_request
from tests.vlm.conftest import RunningServer, running_server

SECRET = "sk-very-secret-0123456789"


@contextlib.asynccontextmanager
async def engine_at(api_base: str, **settings: Any) -> AsyncGenerator[OpenAIEngine, None]:
    engine = OpenAIEngine(api_base=api_base, **settings)
    try:
        yield engine
    finally:
        await engine.aclose()


def ask(api_base: str, request: Request | None = None, **settings: Any) -> Reply:
    async def scenario() -> Reply:
        async with engine_at(api_base, **settings) as engine:
            return await engine.generate(request or make_request())

    return asyncio.run(scenario())


def failure(api_base: str, request: Request | None = None, **settings: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        ask(api_base, request, **settings)
    return caught.value


def unused_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return probe_socket.getsockname()[1]


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 3
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestOpenAI(AnsweringContract):
    @pytest.fixture(autouse=True)
    def _at(self, server: RunningServer) -> None:
        self.server = server

    def make_engine(self) -> Engine:
        return OpenAIEngine(api_base=self.server.api_base)


class TestOpenAIWithoutAServer(FailingContract):
    kind = "connection"

    def make_engine(self) -> Engine:
        return OpenAIEngine(api_base=f"http://127.0.0.1:{unused_port()}/v1", request_max_retries=0)


# What is sent


def test_the_body_is_what_the_server_reads_and_nothing_else(server: RunningServer) -> None:
    image = make_picture()
    ask(server.api_base, make_request(pictures=(image,)))
    (body,) = server.bodies()
    url = "data:image/jpeg;base64," + base64.b64encode(image.jpegs[0]).decode()
    assert body == {
        "model": "test-model",
        "messages": [
            {"role": "system", "content": "You annotate robot episodes."},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": url}},
                    {"type": "text", "text": "What is the robot doing? Answer as JSON."},
                ],
            },
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "plan_task", "schema": make_request().schema, "strict": True},
        },
        "seed": 1729,
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 2048,
    }


def test_every_model_setting_reaches_the_server(server: RunningServer) -> None:
    settings: dict[str, Any] = {
        "temperature": 0.7,
        "top_p": 0.9,
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": False},
        "mm_processor_kwargs": {"max_pixels": 1000},
    }
    ask(server.api_base, make_request(model=Model(model_id="test-model", max_new_tokens=77, **settings)))
    body = server.bodies()[-1]
    assert {name: body[name] for name in settings} == settings
    assert body["max_tokens"] == 77


def test_a_video_is_one_part_with_its_frames_in_order(server: RunningServer) -> None:
    video = make_picture("video", frames=3)
    ask(server.api_base, make_request(pictures=(video,)))
    part = server.bodies()[-1]["messages"][1]["content"][0]
    frames = part["video_url"]["url"].removeprefix("data:video/jpeg;base64,").split(",")
    assert part["type"] == "video_url"
    assert tuple(base64.b64decode(frame) for frame in frames) == video.jpegs


def test_a_video_can_go_as_images_to_a_server_without_video(server: RunningServer) -> None:
    video = make_picture("video", frames=3)
    ask(server.api_base, make_request(pictures=(video,)), pictures_as_video=False)
    content = server.bodies()[-1]["messages"][1]["content"]
    assert [part["type"] for part in content] == ["image_url"] * 3 + ["text"]


def test_no_environment_variable_changes_a_request(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def sent() -> tuple[dict[str, Any], dict[str, str]]:
        ask(server.api_base)
        return server.bodies()[-1], server.headers()

    plain = sent()
    assert plain[1].keys().isdisjoint({"openai-organization", "openai-project"})
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_WEBHOOK_SECRET"):
        monkeypatch.setenv(name, "from-the-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Surprise: 1\nAuthorization: Bearer other")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert sent() == plain


def test_pictures_are_encoded_once_and_forgotten_in_the_order_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[bytes] = []
    real = base64.b64encode

    def counting(data: bytes) -> bytes:
        encoded.append(data)
        return real(data)

    monkeypatch.setattr(base64, "b64encode", counting)
    one, two, three = (make_picture(shade=shade) for shade in (1, 2, 3))
    room_for_two = int(2.5 * 4 / 3 * len(one.jpegs[0]))

    async def scenario() -> None:
        parts = PictureParts(limit_bytes=room_for_two)
        for picture in (one, two, one, two, one, three, one):
            await parts.get(picture)
        assert encoded == [one.jpegs[0], two.jpegs[0], three.jpegs[0]]
        await parts.get(two)
        assert encoded[-1] == two.jpegs[0]

    asyncio.run(scenario())


def test_a_large_picture_is_encoded_off_the_event_loop() -> None:
    large = Picture(kind="image", jpegs=(bytes(300 * 1024),), media_digest=make_picture().media_digest, timestamps=())

    async def scenario() -> None:
        task = asyncio.create_task(PictureParts().get(large))
        await asyncio.sleep(0)
        assert not task.done()
        (part,) = await task
        assert base64.b64decode(json.loads(bytes(part))["image_url"]["url"].partition(",")[2]) == large.jpegs[0]

    asyncio.run(scenario())


def test_asks_with_the_same_footage_share_their_bytes_up_to_the_text() -> None:
    async def scenario() -> None:
        image = make_picture()
        parts = [await PictureParts().get(image)]
        first, second = (request_body(make_request(text=text, pictures=(image,)), parts) for text in ("One?", "Two?"))
        assert first.partition(b"One?")[0] == second.partition(b"Two?")[0]
        assert bytes(parts[0][0]) in first.partition(b"One?")[0]

    asyncio.run(scenario())


def test_the_times_of_a_videos_frames_go_only_to_servers_that_are_known_to_take_them() -> None:
    async def told(pictures: tuple[Picture, ...], **how: bool) -> Any:
        parts = [await PictureParts().get(picture) for picture in pictures]
        return json.loads(request_body(make_request(pictures=pictures), parts, **how)).get("media_io_kwargs")

    video = make_picture("video", frames=3)
    read = {"num_frames": -1, "fps": 2.0, "frames_indices": [0, 1, 2], "total_num_frames": 3}
    assert asyncio.run(told((video,), video_times=True)) == {"video": read}
    assert asyncio.run(told((video,))) is None
    assert asyncio.run(told((make_picture(),), video_times=True)) is None


# What comes back


def test_a_reply_says_where_it_came_from_and_what_it_took(server: RunningServer) -> None:
    reply = ask(server.api_base)
    assert reply.endpoint == server.api_base
    assert reply.versions == {"openai": openai.__version__, "server": "test-server-1", "fingerprint": "fp-test"}
    assert reply.finish_reason == "stop"
    assert reply.tokens_in > 0
    assert reply.tokens_out > 0
    assert 0 < reply.elapsed_s < 5


@pytest.mark.parametrize("fault", ["think", "fenced"])
def test_the_raw_text_is_kept_and_its_json_part_fits(server: RunningServer, fault: str) -> None:
    server.set_faults({"fault": fault})
    reply = ask(server.api_base)
    assert not reply.text.startswith("{")
    assert msgspec.json.decode(json_part(reply.text), type=Task).task


def test_a_reply_cut_by_the_token_limit_is_a_reply_that_says_so(server: RunningServer) -> None:
    server.set_faults({"fault": "length"})
    reply = ask(server.api_base)
    assert reply.finish_reason == "length"
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(reply.text)


@pytest.mark.parametrize("fault", ["wrong_schema", "not_json"])
def test_content_that_does_not_fit_the_schema_is_a_reply_all_the_same(server: RunningServer, fault: str) -> None:
    server.set_faults({"fault": fault})
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(ask(server.api_base).text, type=Task)


# Faults: each ends as one reply after retries, or as one CallError; the server saw as many requests as we counted

PASSING = [
    {"fault": "http_500", "times": 2},
    {"fault": "http_503", "times": 1},
    {"fault": "http_408", "times": 1},
    {"fault": "html_502", "times": 1},
    {"fault": "reset", "times": 1},
    {"fault": "disconnect", "times": 1},
    {"fault": "silence", "times": 1, "seconds": 5},
]


@pytest.mark.parametrize("rule", PASSING, ids=lambda rule: rule["fault"])
def test_a_passing_fault_ends_as_a_reply(server: RunningServer, rule: dict[str, Any]) -> None:
    server.set_faults(rule)
    reply = ask(server.api_base, request_timeout_s=1.0)
    assert msgspec.json.decode(reply.text, type=Task).task
    assert reply.attempts == rule["times"] + 1 == server.counts["received"]


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_retry_after_is_waited_for(server: RunningServer, as_date: bool) -> None:
    server.set_faults({"fault": "http_429", "times": 1, "retry_after": 3 if as_date else 1.5, "retry_date": as_date})
    started = time.monotonic()
    reply = ask(server.api_base)
    # An HTTP date has whole seconds only, and the client's own first pause is at most half a second.
    assert 1.4 < time.monotonic() - started < 15
    assert reply.attempts == 2 == server.counts["received"]


LASTING = [
    ("http_500", "http_500", True, 2),
    ("http_503", "http_503", True, 2),
    ("http_429", "http_429", True, 2),
    ("html_502", "http_502", True, 2),
    ("reset", "connection", True, 2),
    ("disconnect", "connection", True, 2),
    ("silence", "timeout", True, 2),
    ("http_400", "http_400", False, 1),
    ("http_401", "http_401", False, 1),
    ("http_403", "http_403", False, 1),
    ("http_404", "http_404", False, 1),
    ("http_413", "http_413", False, 1),
    ("http_422", "http_422", False, 1),
    ("garbage", "bad_reply", True, 1),
    ("empty", "bad_reply", True, 1),
    ("truncated", "bad_reply", True, 1),
    ("html_200", "bad_reply", True, 1),
    ("empty_choices", "bad_reply", True, 1),
    ("empty_content", "bad_reply", True, 1),
    ("length_thinking", "bad_reply", True, 1),
    ("refusal", "refused", False, 1),
]


@pytest.mark.parametrize(("fault", "kind", "retryable", "sent"), LASTING, ids=[case[0] for case in LASTING])
def test_a_lasting_fault_ends_as_one_call_error(
    server: RunningServer, fault: str, kind: str, retryable: bool, sent: int
) -> None:
    server.set_faults({"fault": fault, "seconds": 5, "message": "the very words of the server"})
    error = failure(server.api_base, request_timeout_s=0.3, request_max_retries=1)
    assert (error.kind, error.retryable) == (kind, retryable)
    assert error.attempts == sent == server.counts["received"]
    assert "plan.task" in error.where
    assert server.api_base in error.where
    if fault.startswith("http_"):
        assert "the very words of the server" in error.got


def test_a_call_that_finds_no_server_left_says_who_was_asked_last_and_how_often(server: RunningServer) -> None:
    server.set_faults({"fault": "http_500"})

    async def scenario() -> CallError:
        async with engine_at(server.api_base, request_max_retries=3) as engine:
            asked = asyncio.create_task(engine.generate(make_request()))
            await asyncio.to_thread(wait_until, lambda: server.counts["received"] == 1)
            engine.router.set_unavailable(engine.router.endpoints[0], "gone")
            with pytest.raises(CallError) as caught:
                await asked
            return caught.value

    error = asyncio.run(scenario())
    assert (error.what, error.endpoint, error.attempts) == ("no server is left", server.api_base, 1)


@pytest.mark.parametrize(("got", "shown"), [("it hung up", "it hung up (after 2 attempts)"), ("", "after 2 attempts")])
def test_a_failure_says_how_often_it_was_asked_after_what_was_got_if_anything_was(got: str, shown: str) -> None:
    class Failing(OpenAIEngine):
        async def _send(self, request: Request, pictures: Any) -> Reply:
            error = CallError("it failed", kind="timeout", retryable=True, got=got)
            error.endpoint = "http://host/v1"
            raise error

    error = asyncio.run(_caught(Failing(api_base="http://host/v1", request_max_retries=1)))
    assert (error.got, error.attempts) == (shown, 2)


async def _caught(engine: OpenAIEngine) -> CallError:
    with pytest.raises(CallError) as caught:
        await engine.generate(make_request())
    await engine.aclose()
    return caught.value


def test_one_broken_request_among_many_fails_alone(server: RunningServer) -> None:
    server.set_faults({"fault": "http_400", "step": "plan_broken"})

    async def scenario() -> list[Reply | BaseException]:
        async with engine_at(server.api_base) as engine:
            steps = ["plan.task"] * 6 + ["plan.broken"] + ["plan.task"] * 6
            requests = (make_request(step=step, seed=i) for i, step in enumerate(steps))
            return await asyncio.gather(*map(engine.generate, requests), return_exceptions=True)

    outcomes = asyncio.run(scenario())
    assert [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, Reply)] == [6]


HINTS = [
    (400, "This model's maximum context length is 8192 tokens.", "--plan.max_frames_per_prompt"),
    (400, "max_tokens=9000 cannot be greater than max_model_len=8192.", "--vlm.max_new_tokens"),
    (400, "At most 1 image(s) may be provided in one prompt.", "--limit-mm-per-prompt"),
    (400, "mm_processor_kwargs is not allowed", "--trust-request-mm-kwargs"),
    (401, "Unauthorized", "--vlm.api_key_env"),
    (404, "The model does not exist.", "the server has test-model; name one with --vlm.model_id"),
    (429, "Too many requests", "--vlm.client_concurrency"),
    (500, "Internal server error", "server's log"),
]


@pytest.mark.parametrize(("status", "message", "hint"), HINTS)
def test_common_refusals_come_with_the_hint_that_helps(
    server: RunningServer, status: int, message: str, hint: str
) -> None:
    server.set_faults({"fault": f"http_{status}", "message": message})
    assert hint in failure(server.api_base, request_max_retries=0).hint


# Secrets


def test_the_api_key_is_sent_and_never_shown() -> None:
    with running_server("--api-key", "another-key") as server:
        # The server repeats the key it got in its message, as some do.
        error = failure(server.api_base, api_key=SECRET)
        assert server.headers()["authorization"] == f"Bearer {SECRET}"
        with pytest.raises(NoEngine) as caught:
            asyncio.run(probe(server.api_base, SECRET))
    assert error.kind == "http_401"
    assert "***" in error.got
    shown = "".join(traceback.format_exception(error) + traceback.format_exception(caught.value))
    assert "plan.task" in shown
    assert SECRET not in shown


def test_a_key_no_header_can_carry_is_refused_without_showing_it() -> None:
    with pytest.raises(UsageError) as caught:
        OpenAIEngine(api_base="http://localhost:8000/v1", api_key=f"{SECRET}\u2028x")
    assert SECRET not in str(caught.value)


def test_credentials_in_the_endpoint_are_not_recorded() -> None:
    error = failure(f"http://user:{SECRET}@127.0.0.1:{unused_port()}/v1?key={SECRET}", request_max_retries=0)
    assert SECRET not in str(error)


@pytest.mark.parametrize("api_base", ["localhost:8000/v1", "", "ftp://host/v1", "http:///v1"])
def test_an_endpoint_that_is_no_url_is_refused_at_once(api_base: str) -> None:
    with pytest.raises(UsageError):
        OpenAIEngine(api_base=api_base)


# Concurrency, cancellation, the end


@pytest.mark.parametrize(("limit", "most"), [(3, 3), (0, 12)])
def test_requests_in_flight_are_limited_and_0_sets_no_limit(server: RunningServer, limit: int, most: int) -> None:
    async def scenario() -> None:
        async with engine_at(server.api_base, client_concurrency=limit) as engine:
            calls = [asyncio.create_task(engine.generate(make_request(seed=i))) for i in range(12)]
            await asyncio.to_thread(wait_until, lambda: server.counts["in_flight"] == most)
            server.hold(-1)
            await asyncio.gather(*calls)

    server.hold(0)
    asyncio.run(scenario())
    assert server.counts["most_in_flight"] == most


def test_cancelling_closes_the_connection_so_the_server_stops_working(server: RunningServer) -> None:
    server.set_faults({"fault": "silence", "seconds": 30})

    async def scenario() -> None:
        async with engine_at(server.api_base, client_concurrency=1) as engine:
            task = asyncio.create_task(engine.generate(make_request()))
            await asyncio.to_thread(wait_until, lambda: server.counts["in_flight"])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 1)
            await asyncio.to_thread(wait_until, lambda: server.counts["aborted"])
            await asyncio.to_thread(server.set_faults)
            assert (await asyncio.wait_for(engine.generate(make_request()), 2)).text

    asyncio.run(scenario())


def test_a_program_that_uses_and_closes_the_engine_exits_without_a_word(server: RunningServer) -> None:
    code = f"""
import asyncio
from annotator.vlm.openai.engine import OpenAIEngine
from tests.contracts.engine_contract import make_request

async def main():
    engine = OpenAIEngine(api_base={server.api_base!r})
    await asyncio.gather(*(engine.generate(make_request(seed=i)) for i in range(4)))
    slow = asyncio.create_task(engine.generate(make_request()))
    await asyncio.sleep(0.001)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    await engine.aclose()

asyncio.run(main())
"""
    command = [sys.executable, "-W", "error", "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


# Looking for a server


def test_probe_tells_what_is_served(server: RunningServer) -> None:
    served = asyncio.run(probe(server.api_base))
    assert served is not None
    assert (served.api_base, served.model_ids, served.version) == (server.api_base, ("test-model",), "test-server-1")


def test_probe_finds_nothing_where_nothing_listens_or_something_else_does(server: RunningServer) -> None:
    assert asyncio.run(probe(f"http://127.0.0.1:{unused_port()}/v1", timeout_s=2)) is None
    assert asyncio.run(probe(server.api_base.removesuffix("/v1"))) is None


def test_a_dead_server_is_one_clear_error_before_the_first_call() -> None:
    api_base = f"http://127.0.0.1:{unused_port()}/v1"
    with pytest.raises(NoEngine) as caught:
        asyncio.run(require(api_base, "test-model"))
    assert caught.value.what == "no model server answers"
    assert caught.value.where == f"{api_base}/models"
    assert "connection" in caught.value.got.lower()
    assert "vllm serve" in caught.value.hint


def test_a_server_with_other_models_is_named_with_what_it_has(server: RunningServer) -> None:
    asyncio.run(require(server.api_base, "test-model"))
    with pytest.raises(NoEngine) as caught:
        asyncio.run(require(server.api_base, "another"))
    assert caught.value.got == "another"
    assert "--vlm.model_id=test-model" in caught.value.hint


def test_a_base_without_v1_is_told_so(server: RunningServer) -> None:
    with pytest.raises(CallError) as caught:
        asyncio.run(served_at(server.api_base.removesuffix("/v1")))
    assert "/v1" in caught.value.hint


# The test server itself


def test_the_server_answers_alike_from_any_process_and_differently_to_another_request(server: RunningServer) -> None:
    requests = [make_request(Segmentation, seed=seed) for seed in (1, 2)]
    with running_server() as other:
        texts = [ask(where.api_base, request).text for where in (server, other) for request in requests]
    assert texts[:2] == texts[2:]
    assert texts[0] != texts[1]


def test_the_servers_log_has_a_line_for_each_answered_request_and_no_other(tmp_path: Any) -> None:
    log = tmp_path / "answered.jsonl"
    plan = json.dumps([{"fault": "http_500", "times": 1}])
    with running_server("--log", str(log), "--faults", plan) as server:
        for seed in (1, 2):
            ask(server.api_base, make_request(seed=seed))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == ["plan_task", "plan_task"]
    assert lines[0]["request"] != lines[1]["request"]
    assert time.time() - 60 < lines[0]["at"] <= lines[1]["at"] <= time.time()
