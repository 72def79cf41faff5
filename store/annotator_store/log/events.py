"""The events: past tense, frozen, versioned. They are the only truth; everything else is a fold over them.

On disk an event is one JSON object whose `type` is `<name>.v<n>`. Its id is the digest of those bytes,
so a union of journals is idempotent and order-free, and the id is also the line's checksum.
A new field must have a default; a changed meaning is a new version; released forms stay in `tests/wire/` for ever.
"""

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from annotator_store.digests import Digest, digest_parts
from annotator_store.errors import JournalDamaged, NewerEvent
from annotator_store.rows import Row


class CameraSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One camera of an episode and the digest of its encoded footage."""

    camera: str
    footage: Digest


class AnnotatedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row and the call it came from; `call` is None where no single call wrote it (a plan's remaining steps)."""

    row: Row
    call: Digest | None = None


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A step that gave no rows for this episode, and why."""

    step: str
    reason: Literal["rejected", "declined"]
    detail: str
    call: Digest


class SetupUsed(msgspec.Struct, frozen=True, kw_only=True):
    """What the rows of an annotation, or the entries of a vocabulary, were made with; the same for a whole run.

    `model`: digest of the model. `prompts`: step → digest of the prompt's body, for all steps that could be asked.
    `vocabulary`: digest of the vocabulary in use, None without one. `settings`: those that differ from the defaults, by
    flag.
    """

    seed: int
    model: Digest
    prompts: dict[str, Digest]
    vocabulary: Digest | None
    module_version: int
    settings: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class EpisodeSources(msgspec.Struct, frozen=True, kw_only=True):
    """An episode at rows [start, stop) of a shard; `sources`: module → id of the `EpisodeAnnotated` of its rows.

    The rows of other modules, and all rows where `sources` is None, were kept as they were in the shard.
    """

    episode: Digest
    start: int
    stop: int
    sources: dict[str, Digest] | None


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every event carries: when it was recorded (UTC, microseconds) and by which run."""

    recorded_at: datetime
    run_id: str


class CallAnswered(Event, frozen=True, kw_only=True, tag="call_answered.v1"):
    """An engine replied. `reply` is its raw text, kept so that a change to parsing costs no call.

    `answer` is the reply's JSON, for queries; None where it is not JSON. A `msgspec.Raw` may be passed.
    """

    key: Digest
    episode: Digest
    prompt: Digest
    model: Digest
    seed: int
    frames: Digest
    step: str
    reply: str
    answer: Any
    finish_reason: str
    tokens_in: int
    tokens_out: int
    elapsed_s: float
    engine: str
    model_id: str
    model_revision: str | None
    endpoint: str | None
    versions: dict[str, str]
    attempts: int = 1


class AnswerRejected(Event, frozen=True, kw_only=True, tag="answer_rejected.v1"):
    """A reply did not fit the step's answer. The reply itself is in `CallAnswered` under the same key."""

    key: Digest
    episode: Digest
    step: str
    reason: str
    reply: str


class CallFailed(Event, frozen=True, kw_only=True, tag="call_failed.v1"):
    """A call got no reply, after all retries. The next run asks it again."""

    key: Digest
    episode: Digest
    step: str
    kind: str
    detail: str
    retryable: bool
    attempts: int
    engine: str
    model_id: str
    endpoint: str | None


class CallDeclined(Event, frozen=True, kw_only=True, tag="call_declined.v1"):
    """An engine cannot answer this step. It is not asked again under this key."""

    key: Digest
    episode: Digest
    step: str
    reason: str
    engine: str
    model_id: str


class PromptRendered(Event, frozen=True, kw_only=True, tag="prompt_rendered.v1"):
    """The full pre-image of a prompt digest: every message and the answer's schema, as canonical JSON."""

    prompt: Digest
    step: str
    text: str


class ModelDescribed(Event, frozen=True, kw_only=True, tag="model_described.v1"):
    """The full pre-image of a model digest, as canonical JSON."""

    model: Digest
    text: str


class FramesChosen(Event, frozen=True, kw_only=True, tag="frames_chosen.v1"):
    """The full pre-image of a frames digest, as canonical JSON: footage, timestamps, rendering."""

    frames: Digest
    text: str


class EpisodeSeen(Event, frozen=True, kw_only=True, tag="episode_seen.v1"):
    """An episode's place in a dataset and its content. `unreadable`: camera → why its footage cannot be read."""

    episode: Digest
    dataset: str
    revision: str | None
    episode_index: int
    tasks: tuple[str, ...]
    frame_count: int
    duration_s: float
    cameras: tuple[CameraSeen, ...]
    unreadable: dict[str, str] = msgspec.field(default_factory=dict[str, str])


class EpisodeAnnotated(Event, frozen=True, kw_only=True, tag="episode_annotated.v1"):
    """A module finished for an episode: its recipe, the calls it used, the rows it gives.

    `task` is the task it used in place of the dataset's, if any. `setup` describes what its recipe digests of the run.
    `engine` is `log` where every answer was known.
    """

    episode: Digest
    module: str
    recipe: Digest
    engine: str
    model_id: str
    calls: tuple[Digest, ...]
    rows: tuple[AnnotatedRow, ...]
    gaps: tuple[Gap, ...] = ()
    task: str | None = None
    setup: SetupUsed | None = None


class VocabularyDiscovered(Event, frozen=True, kw_only=True, tag="vocabulary_discovered.v1"):
    """A dataset's vocabulary was discovered from some of its episodes.

    `setup` describes what its recipe digests of the run.
    """

    dataset: str
    recipe: Digest
    vocabulary: Digest
    call: Digest
    episodes: tuple[Digest, ...]
    subtasks: tuple[str, ...]
    memories: tuple[str, ...]
    setup: SetupUsed | None = None


class VocabularyEdited(Event, frozen=True, kw_only=True, tag="vocabulary_edited.v1"):
    """A person changed the vocabulary file: its entries now, and how they differ from the last recorded ones.

    `before` is None where no vocabulary was recorded before.
    """

    dataset: str
    vocabulary: Digest
    before: Digest | None
    subtasks: tuple[str, ...]
    memories: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]


class ShardWritten(Event, frozen=True, kw_only=True, tag="shard_written.v1"):
    """A data shard was rewritten, or needed no rewriting; `language` is the digest of its two language columns."""

    dataset: str
    path: str
    language: Digest
    episodes: int
    frames: int
    made_of: tuple[EpisodeSources, ...] = ()


class RunFinished(Event, frozen=True, kw_only=True, tag="run_finished.v1"):
    """A run ended: its arguments, what it used, and the episodes whose rows were not written because of rules."""

    started_at: datetime
    dataset: str
    arguments: dict[str, Any]
    engine: str
    model_id: str
    dataset_episodes: int
    episodes: int
    episodes_skipped: int
    calls_answered: int
    calls_hit: int
    calls_failed: int
    calls_declined: int
    answers_rejected: int
    answered_by_step: dict[str, int]
    tokens_in: int
    tokens_out: int
    frames_decoded: int
    shards_written: int
    elapsed_s: float
    outcome: Literal["done", "incomplete", "interrupted", "failed"]
    versions: dict[str, str]
    broken_rules: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    quarantined: dict[Digest, tuple[str, ...]] = msgspec.field(default_factory=dict[Digest, tuple[str, ...]])


AnyEvent = (
    CallAnswered
    | AnswerRejected
    | CallFailed
    | CallDeclined
    | PromptRendered
    | ModelDescribed
    | FramesChosen
    | EpisodeSeen
    | EpisodeAnnotated
    | VocabularyDiscovered
    | VocabularyEdited
    | ShardWritten
    | RunFinished
)

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


class _Header(msgspec.Struct):
    type: str


def utc_now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


def encode_event(event: AnyEvent) -> bytes:
    """Encode an event to its wire form: one JSON object, no newline."""
    body = _encoder.encode(event)
    if isinstance(event, CallAnswered) and isinstance(event.answer, msgspec.Raw):
        # A model's JSON comes with its own newlines and key order; the journal is lines, and has one form of a value.
        body = _encoder.encode(_decoder.decode(body))
    return body


def event_id(body: bytes) -> Digest:
    """Return the id of an event: the digest of its wire form."""
    return digest_parts("event.v1", [body])


def event_type(body: bytes) -> str:
    """Read only the `type` of a wire form."""
    return msgspec.json.decode(body, type=_Header).type


def decode_event(body: bytes, *, where: str = "") -> AnyEvent:
    """Decode a wire form.

    Raises:
        NewerEvent: its type or version is not known here.
        JournalDamaged: it is not an event.
    """
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as cause:
        try:
            kind = event_type(body)
        except msgspec.DecodeError:
            kind = None
        if kind is not None and kind not in KNOWN_TYPES:
            raise NewerEvent(
                "an event is of a kind this release does not know",
                where=where,
                got=kind,
                hint="pip install --upgrade episode-annotator",
            ) from cause
        raise JournalDamaged("an event does not fit its type", where=where, got=f"{kind}: {cause}") from cause
    except msgspec.DecodeError as cause:
        raise JournalDamaged("an event is not JSON", where=where, got=str(cause)) from cause


KNOWN_TYPES = frozenset(str(event.__struct_config__.tag) for event in AnyEvent.__args__)
"""Every `type` this release can read."""
