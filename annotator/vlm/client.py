"""The client of a run: calls are looked up in the log, else made once; outcomes are durable before they are used.

It takes plain values, so that planning can give it an engine that must not be asked and a log that takes no event.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING

import msgspec

from annotator.errors import CallError, Declined, NoEngine, UsageError
from annotator.vlm.base import Engine, Reply, Stoppable
from annotator.vlm.call_stats import CallStats
from annotator.vlm.registry import reads_evidence
from annotator.vlm.reply_text import json_part, well_formed
from annotator_store.digests import Digest, canonical, digest_struct
from annotator_store.keys import Call, Frames, Model, Prompt
from annotator_store.log.events import (
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
from annotator_store.log.log import Answered, Known, Log

if TYPE_CHECKING:
    # Without Jinja, so that `validate` and `verify` know the modules and load no template engine.
    from annotator.prompting.loader import Prompts

LOST_BEFORE_STOPPING = 4
"""Calls that in a row found no server, each after its retries, before a run stops asking."""

HOPELESS = {
    "http_401": "the server does not let us in",
    "http_403": "the server does not let us in",
    "engine_dead": "the engine has died; the next run starts it again",
}
"""Failures that every further call would share, and what to say of them."""

NO_ENGINE = "log"
"""Named as the engine of what was annotated from the log alone."""


class PendingCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call before it is known whether it must be made. `inputs` are the values that its prompt was rendered from."""

    step: str
    prompt: Prompt
    frames: Frames
    inputs: dict[str, str]
    call: Call
    key: Digest


class KnownOutcomes(msgspec.Struct, frozen=True, kw_only=True):
    """What the log knew of an episode's calls when it was opened: how each ended, and which replies did not fit."""

    known: Mapping[Digest, Known]
    rejected: frozenset[Digest]


class VlmClient:
    """What all asks of a run share: log, engine, model, prompts, and the count of what happened.

    `open_engine` is called when the first call must be made, and once. `record` takes events as `Log.record` does.
    `looks` says whether whoever answers wants pictures. Close the client when the run has asked everything.
    """

    def __init__(
        self,
        *,
        log: Log,
        record: Callable[..., "Future[None]"],
        open_engine: Callable[[], Awaitable[Engine]],
        looks: bool,
        model: Model,
        seed: int,
        prompts: "Prompts",
        stats: CallStats,
        run_id: str,
        note: Callable[[str], None],
        max_failures: int = 0,
    ) -> None:
        self.log = log
        self.looks = looks
        self.model = model
        self.model_digest = digest_struct(model)
        self.reads_evidence = reads_evidence(model)
        self.seed = seed
        self.prompts = prompts
        self.stats = stats
        self.run_id = run_id
        self.stopped: CallError | None = None
        """Set when the run asks nothing more: what every further call is refused with."""
        self._record = record
        self._open_engine = open_engine
        self._opening = asyncio.Lock()
        self._engine: Engine | None = None
        self._refusal: NoEngine | None = None
        self._note = note
        self._described: set[Digest] = set()
        self._lost_in_a_row = 0
        self._max_failures = max_failures

    @property
    def engine_name(self) -> str:
        """The name of the engine: `log` as long as no call had to be made."""
        return NO_ENGINE if self._engine is None else self._engine.name

    @property
    def engine_label(self) -> str:
        """The engine and its model, for the closing table and the record of the run."""
        return "none needed" if self._engine is None else f"{self._engine.name}, model {self.model.model_id}"

    async def engine(self) -> Engine:
        """Return the engine, starting it on first use. Concurrent callers share one start and its failure.

        Raises:
            NoEngine: no engine was named and none is available, or what the settings name cannot be used.
        """
        async with self._opening:
            if self._refusal is not None:
                raise self._refusal
            if self._engine is None:
                try:
                    self._engine = await self._open_engine()
                except UsageError as error:
                    self._refusal = NoEngine(error.what, where=error.where, got=error.got, hint=error.hint)
                    raise self._refusal from error
        return self._engine

    async def aclose(self) -> None:
        """Close the engine, if it was opened."""
        if self._engine is not None:
            await self._engine.aclose()

    def outcomes(self, episode: Digest) -> KnownOutcomes:
        """Read what the log knows of an episode's calls; from any thread."""
        return KnownOutcomes(known=self.log.known(episode), rejected=frozenset(self.log.rejected_keys(episode)))

    async def keep(self, *events: AnyEvent) -> None:
        """Record events and wait until they are on disk."""
        await asyncio.wrap_future(self._record(*events))

    async def keep_answer(self, pending: PendingCall, reply: Reply) -> Answered:
        """Record a reply, with the pre-images of its key. It resets the count of lost calls: the server is alive."""
        self._lost_in_a_row = 0
        reply = msgspec.structs.replace(reply, text=well_formed(reply.text))
        await self.keep(*self._preimages(pending), self._answered(pending, reply))
        self.stats.answered(pending.step, reply.tokens_in, reply.tokens_out)
        return Answered(pending.key, reply.text, reply.finish_reason, self.engine_name, self.model.model_id)

    async def keep_failure(self, pending: PendingCall, error: CallError) -> None:
        """Record a failure; stop asking where the server stays unreachable or too many calls fail."""
        self.stats.failed(error.kind)
        self._lost_in_a_row = self._lost_in_a_row + 1 if error.kind == "connection" else 0
        reason = self._reason_to_stop(error)
        if reason and self.stopped is None:
            self.stopped = error
            if isinstance(self._engine, Stoppable):
                self._engine.stop()
            self._note(f"asking nothing more in this run: {reason}")
        await self.keep(
            CallFailed(
                recorded_at=utc_now(),
                run_id=self.run_id,
                key=pending.key,
                episode=pending.call.episode,
                step=pending.step,
                kind=error.kind,
                detail=str(error),
                retryable=error.retryable,
                attempts=error.attempts,
                engine=self.engine_name,
                model_id=self.model.model_id,
                endpoint=error.endpoint,
            )
        )

    def _reason_to_stop(self, error: CallError) -> str:
        if error.kind in HOPELESS:
            return f"{HOPELESS[error.kind]} ({error.kind})"
        if self._lost_in_a_row >= LOST_BEFORE_STOPPING:
            return f"the server is gone ({error.kind})"
        failed = self.stats.outcomes["failed"]
        return f"{failed} calls failed (--max_failures)" if 0 < self._max_failures <= failed else ""

    async def keep_refusal(self, pending: PendingCall, refusal: Declined) -> None:
        """Record that the engine cannot answer this step."""
        reason = refusal.got or refusal.what
        self.count_declined(pending.step, reason, self.engine_name)
        await self.keep(
            CallDeclined(
                recorded_at=utc_now(),
                run_id=self.run_id,
                key=pending.key,
                episode=pending.call.episode,
                step=pending.step,
                reason=reason,
                engine=self.engine_name,
                model_id=self.model.model_id,
            )
        )

    async def keep_rejection(self, pending: PendingCall, answered: Answered, error: Exception) -> None:
        """Record that a reply does not fit its answer type."""
        await self.keep(
            AnswerRejected(
                recorded_at=utc_now(),
                run_id=self.run_id,
                key=pending.key,
                episode=pending.call.episode,
                step=pending.step,
                reason=str(error),
                reply=answered.reply,
            )
        )

    def count_declined(self, step: str, reason: str, engine: str) -> None:
        """Count a declined call, and note it the first time a step declines."""
        if self.stats.declined(step, reason):
            self._note(f"{step}: {engine} declines – {reason}")

    def _preimages(self, pending: PendingCall) -> list[AnyEvent]:
        """Describe the parts of a key in full, each once a run, so that every digest can be explained later."""
        now, run_id, call = utc_now(), self.run_id, pending.call
        described: list[AnyEvent] = []
        if self._is_new(call.prompt):
            text = canonical(pending.prompt).decode()
            described.append(
                PromptRendered(recorded_at=now, run_id=run_id, prompt=call.prompt, step=pending.step, text=text)
            )
        if self._is_new(call.model):
            text = canonical(self.model).decode()
            described.append(ModelDescribed(recorded_at=now, run_id=run_id, model=call.model, text=text))
        if self._is_new(call.frames):
            text = canonical(pending.frames).decode()
            described.append(FramesChosen(recorded_at=now, run_id=run_id, frames=call.frames, text=text))
        return described

    def _is_new(self, digest: Digest) -> bool:
        new = digest not in self._described
        self._described.add(digest)
        return new

    def _answered(self, pending: PendingCall, reply: Reply) -> CallAnswered:
        call = pending.call
        return CallAnswered(
            recorded_at=utc_now(),
            run_id=self.run_id,
            key=pending.key,
            episode=call.episode,
            prompt=call.prompt,
            model=call.model,
            seed=call.seed,
            frames=call.frames,
            step=pending.step,
            reply=reply.text,
            answer=raw_json(reply.text),
            finish_reason=reply.finish_reason,
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            elapsed_s=reply.elapsed_s,
            engine=self.engine_name,
            model_id=self.model.model_id,
            model_revision=reply.model_revision or self.model.revision,
            endpoint=reply.endpoint,
            versions=dict(reply.versions),
            attempts=reply.attempts,
        )


def raw_json(reply: str) -> msgspec.Raw | None:
    """Return the JSON part of a reply as it is, where it is JSON, for SQL to look into."""
    text = json_part(reply)
    try:
        msgspec.json.decode(text)  # one value: nothing at all, or several with commas between, would pass in brackets
        # Wrapped, so that what is only just shallow enough here is so inside an event, too.
        msgspec.json.decode(f"[[[[{text}]]]]")
    except (msgspec.DecodeError, RecursionError):
        return None
    return msgspec.Raw(text.encode())
