"""Project rows into shards: merge each episode's rows, find the shards that are out of date, write those.

All shards are prepared beside their targets before the first is renamed, so a failure while writing changes nothing.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from annotator.dataset.episode_record import EpisodeRecord
from annotator.dataset.footage import file_stamp
from annotator.dataset.linked_copy import is_newer
from annotator.dataset.metadata import Dataset
from annotator.modules.merge_rows import merge_rows
from annotator.pipeline.validation_gate import ValidationGate
from annotator_store.digests import Digest, digest_struct
from annotator_store.errors import ShardError
from annotator_store.keys import Projection
from annotator_store.log.events import EpisodeSources, ShardWritten, utc_now
from annotator_store.log.log import Log
from annotator_store.log.shard_history import adds_to_record, fold_shards
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
_VALIDATED_TOGETHER = 8
"""Shards whose rows are validated, and in memory, at once: the rules cost the same for one shard as for a few."""


class EpisodeTarget(msgspec.Struct, frozen=True, kw_only=True):
    """What one episode is to show: module → the event that gave its rows.

    A module that is absent keeps the rows the shard has. `sources` is None for an episode that was not asked for.
    """

    record: EpisodeRecord
    sources: Mapping[str, Digest] | None

    @property
    def bounds(self) -> tuple[int, int]:
        """The episode's rows in its shard: first, and one past the last."""
        return self.record.start, self.record.stop


class ShardDraft(msgspec.Struct, frozen=True, kw_only=True):
    """What is to become of one shard: the new `rows` by episode index, and the `previous` ones of each target.

    `verbatim`: the `source`, which is rewritten, holds the rows to keep.
    """

    shard: str
    source: Path
    targets: Sequence[EpisodeTarget]
    previous: tuple[tuple[Row, ...], ...]
    verbatim: bool
    rows: Mapping[int, Sequence[CandidateRow]]


class ShardWriter:
    """Writes one dataset's shards, in place or into a separate folder."""

    def __init__(self, dataset: Dataset, target_root: Path, log: Log, run_id: str, gate: ValidationGate) -> None:
        self._dataset = dataset
        self._target_root = target_root
        self._log = log
        self._run_id = run_id
        self._gate = gate

    def refuse_unwritable(self, targets: Sequence[EpisodeTarget]) -> None:
        """Check, before any call is made, that the shards can be read and replaced.

        Raises:
            ShardError: a folder cannot be written, or a shard's language columns say what ours cannot.
        """
        by_shard = self._by_shard(targets)
        for folder in sorted({self._target(shard).parent for shard in by_shard} | {self._target_root / "meta"}):
            if not os.access(folder, os.W_OK):
                hint = "make it writable, or write a separate dataset with --output DIR"
                raise ShardError("the dataset cannot be written", where=str(folder), hint=hint)
        for shard in self._out_of_date(by_shard):
            read_rows(self._source(shard), [target.bounds for target in by_shard[shard]])

    def project(self, targets: Sequence[EpisodeTarget], *, threads: int) -> dict[str, Path]:
        """Bring every shard up to date, and `meta/info.json` with them; return the shards written.

        Raises:
            ShardError: a shard cannot be read or written; nothing was changed.
            RulesBroken: rows break a rule, and nothing was changed.
        """
        by_shard = self._by_shard(targets)
        candidates = self._out_of_date(by_shard)
        prepared = self._prepare(candidates, by_shard, threads)
        images = {shard: image.commit() for shard, image in prepared.items()}
        update_info(self._target_root / "meta" / "info.json")
        self._remember([shard for shard in candidates if shard not in self._gate.shards], by_shard)
        unchanged = [shard for shard in candidates if shard not in images]
        self._record(images, unchanged, by_shard)
        return {shard: self._target(shard) for shard in images}

    def pending(self, targets: Sequence[EpisodeTarget]) -> list[str]:
        """Name the shards that `project` would write."""
        by_shard = self._by_shard(targets)
        return [
            shard
            for drafts in self._drafts(self._out_of_date(by_shard), by_shard)
            for shard, job in self._validated_jobs(drafts).items()
            if job is not None
        ]

    def _by_shard(self, targets: Sequence[EpisodeTarget]) -> dict[str, list[EpisodeTarget]]:
        """Group the targets by shard, in the order of their rows."""
        by_shard: dict[str, list[EpisodeTarget]] = {shard: [] for shard in self._dataset.shards}
        for target in sorted(targets, key=lambda target: target.record.start):
            by_shard[target.record.shard].append(target)
        return by_shard

    def _target(self, shard: str) -> Path:
        return self._target_root / shard

    def _source(self, shard: str) -> Path:
        """Return the file to rewrite: a separate output that is not older than the dataset's shard, else that shard."""
        target, source = self._target(shard), self._dataset.root / shard
        return target if is_newer(target, source) else source

    def _out_of_date(self, by_shard: Mapping[str, Sequence[EpisodeTarget]]) -> list[str]:
        """Name the shards that are not known to be right: another file, or made from something else."""
        names = {shard: str(self._target(shard).absolute()) for shard in by_shard}
        memo = self._log.memo_get(_PROJECTED, list(names.values()))
        return [shard for shard, name in names.items() if memo.get(name) != self._memo_value(shard, by_shard[shard])]

    def _memo_value(self, shard: str, targets: Sequence[EpisodeTarget]) -> tuple[str, str]:
        """Return what is remembered of a shard that is right: its file's stamp, and what it was made from."""
        episodes = tuple(
            (*target.bounds, None if target.sources is None else dict(target.sources)) for target in targets
        )
        projection = Projection(rules=self._gate.digest, episodes=episodes)
        return file_stamp(self._target(shard)), digest_struct(projection)

    def _prepare(
        self, shards: Sequence[str], by_shard: Mapping[str, Sequence[EpisodeTarget]], threads: int
    ) -> dict[str, PreparedShard]:
        """Prepare all shards or none; rows are in memory for as many shards as are validated together."""
        prepared: dict[str, PreparedShard] = {}
        try:
            for drafts in self._drafts(shards, by_shard):
                jobs = {shard: job for shard, job in self._validated_jobs(drafts).items() if job is not None}
                if not self._gate.aborts:
                    done = prepare_shards(list(jobs.values()), workers=threads)
                    prepared |= dict(zip(jobs, done, strict=True))
            self._gate.raise_if_broken(self._target_root)
        except BaseException:
            for shard in prepared.values():
                shard.discard()
            raise
        return prepared

    def _drafts(
        self, shards: Sequence[str], by_shard: Mapping[str, Sequence[EpisodeTarget]]
    ) -> Iterator[list[ShardDraft]]:
        for start in range(0, len(shards), _VALIDATED_TOGETHER):
            together = shards[start : start + _VALIDATED_TOGETHER]
            yield [self._draft(shard, by_shard[shard]) for shard in together]

    def _draft(self, shard: str, targets: Sequence[EpisodeTarget]) -> ShardDraft:
        """Merge what modules annotated with the rows to keep: a separate output's own, while its frames are equal."""
        source, target, original = self._source(shard), self._target(shard), self._dataset.root / shard
        holder = target if target.is_file() and same_frames(target, original) else original
        previous = read_rows(holder, [target.bounds for target in targets])
        events = [event for target in targets for event in (target.sources or {}).values()]
        annotations = dict(zip(events, self._log.annotations(events), strict=True))
        rows = {
            target.record.index: merge_rows(kept, {m: annotations[event].rows for m, event in target.sources.items()})
            for target, kept in zip(targets, previous, strict=True)
            if target.sources
        }
        return ShardDraft(
            shard=shard, source=source, targets=targets, previous=previous, verbatim=holder == source, rows=rows
        )

    def _validated_jobs(self, drafts: Sequence[ShardDraft]) -> dict[str, ShardJob | None]:
        """Validate the rows of some shards, then say what to write into each; None where it is right already."""
        self._gate.check({draft.shard: (draft.source, draft.rows) for draft in drafts})
        return {draft.shard: self._job(draft) for draft in drafts}

    def _job(self, draft: ShardDraft) -> ShardJob | None:
        quarantined = self._gate.quarantined
        episodes: list[EpisodeRows] = []
        for target, previous in zip(draft.targets, draft.previous, strict=True):
            index, (start, stop) = target.record.index, target.bounds
            candidates = None if index in quarantined else draft.rows.get(index)
            # Rows to keep that stand in the file which is rewritten stay as they are, byte for byte.
            kept = None if draft.verbatim else previous
            rows = kept if candidates is None else tuple(candidate.row for candidate in candidates)
            episodes.append(EpisodeRows(start=start, stop=stop, rows=rows))
        source, target = draft.source, self._target(draft.shard)
        bounds = [target.bounds for target in draft.targets]
        if source == target and language_digest(source, bounds) == expected_digest(episodes, source):
            return None
        return ShardJob(source=source, target=target, episodes=tuple(episodes))

    def _remember(self, shards: Sequence[str], by_shard: Mapping[str, Sequence[EpisodeTarget]]) -> None:
        items = {str(self._target(shard).absolute()): self._memo_value(shard, by_shard[shard]) for shard in shards}
        self._log.memo_put(_PROJECTED, items)

    def _record(
        self,
        images: Mapping[str, ShardImage],
        unchanged: Sequence[str],
        by_shard: Mapping[str, Sequence[EpisodeTarget]],
    ) -> None:
        """Record the shards that were written, and what is new of those that were right already."""
        events = [self._written(shard, image.language, by_shard[shard]) for shard, image in images.items()]
        if unchanged:
            history = fold_shards(self._log.shards_written(), self._dataset.name)
            for shard in unchanged:
                digest = language_digest(self._target(shard), [target.bounds for target in by_shard[shard]])
                assert digest is not None, "a shard that is right has both columns"
                event = self._written(shard, digest, by_shard[shard])
                if adds_to_record(history.get(event.path), event):
                    events.append(event)
        if events:
            self._log.record(*events).result()

    def _written(self, shard: str, language: Digest, targets: Sequence[EpisodeTarget]) -> ShardWritten:
        return ShardWritten(
            recorded_at=utc_now(),
            run_id=self._run_id,
            dataset=self._dataset.name,
            path=shard,
            language=language,
            episodes=len(targets),
            frames=sum(target.record.frame_count for target in targets),
            made_of=tuple(self._sources(target) for target in targets),
        )

    def _sources(self, target: EpisodeTarget) -> EpisodeSources:
        start, stop = target.bounds
        kept = target.sources is None or target.record.index in self._gate.quarantined
        sources = None if kept else dict(target.sources or {})
        return EpisodeSources(episode=target.record.digest, start=start, stop=stop, sources=sources)
