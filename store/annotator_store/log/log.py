"""The log: records events in the journal, and answers questions about them from DuckDB.

An event is durable once its journal line is fsynced. It reaches DuckDB in batches, in the background; until then it is
kept in memory and taken into account, so an answer is known from the moment its future is done.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from msgspec import json

from annotator_store.digests import Digest
from annotator_store.errors import StoreError
from annotator_store.log.cache import CACHE, Cache, CacheDamaged
from annotator_store.log.events import (
    AnyEvent,
    CallAnswered,
    EpisodeAnnotated,
    ModelDescribed,
    ShardWritten,
    VocabularyDiscovered,
    VocabularyEdited,
    decode_event,
)
from annotator_store.log.folds import (
    Answered,
    CachedAnnotation,
    DeclinedBefore,
    Known,
    LatestAnnotation,
    fold_discovered,
    fold_known,
    fold_vocabulary,
    outcome_of,
)
from annotator_store.log.journal import Journal, Recorded
from annotator_store.log.pending import PendingEvents
from annotator_store.log.rebuild import open_or_rebuild, rebuild
from annotator_store.log.segments import JOURNAL
from annotator_store.log.writer_lock import recovered, writer_lock

T = TypeVar("T")

__all__ = ["Answered", "CachedAnnotation", "DeclinedBefore", "Known", "LatestAnnotation", "Log"]

_READ_AT_ONCE = 128


class Log:
    """One store, open to record. There is one writer per store; readers use `annotator_store.log.query`."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open or make a store: lock it, seal what a crashed writer left, bring the cache up to the journal.

        Raises:
            StoreError: another process is writing it, or the folder cannot be used.
            JournalDamaged, NewerEvent: the journal cannot be read.
        """
        return cls(folder)

    def __init__(self, folder: Path) -> None:
        journal = folder / JOURNAL
        with ExitStack() as undo:
            self._lock_file = undo.enter_context(writer_lock(folder))
            self._path, self._folder = folder / CACHE, journal
            self._cache = open_or_rebuild(self._path, journal, recovered(journal))
            undo.pop_all()
        self._pending = PendingEvents()
        self._ingesting = ThreadPoolExecutor(1, "store-ingest")
        self._journal = Journal(journal, on_durable=self._on_durable, on_sealed=self._pending.add_sealed)
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def record(self, *events: AnyEvent) -> "Future[None]":
        """Record events; the future is done when they are durable. From any thread.

        Raises:
            StoreError: the log is closed. What the disk refuses comes through the future.
        """
        return self._journal.append(events)

    def seal(self) -> "Future[None]":
        """Seal what was recorded so far into a segment, to be shared while recording goes on; done when it is sealed.

        Raises:
            StoreError: the log is closed.
        """
        return self._journal.seal()

    def known(self, episode: Digest) -> dict[Digest, Known]:
        """Return how every call made for an episode ended, by key: answers and refusals."""
        # Pending events first, then DuckDB: an event that moves between the two is then seen twice, not never.
        pending = self._pending.outcomes(episode)
        cached = self._select("select_known", {"episode": episode})
        outcomes = [outcome_of(event_id, _decode(event_id, body)) for event_id, body in cached]
        return fold_known([*pending, *(outcome for outcome in outcomes if outcome is not None)])

    def rejected_keys(self, episode: Digest) -> set[Digest]:
        """Return the keys of an episode's calls whose reply did not fit the step's answer."""
        pending = self._pending.rejected(episode)
        return {key for (key,) in self._select("select_rejected", {"episode": episode})} | pending

    def current(self) -> dict[tuple[Digest, str], LatestAnnotation]:
        """Return the annotation that counts for every (episode, module)."""
        self._flush()
        return self._with_cache(lambda cache: cache.current())

    def recipes(self, recipes: Collection[Digest]) -> dict[Digest, CachedAnnotation]:
        """Return the newest annotation of each recipe that has one."""
        self._flush()
        selected = self._select("select_recipes", {"recipes": list(recipes)}) if recipes else []
        return {recipe: CachedAnnotation(event_id, rows) for recipe, event_id, rows in selected}

    def annotation(self, event_id: Digest) -> EpisodeAnnotated:
        """Read one annotation.

        Raises:
            StoreError: there is none with this id.
        """
        return next(self.annotations([event_id]))

    def annotations(self, event_ids: Sequence[Digest]) -> Iterator[EpisodeAnnotated]:
        """Yield annotations in the order of `event_ids`, reading a bounded number at a time.

        Raises:
            StoreError: there is none with one of these ids.
        """
        self._flush()
        for start in range(0, len(event_ids), _READ_AT_ONCE):
            ids = event_ids[start : start + _READ_AT_ONCE]
            bodies = dict(self._select("select_bodies", {"ids": list(ids)}))
            for event_id in ids:
                event = _decode(event_id, bodies[event_id]) if event_id in bodies else None
                if not isinstance(event, EpisodeAnnotated):
                    got = "nothing" if event is None else type(event).__name__
                    raise StoreError("the log has no such annotation", where=f"event {event_id}", got=got)
                yield event

    def vocabulary(self, dataset: str) -> VocabularyDiscovered | VocabularyEdited | None:
        """Return the vocabulary of a dataset that was last recorded, discovered or edited."""
        return fold_vocabulary(self._events("select_vocabulary", {"dataset": dataset})).get(dataset)

    def discovered(self, recipe: Digest) -> VocabularyDiscovered | None:
        """Return the vocabulary that was first discovered under a recipe, in whichever dataset."""
        return fold_discovered(self._events("select_discovered", {"recipe": recipe})).get(recipe)

    def answers(self, keys: Collection[Digest]) -> list[CallAnswered]:
        """Return the answer that counts of each of these calls, ordered by key; a call without one is left out."""
        return [e for _, e in self._events("select_answers", {"keys": list(keys)}) if isinstance(e, CallAnswered)]

    def discoveries(self, dataset: str) -> list[tuple[Digest, VocabularyDiscovered]]:
        """Return every vocabulary that was discovered for a dataset, with its event id, oldest first."""
        events = self._events("select_discoveries", {"dataset": dataset})
        return [(event_id, event) for event_id, event in events if isinstance(event, VocabularyDiscovered)]

    def models(self, digests: Collection[Digest]) -> dict[Digest, str]:
        """Return the descriptions of models as canonical JSON, by digest; an unknown model is left out."""
        events = self._events("select_models", {"models": list(digests)}) if digests else []
        return {event.model: event.text for _, event in events if isinstance(event, ModelDescribed)}

    def shards_written(self) -> list[tuple[Digest, ShardWritten]]:
        """Return every `ShardWritten` with its event id; `log.shard_history` folds them."""
        return [(i, e) for i, e in self._events("select_shards_written", {}) if isinstance(e, ShardWritten)]

    def seen_episodes(self) -> set[tuple[Digest, str, int]]:
        """Return where each episode was last seen: (episode, dataset, episode_index)."""
        self._flush()
        return {(episode, dataset, index) for episode, dataset, index in self._select("select_seen")}

    def unreadable(self, dataset: str) -> dict[tuple[Digest, int], dict[str, str]]:
        """Return the footage that could not be read when episodes were last seen: (episode, index) → camera → why."""
        self._flush()
        selected = self._select("select_unreadable", {"dataset": dataset})
        return {(episode, index): json.decode(cameras, type=dict[str, str]) for episode, index, cameras in selected}

    def footage(self, dataset: str) -> dict[tuple[Digest, int], dict[str, Digest]]:
        """Return the footage of episodes as last seen: (episode, index) → camera → digest."""
        self._flush()
        cameras: dict[tuple[Digest, int], dict[str, Digest]] = {}
        for episode, index, camera, footage in self._select("select_footage", {"dataset": dataset}):
            cameras.setdefault((episode, index), {})[camera] = footage
        return cameras

    def memo_get(self, namespace: str, names: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Look up memos: name → (stamp, value). They belong to this machine, and may be lost."""
        selected = self._select("select_memo", {"namespace": namespace, "names": list(names)}) if names else []
        return {name: (stamp, value) for name, stamp, value in selected}

    def memo_put(self, namespace: str, items: Mapping[str, tuple[str, str]]) -> None:
        """Keep memos, replacing those of the same names."""
        if items:
            self._with_cache(lambda cache: cache.put_memo(namespace, items))

    def close(self) -> None:
        """Seal the journal, ingest the rest of it, and release the store.

        Raises:
            StoreError: the journal could not be sealed; nothing is lost, the next writer seals it.
        """
        if self._closed:
            return
        self._closed = True
        with ExitStack() as stack:
            stack.enter_context(self._lock_file)
            stack.callback(self._discard_cache)
            stack.callback(self._ingesting.shutdown)
            # The journal is whole whatever becomes of the cache: the next writer brings that up to date.
            stack.callback(self._flush_or_leave)
            self._journal.close()

    def _events(self, name: str, parameters: Mapping[str, object]) -> list[tuple[Digest, AnyEvent]]:
        self._flush()
        return [(event_id, _decode(event_id, body)) for event_id, body in self._select(name, parameters)]

    def _on_durable(self, active: str, recorded: Sequence[Recorded]) -> None:
        if self._pending.add(active, recorded):
            self._ingesting.submit(self._ingest)

    def _flush(self) -> None:
        """Ingest everything that is durable."""
        if self._pending:
            self._ingesting.submit(self._ingest).result()

    def _flush_or_leave(self) -> None:
        with suppress(CacheDamaged):
            self._flush()

    def _discard_cache(self) -> None:
        self._cache.discard()

    def _ingest(self) -> None:
        batch = self._pending.take()
        try:
            self._cache.ingest(batch.entries, files=batch.files, gone=batch.gone)
        except CacheDamaged:
            self._cache.discard()
            self._cache = rebuild(self._path, self._folder)
            self._cache.ingest(batch.entries, files=batch.files, gone=batch.gone)
        self._pending.drop(batch)

    def _select(self, name: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        return self._with_cache(lambda cache: cache.select(name, parameters))

    def _with_cache(self, use: Callable[[Cache], T]) -> T:
        """Call `use` with the cache; where it turns out to be damaged, rebuild it and call again."""
        if self._closed:
            raise StoreError("the log is closed", where=str(self._folder.parent), got="a question")
        cache = self._cache
        try:
            return use(cache)
        except CacheDamaged:
            self._ingesting.submit(self._replace, cache).result()
            return use(self._cache)

    def _replace(self, damaged: Cache) -> None:
        # In the one thread that writes the cache; another reader may have asked for it already.
        if self._cache is damaged:
            damaged.discard()
            self._cache = rebuild(self._path, self._folder)


def _decode(event_id: Digest, body: str) -> AnyEvent:
    return decode_event(body.encode(), where=f"event {event_id}")
