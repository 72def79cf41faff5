"""The client of a run: what it keeps of each call, when it stops asking, and what it starts once."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from annotator.errors import CallError, Declined, NoEngine, UsageError
from annotator.prompting.loader import load_prompts
from annotator.vlm.base import Engine, Reply
from annotator.vlm.client import HOPELESS, LOST_BEFORE_STOPPING, PendingCall, VlmClient
from annotator.vlm.scripted.engine import ScriptedEngine
from annotator_store.digests import digest_struct
from annotator_store.keys import Call, Frames, Prompt, call_key
from annotator_store.log.events import (
    AnyEvent,
    CallAnswered,
    CallDeclined,
    CallFailed,
    FramesChosen,
    ModelDescribed,
    PromptRendered,
)
from annotator_store.log.log import Log
from tests.pipeline.unit.values import MODEL, client, keep_in
from tests.store.facts import digest

PROMPTS = load_prompts(None)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Log.open(tmp_path / "log") as opened:
        yield opened


def pending(number: int = 0, *, schema: int = 0, step: str = "plan.segment") -> PendingCall:
    """The call about an episode; `schema` tells prompts apart."""
    prompt, frames = Prompt(messages=(), schema={"n": schema}), Frames()
    call = Call(
        episode=digest("episode", number),
        prompt=digest_struct(prompt),
        model=digest_struct(MODEL),
        seed=1,
        frames=digest_struct(frames),
    )
    return PendingCall(step=step, prompt=prompt, frames=frames, inputs={}, call=call, key=call_key(call))


def error(kind: str = "connection") -> CallError:
    return CallError("no reply", kind=kind, retryable=True, attempts=3)


def fail(asking: VlmClient, *kinds: str) -> None:
    async def keep_all() -> None:
        for kind in kinds:
            await asking.keep_failure(pending(), error(kind))

    asyncio.run(keep_all())


def test_a_run_stops_asking_at_the_fourth_call_in_a_row_that_finds_no_server(log: Log) -> None:
    notes: list[str] = []
    asking = client(log, PROMPTS, notes=notes)
    assert LOST_BEFORE_STOPPING == 4
    fail(asking, "connection", "connection", "connection")
    assert (asking.stopped, notes) == (None, [])
    fail(asking, "connection")
    assert asking.stopped is not None
    assert notes == ["asking nothing more in this run: the server is gone (connection)"]
    fail(asking, "connection")
    assert len(notes) == 1


def test_a_server_that_answers_in_between_is_alive(log: Log) -> None:
    asking = client(log, PROMPTS)
    fail(asking, "connection", "connection", "connection")
    asyncio.run(asking.keep_answer(pending(), Reply(text="{}")))
    fail(asking, "connection", "connection", "connection")
    assert asking.stopped is None
    fail(asking, "connection")
    assert asking.stopped is not None


def test_a_failure_of_another_kind_shows_that_the_server_is_there(log: Log) -> None:
    asking = client(log, PROMPTS)
    fail(asking, "connection", "connection", "connection", "timeout", "connection", "http_500", "connection")
    assert asking.stopped is None


@pytest.mark.parametrize("kind", ["http_401", "http_403", "engine_dead"])
def test_a_failure_that_every_call_would_share_stops_a_run_at_once(log: Log, kind: str) -> None:
    notes: list[str] = []
    asking = client(log, PROMPTS, notes=notes)
    fail(asking, kind)
    assert isinstance(asking.stopped, CallError) and asking.stopped.kind == kind
    assert notes == [f"asking nothing more in this run: {HOPELESS[kind]} ({kind})"]


def test_so_many_failures_of_any_kind_may_be_allowed_and_0_allows_all(log: Log) -> None:
    kinds, notes = ("timeout", "http_500", "timeout"), list[str]()
    limited = client(log, PROMPTS, max_failures=3, notes=notes)
    fail(limited, *kinds[:2])
    assert limited.stopped is None
    fail(limited, kinds[2])
    assert limited.stopped is not None
    assert notes == ["asking nothing more in this run: 3 calls failed (--max_failures)"]
    unlimited = client(log, PROMPTS)
    fail(unlimited, *kinds * 3)
    assert unlimited.stopped is None


class Queueing(ScriptedEngine):
    """An engine in which calls wait for their turn."""

    stops = 0

    def stop(self) -> None:
        """Count that it was told to stop."""
        self.stops += 1


def test_an_engine_in_which_calls_wait_is_told_to_stop_once(log: Log) -> None:
    engine = Queueing()
    asking = client(log, PROMPTS, engine=engine)
    asyncio.run(asking.engine())
    fail(asking, "http_401", "http_401")
    assert engine.stops == 1


def test_a_failure_is_kept_with_how_often_it_was_tried(log: Log) -> None:
    events: list[AnyEvent] = []
    asking = client(log, PROMPTS, record=keep_in(events))
    fail(asking, "timeout")
    (event,) = events
    assert isinstance(event, CallFailed)
    assert (event.kind, event.retryable, event.attempts, event.engine) == ("timeout", True, 3, "log")
    assert (event.key, event.episode, event.step) == (pending().key, digest("episode", 0), "plan.segment")
    assert asking.stats.failures_by_kind == {"timeout": 1}


def test_an_answer_is_kept_after_what_explains_its_key_each_part_once_a_run(log: Log) -> None:
    events: list[AnyEvent] = []
    asking = client(log, PROMPTS, record=keep_in(events))

    async def answer_all() -> None:
        await asking.engine()
        await asking.keep_answer(pending(0), Reply(text='{"a": 1}', tokens_in=5, tokens_out=2))
        await asking.keep_answer(pending(1), Reply(text="none"))
        await asking.keep_answer(pending(0, schema=1), Reply(text="none"))

    asyncio.run(answer_all())
    kinds = [type(event) for event in events]
    assert kinds == [
        PromptRendered, ModelDescribed, FramesChosen, CallAnswered, CallAnswered, PromptRendered, CallAnswered,
    ]  # fmt: skip
    answers = [event for event in events if isinstance(event, CallAnswered)]
    assert [event.key for event in answers] == [pending(0).key, pending(1).key, pending(0, schema=1).key]
    assert [event.answer is None for event in answers] == [False, True, True]
    assert {(event.engine, event.model_id) for event in answers} == {("scripted", "some/model")}
    assert (asking.stats.tokens_in, asking.stats.tokens_out) == (5, 2)


def test_what_was_kept_is_known_to_the_next_client_of_the_log(log: Log) -> None:
    asking = client(log, PROMPTS)

    async def keep_both() -> None:
        await asking.keep_answer(pending(0), Reply(text="no answer", finish_reason="length"))
        await asking.keep_refusal(pending(0, schema=1), Declined("cannot", got="too dark"))
        answered = await asking.keep_answer(pending(0, schema=2), Reply(text="no answer"))
        await asking.keep_rejection(pending(0, schema=2), answered, ValueError("no JSON"))

    asyncio.run(keep_both())
    outcomes = client(log, PROMPTS).outcomes(digest("episode", 0))
    assert set(outcomes.known) == {pending(0, schema=schema).key for schema in range(3)}
    assert outcomes.rejected == {pending(0, schema=2).key}


def test_a_refusal_is_noted_the_first_time_a_step_declines_and_counted_each_time(log: Log) -> None:
    events, notes = list[AnyEvent](), list[str]()
    asking = client(log, PROMPTS, record=keep_in(events), notes=notes)

    async def refuse_all() -> None:
        await asking.keep_refusal(pending(0, step="vqa.bbox"), Declined("cannot", got="too dark"))
        await asking.keep_refusal(pending(1, step="vqa.bbox"), Declined("cannot", got="too dark"))
        await asking.keep_refusal(pending(1, step="vqa.count"), Declined("cannot"))

    asyncio.run(refuse_all())
    assert [event.reason for event in events if isinstance(event, CallDeclined)] == ["too dark", "too dark", "cannot"]
    assert notes == ["vqa.bbox: log declines – too dark", "vqa.count: log declines – cannot"]
    assert asking.stats.outcomes["declined"] == 3


def test_concurrent_calls_share_one_start_of_the_engine(log: Log) -> None:
    starts: list[int] = []

    async def open_engine() -> Engine:
        starts.append(1)
        await asyncio.sleep(0)
        return ScriptedEngine()

    asking = client(log, PROMPTS, open_engine=open_engine)
    assert (asking.engine_name, asking.engine_label) == ("log", "none needed")

    async def start() -> list[Engine]:
        return await asyncio.gather(*(asking.engine() for _ in range(5)))

    assert len(set(map(id, asyncio.run(start())))) == 1
    assert starts == [1]
    assert (asking.engine_name, asking.engine_label) == ("scripted", "scripted, model some/model")


def test_a_start_that_is_refused_is_not_tried_again(log: Log) -> None:
    starts: list[int] = []

    async def open_engine() -> Engine:
        starts.append(1)
        raise UsageError("no such server", where="--vlm.api_base", got="nothing", hint="start it")

    asking = client(log, PROMPTS, open_engine=open_engine)
    for _ in range(2):
        with pytest.raises(NoEngine) as refused:
            asyncio.run(asking.engine())
        assert (refused.value.what, refused.value.where, refused.value.got, refused.value.hint) == (
            "no such server", "--vlm.api_base", "nothing", "start it",
        )  # fmt: skip
    assert starts == [1]
