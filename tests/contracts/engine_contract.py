"""What every engine must do. An engine's test inherits one of these and says how to make the engine.

`EngineContract` holds for all. `AnsweringContract` adds what holds for an engine that answers any step;
an engine that may decline some sets `may_decline`. `ModelContract` adds what holds where a model looks and replies.
"""

import asyncio
import io
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
from PIL import Image

from annotator.dataset.signals import Signals
from annotator.errors import CallError, Declined
from annotator.media.picture import Picture
from annotator.prompting import answers
from annotator.vlm.base import Engine, Reply, Request
from annotator.vlm.reply_text import json_part
from annotator_store.digests import Digest, digest_parts
from annotator_store.keys import Message, Model, Slot, Text

T = TypeVar("T")

ALL_ANSWERS = [
    kind
    for kind in vars(answers).values()
    if isinstance(kind, type) and issubclass(kind, answers.Answer) and kind is not answers.Answer
]


def make_picture(kind: Any = "image", *, frames: int = 1, width_px: int = 64, shade: int = 0) -> Picture:
    """Draw a small picture; `shade` tells one from another."""
    jpegs: list[bytes] = []
    for i in range(frames):
        buffer = io.BytesIO()
        Image.new("RGB", (width_px, 48), (shade % 256, 40 * i % 256, 90)).save(buffer, "JPEG", quality=84)
        jpegs.append(buffer.getvalue())
    times = tuple(i / 2 for i in range(frames))
    digest = digest_parts("test.v1", [kind.encode(), *jpegs])
    return Picture(kind=kind, jpegs=tuple(jpegs), media_digest=digest, timestamps=times)


def make_signals() -> Signals:
    """Four seconds of a joint that moves and a gripper that closes and opens."""
    timestamps = np.arange(40) / 10
    gripper = np.where((timestamps > 1) & (timestamps < 3), 0.0, 1.0)
    state = np.stack([np.sin(timestamps), gripper], axis=1).astype(np.float32)
    return Signals(timestamps=timestamps, state=state, action=None, state_names=("joint", "gripper"), action_names=())


def make_request(
    answer: type[answers.Answer] = answers.Task,
    *,
    step: str = "plan.task",
    text: str = "What is the robot doing? Answer as JSON.",
    pictures: tuple[Picture, ...] = (),
    seed: int = 1729,
    model: Model | None = None,
) -> Request:
    """Make a request as an ask would: a system message, then the pictures, then the text."""
    media = tuple(Slot(i) for i in range(len(pictures)))
    messages = (
        Message(role="system", parts=(Text("You annotate robot episodes."),)),
        Message(role="user", parts=(*media, Text(text))),
    )
    schema = answers.schema_of(answer)
    model = model or Model(model_id="test-model", max_new_tokens=2048)
    identity = [step, text, str(seed), model.model_id, answer.__name__, *(p.media_digest for p in pictures)]
    return Request(
        key=digest_parts("test.v1", [part.encode() for part in identity]),
        step=step,
        messages=messages,
        schema=schema,
        pictures=pictures,
        model=model,
        seed=seed,
        episode=Digest("e" * 32),
        inputs={"task": "pick up the banana"},
        signals=make_signals,
    )


async def wait_until(happened: Callable[[], object], timeout_s: float = 60) -> None:
    """Poll until something has happened."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not await asyncio.to_thread(happened):
        assert loop.time() < deadline
        await asyncio.sleep(0.01)


class EngineContract:
    """Holds for every engine: its attributes, and its end."""

    def make_engine(self) -> Engine:
        """Make the engine under test, ready to use."""
        raise NotImplementedError

    def model(self) -> Model:
        """The model to ask for."""
        return Model(model_id="test-model", max_new_tokens=2048)

    def run(self, scenario: Coroutine[Any, Any, T]) -> T:
        """Run a scenario in an event loop of its own, with a limit."""
        return asyncio.run(asyncio.wait_for(scenario, 60))

    def test_an_engine_says_its_name_and_what_it_wants(self) -> None:
        async def scenario() -> None:
            engine = self.make_engine()
            assert engine.name
            assert isinstance(engine.looks, bool)
            assert isinstance(engine.reads_evidence, bool)
            await engine.aclose()

        self.run(scenario())

    def test_closing_twice_is_safe_even_unused(self) -> None:
        async def scenario() -> None:
            engine = self.make_engine()
            await engine.aclose()
            await engine.aclose()

        self.run(scenario())


class AnsweringContract(EngineContract):
    """Holds for every engine that answers."""

    may_decline = False

    async def ask(self, engine: Engine, request: Request) -> Reply | None:
        """Ask with this engine's model; None where the engine declined and may."""
        request = msgspec.structs.replace(request, model=self.model())
        try:
            return await engine.generate(request)
        except Declined:
            assert self.may_decline
            return None

    async def ask_once(self, request: Request) -> Reply | None:
        """Ask a fresh engine, and close it."""
        engine = self.make_engine()
        try:
            return await self.ask(engine, request)
        finally:
            await engine.aclose()

    @pytest.mark.parametrize("answer", ALL_ANSWERS, ids=lambda kind: kind.__name__)
    def test_every_answer_comes_back_as_its_schema_wants(self, answer: type[answers.Answer]) -> None:
        reply = self.run(self.ask_once(make_request(answer)))
        if reply is not None:
            assert isinstance(msgspec.json.decode(json_part(reply.text).encode(), type=answer), answer)
            assert reply.attempts == 1
            assert reply.elapsed_s >= 0

    @pytest.mark.parametrize("kind", ["image", "video"])
    def test_pictures_and_videos_are_accepted(self, kind: str) -> None:
        pictures = (make_picture(kind, frames=1 if kind == "image" else 4),)
        reply = self.run(self.ask_once(make_request(pictures=pictures)))
        assert reply is None or reply.text

    def test_the_same_request_gets_the_same_text_from_a_fresh_engine(self) -> None:
        request = make_request(answers.Segmentation, pictures=(make_picture(),))
        first, second = self.run(self.ask_once(request)), self.run(self.ask_once(request))
        assert (first and first.text) == (second and second.text)

    def test_eight_requests_at_once_get_what_each_gets_alone(self) -> None:
        requests = [make_request(text=f"Question {i}?", seed=i) for i in range(8)]

        async def one_by_one() -> list[Reply | None]:
            engine = self.make_engine()
            try:
                return [await self.ask(engine, request) for request in requests]
            finally:
                await engine.aclose()

        async def together() -> list[Reply | None]:
            engine = self.make_engine()
            try:
                return await asyncio.gather(*(self.ask(engine, request) for request in requests))
            finally:
                await engine.aclose()

        alone, at_once = self.run(one_by_one()), self.run(together())
        assert len(at_once) == 8
        assert [reply and reply.text for reply in at_once] == [reply and reply.text for reply in alone]

    def test_a_cancelled_request_ends_at_once_and_the_engine_goes_on(self) -> None:
        async def scenario() -> None:
            engine = self.make_engine()
            task = asyncio.create_task(self.ask(engine, make_request(text="never mind")))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 2)
            reply = await self.ask(engine, make_request(text="and now"))
            assert reply is not None or self.may_decline
            await engine.aclose()

        self.run(scenario())


class ModelContract(AnsweringContract):
    """Holds for every engine behind which a model looks at pictures. `refused` is the kind of its refusals."""

    refused = ""

    async def wait_until_answering(self) -> None:
        """Return once the engine works on a request that was just given to it; each engine tells in its own way."""
        raise NotImplementedError

    def asked(self, request: Request) -> Reply:
        """Ask a fresh engine, which answers."""
        reply = self.run(self.ask_once(request))
        assert reply is not None
        return reply

    def refusal(self, request: Request) -> CallError:
        """Ask what is refused; the engine goes on."""

        async def scenario() -> CallError:
            engine = self.make_engine()
            with pytest.raises(CallError) as caught:
                await self.ask(engine, request)
            assert await self.ask(engine, make_request(text="and now")) is not None
            await engine.aclose()
            return caught.value

        error = self.run(scenario())
        assert (error.kind, error.retryable) == (self.refused, False)
        assert error.what
        assert "plan.task" in error.where
        assert error.got
        return error

    def test_a_reply_says_how_it_ended_what_it_cost_and_where_it_came_from(self) -> None:
        reply = self.asked(make_request(pictures=(make_picture(),)))
        assert reply.finish_reason == "stop"
        assert reply.tokens_in > 10
        assert reply.tokens_out > 2
        assert reply.elapsed_s > 0
        assert reply.versions
        # It is kept in the log as it is, so subclasses of str will not do.
        assert msgspec.json.decode(msgspec.json.encode(reply), type=Reply) == reply

    def test_every_answer_is_given_to_a_picture_and_a_video_too(self) -> None:
        pictures = (make_picture(), make_picture("video", frames=4), make_picture(shade=200))
        reply = self.asked(make_request(answers.BboxAnswer, pictures=pictures))
        assert msgspec.json.decode(json_part(reply.text).encode(), type=answers.BboxAnswer)

    def test_a_vocabulary_is_kept_to(self) -> None:
        labels = ["grasp the sponge", "wipe the table", "let go of the sponge"]
        schema = answers.schema_of(answers.Segmentation, {"subtask": labels})
        reply = self.asked(msgspec.structs.replace(make_request(answers.Segmentation), schema=schema))
        spans = msgspec.json.decode(json_part(reply.text).encode(), type=answers.Segmentation).subtasks
        assert {span.subtask for span in spans} <= set(labels)

    def test_every_frame_of_a_long_video_is_looked_at(self) -> None:
        videos = [make_picture("video", frames=frames) for frames in (40, 48)]
        forty, more = (self.asked(make_request(pictures=(video,))).tokens_in for video in videos)
        per_frame = (forty - self.asked(make_request()).tokens_in) / 40
        assert more - forty > 6 * per_frame > 6

    def test_another_seed_or_another_picture_may_be_answered_differently(self) -> None:
        def texts(requests: list[Request]) -> set[str]:
            return {self.asked(request).text for request in requests}

        assert len(texts([make_request(answers.Segmentation, seed=seed) for seed in range(4)])) > 1
        shown = [make_request(answers.Segmentation, pictures=(make_picture(shade=42 * i),)) for i in range(6)]
        assert len(texts(shown)) > 1

    def test_a_reply_that_gets_too_long_is_cut_and_says_so(self) -> None:
        short = msgspec.structs.replace(self.model(), max_new_tokens=4)

        async def scenario() -> Reply:
            engine = self.make_engine()
            reply = await engine.generate(msgspec.structs.replace(make_request(answers.Segmentation), model=short))
            await engine.aclose()
            return reply

        reply = self.run(scenario())
        assert (reply.finish_reason, reply.tokens_out) == ("length", 4)

    def test_a_prompt_that_does_not_fit_is_refused_with_what_helps(self) -> None:
        error = self.refusal(make_request(text="word " * 20000))
        assert "--plan.max_frames_per_prompt" in error.hint

    def test_a_picture_that_is_none_is_refused(self) -> None:
        broken = msgspec.structs.replace(make_picture(), jpegs=(b"no JPEG",), media_digest=Digest("b" * 32))
        self.refusal(make_request(pictures=(broken,)))

    def test_a_schema_that_cannot_be_compiled_is_refused(self) -> None:
        self.refusal(msgspec.structs.replace(make_request(), schema={"type": "frobnicate"}))

    def test_a_request_cancelled_in_the_middle_of_its_reply_stops_being_worked_on(self) -> None:
        endless = {"type": "string", "minLength": 6000, "maxLength": 6001}
        long = msgspec.structs.replace(make_request(), schema=endless)
        patient = msgspec.structs.replace(self.model(), max_new_tokens=6000)

        async def scenario() -> float:
            engine = self.make_engine()
            await self.ask(engine, make_request(text="warm up"))
            task = asyncio.create_task(engine.generate(msgspec.structs.replace(long, model=patient)))
            await self.wait_until_answering()
            assert not task.done()
            task.cancel()
            started = asyncio.get_running_loop().time()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await self.ask(engine, make_request(text="and now")) is not None
            await engine.aclose()
            return asyncio.get_running_loop().time() - started

        assert self.run(scenario()) < 10


class FailingContract(EngineContract):
    """Holds for an engine whose backend is broken: every failure is one `CallError`."""

    kind = ""
    retryable = True

    def test_a_failure_is_one_call_error_that_says_what_where_got(self) -> None:
        async def scenario() -> CallError:
            engine = self.make_engine()
            with pytest.raises(CallError) as caught:
                await engine.generate(msgspec.structs.replace(make_request(), model=self.model()))
            await engine.aclose()
            return caught.value

        error = self.run(scenario())
        assert (error.kind, error.retryable) == (self.kind, self.retryable)
        assert error.what
        assert "plan.task" in error.where
        assert error.got
        assert error.hint
