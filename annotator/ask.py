"""Ask: the only way to a model. A key is computed; it is known, or it is called; every call leaves one event."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Generic, Literal, Protocol, TypeVar

import msgspec

from annotator.answers import Answer
from annotator.engine.base import Engine, Picture, Reply, Request, Signals
from annotator.engine.text import json_part
from annotator.errors import CallError, Declined, Rejected
from annotator.prompts import Prompts
from annotator.tally import Tally
from store.digest import Digest, Keyed, canonical, digest_struct
from store.events import (
    AnswerRejected,
    AnyEvent,
    CallAnswered,
    CallDeclined,
    CallFailed,
    FramesChosen,
    ModelDescribed,
    PromptRendered,
    utc_now,
)
from store.keys import Call, Evidence, Frames, MediaItem, Model, Prompt, call_key
from store.log import Answered, DeclinedBefore, Known, Log

A = TypeVar("A", bound=Answer)

LOST_BEFORE_STOPPING = 4
"""Calls that in a row found no server, each after its retries, before a run stops asking."""


class Asked(msgspec.Struct, Generic[A], frozen=True):
    """An answer, and the key of the call that gave it."""

    answer: A
    key: Digest


class PictureSource(Protocol):
    """Renders media items for the calls that need them; identical items once."""

    async def get(self, item: MediaItem) -> Picture:
        """Render one item, off the event loop."""
        ...


class Inputs(Keyed, frozen=True, kw_only=True):
    """The named values a prompt was rendered from, for an engine that reads them instead of the text."""

    tag_v = "inputs.v1"
    values: dict[str, str]


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The episode that is asked about: its identity, and how to get at what engines look at or read."""

    episode: Digest
    where: str
    signals_digest: Digest
    signals: Callable[[], Signals]
    pictures: PictureSource | None


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """One call before it is known whether it must be made."""

    step: str
    prompt: Prompt
    frames: Frames
    inputs: dict[str, str]
    call: Call
    key: Digest


class Desk:
    """What all asks of a run share: log, engine, model, prompts, and the count of what happened."""

    def __init__(
        self,
        *,
        log: Log,
        engine: Engine,
        model: Model,
        seed: int,
        prompts: Prompts,
        tally: Tally,
        run_id: str,
        note: Callable[[str], None],
    ) -> None:
        self.log = log
        self.engine = engine
        self.model = model
        self.model_digest = digest_struct(model)
        self.seed = seed
        self.prompts = prompts
        self.tally = tally
        self.run_id = run_id
        self.note = note
        self.stopped: CallError | None = None
        self._described: set[Digest] = set()
        self._lost_in_a_row = 0

    async def keep(self, *events: AnyEvent) -> None:
        """Record events and wait until they are on disk."""
        await asyncio.wrap_future(self.log.record(*events))

    def answered(self, step: str, reply: Reply) -> None:
        """Count a reply; a server that replies is alive."""
        self._lost_in_a_row = 0
        self.tally.answered(step, reply.tokens_in, reply.tokens_out)

    def failed(self, error: CallError) -> None:
        """Count a failure; a server that cannot be reached several times over is given up for this run."""
        self.tally.failed(error.kind)
        self._lost_in_a_row = self._lost_in_a_row + 1 if error.kind == "connection" else 0
        if self._lost_in_a_row >= LOST_BEFORE_STOPPING:
            self.stopped = error
            self.note(f"giving up on the server for this run: {LOST_BEFORE_STOPPING} calls in a row did not reach it")

    def declined(self, step: str, reason: str) -> None:
        """Count a refusal, and say it the first time a step declines."""
        if self.tally.declined(step, reason):
            self.note(f"{step}: {self.engine.name} declines – {reason}")

    def preimages(self, step: str, prompt: Prompt, frames: Frames) -> list[AnyEvent]:
        """Describe the parts of a key in full, each once a run, so that every digest can be explained later."""
        at, run = utc_now(), self.run_id
        described: list[AnyEvent] = []
        for part in (prompt, self.model, frames):
            digest, text = digest_struct(part), canonical(part).decode()
            if digest in self._described:
                continue
            self._described.add(digest)
            if isinstance(part, Prompt):
                described.append(PromptRendered(recorded_at=at, run_id=run, prompt=digest, step=step, text=text))
            elif isinstance(part, Model):
                described.append(ModelDescribed(recorded_at=at, run_id=run, model=digest, text=text))
            else:
                described.append(FramesChosen(recorded_at=at, run_id=run, frames=digest, text=text))
        return described


class Asker:
    """Asks about one episode. `calls` lists the keys of the answers used, in the order they came."""

    def __init__(self, desk: Desk, subject: Subject) -> None:
        self._desk = desk
        self._subject = subject
        self._known: Mapping[Digest, Known] | None = None
        self._rejected: set[Digest] = set()
        self.calls: list[Digest] = []

    async def __call__(
        self, step: str, answer: type[A], inputs: Mapping[str, str], media: tuple[MediaItem, ...] = ()
    ) -> Asked[A]:
        """Ask one step; a reply that does not fit is asked for once more, with the error.

        Raises:
            CallError: no reply; the next run asks again.
            Declined: the engine cannot answer this step.
            Rejected: neither reply fits.
            FootageError: the pictures cannot be made.
        """
        taken = self._desk.prompts[step].taken(inputs)
        prompt = self._desk.prompts.ask(step, inputs, answer, len(media))
        frames = Frames(media=media, evidence=self._evidence(taken))
        draft = self._draft(step, prompt, frames, taken)
        first = await self._reply(draft)
        try:
            return self._asked(answer, first)
        except msgspec.DecodeError as error:
            await self._reject(step, first, error, "asked again")
            prompt = self._desk.prompts.ask_again(prompt, first.reply, str(error))
        second = await self._reply(self._draft(step, prompt, frames, taken))
        try:
            return self._asked(answer, second)
        except msgspec.DecodeError as error:
            await self._reject(step, second, error, "rejected")
            where = f"{self._subject.where} {step}"
            hint = f"annotator query \"SELECT reply FROM calls WHERE key = '{second.key}'\""
            rejected = Rejected("two replies do not fit the answer", where=where, got=str(error), hint=hint)
            rejected.call = second.key
            raise rejected from error

    def _evidence(self, taken: Mapping[str, str]) -> tuple[Evidence, ...]:
        if not self._desk.engine.reads_evidence:
            return ()
        inputs = digest_struct(Inputs(values=dict(taken)))
        return (
            Evidence(kind="signals", digest=self._subject.signals_digest),
            Evidence(kind="inputs", digest=inputs),
        )

    def _asked(self, answer: type[A], known: Answered) -> Asked[A]:
        if known.finish_reason == "length":
            raise msgspec.DecodeError("the reply was cut off at max_new_tokens")
        parsed = msgspec.json.decode(json_part(known.reply), type=answer)
        self.calls.append(known.key)
        return Asked(parsed, known.key)

    async def _reject(
        self, step: str, known: Answered, error: Exception, outcome: Literal["asked again", "rejected"]
    ) -> None:
        self._desk.tally.count(outcome)
        if known.key in self._rejected:
            return
        await self._desk.keep(
            AnswerRejected(
                recorded_at=utc_now(),
                run_id=self._desk.run_id,
                key=known.key,
                episode=self._subject.episode,
                step=step,
                reason=str(error),
                reply=known.reply,
            )
        )

    async def _reply(self, draft: Draft) -> Answered:
        known = self._outcomes().get(draft.key)
        if known is None:
            return await self._make(draft)
        if isinstance(known, DeclinedBefore):
            self._desk.declined(draft.step, known.reason)
            refusal = Declined("declined before", where=f"{self._subject.where} {draft.step}", got=known.reason)
            refusal.call = draft.key
            raise refusal
        self._desk.tally.count("hit")
        return known

    def _draft(self, step: str, prompt: Prompt, frames: Frames, taken: dict[str, str]) -> Draft:
        call = Call(
            episode=self._subject.episode,
            prompt=digest_struct(prompt),
            model=self._desk.model_digest,
            seed=self._desk.seed,
            frames=digest_struct(frames),
        )
        return Draft(step=step, prompt=prompt, frames=frames, inputs=taken, call=call, key=call_key(call))

    def _outcomes(self) -> Mapping[Digest, Known]:
        if self._known is None:
            self._known = self._desk.log.known(self._subject.episode)
            self._rejected = self._desk.log.rejected_keys(self._subject.episode)
        return self._known

    async def _make(self, draft: Draft) -> Answered:
        desk = self._desk
        if desk.stopped is not None:
            raise desk.stopped
        request = await self._request(draft)
        try:
            reply = await desk.engine.generate(request)
        except CallError as error:
            await self._keep_failure(draft, error)
            raise
        except Declined as refusal:
            refusal.call = draft.key
            await self._keep_refusal(draft, refusal)
            raise
        described = desk.preimages(draft.step, draft.prompt, draft.frames)
        await desk.keep(*described, self._answered(draft, reply))
        desk.answered(draft.step, reply)
        return Answered(draft.key, reply.text, reply.finish_reason, desk.engine.name, desk.model.model_id)

    async def _request(self, draft: Draft) -> Request:
        desk, subject = self._desk, self._subject
        pictures: list[Picture] = []
        if desk.engine.looks and subject.pictures is not None:
            pictures = list(await asyncio.gather(*(subject.pictures.get(item) for item in draft.frames.media)))
        reads = desk.engine.reads_evidence
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

    def _answered(self, draft: Draft, reply: Reply) -> CallAnswered:
        desk, call = self._desk, draft.call
        return CallAnswered(
            recorded_at=utc_now(),
            run_id=desk.run_id,
            key=draft.key,
            episode=call.episode,
            prompt=call.prompt,
            model=call.model,
            seed=call.seed,
            frames=call.frames,
            step=draft.step,
            reply=reply.text,
            answer=_raw_json(reply.text),
            finish_reason=reply.finish_reason,
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            elapsed_s=reply.elapsed_s,
            engine=desk.engine.name,
            model_id=desk.model.model_id,
            model_revision=reply.model_revision or desk.model.revision,
            endpoint=reply.endpoint,
            versions=dict(reply.versions),
        )

    async def _keep_failure(self, draft: Draft, error: CallError) -> None:
        desk = self._desk
        desk.failed(error)
        await desk.keep(
            CallFailed(
                recorded_at=utc_now(),
                run_id=desk.run_id,
                key=draft.key,
                episode=self._subject.episode,
                step=draft.step,
                kind=error.kind,
                detail=str(error),
                retryable=error.retryable,
                attempts=error.attempts,
                engine=desk.engine.name,
                model_id=desk.model.model_id,
                endpoint=None,
            )
        )

    async def _keep_refusal(self, draft: Draft, refusal: Declined) -> None:
        desk = self._desk
        desk.declined(draft.step, refusal.got or refusal.what)
        await desk.keep(
            CallDeclined(
                recorded_at=utc_now(),
                run_id=desk.run_id,
                key=draft.key,
                episode=self._subject.episode,
                step=draft.step,
                reason=refusal.got or refusal.what,
                engine=desk.engine.name,
                model_id=desk.model.model_id,
            )
        )


def _raw_json(reply: str) -> msgspec.Raw | None:
    """Keep the JSON part of a reply as it is, where it is JSON, for SQL to look into."""
    text = json_part(reply)
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return msgspec.Raw(text.encode())
