"""Events for the tests of the store: small, readable, the same on every run."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from annotator_store.digests import Digest
from annotator_store.log.events import (
    AnnotatedRow,
    AnswerRejected,
    CallAnswered,
    CallDeclined,
    CallFailed,
    CameraSeen,
    EpisodeAnnotated,
    EpisodeSeen,
    Gap,
    PromptRendered,
    RunFinished,
    VocabularyDiscovered,
    VocabularyEdited,
)
from annotator_store.rows import Row

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def digest(*names: object) -> Digest:
    """Any digest, the same for the same names."""
    return Digest(hashlib.md5(repr(names).encode()).hexdigest())


def at(second: float) -> datetime:
    """Seconds after noon."""
    return NOON + timedelta(seconds=second)


def answered(episode: int, call: int, second: float = 0, **changes: Any) -> CallAnswered:
    """The answer to one call of one episode."""
    fields: dict[str, Any] = {
        "recorded_at": at(second),
        "run_id": "run-1",
        "key": digest("key", episode, call),
        "episode": digest("episode", episode),
        "prompt": digest("prompt", call),
        "model": digest("model"),
        "seed": 1729,
        "frames": digest("frames", episode),
        "step": "plan.segment",
        "reply": f'{{"subtask": "reach {call}"}}',
        "answer": {"subtask": f"reach {call}"},
        "finish_reason": "stop",
        "tokens_in": 900,
        "tokens_out": 30,
        "elapsed_s": 1.5,
        "engine": "openai",
        "model_id": "some/model",
        "model_revision": None,
        "endpoint": "http://127.0.0.1:8000/v1",
        "versions": {"annotator": "0.1.0"},
    }
    return CallAnswered(**fields | changes)


def declined(episode: int, call: int, second: float = 0, reason: str = "cannot see") -> CallDeclined:
    """A refusal of one call."""
    return CallDeclined(
        recorded_at=at(second),
        run_id="run-1",
        key=digest("key", episode, call),
        episode=digest("episode", episode),
        step="plan.segment",
        reason=reason,
        engine="signals",
        model_id="signals",
    )


def rejected(episode: int, call: int, second: float = 0) -> AnswerRejected:
    """A reply that did not fit."""
    return AnswerRejected(
        recorded_at=at(second),
        run_id="run-1",
        key=digest("key", episode, call),
        episode=digest("episode", episode),
        step="plan.segment",
        reason="$.subtasks: expected a list",
        reply="no",
    )


def failed(episode: int, call: int, second: float = 0, kind: str = "timeout") -> CallFailed:
    """A call that got no reply."""
    return CallFailed(
        recorded_at=at(second),
        run_id="run-1",
        key=digest("key", episode, call),
        episode=digest("episode", episode),
        step="plan.segment",
        kind=kind,
        detail="no reply in 60 s",
        retryable=True,
        attempts=3,
        engine="openai",
        model_id="some/model",
        endpoint="http://127.0.0.1:8000/v1",
    )


def row(content: str | None, timestamp: float = 0.0, **changes: Any) -> Row:
    """One language row; a subtask unless told otherwise."""
    fields: dict[str, Any] = {"role": "assistant", "style": "subtask", "content": content, "timestamp": timestamp}
    return Row(**fields | changes)


def annotated(
    episode: int,
    second: float = 0,
    *,
    module: str = "plan",
    rows: tuple[Row, ...] | None = None,
    gaps: tuple[Gap, ...] = (),
    recipe: object = "recipe",
) -> EpisodeAnnotated:
    """A module's annotation of one episode."""
    rows = (row("reach", 0.0), row("grasp", 1.1)) if rows is None else rows
    return EpisodeAnnotated(
        recorded_at=at(second),
        run_id="run-1",
        episode=digest("episode", episode),
        module=module,
        recipe=digest(recipe, episode, module),
        engine="openai",
        model_id="some/model",
        calls=(digest("key", episode, 0),),
        rows=tuple(AnnotatedRow(row=item, call=digest("key", episode, 0)) for item in rows),
        gaps=gaps,
    )


def gap(episode: int, call: int) -> Gap:
    """A step of an episode that gave nothing."""
    return Gap(step="plan.segment", reason="rejected", detail="no JSON", call=digest("key", episode, call))


def seen(episode: int, second: float = 0, *, index: int | None = None, dataset: str = "cups") -> EpisodeSeen:
    """Where an episode stood in a dataset."""
    return EpisodeSeen(
        recorded_at=at(second),
        run_id="run-1",
        episode=digest("episode", episode),
        dataset=dataset,
        revision=None,
        episode_index=episode if index is None else index,
        tasks=("stack the cups",),
        frame_count=120,
        duration_s=12.0,
        cameras=(CameraSeen(camera="observation.images.top", footage=digest("footage", episode)),),
    )


def rendered(call: int, second: float = 0) -> PromptRendered:
    """A prompt in full."""
    return PromptRendered(
        recorded_at=at(second),
        run_id="run-1",
        prompt=digest("prompt", call),
        step="plan.segment",
        text=f'{{"messages":["segment {call}"]}}',
    )


def discovered(
    second: float = 0,
    subtasks: Sequence[str] = ("reach", "grasp"),
    memories: Sequence[str] = ("I hold the cup.",),
    *,
    dataset: str = "cups",
    recipe: object = "recipe",
) -> VocabularyDiscovered:
    """A vocabulary that was found."""
    return VocabularyDiscovered(
        recorded_at=at(second),
        run_id="run-1",
        dataset=dataset,
        recipe=digest("discovery", recipe),
        vocabulary=digest("vocabulary", *subtasks, *memories),
        call=digest("key", "watched", 0),
        episodes=(digest("episode", 0), digest("episode", 1)),
        subtasks=tuple(subtasks),
        memories=tuple(memories),
    )


def edited(
    second: float = 0,
    subtasks: Sequence[str] = ("reach", "grasp"),
    memories: Sequence[str] = (),
    *,
    dataset: str = "cups",
) -> VocabularyEdited:
    """A vocabulary that a person changed."""
    return VocabularyEdited(
        recorded_at=at(second),
        run_id="run-2",
        dataset=dataset,
        vocabulary=digest("vocabulary", *subtasks, *memories),
        before=digest("vocabulary", "before"),
        subtasks=tuple(subtasks),
        memories=tuple(memories),
        added=("subtask: grasp",),
        removed=("memory: I hold the cup.",),
    )


def finished(second: float = 0, run_id: str = "run-1") -> RunFinished:
    """A run that came to its end."""
    return RunFinished(
        recorded_at=at(second),
        run_id=run_id,
        started_at=NOON,
        dataset="cups",
        arguments={"seed": 1729},
        engine="openai",
        model_id="some/model",
        dataset_episodes=2,
        episodes=2,
        episodes_skipped=0,
        calls_answered=4,
        calls_hit=0,
        calls_failed=0,
        calls_declined=0,
        answers_rejected=0,
        answered_by_step={"plan.segment": 4},
        tokens_in=3600,
        tokens_out=120,
        frames_decoded=40,
        shards_written=1,
        elapsed_s=float(second),
        outcome="done",
        versions={"annotator": "0.1.0"},
    )
