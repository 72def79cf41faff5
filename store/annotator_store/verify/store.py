"""Verify a store and the shards that were written from it: derive every digest, every fold and every shard again.

    journal → events that match their ids → what they carry and cite → the folds → rows → shards

It only reads, segment by segment and shard by shard, in bounded memory, and goes on after a finding.
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
from annotator_store.log.shard_history import WrittenShard, fold_shards
from annotator_store.parquet.rewrite import language_digest_or_none
from annotator_store.verify.cache import check_cache, check_rebuilt
from annotator_store.verify.events import Index, check_citations, index_event
from annotator_store.verify.findings import VerifyReport
from annotator_store.verify.journal import read_whole_events
from annotator_store.verify.shards import Annotations, MergeRows, check_shard

_ANNOTATIONS_AT_ONCE = 4096
_SHOWN = 3
"""Shards that a note lists by name."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `verify_store`: the findings, the journal in digests, and the shards.

    `dataset`: its name in the log; None where the log holds other datasets only. `records`: what each of the dataset's
    shards was last made from, by path. `languages`: the digest of the language columns of every shard that can be
    read, by path.
    """

    report: VerifyReport
    index: Index
    dataset: str | None
    records: dict[str, WrittenShard]
    languages: dict[str, Digest]

    def footage(self, index: int, episode: Digest) -> dict[str, Digest]:
        """Return the digests of an episode's footage as last recorded at an episode index, by camera."""
        seen = self.index.footage.get((self.dataset or "", index), {}).get(episode, {})
        return {camera: footage for camera, (_, _, footage) in sorted(seen.items())}

    def cameras_seen(self, index: int) -> set[str]:
        """Return the cameras whose footage was ever recorded at an episode index."""
        return {camera for seen in self.index.footage.get((self.dataset or "", index), {}).values() for camera in seen}


def verify_store(
    root: Path,
    store: Path,
    *,
    shards: Collection[str],
    pinned: Mapping[str, Digest],
    merge: MergeRows,
    visit: Callable[[WrittenShard, Annotations], None] = lambda _record, _annotations: None,
    rebuild_cache: bool = False,
) -> Verified:
    """Verify the log in the folder `store` and the shards of the dataset at `root`.

    Args:
        shards: paths of the dataset's shards, relative to `root`.
        pinned: digests of the language columns as its lock has them, by path.
        visit: called with every shard's record and the annotations it was made from, while they are in memory.
        rebuild_cache: compare a cache that is built anew, too.
    """
    report, index, journal = VerifyReport(), Index(), store / JOURNAL
    for place, entry in read_whole_events(journal, report):
        index_event(index, report, place, entry)
    check_citations(index, report)
    check_cache(store / CACHE, journal, index, report)
    if rebuild_cache:
        check_rebuilt(journal, index, report)
    name = _name_in_log(root, store, index, shards, pinned, report)
    records = _fold_records(name, index, shards, report)
    languages: dict[str, Digest] = {}
    for group in _grouped(records.values()):
        annotations = read_annotations(journal, [event for record in group for event in record.annotations])
        for record in group:
            visit(record, annotations)
            language = check_shard(root, record, pinned.get(record.path), annotations, merge, report)
            if language is not None:
                languages[record.path] = language
    return Verified(report=report, index=index, dataset=name, records=records, languages=languages)


def read_annotations(journal: Path, wanted: Collection[Digest]) -> Annotations:
    """Read annotations by id, in one pass over the journal; leave out those that are damaged or missing."""
    ids = set(wanted)
    annotations: dict[Digest, EpisodeAnnotated] = {}
    for _, entry in read_whole_events(journal, VerifyReport()) if ids else ():
        if entry.id not in ids:
            continue
        try:
            event = decode_event(entry.body)
        except (JournalDamaged, NewerEvent):
            continue  # reported where the events are indexed
        if isinstance(event, EpisodeAnnotated):
            annotations[entry.id] = event
            if len(annotations) == len(ids):
                break
    return annotations


def _name_in_log(
    root: Path, store: Path, index: Index, shards: Collection[str], pinned: Mapping[str, Digest], report: VerifyReport
) -> str | None:
    names = {event.dataset for _, event in index.shards_written} | {dataset for dataset, _ in index.seen}
    alike = alike_at(root, shards, index.shards_written, lambda: pinned, language_digest_or_none)
    name = name_in_log(names, root, store, alike=alike)
    if names and name is None:
        expected = f"one of the datasets that the log knows: {', '.join(sorted(names))}"
        report.add_missing("dataset", str(root), expected, "unknown dataset")
    return name


def _fold_records(
    name: str | None, index: Index, shards: Collection[str], report: VerifyReport
) -> dict[str, WrittenShard]:
    if name is None:
        return {}
    records = fold_shards(index.shards_written, name)
    unwritten = sorted(set(shards) - set(records))
    if unwritten and not report.events_missing:
        more = ", …" if len(unwritten) > _SHOWN else ""
        named = ", ".join(unwritten[:_SHOWN]) + more
        report.note(f"{len(unwritten)} of {len(shards)} shards were never written from this log: {named}")
    return {path: record for path, record in records.items() if path in shards}


def _grouped(records: Iterable[WrittenShard]) -> Iterator[list[WrittenShard]]:
    """Group the shards so that each group has a bounded number of annotations; the journal is read once a group."""
    group: list[WrittenShard] = []
    size = 0
    for record in records:
        if group and size + len(record.annotations) > _ANNOTATIONS_AT_ONCE:
            yield group
            group, size = [], 0
        group.append(record)
        size += len(record.annotations)
    if group:
        yield group
