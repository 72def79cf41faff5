"""Ask: the only way to a model. A key is computed; it is known, or it is called; every call leaves one event."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from annotator.dataset.signals import Signals
from annotator.errors import CallError, Declined, FootageError, NotInLog, Rejected
from annotator.media.picture import Picture
from annotator.prompting.answers import Answer, overlong, schema_of
from annotator.vlm.base import Request
from annotator.vlm.client import KnownOutcomes, PendingCall, VlmClient
from annotator.vlm.reply_text import json_part
from annotator_store.digests import Digest, digest_struct
from annotator_store.keys import Call, Evidence, Frames, Inputs, MediaItem, Prompt, call_key
from annotator_store.log.log import Answered, DeclinedBefore

A = TypeVar("A", bound=Answer)


class StepAnswer(msgspec.Struct, Generic[A], frozen=True):
    """An answer, and the key of the call that gave it."""

    answer: A
    key: Digest


class PictureSource(Protocol):
    """Renders media items for the calls that need them; identical items once."""

    async def get(self, item: MediaItem) -> Picture:
        """Render one item, off the event loop."""
        ...


class SessionEpisode(msgspec.Struct, frozen=True, kw_only=True):
    """The episode that is asked about: its identity, and how to get at what engines look at or read."""

    episode: Digest
    where: str
    signals_digest: Digest
    signals: Callable[[], Signals]
    pictures: PictureSource | None
    outcomes: KnownOutcomes


def _strict(misfit: Callable[[A], str] | None, most: Mapping[str, int]) -> Callable[[A], str]:
    """What is wrong with a first answer: it does not fit, or has more than was asked for."""
    return lambda answer: (misfit(answer) if misfit else "") or overlong(answer, most)


class EpisodeSession:
    """Asks about one episode. `calls` lists the keys of the answers used, in the order they came."""

    def __init__(self, desk: VlmClient, subject: SessionEpisode) -> None:
        self._desk = desk
        self._subject = subject
        self.calls: list[Digest] = []

    async def __call__(
        self,
        step: str,
        answer: type[A],
        inputs: Mapping[str, str],
        media: tuple[MediaItem, ...] = (),
        *,
        allowed: Mapping[str, Sequence[str]] | None = None,
        misfit: Callable[[A], str] | None = None,
        most: Mapping[str, int] | None = None,
    ) -> StepAnswer[A]:
        """Ask one step; a reply that does not fit is asked for once more, with the error.

        `allowed` holds text fields to a list of values in the schema that is sent; an engine that leaves it all the
        same is not refused here. `misfit` says what is wrong with an answer beyond its schema, "" where nothing is.
        `most` holds lists to so many entries in the schema; an answer with more is asked for once more, and the second
        one is taken as it is: which entries to leave out is not for us to say.

        Raises:
            CallError: no reply; the next run asks again.
            Declined: the engine cannot answer this step.
            Rejected: neither reply fits.
            NoEngine: nobody is there to ask; every further call would share it.
            FootageError: the pictures cannot be made.
        """
        taken = self._desk.prompts[step].taken(inputs)
        prompt = self._desk.prompts.ask(step, inputs, schema_of(answer, allowed, most), len(media))
        frames = Frames(media=media, evidence=self._evidence(taken))
        draft = self._draft(step, prompt, frames, taken)
        first = await self._reply(draft)
        try:
            return self._asked(answer, first, _strict(misfit, most or {}))
        except msgspec.DecodeError as error:
            await self._reject(draft, first, error)
            self._desk.tally.count("asked again")
            prompt = self._desk.prompts.ask_again(prompt, first.reply, str(error))
        draft = self._draft(step, prompt, frames, taken)
        second = await self._reply(draft)
        try:
            return self._asked(answer, second, misfit)
        except msgspec.DecodeError as error:
            await self._reject(draft, second, error)
            self._desk.tally.count("rejected")
            raise self._rejection(draft, error) from error

    def _evidence(self, taken: Mapping[str, str]) -> tuple[Evidence, ...]:
        if not self._desk.reads_evidence:
            return ()
        inputs = digest_struct(Inputs(values=dict(taken)))
        return (
            Evidence(kind="signals", digest=self._subject.signals_digest),
            Evidence(kind="inputs", digest=inputs),
        )

    def _draft(self, step: str, prompt: Prompt, frames: Frames, taken: dict[str, str]) -> PendingCall:
        call = Call(
            episode=self._subject.episode,
            prompt=digest_struct(prompt),
            model=self._desk.model_digest,
            seed=self._desk.seed,
            frames=digest_struct(frames),
        )
        return PendingCall(step=step, prompt=prompt, frames=frames, inputs=taken, call=call, key=call_key(call))

    def _asked(self, answer: type[A], known: Answered, misfit: Callable[[A], str] | None) -> StepAnswer[A]:
        if known.finish_reason == "length":
            raise msgspec.DecodeError("the reply was cut off at max_new_tokens")
        text = json_part(known.reply)
        if not text.startswith("{"):
            raise msgspec.DecodeError("the reply is no JSON object")
        try:
            parsed = msgspec.json.decode(text, type=answer)
        except RecursionError as error:
            raise msgspec.DecodeError("the reply is nested too deeply") from error
        wrong = misfit(parsed) if misfit else ""
        if wrong:
            raise msgspec.ValidationError(wrong)
        self.calls.append(known.key)
        return StepAnswer(parsed, known.key)

    async def _reject(self, draft: PendingCall, known: Answered, error: Exception) -> None:
        if known.key not in self._subject.outcomes.rejected:
            await self._desk.keep_rejection(draft, known, error)

    def _rejection(self, draft: PendingCall, error: Exception) -> Rejected:
        hint = (
            f"annotator query \"SELECT reply FROM calls WHERE key = '{draft.key}'\" shows the reply;"
            "\n      another prompt, seed or model asks anew"
        )
        where = f"{self._subject.where} {draft.step}"
        rejected = Rejected("two replies do not fit the answer", where=where, got=str(error), hint=hint)
        rejected.call = draft.key
        return rejected

    async def _reply(self, draft: PendingCall) -> Answered:
        known = self._subject.outcomes.known.get(draft.key)
        if known is None:
            return await self._make(draft)
        if isinstance(known, DeclinedBefore):
            self._desk.declined(draft.step, known.reason, known.engine)
            refusal = Declined("declined before", where=f"{self._subject.where} {draft.step}", got=known.reason)
            refusal.call = draft.key
            raise refusal
        self._desk.tally.count("hit")
        return known

    async def _make(self, draft: PendingCall) -> Answered:
        if self._desk.stopped is not None:
            raise self._desk.stopped
        engine = await self._desk.engine()
        request = await self._pictured(draft)
        try:
            reply = await engine.generate(request)
        except NotInLog:
            self._desk.tally.miss(draft.step)
            raise
        except CallError as error:
            if self._desk.stopped is not None and error.attempts == 0:
                raise self._desk.stopped from error  # it was still waiting for its turn: nothing was asked
            await self._desk.keep_failure(draft, error)
            raise
        except Declined as refusal:
            refusal.call = draft.key
            await self._desk.keep_refusal(draft, refusal)
            raise
        return await self._desk.keep_answer(draft, reply)

    async def _pictured(self, draft: PendingCall) -> Request:
        """Make the request; where its pictures cannot be made, that the call failed is kept like any other failure."""
        try:
            return await self._request(draft)
        except FootageError as error:
            where, got = error.where, error.got
            lost = CallError(error.what, where=where, got=got, kind="footage", retryable=False, attempts=0)
            await self._desk.keep_failure(draft, lost)
            raise

    async def _request(self, draft: PendingCall) -> Request:
        desk, subject = self._desk, self._subject
        pictures: list[Picture] = []
        if desk.looks and subject.pictures is not None:
            pictures = list(await asyncio.gather(*(subject.pictures.get(item) for item in draft.frames.media)))
        reads = desk.reads_evidence
        return Request(
            key=draft.key,
            step=draft.step,
            messages=draft.prompt.messages,
            schema=draft.prompt.schema,
            pictures=tuple(pictures),
            model=desk.model,
            seed=desk.seed,
            episode=subject.episode,
            inputs=draft.inputs if reads else {},
            signals=subject.signals if reads else None,
        )
