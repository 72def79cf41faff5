"""Project rows into shards: choose each episode's rows, find the shards that are not right yet, write those.

All shards are prepared beside their targets before the first is renamed, so a failure while writing changes nothing.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from annotator.dataset import Dataset
from annotator.modules import plan
from annotator.output import is_newer
from annotator.reels import file_stamp
from annotator.survey import Surveyed
from store.digest import Digest, Keyed, digest_struct
from store.errors import ShardError
from store.events import ShardWritten, utc_now
from store.info import update_info
from store.language import EpisodeRows
from store.log import Log
from store.parallel import ShardJob, prepare_shards
from store.rows import Row, order_key
from store.shards import (
    PreparedShard,
    ShardImage,
    expected_digest,
    language_digest,
    read_rows,
    same_frames,
)

STYLES_OF: Mapping[str, frozenset[str | None]] = {plan.NAME: frozenset(plan.STYLES)}
"""Which styles belong to a module: a module's new rows replace those, and only those."""

_PROJECTED = "projected.v1"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What one episode is to show: module → the event that gave its rows.

    A module that is absent keeps the rows the shard has. `sources` is None for an episode that was not asked for.
    """

    surveyed: Surveyed
    sources: Mapping[str, Digest] | None


class Projection(Keyed, frozen=True, kw_only=True):
    """What a shard's language columns were made from; unchanged, the shard is right and is not even opened."""

    tag_v = "projection.v1"
    episodes: tuple[tuple[int, int, dict[str, Digest] | None], ...]


class Plotter:
    """Writes one dataset's shards, in place or into a separate folder."""

    def __init__(self, dataset: Dataset, target_root: Path, log: Log, run_id: str) -> None:
        self._dataset = dataset
        self._target_root = target_root
        self._log = log
        self._run_id = run_id

    def refuse_unwritable(self, wanted: Sequence[Wanted]) -> None:
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
            bounds = [(one.surveyed.scanned.start, one.surveyed.scanned.stop) for one in by_shard[shard]]
            read_rows(self._source(shard), bounds)

    def _by_shard(self, wanted: Sequence[Wanted]) -> dict[str, list[Wanted]]:
        """Sort the episodes by shard, and by place in it."""
        by_shard: dict[str, list[Wanted]] = {shard: [] for shard in self._dataset.shards}
        for one in wanted:
            by_shard[one.surveyed.episode.shard].append(one)
        for episodes in by_shard.values():
            episodes.sort(key=lambda one: one.surveyed.scanned.start)
        return by_shard

    def project(self, wanted: Sequence[Wanted], *, threads: int) -> dict[str, Path]:
        """Bring every shard up to date, and `meta/info.json` with them. Returns the shards written.

        Raises:
            ShardError: a shard cannot be read or written; nothing was changed.
        """
        by_shard = self._by_shard(wanted)
        doubtful = self._doubtful(by_shard)
        prepared = self._prepare(doubtful, by_shard, threads)
        images = self._commit(prepared)
        update_info(self._target_root / "meta" / "info.json")
        self._remember(doubtful, by_shard)
        self._record(images)
        return {shard: self._target(shard) for shard in images}

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

    def _doubtful(self, by_shard: Mapping[str, Sequence[Wanted]]) -> list[str]:
        names = {shard: str(self._target(shard).absolute()) for shard in by_shard}
        held = self._log.memo_get(_PROJECTED, list(names.values()))
        return [s for s, n in names.items() if held.get(n) != (file_stamp(self._target(s)), _made_from(by_shard[s]))]

    def _prepare(
        self, doubtful: Sequence[str], by_shard: Mapping[str, Sequence[Wanted]], threads: int
    ) -> dict[str, PreparedShard]:
        """Prepare all shards or none; rows are in memory for as many shards as there are threads."""
        prepared: dict[str, PreparedShard] = {}
        try:
            for start in range(0, len(doubtful), threads):
                jobs = {shard: self._job(shard, by_shard[shard]) for shard in doubtful[start : start + threads]}
                wrong = {shard: job for shard, job in jobs.items() if job is not None}
                done = prepare_shards(list(wrong.values()), workers=threads)
                prepared |= dict(zip(wrong, done, strict=True))
        except BaseException:
            for one in prepared.values():
                one.discard()
            raise
        return prepared

    def _job(self, shard: str, wanted: Sequence[Wanted]) -> ShardJob | None:
        """What to write into a shard; None where it is right already."""
        source = self._source(shard)
        bounds = [(one.surveyed.scanned.start, one.surveyed.scanned.stop) for one in wanted]
        holder, held = self._held(shard, bounds)
        episodes = self._episodes(wanted, held, verbatim=holder == source)
        if source == self._target(shard) and language_digest(source, bounds) == expected_digest(episodes, source):
            return None
        return ShardJob(source=source, target=self._target(shard), episodes=tuple(episodes))

    def _episodes(
        self, wanted: Sequence[Wanted], held: Sequence[tuple[Row, ...]], *, verbatim: bool
    ) -> list[EpisodeRows]:
        """Give each episode its rows: new ones, and what is held of styles that nobody wrote anew.

        `verbatim`: the file that is rewritten holds the rows to keep, so an episode without new ones stays as it is.
        """
        events = [event for one in wanted for event in (one.sources or {}).values()]
        found = dict(zip(events, self._log.annotations(events), strict=True))
        episodes: list[EpisodeRows] = []
        for one, had in zip(wanted, held, strict=True):
            rows: tuple[Row, ...] | None = None if verbatim else tuple(had)
            if one.sources:
                replaced = frozenset[str | None]().union(*(STYLES_OF[module] for module in one.sources))
                new = [a.row for event in one.sources.values() for a in found[event].rows]
                rows = tuple(sorted([*(row for row in had if row.style not in replaced), *new], key=order_key))
            scanned = one.surveyed.scanned
            episodes.append(EpisodeRows(start=scanned.start, stop=scanned.stop, rows=rows))
        return episodes

    def _commit(self, prepared: Mapping[str, PreparedShard]) -> dict[str, ShardImage]:
        return {shard: one.commit() for shard, one in prepared.items()}

    def _remember(self, doubtful: Sequence[str], by_shard: Mapping[str, Sequence[Wanted]]) -> None:
        items = {
            str(self._target(shard).absolute()): (file_stamp(self._target(shard)), _made_from(by_shard[shard]))
            for shard in doubtful
        }
        self._log.memo_put(_PROJECTED, items)

    def _record(self, images: Mapping[str, ShardImage]) -> None:
        events = [
            ShardWritten(
                recorded_at=utc_now(),
                run_id=self._run_id,
                dataset=self._dataset.name,
                path=shard,
                language=image.language,
                episodes=image.episodes,
                frames=image.frames,
            )
            for shard, image in images.items()
        ]
        if events:
            self._log.record(*events).result()


def _made_from(wanted: Sequence[Wanted]) -> str:
    episodes = tuple(
        (one.surveyed.scanned.start, one.surveyed.scanned.stop, None if one.sources is None else dict(one.sources))
        for one in wanted
    )
    return digest_struct(Projection(episodes=episodes))
