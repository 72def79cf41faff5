"""Re-derive every digest that events carry, and hold what they cite against what the log has.

What is remembered of an event is its digests, never its texts: about 300 bytes a call, whatever a reply's length.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from annotator_store.digests import Digest, digest_parts
from annotator_store.errors import JournalDamaged, NewerEvent
from annotator_store.keys import Call, Frames, Model, Prompt, call_key
from annotator_store.log.events import (
    AnswerRejected,
    AnyEvent,
    CallAnswered,
    EpisodeAnnotated,
    EpisodeSeen,
    FramesChosen,
    ModelDescribed,
    PromptRendered,
    RunFinished,
    ShardWritten,
    VocabularyDiscovered,
    VocabularyEdited,
    decode_event,
)
from annotator_store.log.folds import LatestAnnotation, as_utc, current_of, outcome_of
from annotator_store.log.lines import Entry
from annotator_store.verify.findings import Audit
from annotator_store.verify.journal import Place

VocabularyDigest = Callable[[tuple[str, ...], tuple[str, ...]], Digest]


class Reply(msgspec.Struct, frozen=True):
    """What is remembered of an answered call."""

    step: str
    reply: Digest
    seed: int
    model: Digest


class Counted(msgspec.Struct, frozen=True):
    """The outcome of a call that counts: an answer before a refusal, then the earliest, then the smallest id."""

    declined: bool
    recorded_at: datetime
    event_id: Digest
    episode: Digest


class RunNote(msgspec.Struct, frozen=True):
    """What a finished run was asked for."""

    recorded_at: datetime
    dataset: str
    model_id: str
    arguments: dict[str, Any]
    outcome: str


class Index:
    """What a whole journal says, in digests: the folds, made without the cache, and who cites what."""

    def __init__(self) -> None:
        self.ids: set[Digest] = set()
        self.outcomes: dict[Digest, Counted] = {}
        self.replies: dict[Digest, Reply] = {}
        self.other_replies: dict[Digest, set[Digest]] = {}
        self.annotations: dict[Digest, LatestAnnotation] = {}
        self.shards_written: list[tuple[Digest, ShardWritten]] = []
        self.seen: dict[tuple[str, int], tuple[datetime, Digest]] = {}
        self.footage: dict[tuple[str, int], dict[Digest, dict[str, tuple[datetime, Digest, Digest]]]] = {}
        self.runs: list[RunNote] = []
        self.models: dict[Digest, str] = {}
        self.discoveries: list[tuple[Digest, VocabularyDiscovered]] = []
        self.described: set[tuple[str, Digest]] = set()
        self.wanted: dict[tuple[str, Digest], Place] = {}
        self.cited: dict[Digest, Place] = {}
        self.rejections: list[tuple[Place, Digest, Digest]] = []


def reply_digest(reply: str) -> Digest:
    """Digest the text of a reply."""
    return digest_parts("reply.v1", [reply.encode()])


def index_event(index: Index, audit: Audit, place: Place, entry: Entry, vocabulary_digest: VocabularyDigest) -> None:
    """Take in one event that matches its id: re-derive what it carries, remember what others may cite."""
    if entry.id in index.ids:
        return
    index.ids.add(entry.id)
    try:
        event = decode_event(entry.body)
    except NewerEvent as error:
        audit.note(f"events of a newer release were not looked into: {error.got}")
        return
    except JournalDamaged as error:
        audit.report("event", str(place), "an event", error.got)
        return
    audit.counts["events"] += 1
    _remember_outcome(index, entry.id, event)
    match event:
        case CallAnswered():
            _answered(index, audit, place, event)
        case PromptRendered():
            _described(index, audit, place, Prompt.tag_v, event.prompt, event.text)
        case ModelDescribed():
            _described(index, audit, place, Model.tag_v, event.model, event.text)
            index.models[event.model] = event.text
        case FramesChosen():
            _described(index, audit, place, Frames.tag_v, event.frames, event.text)
        case VocabularyDiscovered() | VocabularyEdited():
            _vocabulary(index, audit, place, event, vocabulary_digest)
            if isinstance(event, VocabularyDiscovered):
                index.discoveries.append((entry.id, event))
        case EpisodeAnnotated():
            audit.counts["annotations"] += 1
            _annotated(index, place, entry.id, event)
        case _:
            _remember(index, place, entry.id, event)


def check_citations(index: Index, audit: Audit) -> None:
    """Once all events are in: what they cite must be there, and a rejected reply is the one that was answered."""
    for key, place in index.cited.items():
        if key not in index.outcomes:
            audit.report_absent("call", f"cited by {place}", f"the call {key}")
    for (tag, digest), place in index.wanted.items():
        if (tag, digest) not in index.described:
            audit.report_absent("pre-image", f"cited by {place}", f"the pre-image of {tag} {digest}")
    for place, key, reply in index.rejections:
        given = index.replies.get(key)
        if given is None:
            audit.report_absent("rejection", str(place), f"the answer of call {key}")
        elif reply != given.reply and reply not in index.other_replies.get(key, ()):
            audit.report("rejection", f"{place}, field reply", f"the reply of call {key}, {given.reply}", reply)


def _answered(index: Index, audit: Audit, place: Place, event: CallAnswered) -> None:
    audit.counts["calls"] += 1
    call = Call(episode=event.episode, prompt=event.prompt, model=event.model, seed=event.seed, frames=event.frames)
    derived = call_key(call)
    if derived != event.key:
        audit.report("call", f"{place}, field key", derived, event.key)
    for tag, digest in ((Prompt.tag_v, event.prompt), (Model.tag_v, event.model), (Frames.tag_v, event.frames)):
        index.wanted.setdefault((tag, digest), place)


def _annotated(index: Index, place: Place, event_id: Digest, event: EpisodeAnnotated) -> None:
    index.annotations[event_id] = current_of(event_id, event)
    rows, gaps = [row.call for row in event.rows if row.call], [gap.call for gap in event.gaps if gap.call]
    for key in (*event.calls, *rows, *gaps):
        index.cited.setdefault(key, place)


def _remember(index: Index, place: Place, event_id: Digest, event: AnyEvent) -> None:
    """Take in what carries no digest of its own, to be held against the rest when all is in."""
    match event:
        case AnswerRejected():
            index.rejections.append((place, event.key, reply_digest(event.reply)))
        case ShardWritten():
            index.shards_written.append((event_id, event))
        case EpisodeSeen():
            where, when = (event.dataset, event.episode_index), (as_utc(event.recorded_at), event.episode)
            index.seen[where] = max(when, index.seen.get(where, when))
            here = index.footage.setdefault(where, {}).setdefault(event.episode, {})
            for one in event.cameras:
                latest = (when[0], event_id, one.footage)
                here[one.camera] = max(latest, here.get(one.camera, latest))
        case RunFinished():
            at, asked = as_utc(event.recorded_at), event.arguments
            index.runs.append(RunNote(at, event.dataset, event.model_id, asked, event.outcome))
        case _:
            pass


def _remember_outcome(index: Index, event_id: Digest, event: AnyEvent) -> None:
    outcome = outcome_of(event_id, event)
    if outcome is None:
        return
    key = outcome.known.key
    counted = Counted(outcome.declined, outcome.recorded_at, event_id, outcome.episode)
    before = index.outcomes.get(key)
    first = before is None or msgspec.structs.astuple(counted) < msgspec.structs.astuple(before)
    if first:
        index.outcomes[key] = counted
    if isinstance(event, CallAnswered):
        reply = Reply(event.step, reply_digest(event.reply), event.seed, event.model)
        held = index.replies.get(key)
        if held is not None:
            index.other_replies.setdefault(key, set()).update((held.reply, reply.reply))
        if first or held is None:
            index.replies[key] = reply


def _described(index: Index, audit: Audit, place: Place, tag: str, named: Digest, text: str) -> None:
    derived = digest_parts(tag, [text.encode()])
    if derived != named:
        audit.report("pre-image", f"{place}, {tag}", named, derived)
    index.described.add((tag, named))


def _vocabulary(
    index: Index,
    audit: Audit,
    place: Place,
    event: VocabularyDiscovered | VocabularyEdited,
    vocabulary_digest: VocabularyDigest,
) -> None:
    derived = vocabulary_digest(event.subtasks, event.memories)
    if derived != event.vocabulary:
        audit.report("vocabulary", f"{place}, field vocabulary", derived, event.vocabulary)
    if isinstance(event, VocabularyDiscovered):
        index.cited.setdefault(event.call, place)
