"""Events that are durable in the journal and have not reached DuckDB yet."""

import threading
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from annotator_store.digests import Digest
from annotator_store.log.events import AnswerRejected
from annotator_store.log.folds import Outcome, outcome_of
from annotator_store.log.journal import Recorded
from annotator_store.log.lines import Entry

T = TypeVar("T")

_INGEST_EVENTS = 1024
_INGEST_BYTES = 4 << 20


class Batch(msgspec.Struct, frozen=True):
    """One ingest: its events, `files` of the journal that it completes, and active files that were sealed (`gone`)."""

    entries: list[Entry]
    files: list[str]
    gone: list[str]


class PendingEvents:
    """Events on their way from the journal to DuckDB. Thread-safe; an event is dropped only after it was ingested."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Digest, Entry] = {}
        self._outcomes: dict[Digest, dict[Digest, Outcome]] = {}
        self._rejected: dict[Digest, dict[Digest, Digest]] = {}
        self._actives: set[str] = set()
        self._sealed: dict[str, str | None] = {}
        self._bytes = 0
        self._ingest_due = False

    def __bool__(self) -> bool:
        return bool(self._entries or self._sealed)

    def add(self, active: str, recorded: Sequence[Recorded]) -> bool:
        """Add events that just became durable; True when an ingest is due and no earlier call returned True for it."""
        with self._lock:
            self._actives.add(active)
            for item in recorded:
                self._add(item)
            due = len(self._entries) >= _INGEST_EVENTS or self._bytes >= _INGEST_BYTES
            first, self._ingest_due = due and not self._ingest_due, due or self._ingest_due
            return first

    def add_sealed(self, active: str, segment: str | None) -> None:
        """Note that an active file was sealed into a segment; all of its events were added before."""
        with self._lock:
            self._sealed[active] = segment

    def outcomes(self, episode: Digest) -> list[Outcome]:
        """Return the pending outcomes of an episode's calls."""
        with self._lock:
            return list(self._outcomes.get(episode, {}).values())

    def rejected(self, episode: Digest) -> set[Digest]:
        """Return the keys of an episode's calls with a pending rejection."""
        with self._lock:
            return set(self._rejected.get(episode, {}).values())

    def take(self) -> Batch:
        """Return what is to be ingested; it stays pending until `drop`."""
        with self._lock:
            segments = [segment for segment in self._sealed.values() if segment is not None]
            actives = sorted(self._actives - set(self._sealed))
            return Batch(list(self._entries.values()), [*segments, *actives], list(self._sealed))

    def drop(self, batch: Batch) -> None:
        """Drop what was ingested."""
        with self._lock:
            for entry in batch.entries:
                self._bytes -= len(self._entries.pop(entry.id).body)
            ingested = {entry.id for entry in batch.entries}
            _drop_events(self._outcomes, ingested)
            _drop_events(self._rejected, ingested)
            for active in batch.gone:
                del self._sealed[active]
                self._actives.discard(active)
            self._ingest_due = False

    def _add(self, item: Recorded) -> None:
        entry, event = item.entry, item.event
        if entry.id in self._entries:
            return
        self._entries[entry.id] = entry
        self._bytes += len(entry.body)
        outcome = outcome_of(entry.id, event)
        if outcome is not None:
            self._outcomes.setdefault(outcome.episode, {})[entry.id] = outcome
        elif isinstance(event, AnswerRejected):
            self._rejected.setdefault(event.episode, {})[entry.id] = event.key


def _drop_events(by_episode: dict[Digest, dict[Digest, T]], ingested: set[Digest]) -> None:
    for episode in list(by_episode):
        left = {event_id: item for event_id, item in by_episode[episode].items() if event_id not in ingested}
        if left:
            by_episode[episode] = left
        else:
            del by_episode[episode]
