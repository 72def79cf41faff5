"""Answers from a script, or sampled from the key: deterministic, without a model. For examples and tests."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from annotator.prompting.answers import Answer
from annotator.vlm.base import EngineContext, Reply, Request
from annotator.vlm.scripted.schema_sampler import sample_text
from annotator_store.keys import Text

Scripted = Answer | Mapping[str, Any] | str | Exception
"""An answer, its JSON object, a raw reply text (which may be broken on purpose), or an error to raise."""
Script = Mapping[str, Scripted | Callable[[Request], Scripted]] | Callable[[Request], Scripted | None]
"""Step → its answer, or one function of the request; a step that is left out, or None, is sampled."""


class ScriptedEngine:
    """Answer each step as the script says; sample what it leaves out from the request's key.

    With `record`, `requests` holds every request in order, with its pictures: mind the memory.
    `delay_s` is how long each answer takes. The texts do not describe the footage and must never pose as a model's.
    """

    name = "scripted"
    reads_evidence = False

    def __init__(
        self,
        script: Script | None = None,
        *,
        looks: bool = True,
        delay_s: float = 0.0,
        horizon_s: float = 8.0,
        record: bool = True,
    ) -> None:
        self.looks = looks
        self.requests: list[Request] = []
        self._script: Script = {} if script is None else script
        self._delay_s = delay_s
        self._horizon_s = horizon_s
        self._record = record

    async def generate(self, request: Request) -> Reply:
        """Answer from the script.

        Raises:
            Exception: the error that the script holds for this step.
        """
        if self._record:
            self.requests.append(request)
        await asyncio.sleep(self._delay_s)
        text = self._text(request)
        words = sum(len(part.text.split()) for m in request.messages for part in m.parts if isinstance(part, Text))
        return Reply(text=text, tokens_in=words, tokens_out=len(text.split()), elapsed_s=self._delay_s)

    async def aclose(self) -> None:
        """Nothing is open."""

    def _text(self, request: Request) -> str:
        answer = self._answer(request)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            return answer
        if answer is None:
            return sample_text(request.schema, seed=request.key, horizon_s=self._horizon_s)
        return msgspec.json.encode(answer).decode()

    def _answer(self, request: Request) -> Scripted | None:
        if callable(self._script):
            return self._script(request)
        answer = self._script.get(request.step)
        return answer(request) if callable(answer) else answer


async def open_engine(context: EngineContext) -> ScriptedEngine:
    """Return an engine that samples every answer, and note that none of them means anything."""
    context.note("engine: scripted – made-up answers, for tests only")
    return ScriptedEngine(record=False)
