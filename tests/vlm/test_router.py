"""Several endpoints: who gets which call, what happens when one is ill or busy, and how it comes back."""

import asyncio
import http.server
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from annotator.config.settings import VlmSettings
from annotator.errors import CallError, NoEngine
from annotator.vlm.base import Reply, Request
from annotator.vlm.openai import router as router_module
from annotator.vlm.openai.engine import OpenAIEngine, require_any
from annotator.vlm.openai.limiter import ConcurrencyLimiter
from annotator.vlm.openai.router import UNHEALTHY_AFTER, EndpointState, Router, Stopped
from annotator.vlm.registry import choose_engine
from annotator_store.digests import Digest, digest_parts
from tests.contracts.engine_contract import make_request
from tests.vlm.conftest import RunningServer, running_server


class Fake:
    """A client of an endpoint that is healthy or not, as the test says."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.healthy = True
        self.asked = 0

    async def is_healthy(self) -> bool:
        self.asked += 1
        return self.healthy

    async def aclose(self) -> None: ...


def make_router(count: int, *, limit: int = 0) -> Router[Fake]:
    router: Router[Fake] = Router(lambda _: None)
    for number in range(count):
        fake = Fake(f"http://host-{number}/v1")
        router.add(fake.url, limit, fake)
    return router


def episodes(count: int) -> list[Digest]:
    return [digest_parts("test.v1", [str(number).encode()]) for number in range(count)]


def about(episode: Digest, **what: Any) -> Request:
    return msgspec.structs.replace(make_request(**what), episode=episode)


def error(kind: str, retry_after_s: float | None = None) -> CallError:
    made = CallError("it failed", kind=kind, retryable=True)
    made.retry_after_s = retry_after_s
    return made


async def pass_through(router: Router[Fake], episode: Digest) -> EndpointState[Fake]:
    """Acquire and release at once; return which endpoint it was."""
    endpoint = await router.acquire(episode, "plan.task")
    router.release(endpoint)
    return endpoint


def fail(router: Router[Fake], endpoint: EndpointState[Fake], kind: str, retry_after_s: float | None = None) -> None:
    assert endpoint.client is not None
    router.failed(endpoint, endpoint.client, error(kind, retry_after_s), asyncio.get_running_loop().time())


async def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not happened():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def run(scenario: Awaitable[Any]) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(scenario, 30)

    return asyncio.run(limited())


# Who gets which call


def test_an_episode_keeps_to_one_endpoint_and_episodes_spread_over_all() -> None:
    async def scenario() -> None:
        router = make_router(4)
        first = {episode: await pass_through(router, episode) for episode in episodes(80)}
        assert {episode: await pass_through(router, episode) for episode in reversed(episodes(80))} == first
        assert all(count >= 8 for count in Counter(first.values()).values())
        assert len(set(first.values())) == 4

    run(scenario())


def test_the_same_episode_finds_the_same_endpoint_in_another_run_and_one_more_endpoint_moves_few() -> None:
    async def endpoint_labels(count: int) -> dict[Digest, str]:
        router = make_router(count)
        return {episode: (await pass_through(router, episode)).label for episode in episodes(60)}

    three = run(endpoint_labels(3))
    assert run(endpoint_labels(3)) == three
    four = run(endpoint_labels(4))
    moved = sum(label != three[episode] for episode, label in four.items())
    assert 10 <= moved <= 25, "a quarter has to move; by the number alone three quarters would"


def test_episodes_that_come_one_by_one_are_shared_out_as_well() -> None:
    async def scenario() -> None:
        for seed in range(20):
            router = make_router(2)
            mine = [digest_parts("test.v1", [f"{seed} {number}".encode()]) for number in range(4)]
            assert len({await pass_through(router, episode) for episode in mine}) == 2

    run(scenario())


def test_episodes_in_progress_at_once_are_shared_out_so_that_no_endpoint_idles() -> None:
    async def scenario() -> None:
        router = make_router(4)
        endpoints = Counter([await router.acquire(episode, "plan.task") for episode in episodes(16)])
        assert len(endpoints) == 4
        assert max(endpoints.values()) <= 6

    run(scenario())


# Failures and recovery


def test_a_lost_connection_moves_an_episode_and_a_good_probe_brings_it_back() -> None:
    async def scenario() -> None:
        router, (episode,) = make_router(3), episodes(1)
        sticky = await pass_through(router, episode)
        assert sticky.client is not None
        sticky.client.healthy = False
        fail(router, sticky, "connection")
        away = await pass_through(router, episode)
        assert away is not sticky
        assert await pass_through(router, episode) is away
        await until(lambda: sticky.client and sticky.client.asked)
        assert sticky.state == "down"
        sticky.client.healthy = True
        await until(lambda: sticky.state == "up")
        assert await pass_through(router, episode) is sticky
        await router.aclose()

    run(scenario())


@pytest.mark.parametrize("kind", ["http_500", "timeout"])
def test_some_failures_in_a_row_make_an_endpoint_unhealthy_and_an_answer_between_clears_it(kind: str) -> None:
    async def scenario() -> None:
        router = make_router(2)
        endpoint = router.endpoints[0]
        assert endpoint.client is not None
        endpoint.client.healthy = False
        for _ in range(2):
            for _ in range(UNHEALTHY_AFTER - 1):
                fail(router, endpoint, kind)
            assert endpoint.state == "up"
            router.succeeded(endpoint)
        for _ in range(UNHEALTHY_AFTER):
            fail(router, endpoint, kind)
        assert endpoint.state == "down"
        await router.aclose()

    run(scenario())


@pytest.mark.parametrize("kind", ["http_429", "http_400", "bad_reply", "refused"])
def test_a_failure_that_is_the_calls_own_or_of_being_busy_makes_no_endpoint_unhealthy(kind: str) -> None:
    async def scenario() -> None:
        router = make_router(2)
        for _ in range(3 * UNHEALTHY_AFTER):
            fail(router, router.endpoints[0], kind)
        assert router.endpoints[0].state == "up"
        await router.aclose()

    run(scenario())


def test_an_endpoint_that_goes_down_again_and_again_is_probed_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "_PROBE_AFTER_S", (0.0, 1000.0))

    async def scenario() -> None:
        router = make_router(2)
        endpoint = router.endpoints[0]
        fail(router, endpoint, "connection")
        await until(lambda: endpoint.state == "up")
        fail(router, endpoint, "connection")
        await asyncio.sleep(0.2)
        assert endpoint.state == "down", "the second probe waits"
        await router.aclose()

    run(scenario())


def test_calls_that_wait_at_an_endpoint_go_elsewhere_when_it_is_lost() -> None:
    async def scenario() -> None:
        router, (episode,) = make_router(2, limit=1), episodes(1)
        inside = await router.acquire(episode, "plan.task")
        waiting = asyncio.create_task(router.acquire(episode, "plan.task"))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assert inside.client is not None
        inside.client.healthy = False
        fail(router, inside, "connection")
        assert await asyncio.wait_for(waiting, 1) is not inside
        assert inside.open_calls == 1
        await router.aclose()

    run(scenario())


def test_calls_wait_for_a_server_that_is_being_started_and_fail_once_it_is_given_up() -> None:
    async def scenario() -> None:
        router: Router[Fake] = Router(lambda _: None)
        endpoint = router.add("server 0", 0, supervised=True)
        calls = [asyncio.create_task(router.acquire(episode, "plan.task")) for episode in episodes(3)]
        await asyncio.sleep(0.01)
        assert not any(call.done() for call in calls)
        router.set_ready(endpoint, Fake("http://127.0.0.1:1/v1"))
        assert [await call for call in calls] == [endpoint] * 3

        router.set_unavailable(endpoint, "starting")
        late = asyncio.create_task(router.acquire(episodes(1)[0], "plan.task"))
        await asyncio.sleep(0.01)
        router.set_unavailable(endpoint, "gone")
        with pytest.raises(CallError) as caught:
            await late
        assert (caught.value.kind, caught.value.what) == ("connection", "no server is left")
        await router.aclose()

    run(scenario())


@pytest.mark.parametrize("limit", [8, 0], ids=["where calls wait for their turn", "where none waits"])
def test_a_server_that_is_ready_late_gets_its_share_of_the_episodes_in_progress(limit: int) -> None:
    async def scenario() -> None:
        router, asked = Router[Fake](lambda _: None), Counter[str]()
        first, late = (router.add(f"server {number}", limit, supervised=True) for number in range(2))
        router.set_ready(first, Fake("http://127.0.0.1:1/v1"))

        async def work(episode: Digest) -> list[str]:
            used: list[str] = []
            for _ in range(10):
                endpoint = await router.acquire(episode, "plan.task")
                used.append(endpoint.label)
                await asyncio.sleep(0.001)
                router.release(endpoint)
                if not late.client and asked.total() == 20:
                    router.set_ready(late, Fake("http://127.0.0.1:2/v1"))
                asked[endpoint.label] += 1
            return used

        used = await asyncio.gather(*(work(episode) for episode in episodes(32)))
        assert asked.total() == 320
        assert asked["server 1"] >= 100, "a GPU idles"
        moves = [sum(a != b for a, b in itertools.pairwise(labels)) for labels in used]
        assert max(moves) == 1, "an episode keeps to its new endpoint"
        await router.aclose()

    run(scenario())


def test_a_failure_from_before_a_server_was_started_again_says_nothing_about_the_new_one() -> None:
    async def scenario() -> None:
        router = make_router(2)
        endpoint, old = router.endpoints[0], router.endpoints[0].client
        assert old is not None
        router.set_ready(endpoint, Fake("http://host-0:2/v1"))
        router.failed(endpoint, old, error("connection"), 0.0)
        assert endpoint.state == "up"
        await router.aclose()

    run(scenario())


# Being busy


def test_a_call_whose_turn_comes_as_the_run_stops_is_not_sent() -> None:
    async def scenario() -> None:
        router = make_router(1, limit=1)
        (one,) = episodes(1)
        endpoint = await router.acquire(one, "first")
        waiting = asyncio.create_task(router.acquire(one, "second"))
        await asyncio.sleep(0)
        router.release(endpoint)  # as a failure does that is one too many: its place is given on, then the run stops
        router.stop()
        with pytest.raises(Stopped):
            await waiting
        assert (endpoint.open_calls, endpoint.limiter.active) == (0, 0)

    asyncio.run(scenario())


def test_refusals_halve_a_window_once_for_all_that_were_under_way_and_answers_let_it_grow() -> None:
    async def scenario() -> None:
        limiter = ConcurrencyLimiter(16)
        for _ in range(16):
            assert await limiter.acquire()
        sent_at = asyncio.get_running_loop().time()
        for _ in range(5):
            limiter.shrink(sent_at)
        assert limiter.size == 8
        await asyncio.sleep(0.001)
        limiter.shrink(asyncio.get_running_loop().time())
        assert limiter.size == 4
        for _ in range(5):
            limiter.grow()
        assert 5 <= limiter.size < 5.2
        for _ in range(500):
            limiter.grow()
        assert limiter.size == 16

    run(scenario())


def test_a_window_lets_in_no_more_than_its_size_in_the_order_of_coming() -> None:
    async def scenario() -> None:
        limiter, entered = ConcurrencyLimiter(2), list[int]()

        async def visit(number: int) -> None:
            assert await limiter.acquire()
            entered.append(number)
            assert limiter.active <= 2
            await asyncio.sleep(0)
            limiter.release()

        visits = [asyncio.create_task(visit(number)) for number in range(9)]
        await asyncio.sleep(0)
        visits[4].cancel()
        await asyncio.gather(*visits, return_exceptions=True)
        assert entered == [0, 1, 2, 3, 5, 6, 7, 8]
        assert limiter.active == 0

    run(scenario())


def test_a_place_given_to_a_call_that_was_cancelled_in_that_moment_is_given_on() -> None:
    async def scenario() -> None:
        limiter = ConcurrencyLimiter(1)
        assert await limiter.acquire()
        second, third = asyncio.create_task(limiter.acquire()), asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        limiter.release()
        second.cancel()
        assert await asyncio.wait_for(third, 1)
        assert limiter.active == 1

    run(scenario())


def test_retry_after_closes_the_whole_endpoint_for_that_long() -> None:
    async def scenario() -> None:
        router, loop = make_router(1), asyncio.get_running_loop()
        started = loop.time()
        fail(router, router.endpoints[0], "http_503", retry_after_s=0.3)
        assert router.endpoints[0].state == "up"
        await pass_through(router, episodes(1)[0])
        assert loop.time() - started >= 0.3
        await router.aclose()

    run(scenario())


# Real servers


def gather(engine: OpenAIEngine, count: int) -> list[Reply]:
    """Ask about `count` episodes, five calls each."""

    async def scenario() -> list[Reply]:
        requests = [
            about(episode, seed=call, text=f"{episode} {call}?") for episode in episodes(count) for call in range(5)
        ]
        try:
            return await asyncio.gather(*(engine.generate(request) for request in requests))
        finally:
            await engine.aclose()

    return run(scenario())


def test_a_server_killed_in_mid_run_costs_no_call_and_no_retry(server: RunningServer) -> None:
    notes: list[str] = []
    with running_server("--delay-ms", "50", "--faults", '[{"fault": "die", "skip": 8}]') as dying:
        bases = (dying.api_base, server.api_base)
        engine = OpenAIEngine(api_base=bases, request_max_retries=0, client_concurrency=4, note=notes.append)
        replies = gather(engine, 8)
    assert len(replies) == 40
    where = Counter(reply.endpoint for reply in replies)
    assert where[dying.api_base] >= 5
    assert where[server.api_base] >= 20
    assert sum(reply.attempts - 1 for reply in replies) <= 4, "more than what was in flight was asked again"
    assert notes == [f"{dying.api_base} does not answer (connection): going on with the others"]


def test_an_endpoint_that_failed_for_a_while_gets_its_episodes_back(server: RunningServer) -> None:
    server.set_faults({"fault": "http_500", "times": UNHEALTHY_AFTER})
    notes: list[str] = []

    async def scenario(other: str) -> list[Reply]:
        engine = OpenAIEngine(api_base=(server.api_base, other), request_max_retries=1, note=notes.append)
        sticky, mine = engine.router.endpoints[0], list[Digest]()
        for episode in episodes(12):
            endpoint = await engine.router.acquire(episode, "plan.task")
            engine.router.release(endpoint)
            mine += [episode] if endpoint is sticky else []
        replies = await asyncio.gather(*(engine.generate(about(mine[0], seed=seed)) for seed in range(UNHEALTHY_AFTER)))
        await until(lambda: sticky.state == "up")
        replies.append(await engine.generate(about(mine[0])))
        await engine.aclose()
        return replies

    with running_server() as other:
        replies = run(scenario(other.api_base))
    assert [reply.attempts for reply in replies] == [2] * UNHEALTHY_AFTER + [1]
    assert replies[-1].endpoint == server.api_base
    assert notes == [f"{server.api_base} does not answer (http_500): going on with the others"]


def test_a_server_that_takes_fewer_at_once_than_it_is_sent_answers_all_of_them() -> None:
    with running_server("--capacity", "3", "--delay-ms", "20") as busy:
        engine = OpenAIEngine(api_base=busy.api_base, client_concurrency=24, request_max_retries=4)
        replies = gather(engine, 12)
        received = busy.counts["received"]
    assert len(replies) == 60
    assert received == sum(reply.attempts for reply in replies)
    assert received <= 110, "it goes on sending more than are taken"


def test_a_server_that_says_asking_again_is_no_use_is_not_asked_again(server: RunningServer) -> None:
    server.set_faults({"fault": "http_429", "should_retry": False})

    async def scenario() -> CallError:
        engine = OpenAIEngine(api_base=server.api_base)
        with pytest.raises(CallError) as caught:
            await engine.generate(make_request())
        await engine.aclose()
        return caught.value

    failed = run(scenario())
    assert (failed.retryable, failed.attempts, failed.endpoint) == (False, 1, server.api_base)
    assert server.counts["received"] == 1


def test_one_endpoint_that_answers_is_enough_to_start_and_none_is_not(server: RunningServer) -> None:
    nowhere = "http://127.0.0.1:1/v1"
    silent, answers = run(require_any([nowhere, server.api_base], "test-model"))
    assert silent.where == f"{nowhere}/models"
    assert answers is None
    with pytest.raises(NoEngine, match="no model server answers"):
        run(require_any([nowhere, nowhere], "test-model"))
    with pytest.raises(NoEngine, match="does not have this model"):
        run(require_any([nowhere, server.api_base], "another-model"))


class _Page(http.server.BaseHTTPRequestHandler):
    """A web page: whatever is asked, it answers with HTML."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"<!DOCTYPE html><html>a user interface</html>")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None: ...


@contextmanager
def page(status: int) -> Generator[str]:
    handler = type("Page", (_Page,), {"status": status})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.mark.parametrize("status", [200, 404, 405])
def test_a_named_endpoint_that_is_no_model_server_is_refused_before_the_first_call(
    server: RunningServer, status: int
) -> None:
    with page(status) as web:
        vlm = VlmSettings(backend="openai", api_base=f"{web},{server.api_base}", model_id="test-model")
        with pytest.raises(NoEngine) as caught:
            run(choose_engine(vlm, lambda _: None, offline=False))
    assert caught.value.where == f"{web}/models"


def test_an_endpoint_that_is_silent_at_the_start_gets_no_call_until_it_answers(server: RunningServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    late, notes = f"http://127.0.0.1:{port}/v1", list[str]()
    vlm = VlmSettings(
        backend="openai", api_base=f"{late},{server.api_base}", model_id="test-model", request_max_retries=0
    )

    async def scenario() -> None:
        engine = await choose_engine(vlm, notes.append, offline=False)
        assert isinstance(engine, OpenAIEngine)
        endpoint = engine.router.endpoints[0]
        assert endpoint.state == "down"
        replies = await asyncio.gather(*(engine.generate(about(episode)) for episode in episodes(20)))
        assert {(reply.endpoint, reply.attempts) for reply in replies} == {(server.api_base, 1)}
        with running_server("--port", str(port)) as joined:
            await until(lambda: endpoint.state == "up")
            replies = await asyncio.gather(*(engine.generate(about(one)) for one in episodes(40)[20:]))
            assert {reply.endpoint for reply in replies} == {server.api_base, joined.api_base}
        await engine.aclose()

    run(scenario())
    assert notes[1:] == [f"{late} does not answer (connection): starting without it"]
