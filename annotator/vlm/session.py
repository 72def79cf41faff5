"""One episode's `ask`, the only way to a model: a key is looked up, else the call is made and its outcome recorded."""

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
        """Render one item, off the event loop.

        Raises:
            FootageError: the footage cannot be decoded.
        """
        ...


class SessionEpisode(msgspec.Struct, frozen=True, kw_only=True):
    """The episode that is asked about: its identity, and how to get at what engines look at or read.

    `where` names it in messages. `signals` reads the shard, so it is called only for an engine that reads evidence.
    `pictures` is None where nothing can be shown. `outcomes` is what the log knew of its calls.
    """

    digest: Digest
    where: str
    signals_digest: Digest
    signals: Callable[[], Signals]
    pictures: PictureSource | None
    outcomes: KnownOutcomes


class EpisodeSession:
    """Asks about one episode for one module. `calls` lists the keys of the answers used, in the order they came."""

    def __init__(self, client: VlmClient, episode: SessionEpisode) -> None:
        self._client = client
        self._episode = episode
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

        `allowed` holds text fields to a list of values in the schema that is sent; an engine that ignores it is not
        refused here. `misfit` says what is wrong with an answer beyond its schema, "" where nothing is. `most` holds
        lists to so many entries in the schema; an answer with more is asked for once more, and the second one is taken
        as it is, since nothing tells which entries to drop.

        Raises:
            CallError: no reply; the next run asks again.
            Declined: the engine cannot answer this step.
            Rejected: neither reply fits.
            NoEngine: there is no engine; every further call would fail alike.
            FootageError: the pictures cannot be made.
        """

        def strict(value: A) -> str:
            return (misfit(value) if misfit else "") or overlong(value, most or {})

        used_inputs = self._client.prompts[step].taken(inputs)
        prompt = self._client.prompts.ask(step, inputs, schema_of(answer, allowed, most), len(media))
        frames = Frames(media=media, evidence=self._evidence(used_inputs))
        pending = self._pending(step, prompt, frames, used_inputs)
        first = await self._reply(pending)
        try:
            return self._decode(answer, first, strict)
        except msgspec.DecodeError as error:
            await self._reject(pending, first, error)
            self._client.stats.count("asked again")
            prompt = self._client.prompts.ask_again(prompt, first.reply, str(error))
        pending = self._pending(step, prompt, frames, used_inputs)
        second = await self._reply(pending)
        try:
            return self._decode(answer, second, misfit)
        except msgspec.DecodeError as error:
            await self._reject(pending, second, error)
            self._client.stats.count("rejected")
            raise self._rejection(pending, error) from error

    def _evidence(self, inputs: Mapping[str, str]) -> tuple[Evidence, ...]:
        if not self._client.reads_evidence:
            return ()
        return (
            Evidence(kind="signals", digest=self._episode.signals_digest),
            Evidence(kind="inputs", digest=digest_struct(Inputs(values=dict(inputs)))),
        )

    def _pending(self, step: str, prompt: Prompt, frames: Frames, inputs: dict[str, str]) -> PendingCall:
        call = Call(
            episode=self._episode.digest,
            prompt=digest_struct(prompt),
            model=self._client.model_digest,
            seed=self._client.seed,
            frames=digest_struct(frames),
        )
        return PendingCall(step=step, prompt=prompt, frames=frames, inputs=inputs, call=call, key=call_key(call))

    def _decode(self, answer: type[A], reply: Answered, misfit: Callable[[A], str] | None) -> StepAnswer[A]:
        """Decode a reply. The texts of these errors go into the second prompt, and so into its key: they are pinned."""
        if reply.finish_reason == "length":
            raise msgspec.DecodeError("the reply was cut off at max_new_tokens")
        text = json_part(reply.reply)
        if not text.startswith("{"):
            raise msgspec.DecodeError("the reply is no JSON object")
        try:
            value = msgspec.json.decode(text, type=answer)
        except RecursionError as error:
            raise msgspec.DecodeError("the reply is nested too deeply") from error
        problem = misfit(value) if misfit else ""
        if problem:
            raise msgspec.ValidationError(problem)
        self.calls.append(reply.key)
        return StepAnswer(value, reply.key)

    async def _reject(self, pending: PendingCall, reply: Answered, error: Exception) -> None:
        if reply.key not in self._episode.outcomes.rejected:
            await self._client.keep_rejection(pending, reply, error)

    def _rejection(self, pending: PendingCall, error: Exception) -> Rejected:
        hint = (
            f"annotator query \"SELECT reply FROM calls WHERE key = '{pending.key}'\" shows the reply;"
            "\n      another prompt, seed or model asks anew"
        )
        where = f"{self._episode.where} {pending.step}"
        rejected = Rejected("two replies do not fit the answer", where=where, got=str(error), hint=hint)
        rejected.call = pending.key
        return rejected

    async def _reply(self, pending: PendingCall) -> Answered:
        """Return the reply to a call from the log, else make the call."""
        known = self._episode.outcomes.known.get(pending.key)
        if known is None:
            return await self._make(pending)
        if isinstance(known, DeclinedBefore):
            self._client.count_declined(pending.step, known.reason, known.engine)
            where = f"{self._episode.where} {pending.step}"
            refusal = Declined("declined before", where=where, got=known.reason)
            refusal.call = pending.key
            raise refusal
        self._client.stats.count("hit")
        return known

    async def _make(self, pending: PendingCall) -> Answered:
        """Make a call and record its outcome, whatever it is."""
        client = self._client
        if client.stopped is not None:
            raise client.stopped
        engine = await client.engine()
        request = await self._request(pending)
        try:
            reply = await engine.generate(request)
        except NotInLog:
            client.stats.missing(pending.step)
            raise
        except CallError as error:
            # A call that was still waiting for its turn when the run stopped was never sent: nothing to record.
            if client.stopped is not None and error.attempts == 0:
                raise client.stopped from error
            await client.keep_failure(pending, error)
            raise
        except Declined as refusal:
            refusal.call = pending.key
            await client.keep_refusal(pending, refusal)
            raise
        return await client.keep_answer(pending, reply)

    async def _request(self, pending: PendingCall) -> Request:
        """Make the request; pictures that cannot be rendered are kept as a failed call, like any other failure."""
        client, episode = self._client, self._episode
        pictures: list[Picture] = []
        if client.looks and episode.pictures is not None:
            try:
                pictures = list(await asyncio.gather(*(episode.pictures.get(item) for item in pending.frames.media)))
            except FootageError as error:
                failure = CallError(
                    error.what, where=error.where, got=error.got, kind="footage", retryable=False, attempts=0
                )
                await client.keep_failure(pending, failure)
                raise
        return Request(
            key=pending.key,
            step=pending.step,
            messages=pending.prompt.messages,
            schema=pending.prompt.schema,
            pictures=tuple(pictures),
            model=client.model,
            seed=client.seed,
            episode=episode.digest,
            inputs=pending.inputs if client.reads_evidence else {},
            signals=episode.signals if client.reads_evidence else None,
        )
