"""Verify a store and the shards that were written from it: derive every digest again, fold again, project again.

    journal → events that match their ids → what they carry and cite → the folds → rows → shards

Reading only, and in bounded memory: segment by segment, shard by shard. Nothing stops at the first thing that is wrong.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from annotator_store.digests import Digest
from annotator_store.errors import JournalDamaged, NewerEvent
from annotator_store.log.cache import CACHE
from annotator_store.log.dataset_names import alike_at, name_in_log
from annotator_store.log.events import EpisodeAnnotated, decode_event
from annotator_store.log.segments import JOURNAL
from annotator_store.log.shard_history import ShardRecord, fold_shards
from annotator_store.parquet.rewrite import language_digest_or_none
from annotator_store.verify.cache import check_cache, check_rebuilt
from annotator_store.verify.events import Index, VocabularyDigest, check_citations, index_event
from annotator_store.verify.findings import Audit
from annotator_store.verify.journal import read_whole_events
from annotator_store.verify.shards import Annotations, Compose, check_shard

_ANNOTATIONS_AT_ONCE = 4096
_SHOWN = 3
"""Shards that one note names."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What verifying gave: the findings, all that the journal says in digests, and the shards.

    `dataset`: its name in the log, None where the log knows others only. `records`: what each of the dataset's shards
    was last made of, by path. `languages`: the digests of the language columns as they are, of those that can be read.
    """

    audit: Audit
    index: Index
    dataset: str | None
    records: dict[str, ShardRecord]
    languages: dict[str, Digest]

    def footage(self, index: int, episode: Digest) -> dict[str, Digest]:
        """Give what was last seen of the footage of the episode at an index, by camera."""
        seen = self.index.footage.get((self.dataset or "", index), {}).get(episode, {})
        return {camera: footage for camera, (_, _, footage) in sorted(seen.items())}

    def cameras_seen(self, index: int) -> set[str]:
        """Name the cameras of which footage was ever seen at an index."""
        return {camera for seen in self.index.footage.get((self.dataset or "", index), {}).values() for camera in seen}


def verify_store(
    root: Path,
    store: Path,
    *,
    shards: Collection[str],
    pinned: Mapping[str, Digest],
    compose: Compose,
    vocabulary_digest: VocabularyDigest,
    visit: Callable[[ShardRecord, Annotations], None] = lambda _record, _annotations: None,
    rebuild_cache: bool = False,
) -> Verified:
    """Verify the log in the folder `store`, and the shards of the dataset at `root`; `pinned` is what its lock says.

    `visit` is given every shard's record with the annotations it was made of, while they are in memory.
    """
    audit, index, journal = Audit(), Index(), store / JOURNAL
    for place, entry in read_whole_events(journal, audit):
        index_event(index, audit, place, entry, vocabulary_digest)
    check_citations(index, audit)
    check_cache(store / CACHE, journal, index, audit)
    if rebuild_cache:
        check_rebuilt(journal, index, audit)
    name = _name(root, store, index, shards, pinned, audit)
    records = _records(name, index, shards, audit)
    languages: dict[str, Digest] = {}
    for group in _grouped(records.values()):
        annotations = read_annotations(journal, [event for record in group for event in record.annotations])
        for record in group:
            visit(record, annotations)
            found = check_shard(root, record, pinned.get(record.path), annotations, compose, audit)
            if found is not None:
                languages[record.path] = found
    return Verified(audit=audit, index=index, dataset=name, records=records, languages=languages)


def read_annotations(journal: Path, wanted: Collection[Digest]) -> Annotations:
    """Read annotations by id, in one pass over the journal; those that are damaged or not there are left out."""
    ids = set(wanted)
    found: dict[Digest, EpisodeAnnotated] = {}
    for _, entry in read_whole_events(journal, Audit()) if ids else ():
        if entry.id not in ids:
            continue
        try:
            event = decode_event(entry.body)
        except (JournalDamaged, NewerEvent):
            continue  # said where all events are looked at
        if isinstance(event, EpisodeAnnotated):
            found[entry.id] = event
            if len(found) == len(ids):
                break
    return found


def _name(
    root: Path, store: Path, index: Index, shards: Collection[str], pinned: Mapping[str, Digest], audit: Audit
) -> str | None:
    names = {event.dataset for _, event in index.shards_written} | {dataset for dataset, _ in index.seen}
    alike = alike_at(root, shards, index.shards_written, lambda: pinned, language_digest_or_none)
    name = name_in_log(names, root, store, alike=alike)
    if names and name is None:
        expected = f"one of the datasets that the log knows: {', '.join(sorted(names))}"
        audit.report_absent("dataset", str(root), expected, "unknown dataset")
    return name


def _records(name: str | None, index: Index, shards: Collection[str], audit: Audit) -> dict[str, ShardRecord]:
    if name is None:
        return {}
    records = fold_shards(index.shards_written, name)
    unwritten = sorted(set(shards) - set(records))
    if unwritten and not audit.gone:
        more = ", …" if len(unwritten) > _SHOWN else ""
        named = ", ".join(unwritten[:_SHOWN]) + more
        audit.note(f"{len(unwritten)} of {len(shards)} shards were never written from this log: {named}")
    return {path: record for path, record in records.items() if path in shards}


def _grouped(records: Iterable[ShardRecord]) -> Iterator[list[ShardRecord]]:
    """Part the shards into groups with a bounded number of annotations each: the journal is read once a group."""
    group: list[ShardRecord] = []
    size = 0
    for record in records:
        if group and size + len(record.annotations) > _ANNOTATIONS_AT_ONCE:
            yield group
            group, size = [], 0
        group.append(record)
        size += len(record.annotations)
    if group:
        yield group
