"""Re-derive every digest that events carry, and check that what they cite is in the log.

Of an event only digests are kept in memory, never texts: about 300 bytes a call, whatever the length of its reply.
"""

from datetime import datetime
from typing import Any

import msgspec

from annotator_store.digests import Digest, digest_parts
from annotator_store.errors import JournalDamaged, NewerEvent
from annotator_store.keys import Call, Frames, Model, Prompt, Vocabulary, call_key
from annotator_store.log.events import (
    AnswerRejected,
    AnyEvent,
    CallAnswered,
    CallDeclined,
    CallFailed,
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
from annotator_store.log.folds import LatestAnnotation, annotation_of, as_utc, outcome_of
from annotator_store.log.lines import Entry
from annotator_store.verify.findings import VerifyReport
from annotator_store.verify.journal import Place


class AnsweredCall(msgspec.Struct, frozen=True):
    """What is kept in memory of an answered call. `reply`: the digest of its text."""

    step: str
    reply: Digest
    seed: int
    model: Digest


class CallOutcome(msgspec.Struct, frozen=True):
    """The outcome of a call that counts: an answer before a refusal, then the earliest, then the smallest id."""

    declined: bool
    recorded_at: datetime
    event_id: Digest
    episode: Digest


class FinishedRun(msgspec.Struct, frozen=True):
    """The settings and the outcome of a finished run."""

    recorded_at: datetime
    dataset: str
    model_id: str
    arguments: dict[str, Any]
    outcome: str


class Index:
    """A whole journal in digests: the folds, made without the cache, and what cites what.

    `seen` and `footage` are by (dataset, episode index); `described` and `needed` hold pre-images by (tag, digest);
    `cited` holds call keys. Their values say where the first citation stands.
    """

    def __init__(self) -> None:
        self.ids: set[Digest] = set()
        self.outcomes: dict[Digest, CallOutcome] = {}
        self.replies: dict[Digest, AnsweredCall] = {}
        self.other_replies: dict[Digest, set[Digest]] = {}
        self.annotations: dict[Digest, LatestAnnotation] = {}
        self.shards_written: list[tuple[Digest, ShardWritten]] = []
        self.seen: dict[tuple[str, int], tuple[datetime, Digest]] = {}
        self.footage: dict[tuple[str, int], dict[Digest, dict[str, tuple[datetime, Digest, Digest]]]] = {}
        self.runs: list[FinishedRun] = []
        self.models: dict[Digest, str] = {}
        self.discoveries: list[tuple[Digest, VocabularyDiscovered]] = []
        self.described: set[tuple[str, Digest]] = set()
        self.needed: dict[tuple[str, Digest], Place] = {}
        self.cited: dict[Digest, Place] = {}
        self.rejections: list[tuple[Place, Digest, Digest]] = []


def reply_digest(reply: str) -> Digest:
    """Return the digest of a reply's text."""
    return digest_parts("reply.v1", [reply.encode()])


def index_event(index: Index, report: VerifyReport, place: Place, entry: Entry) -> None:
    """Add an event that matches its id: re-derive the digests it carries, and keep what others may cite."""
    if entry.id in index.ids:
        return
    index.ids.add(entry.id)
    try:
        event = decode_event(entry.body)
    except NewerEvent as error:
        report.note(f"events of a newer release were not looked into: {error.got}")
        return
    except JournalDamaged as error:
        report.add("event", str(place), "an event", error.got)
        return
    report.counts["events"] += 1
    _add_outcome(index, entry.id, event)
    _add_event(index, report, place, entry.id, event)


def _add_event(index: Index, report: VerifyReport, place: Place, event_id: Digest, event: AnyEvent) -> None:
    match event:
        case CallAnswered():
            _check_call(index, report, place, event)
        case PromptRendered():
            _check_pre_image(index, report, place, Prompt.tag_v, event.prompt, event.text)
        case ModelDescribed():
            _check_pre_image(index, report, place, Model.tag_v, event.model, event.text)
            index.models[event.model] = event.text
        case FramesChosen():
            _check_pre_image(index, report, place, Frames.tag_v, event.frames, event.text)
        case VocabularyDiscovered() | VocabularyEdited():
            _check_vocabulary(index, report, place, event_id, event)
        case EpisodeAnnotated():
            report.counts["annotations"] += 1
            index.annotations[event_id] = annotation_of(event_id, event)
            of_rows, of_gaps = (
                [row.call for row in event.rows if row.call],
                [gap.call for gap in event.gaps if gap.call],
            )
            for key in (*event.calls, *of_rows, *of_gaps):
                index.cited.setdefault(key, place)
        case AnswerRejected():
            index.rejections.append((place, event.key, reply_digest(event.reply)))
        case ShardWritten():
            index.shards_written.append((event_id, event))
        case EpisodeSeen():
            _add_sighting(index, event_id, event)
        case RunFinished():
            recorded_at = as_utc(event.recorded_at)
            run = FinishedRun(recorded_at, event.dataset, event.model_id, event.arguments, event.outcome)
            index.runs.append(run)
        case CallFailed() | CallDeclined():
            pass


def check_citations(index: Index, report: VerifyReport) -> None:
    """Check, after the last event, that what events cite is there, and that a rejected reply is its call's answer."""
    for key, place in index.cited.items():
        if key not in index.outcomes:
            report.add_missing("call", f"cited by {place}", f"the call {key}")
    for (tag, digest), place in index.needed.items():
        if (tag, digest) not in index.described:
            report.add_missing("pre-image", f"cited by {place}", f"the pre-image of {tag} {digest}")
    for place, key, reply in index.rejections:
        given = index.replies.get(key)
        if given is None:
            report.add_missing("rejection", str(place), f"the answer of call {key}")
        elif reply != given.reply and reply not in index.other_replies.get(key, ()):
            report.add("rejection", f"{place}, field reply", f"the reply of call {key}, {given.reply}", reply)


def _check_call(index: Index, report: VerifyReport, place: Place, event: CallAnswered) -> None:
    report.counts["calls"] += 1
    call = Call(episode=event.episode, prompt=event.prompt, model=event.model, seed=event.seed, frames=event.frames)
    derived = call_key(call)
    if derived != event.key:
        report.add("call", f"{place}, field key", derived, event.key)
    for tag, digest in ((Prompt.tag_v, event.prompt), (Model.tag_v, event.model), (Frames.tag_v, event.frames)):
        index.needed.setdefault((tag, digest), place)


def _check_vocabulary(
    index: Index,
    report: VerifyReport,
    place: Place,
    event_id: Digest,
    event: VocabularyDiscovered | VocabularyEdited,
) -> None:
    derived = Vocabulary(subtasks=event.subtasks, memories=event.memories).digest
    if derived != event.vocabulary:
        report.add("vocabulary", f"{place}, field vocabulary", derived, event.vocabulary)
    if isinstance(event, VocabularyDiscovered):
        index.cited.setdefault(event.call, place)
        index.discoveries.append((event_id, event))


def _check_pre_image(index: Index, report: VerifyReport, place: Place, tag: str, recorded: Digest, text: str) -> None:
    derived = digest_parts(tag, [text.encode()])
    if derived != recorded:
        report.add("pre-image", f"{place}, {tag}", recorded, derived)
    index.described.add((tag, recorded))


def _add_outcome(index: Index, event_id: Digest, event: AnyEvent) -> None:
    outcome = outcome_of(event_id, event)
    if outcome is None:
        return
    key = outcome.known.key
    candidate = CallOutcome(outcome.declined, outcome.recorded_at, event_id, outcome.episode)
    earlier = index.outcomes.get(key)
    counts = earlier is None or msgspec.structs.astuple(candidate) < msgspec.structs.astuple(earlier)
    if counts:
        index.outcomes[key] = candidate
    if isinstance(event, CallAnswered):
        call = AnsweredCall(event.step, reply_digest(event.reply), event.seed, event.model)
        known = index.replies.get(key)
        if known is not None:
            # Two machines asked the same call: a rejection may be about either reply.
            index.other_replies.setdefault(key, set()).update((known.reply, call.reply))
        if counts or known is None:
            index.replies[key] = call


def _add_sighting(index: Index, event_id: Digest, event: EpisodeSeen) -> None:
    place, recorded_at = (event.dataset, event.episode_index), as_utc(event.recorded_at)
    sighting = recorded_at, event.episode
    index.seen[place] = max(sighting, index.seen.get(place, sighting))
    cameras = index.footage.setdefault(place, {}).setdefault(event.episode, {})
    for camera in event.cameras:
        latest = recorded_at, event_id, camera.footage
        cameras[camera.camera] = max(latest, cameras.get(camera.camera, latest))
