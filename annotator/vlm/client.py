"""The desk of a run: what all its asks share, and where every outcome is written down before anyone relies on it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from annotator.errors import CallError, Declined
from annotator.pipeline.run_stats import RunStats
from annotator.prompting.loader import Prompts
from annotator.vlm.base import Engine, Reply, Stoppable
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
    """One call before it is known whether it must be made."""

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

    `open_engine` is called for each call that must be made; it opens the engine once. `looks` says whether it wants
    pictures.
    """

    def __init__(
        self,
        *,
        log: Log,
        open_engine: Callable[[], Awaitable[Engine]],
        looks: bool,
        model: Model,
        seed: int,
        prompts: Prompts,
        tally: RunStats,
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
        self.tally = tally
        self.run_id = run_id
        self.stopped: CallError | None = None
        self._open_engine = open_engine
        self._engine: Engine | None = None
        self._note = note
        self._described: set[Digest] = set()
        self._lost_in_a_row = 0
        self._max_failures = max_failures

    @property
    def engine_name(self) -> str:
        """Who answers: `log` as long as nobody had to be asked."""
        return NO_ENGINE if self._engine is None else self._engine.name

    async def engine(self) -> Engine:
        """Open the engine, unless it is open.

        Raises:
            NoEngine: there is none.
        """
        self._engine = await self._open_engine()
        return self._engine

    def outcomes(self, episode: Digest) -> KnownOutcomes:
        """Read what the log knows of an episode; from any thread."""
        return KnownOutcomes(known=self.log.known(episode), rejected=frozenset(self.log.rejected_keys(episode)))

    async def keep(self, *events: AnyEvent) -> None:
        """Record events and wait until they are on disk."""
        await asyncio.wrap_future(self.log.record(*events))

    async def keep_answer(self, draft: PendingCall, reply: Reply) -> Answered:
        """Keep a reply, with what explains its key; a server that replies is alive."""
        self._lost_in_a_row = 0
        reply = msgspec.structs.replace(reply, text=well_formed(reply.text))
        await self.keep(*self._preimages(draft), self._answered(draft, reply))
        self.tally.answered(draft.step, reply.tokens_in, reply.tokens_out)
        return Answered(draft.key, reply.text, reply.finish_reason, self.engine_name, self.model.model_id)

    async def keep_failure(self, draft: PendingCall, error: CallError) -> None:
        """Keep a failure. Where no server is to be reached time and again, or too much fails, the run asks no more."""
        self.tally.failed(error.kind)
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
                key=draft.key,
                episode=draft.call.episode,
                step=draft.step,
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
        failed = self.tally.calls["failed"]
        return f"{failed} calls failed (--max_failures)" if 0 < self._max_failures <= failed else ""

    async def keep_refusal(self, draft: PendingCall, refusal: Declined) -> None:
        """Keep that the engine cannot answer this step."""
        reason = refusal.got or refusal.what
        self.declined(draft.step, reason, self.engine_name)
        await self.keep(
            CallDeclined(
                recorded_at=utc_now(),
                run_id=self.run_id,
                key=draft.key,
                episode=draft.call.episode,
                step=draft.step,
                reason=reason,
                engine=self.engine_name,
                model_id=self.model.model_id,
            )
        )

    async def keep_rejection(self, draft: PendingCall, known: Answered, error: Exception) -> None:
        """Keep that a reply does not fit."""
        await self.keep(
            AnswerRejected(
                recorded_at=utc_now(),
                run_id=self.run_id,
                key=draft.key,
                episode=draft.call.episode,
                step=draft.step,
                reason=str(error),
                reply=known.reply,
            )
        )

    def declined(self, step: str, reason: str, engine: str) -> None:
        """Count a refusal, and say it the first time a step declines."""
        if self.tally.declined(step, reason):
            self._note(f"{step}: {engine} declines – {reason}")

    def _preimages(self, draft: PendingCall) -> list[AnyEvent]:
        """Describe the parts of a key in full, each once a run, so that every digest can be explained later."""
        at, run, call = utc_now(), self.run_id, draft.call
        described: list[AnyEvent] = []
        if self._is_new(call.prompt):
            text = canonical(draft.prompt).decode()
            described.append(PromptRendered(recorded_at=at, run_id=run, prompt=call.prompt, step=draft.step, text=text))
        if self._is_new(call.model):
            text = canonical(self.model).decode()
            described.append(ModelDescribed(recorded_at=at, run_id=run, model=call.model, text=text))
        if self._is_new(call.frames):
            text = canonical(draft.frames).decode()
            described.append(FramesChosen(recorded_at=at, run_id=run, frames=call.frames, text=text))
        return described

    def _is_new(self, digest: Digest) -> bool:
        fresh = digest not in self._described
        self._described.add(digest)
        return fresh

    def _answered(self, draft: PendingCall, reply: Reply) -> CallAnswered:
        call = draft.call
        return CallAnswered(
            recorded_at=utc_now(),
            run_id=self.run_id,
            key=draft.key,
            episode=call.episode,
            prompt=call.prompt,
            model=call.model,
            seed=call.seed,
            frames=call.frames,
            step=draft.step,
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
    """Keep the JSON part of a reply as it is, where it is JSON, for SQL to look into."""
    text = json_part(reply)
    try:
        msgspec.json.decode(text)  # one value: nothing at all, or several with commas between, would pass in brackets
        # Wrapped, so that what is only just shallow enough here is so inside an event, too.
        msgspec.json.decode(f"[[[[{text}]]]]")
    except (msgspec.DecodeError, RecursionError):
        return None
    return msgspec.Raw(text.encode())
