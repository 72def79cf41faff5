"""Folds over events. Each takes its events in any order and any number of times.

    known        key → the outcome of that call: the first answer, else the first refusal
    current      (episode, module) → the annotation that counts: the last one recorded
    vocabulary   dataset → the vocabulary that counts: the last one recorded, discovered or edited
    discovered   recipe → the vocabulary that was first discovered under it

Ties in time are broken by event id, so two machines with the same events agree.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from annotator_store.digests import Digest, digest_struct
from annotator_store.keys import AnnotationRows
from annotator_store.log.events import (
    AnyEvent,
    CallAnswered,
    CallDeclined,
    EpisodeAnnotated,
    VocabularyDiscovered,
    VocabularyEdited,
)
from annotator_store.rows import order_key


class Answered(msgspec.Struct, frozen=True):
    """A call that was answered: the raw reply, and the engine and model that gave it."""

    key: Digest
    reply: str
    finish_reason: str
    engine: str
    model_id: str


class DeclinedBefore(msgspec.Struct, frozen=True):
    """A call that an engine declined, and why; it is not asked again."""

    key: Digest
    reason: str
    engine: str


Known = Answered | DeclinedBefore


class Outcome(msgspec.Struct, frozen=True):
    """How a call ended, by one event. Of the outcomes of one key the least counts, compared field by field."""

    declined: bool
    recorded_at: datetime
    event_id: Digest
    episode: Digest
    known: Known


class LatestAnnotation(msgspec.Struct, frozen=True):
    """The annotation of one module that counts for one episode. `rows_digest`: see the function of that name."""

    episode: Digest
    module: str
    recipe: Digest
    event_id: Digest
    recorded_at: datetime
    rows_digest: Digest


class CachedAnnotation(msgspec.Struct, frozen=True):
    """The annotation that was made under a recipe: its event and `rows_digest`."""

    event_id: Digest
    rows_digest: Digest


def outcome_of(event_id: Digest, event: AnyEvent) -> Outcome | None:
    """Return the outcome of a call that an event records; None for other events."""
    known: Known
    match event:
        case CallAnswered():
            known = Answered(event.key, event.reply, event.finish_reason, event.engine, event.model_id)
        case CallDeclined():
            known = DeclinedBefore(event.key, event.reason, event.engine)
        case _:
            return None
    return Outcome(isinstance(known, DeclinedBefore), as_utc(event.recorded_at), event_id, event.episode, known)


def fold_known(outcomes: Iterable[Outcome]) -> dict[Digest, Known]:
    """Fold outcomes to one per key: an answer before a refusal, then the earliest, then the smallest id."""
    least: dict[Digest, Outcome] = {}
    for outcome in outcomes:
        key = outcome.known.key
        if key not in least or _rank(outcome) < _rank(least[key]):
            least[key] = outcome
    return {key: outcome.known for key, outcome in least.items()}


def annotation_of(event_id: Digest, event: EpisodeAnnotated) -> LatestAnnotation:
    """Return an annotation as a candidate for the one that counts."""
    return LatestAnnotation(
        event.episode, event.module, event.recipe, event_id, as_utc(event.recorded_at), rows_digest(event)
    )


def fold_current(candidates: Iterable[LatestAnnotation]) -> dict[tuple[Digest, str], LatestAnnotation]:
    """Fold annotations to one per (episode, module): the latest, then the largest id."""
    latest: dict[tuple[Digest, str], LatestAnnotation] = {}
    for candidate in candidates:
        place = candidate.episode, candidate.module
        known = latest.get(place)
        if known is None or (candidate.recorded_at, candidate.event_id) > (known.recorded_at, known.event_id):
            latest[place] = candidate
    return latest


def fold_vocabulary(events: Iterable[tuple[Digest, AnyEvent]]) -> dict[str, VocabularyDiscovered | VocabularyEdited]:
    """Fold events, each with its id, to one vocabulary per dataset: the latest, then the largest id."""
    latest: dict[str, tuple[datetime, Digest, VocabularyDiscovered | VocabularyEdited]] = {}
    for event_id, event in events:
        if isinstance(event, VocabularyDiscovered | VocabularyEdited):
            candidate = as_utc(event.recorded_at), event_id, event
            if event.dataset not in latest or candidate[:2] > latest[event.dataset][:2]:
                latest[event.dataset] = candidate
    return {dataset: event for dataset, (_, _, event) in latest.items()}


def fold_discovered(events: Iterable[tuple[Digest, AnyEvent]]) -> dict[Digest, VocabularyDiscovered]:
    """Fold events, each with its id, to one discovery per recipe: the earliest, then the smallest id."""
    first: dict[Digest, tuple[datetime, Digest, VocabularyDiscovered]] = {}
    for event_id, event in events:
        if isinstance(event, VocabularyDiscovered):
            candidate = as_utc(event.recorded_at), event_id, event
            if event.recipe not in first or candidate[:2] < first[event.recipe][:2]:
                first[event.recipe] = candidate
    return {recipe: event for recipe, (_, _, event) in first.items()}


def rows_digest(event: EpisodeAnnotated) -> Digest:
    """Digest an annotation's rows in their total order and its task, without the calls they came from.

    A module that follows this one depends on nothing else of it.
    """
    return digest_struct(
        AnnotationRows(rows=tuple(sorted((item.row for item in event.rows), key=order_key)), task=event.task)
    )


def as_utc(moment: datetime) -> datetime:
    """Return a time in UTC; one without a zone is taken to be in UTC."""
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _rank(outcome: Outcome) -> tuple[bool, datetime, Digest]:
    return outcome.declined, outcome.recorded_at, outcome.event_id
