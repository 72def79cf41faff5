# pyright: reportMissingImports=false
"""The transformers engine with a real, tiny model."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from annotator.errors import CallError, NoEngine
from annotator.prompting.answers import Task
from annotator.vlm.base import Engine, Reply, Stoppable
from annotator.vlm.transformers.engine import TransformersEngine
from annotator.vlm.transformers.guided_json import JsonConstraint
from annotator_store.keys import Model
from tests.contracts.engine_contract import ModelContract, make_picture, make_request, wait_until


@pytest.fixture(autouse=True)
def _model(request: pytest.FixtureRequest, tiny_model: Path) -> None:
    if request.instance is not None:
        request.instance.folder = str(tiny_model)


@pytest.fixture(autouse=True)
def _tokens(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the tokens of all replies: each is masked by the schema once."""
    mask = JsonConstraint.__call__

    def count(self: JsonConstraint, input_ids: Any, scores: Any) -> Any:
        if request.instance is not None:
            request.instance.tokens += 1
        return mask(self, input_ids, scores)

    monkeypatch.setattr(JsonConstraint, "__call__", count)


class TestTransformers(ModelContract):
    refused = "bad_request"
    folder = ""
    tokens = 0

    async def wait_until_answering(self) -> None:
        before = self.tokens
        await wait_until(lambda: self.tokens > before + 2)

    def make_engine(self) -> Engine:
        return TransformersEngine(model_id=self.folder, max_model_len=8192)

    def model(self) -> Model:
        return Model(model_id="tiny", temperature=0.7, max_new_tokens=2048)

    def test_the_event_loop_goes_on_while_a_reply_is_made(self) -> None:
        async def scenario() -> int:
            engine = self.make_engine()
            task = asyncio.create_task(self.ask(engine, make_request(pictures=(make_picture(),))))
            turns = 0
            while not task.done():
                await asyncio.sleep(0.01)
                turns += 1
            await engine.aclose()
            return turns

        assert self.run(scenario()) > 5

    def test_closing_ends_what_is_asked_with_errors_never_with_half_a_reply_and_leaves_no_thread(self) -> None:
        before = threading.active_count()

        async def scenario() -> tuple[float, list[Reply | BaseException]]:
            engine = self.make_engine()
            await self.ask(engine, make_request())
            endless = msgspec.structs.replace(make_request(), schema={"type": "string", "minLength": 6000})
            long = msgspec.structs.replace(endless, model=msgspec.structs.replace(self.model(), max_new_tokens=6000))
            tasks = [asyncio.create_task(engine.generate(long)) for _ in range(3)]
            await self.wait_until_answering()
            started = asyncio.get_running_loop().time()
            await engine.aclose()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            return asyncio.get_running_loop().time() - started, ended

        took_s, ended = self.run(scenario())
        assert took_s < 5
        assert [one.kind for one in ended if isinstance(one, CallError)] == ["engine_closed", "stopped", "stopped"]
        assert threading.active_count() <= before

    def test_stopping_lets_the_reply_in_hand_end_and_begins_no_other(self) -> None:
        async def scenario() -> list[Reply | BaseException]:
            engine = TransformersEngine(model_id=self.folder)
            assert isinstance(engine, Stoppable)
            await engine.start()
            requests = [msgspec.structs.replace(make_request(seed=seed), model=self.model()) for seed in range(6)]
            tasks = [asyncio.create_task(engine.generate(request)) for request in requests]
            await asyncio.wait(tasks[:1])
            engine.stop()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            await engine.aclose()
            return ended

        ended = self.run(scenario())
        replies = [one for one in ended if isinstance(one, Reply)]
        # The second may have begun when the first was heard of.
        assert replies == ended[: len(replies)]
        assert len(replies) in (1, 2)
        assert {(one.kind, one.attempts) for one in ended if isinstance(one, CallError)} == {("stopped", 0)}

    def test_numbers_that_overflow_are_a_call_that_failed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn = torch.multinomial
        monkeypatch.setattr(torch, "multinomial", lambda probs, *rest, **more: drawn(probs * torch.nan, *rest, **more))
        error = self._failure()
        assert (error.kind, error.retryable) == ("engine_failed", True)
        assert "nan" in error.got
        assert "number format" in error.hint

    def test_a_device_that_failed_is_an_engine_that_died(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("CUDA error: device-side assert triggered")

        monkeypatch.setattr(torch, "multinomial", fail)
        assert self._failure().kind == "engine_dead"

    def _failure(self) -> CallError:
        async def scenario() -> CallError:
            engine = self.make_engine()
            with pytest.raises(CallError) as caught:
                await self.ask(engine, make_request())
            await engine.aclose()
            return caught.value

        return self.run(scenario())

    def test_greedy_replies_need_no_seed(self) -> None:
        greedy = Model(model_id="tiny", temperature=0.0, max_new_tokens=512)

        async def texts() -> set[str]:
            engine = self.make_engine()
            requests = [msgspec.structs.replace(make_request(seed=seed), model=greedy) for seed in range(3)]
            replies = [await engine.generate(request) for request in requests]
            await engine.aclose()
            return {reply.text for reply in replies}

        assert len(self.run(texts())) == 1

    def test_the_chat_template_gets_its_arguments_and_thinking_is_off_unless_wanted(self) -> None:
        async def tokens(**given: object) -> int:
            engine = self.make_engine()
            model = msgspec.structs.replace(self.model(), chat_template_kwargs=given)
            reply = await engine.generate(msgspec.structs.replace(make_request(), model=model))
            await engine.aclose()
            return reply.tokens_in

        # The template opens the reply with an empty think block where thinking is off.
        assert self.run(tokens()) > self.run(tokens(enable_thinking=True))


def test_a_model_that_is_not_there_is_one_clear_problem(tmp_path: Path) -> None:
    async def scenario() -> str:
        engine = TransformersEngine(model_id=str(tmp_path))
        with pytest.raises(NoEngine) as caught:
            await engine.start()
        await engine.aclose()
        return f"{caught.value}"

    said = asyncio.run(scenario())
    assert str(tmp_path) in said
    assert "hint: " in said


def test_a_reply_fits_its_answer_also_with_the_whole_vocabulary_in_play(tiny_model: Path) -> None:
    async def scenario() -> list[str]:
        engine = TransformersEngine(model_id=str(tiny_model))
        hot = Model(model_id="tiny", temperature=3.0, max_new_tokens=512)
        replies = [await engine.generate(msgspec.structs.replace(make_request(seed=s), model=hot)) for s in range(8)]
        await engine.aclose()
        return [reply.text for reply in replies]

    texts = asyncio.run(scenario())
    assert all(msgspec.json.decode(text, type=Task).task for text in texts)
    assert len(set(texts)) > 4
