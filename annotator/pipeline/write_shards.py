"""Project rows into shards: choose each episode's rows, find the shards that are not right yet, write those.

All shards are prepared beside their targets before the first is renamed, so a failure while writing changes nothing.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from annotator.dataset.episodes import EpisodeRecord
from annotator.dataset.footage import file_stamp
from annotator.dataset.linked_copy import is_newer
from annotator.dataset.metadata import Dataset
from annotator.modules.merge_rows import merge_rows
from annotator.pipeline.validation_gate import ValidationGate
from annotator_store.digests import Digest, digest_struct
from annotator_store.errors import ShardError
from annotator_store.keys import Projection
from annotator_store.log.events import AnnotatedRow, EpisodeSources, ShardWritten, utc_now
from annotator_store.log.log import Log
from annotator_store.log.shard_history import fold_shards, says_more
from annotator_store.parquet.episode_language import EpisodeRows
from annotator_store.parquet.info_json import update_info
from annotator_store.parquet.parallel import ShardJob, prepare_shards
from annotator_store.parquet.rewrite import (
    PreparedShard,
    ShardImage,
    expected_digest,
    language_digest,
    read_rows,
    same_frames,
)
from annotator_store.rows import Row
from annotator_store.validation.tables import CandidateRow

_PROJECTED = "projected.v1"
_JUDGED_TOGETHER = 8
"""Shards whose rows are judged, and in memory, at once: the rules cost the same for one shard as for a few."""


class EpisodeTarget(msgspec.Struct, frozen=True, kw_only=True):
    """What one episode is to show: module → the event that gave its rows.

    A module that is absent keeps the rows the shard has. `sources` is None for an episode that was not asked for.
    """

    surveyed: EpisodeRecord
    sources: Mapping[str, Digest] | None


class ShardDraft(msgspec.Struct, frozen=True, kw_only=True):
    """What is to become of one shard: the new `rows` by episode index, and those `held` of each of its episodes.

    `verbatim`: the `source`, which is rewritten, holds the rows to keep.
    """

    shard: str
    source: Path
    wanted: Sequence[EpisodeTarget]
    held: tuple[tuple[Row, ...], ...]
    verbatim: bool
    rows: Mapping[int, Sequence[AnnotatedRow]]


class ShardWriter:
    """Writes one dataset's shards, in place or into a separate folder."""

    def __init__(self, dataset: Dataset, target_root: Path, log: Log, run_id: str, judge: ValidationGate) -> None:
        self._dataset = dataset
        self._target_root = target_root
        self._log = log
        self._run_id = run_id
        self._judge = judge

    def refuse_unwritable(self, wanted: Sequence[EpisodeTarget]) -> None:
        """Find out before anything is paid for whether the shards can be read and replaced.

        Raises:
            ShardError: a folder cannot be written, or a shard's language columns say what ours cannot.
        """
        by_shard = self._by_shard(wanted)
        for folder in sorted({self._target(shard).parent for shard in by_shard} | {self._target_root / "meta"}):
            if not os.access(folder, os.W_OK):
                hint = "make it writable, or write a separate dataset with --output DIR"
                raise ShardError("the dataset cannot be written", where=str(folder), hint=hint)
        for shard in self._doubtful(by_shard):
            read_rows(self._source(shard), _bounds(by_shard[shard]))

    def _by_shard(self, wanted: Sequence[EpisodeTarget]) -> dict[str, list[EpisodeTarget]]:
        """Sort the episodes by shard, and by place in it."""
        by_shard: dict[str, list[EpisodeTarget]] = {shard: [] for shard in self._dataset.shards}
        for one in wanted:
            by_shard[one.surveyed.episode.shard].append(one)
        for episodes in by_shard.values():
            episodes.sort(key=lambda one: one.surveyed.scanned.start)
        return by_shard

    def project(self, wanted: Sequence[EpisodeTarget], *, threads: int) -> dict[str, Path]:
        """Bring every shard up to date, and `meta/info.json` with them. Returns the shards written.

        Raises:
            ShardError: a shard cannot be read or written; nothing was changed.
            RulesBroken: rows break a rule, and nothing was changed.
        """
        by_shard = self._by_shard(wanted)
        doubtful = self._doubtful(by_shard)
        prepared = self._prepare(doubtful, by_shard, threads)
        images = self._commit(prepared)
        update_info(self._target_root / "meta" / "info.json")
        right = [shard for shard in doubtful if shard not in images]
        self._remember([shard for shard in doubtful if shard not in self._judge.shards], by_shard)
        self._record(images, right, by_shard)
        return {shard: self._target(shard) for shard in images}

    def pending(self, wanted: Sequence[EpisodeTarget]) -> list[str]:
        """Name the shards that `project` would write."""
        by_shard = self._by_shard(wanted)
        return [
            shard
            for drafts in self._drafts(self._doubtful(by_shard), by_shard)
            for shard, job in self._jobs(drafts).items()
            if job is not None
        ]

    def _target(self, shard: str) -> Path:
        return self._target_root / shard

    def _source(self, shard: str) -> Path:
        """What to start from: a separate output that is there and not older than the dataset's shard, else that."""
        target, source = self._target(shard), self._dataset.root / shard
        return target if is_newer(target, source) else source

    def _held(self, shard: str, bounds: Sequence[tuple[int, int]]) -> tuple[Path, tuple[tuple[Row, ...], ...]]:
        """The rows to keep, and the file they stand in: a separate output's own, while it has the same frames."""
        target, source = self._target(shard), self._dataset.root / shard
        holder = target if target.is_file() and same_frames(target, source) else source
        return holder, read_rows(holder, bounds)

    def _doubtful(self, by_shard: Mapping[str, Sequence[EpisodeTarget]]) -> list[str]:
        names = {shard: str(self._target(shard).absolute()) for shard in by_shard}
        held = self._log.memo_get(_PROJECTED, list(names.values()))
        return [
            s
            for s, n in names.items()
            if held.get(n) != (file_stamp(self._target(s)), _made_from(by_shard[s], self._judge.digest))
        ]

    def _prepare(
        self, doubtful: Sequence[str], by_shard: Mapping[str, Sequence[EpisodeTarget]], threads: int
    ) -> dict[str, PreparedShard]:
        """Prepare all shards or none; rows are in memory for as many shards as are judged together."""
        prepared: dict[str, PreparedShard] = {}
        try:
            for drafts in self._drafts(doubtful, by_shard):
                wrong = {shard: job for shard, job in self._jobs(drafts).items() if job is not None}
                if not self._judge.aborts:
                    done = prepare_shards(list(wrong.values()), workers=threads)
                    prepared |= dict(zip(wrong, done, strict=True))
            self._judge.raise_if_broken(self._target_root)
        except BaseException:
            for one in prepared.values():
                one.discard()
            raise
        return prepared

    def _drafts(
        self, doubtful: Sequence[str], by_shard: Mapping[str, Sequence[EpisodeTarget]]
    ) -> Iterator[list[ShardDraft]]:
        for start in range(0, len(doubtful), _JUDGED_TOGETHER):
            some = doubtful[start : start + _JUDGED_TOGETHER]
            yield [self._draft(shard, by_shard[shard]) for shard in some]

    def _draft(self, shard: str, wanted: Sequence[EpisodeTarget]) -> ShardDraft:
        source = self._source(shard)
        holder, held = self._held(shard, _bounds(wanted))
        rows = self._composed(wanted, held)
        return ShardDraft(shard=shard, source=source, wanted=wanted, held=held, verbatim=holder == source, rows=rows)

    def _jobs(self, drafts: Sequence[ShardDraft]) -> dict[str, ShardJob | None]:
        """What to write into each shard, once its rows are judged; None where it is right already."""
        self._judge.judge({draft.shard: (draft.source, draft.rows) for draft in drafts})
        return {draft.shard: self._job(draft) for draft in drafts}

    def _job(self, draft: ShardDraft) -> ShardJob | None:
        source, bounds, bad = draft.source, _bounds(draft.wanted), self._judge.quarantined
        indices = [one.surveyed.episode.index for one in draft.wanted]
        episodes = [
            _episode(one, None if index in bad else draft.rows.get(index), had, verbatim=draft.verbatim)
            for index, one, had in zip(indices, draft.wanted, draft.held, strict=True)
        ]
        target = self._target(draft.shard)
        if source == target and language_digest(source, bounds) == expected_digest(episodes, source):
            return None
        return ShardJob(source=source, target=target, episodes=tuple(episodes))

    def _composed(
        self, wanted: Sequence[EpisodeTarget], held: Sequence[tuple[Row, ...]]
    ) -> dict[int, list[CandidateRow]]:
        """Compose the rows of every episode that has new ones, by episode index."""
        events = [event for one in wanted for event in (one.sources or {}).values()]
        found = dict(zip(events, self._log.annotations(events), strict=True))
        return {
            one.surveyed.episode.index: merge_rows(had, {m: found[event].rows for m, event in one.sources.items()})
            for one, had in zip(wanted, held, strict=True)
            if one.sources
        }

    def _commit(self, prepared: Mapping[str, PreparedShard]) -> dict[str, ShardImage]:
        return {shard: one.commit() for shard, one in prepared.items()}

    def _remember(self, doubtful: Sequence[str], by_shard: Mapping[str, Sequence[EpisodeTarget]]) -> None:
        items = {
            str(self._target(shard).absolute()): (
                file_stamp(self._target(shard)),
                _made_from(by_shard[shard], self._judge.digest),
            )
            for shard in doubtful
        }
        self._log.memo_put(_PROJECTED, items)

    def _record(
        self, images: Mapping[str, ShardImage], right: Sequence[str], by_shard: Mapping[str, Sequence[EpisodeTarget]]
    ) -> None:
        """Record the shards that were written, and what is news of those that were found right."""
        events = [self._written(shard, image.language, by_shard[shard]) for shard, image in images.items()]
        found = [self._written(shard, self._language(shard, by_shard[shard]), by_shard[shard]) for shard in right]
        if found:
            stood = fold_shards(self._log.shards_written(), self._dataset.name)
            events += [event for event in found if says_more(stood.get(event.path), event)]
        if events:
            self._log.record(*events).result()

    def _language(self, shard: str, wanted: Sequence[EpisodeTarget]) -> Digest:
        digest = language_digest(self._target(shard), _bounds(wanted))
        assert digest is not None, "a shard that is right has both columns"
        return digest

    def _written(self, shard: str, language: Digest, wanted: Sequence[EpisodeTarget]) -> ShardWritten:
        return ShardWritten(
            recorded_at=utc_now(),
            run_id=self._run_id,
            dataset=self._dataset.name,
            path=shard,
            language=language,
            episodes=len(wanted),
            frames=sum(one.surveyed.episode.length for one in wanted),
            made_of=tuple(self._made_of(one) for one in wanted),
        )

    def _made_of(self, one: EpisodeTarget) -> EpisodeSources:
        scanned, kept = one.surveyed.scanned, one.surveyed.episode.index in self._judge.quarantined
        sources = None if one.sources is None or kept else dict(one.sources)
        return EpisodeSources(episode=one.surveyed.digest, start=scanned.start, stop=scanned.stop, sources=sources)


def _episode(
    one: EpisodeTarget, rows: Sequence[AnnotatedRow] | None, had: tuple[Row, ...], *, verbatim: bool
) -> EpisodeRows:
    """Give an episode its rows. `verbatim`: the file that is rewritten holds those to keep, so it stays as it is."""
    kept = None if verbatim else had
    scanned = one.surveyed.scanned
    new = None if rows is None else tuple(annotated.row for annotated in rows)
    return EpisodeRows(start=scanned.start, stop=scanned.stop, rows=kept if new is None else new)


def _bounds(wanted: Sequence[EpisodeTarget]) -> list[tuple[int, int]]:
    return [(one.surveyed.scanned.start, one.surveyed.scanned.stop) for one in wanted]


def _made_from(wanted: Sequence[EpisodeTarget], rules: Digest) -> str:
    episodes = tuple(
        (one.surveyed.scanned.start, one.surveyed.scanned.stop, None if one.sources is None else dict(one.sources))
        for one in wanted
    )
    return digest_struct(Projection(rules=rules, episodes=episodes))
