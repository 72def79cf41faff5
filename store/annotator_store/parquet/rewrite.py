"""Write rows into data shards: each shard is rewritten to a temporary file, read back, and only then replaced.

    EpisodeRows -> prepare_shard -> PreparedShard -> commit -> ShardImage

All other columns keep their values, encodings and row groups. Memory is bounded by one row group of the source.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from annotator_store.atomic_files import drop, fsync_file, replace_durably, temporary_beside
from annotator_store.digests import Digest
from annotator_store.errors import ShardError
from annotator_store.parquet.columns import LANGUAGE_COLUMNS, PlacedEpisode, build_columns
from annotator_store.parquet.episode_language import EpisodeRows, shard_digest, without_rows
from annotator_store.parquet.files import file_identity, opened_shard, shard_writer, writing
from annotator_store.parquet.frame_times import FrameTimes, read_frame_times
from annotator_store.parquet.layout import read_layout
from annotator_store.parquet.placement import bounds, gaps_between, place_episodes, target_language
from annotator_store.parquet.read import Boundary, Scan, has_language, is_language_leaf, scan_language
from annotator_store.rows import Row


class ShardImage(msgspec.Struct, frozen=True, kw_only=True):
    """A shard's content: the digest of its language columns, and its size."""

    language: Digest
    frames: int
    episodes: int


class PreparedShard(msgspec.Struct, frozen=True, kw_only=True):
    """A rewritten shard in a temporary file beside its target, read back and fsynced. `commit` or `discard` it."""

    temporary: Path
    target: Path
    image: ShardImage
    target_was: tuple[int, ...] | None

    def commit(self) -> ShardImage:
        """Replace the target with it.

        Raises:
            ShardError: the target changed meanwhile, or cannot be replaced; it is as it was.
        """
        try:
            if file_identity(self.target) != self.target_was:
                raise _changed(self.target)
            with writing(self.target):
                replace_durably(self.temporary, self.target)
        finally:
            self.discard()
        return self.image

    def discard(self) -> None:
        """Remove the temporary file. Safe to call twice, and after `commit`."""
        drop(self.temporary)


def prepare_shard(source: Path, target: Path, episodes: Sequence[EpisodeRows]) -> PreparedShard:
    """Write `source` with the rows of `episodes` to a temporary file beside `target`; nothing else is touched.

    Rows of the shard that belong to none of `episodes` keep what they have.

    Raises:
        ShardError: a row breaks the format or names no frame, the source cannot be read or changed meanwhile,
            the disk is full, or the file does not read back as it was meant. The temporary file is gone.
    """
    source_was, target_was = file_identity(source), file_identity(target)
    temporary = temporary_beside(target)
    finished = False
    try:
        image = _rewrite(source, temporary, episodes)
        with writing(target):
            shutil.copymode(source, temporary)
            fsync_file(temporary)
        if file_identity(source) != source_was:
            raise _changed(source)
        finished = True
    finally:
        if not finished:
            drop(temporary)
    return PreparedShard(temporary=temporary, target=target, image=image, target_was=target_was)


def language_digest(path: Path, boundaries: Sequence[Boundary]) -> Digest | None:
    """Digest the two columns as they are in a file; None where it has neither.

    It covers what they say and their Arrow types, not chunks, row groups, encodings or codecs.

    Raises:
        ShardError: the file cannot be read, or says what no row of ours can say.
    """
    scan = _scan(path, sorted(boundaries))
    return None if scan is None else shard_digest(scan.episodes, exact=scan.exact)


def language_digest_or_none(path: Path, boundaries: Sequence[Boundary]) -> Digest | None:
    """Digest the two columns as `language_digest` does; None also for a file that cannot be read."""
    try:
        return language_digest(path, boundaries)
    except ShardError:
        return None


def expected_digest(episodes: Sequence[EpisodeRows], source: Path | None = None) -> Digest:
    """Digest the two columns as they will be, without a file unless some `rows` are None and `source` is given.

    Raises:
        ShardError: a row breaks the format. Whether its timestamp is a frame's, only `prepare_shard` can say.
    """
    ordered = sorted(episodes, key=bounds)
    kept = [(rows.start, rows.stop) for rows in ordered if rows.rows is None]
    scan = _scan(source, kept) if kept and source else None
    in_shard = iter(scan.episodes if scan else [without_rows(stop - start) for start, stop in kept])
    return shard_digest(
        [target_language(rows, in_shard, f"{source or 'shard'}, rows {rows.start}–{rows.stop}") for rows in ordered],
        exact=True,
    )


def read_rows(path: Path, boundaries: Sequence[Boundary]) -> tuple[tuple[Row, ...], ...]:
    """Read the rows of each episode: the persistent ones in their order, then events by frame.

    Raises:
        ShardError: the file cannot be read, or an episode's persistent list changes within it.
    """
    order = sorted(range(len(boundaries)), key=lambda index: boundaries[index])
    scan = _scan(path, [boundaries[index] for index in order])
    rows: list[tuple[Row, ...]] = [()] * len(boundaries)
    for index, episode in zip(order, scan.episodes if scan else (), strict=False):
        rows[index] = episode.rows(f"{path}, rows {boundaries[index][0]}–{boundaries[index][1]}")
    return tuple(rows)


def same_frames(left: Path, right: Path) -> bool:
    """Whether two shards have the same frames: equal `episode_index` and `timestamp`, row by row.

    Raises:
        ShardError: one of them cannot be read.
    """
    if left.samefile(right):
        return True
    with opened_shard(left) as first, opened_shard(right) as second:
        if first.metadata.num_rows != second.metadata.num_rows:
            return False
        columns = ["episode_index", "timestamp"]
        return bool(first.read(columns).equals(second.read(columns)))


def _rewrite(source: Path, temporary: Path, episodes: Sequence[EpisodeRows]) -> ShardImage:
    with opened_shard(source) as file:
        times = read_frame_times(file, str(source))
        gaps = gaps_between(episodes, times)
        placed = place_episodes(file, source, times, [*episodes, *gaps])
        _write(file, temporary, placed)
        _read_back(file, temporary, times, placed)
    between = {bounds(gap) for gap in gaps}
    written = [episode.language for episode in placed if (episode.start, episode.stop) not in between]
    return ShardImage(language=shard_digest(written, exact=True), frames=len(times.timestamps), episodes=len(written))


def _write(file: pq.ParquetFile, temporary: Path, placed: Sequence[PlacedEpisode]) -> None:
    layout = read_layout(file)
    names = [name for name in layout.schema.names if name not in LANGUAGE_COLUMNS]
    start = 0
    with shard_writer(temporary, layout) as writer:
        for group in range(file.num_row_groups):
            others = file.read_row_group(group, columns=list(layout.others), use_threads=False)
            if others.column_names != names:
                raise ShardError("columns cannot be told apart by name", where=str(temporary.parent), got=str(names))
            stop = start + file.metadata.row_group(group).num_rows
            language = dict(zip(LANGUAGE_COLUMNS, build_columns(placed, start, stop), strict=True))
            columns = iter(others.columns)
            arrays = [language[name] if name in language else next(columns) for name in layout.schema.names]
            with writing(temporary):
                table = pa.Table.from_arrays(arrays, schema=layout.schema)
                writer.write_table(table, row_group_size=max(1, stop - start))
            start = stop


def _read_back(file: pq.ParquetFile, temporary: Path, times: FrameTimes, placed: Sequence[PlacedEpisode]) -> None:
    """Compare what was written with what was intended: every list of every frame, the shape of all other columns."""
    with opened_shard(temporary) as written:
        if _shape(written.metadata) != _shape(file.metadata):
            raise _differs(temporary, "other columns or row groups", "their value counts")
        scan = scan_language(written, temporary, times, [(episode.start, episode.stop) for episode in placed])
    if not scan.exact:
        raise _differs(temporary, "language columns", "their Arrow types")
    for episode, language in zip(placed, scan.episodes, strict=True):
        if language != episode.language:
            raise _differs(temporary, "language columns", times.where(episode.start, episode.stop))


def _shape(metadata: pq.FileMetaData) -> list[tuple[int, ...]]:
    kept = [i for i in range(metadata.num_columns) if not is_language_leaf(metadata.schema.column(i).path)]
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    return [(group.num_rows, *(group.column(index).num_values for index in kept)) for group in groups]


def _scan(path: Path, boundaries: Sequence[Boundary]) -> Scan | None:
    with opened_shard(path) as file:
        if not has_language(file.schema_arrow):
            return None
        return scan_language(file, path, read_frame_times(file, str(path)), boundaries)


def _changed(path: Path) -> ShardError:
    hint = "something else is writing this dataset: let it finish, then run again"
    return ShardError("a shard changed while it was rewritten", where=str(path), hint=hint)


def _differs(path: Path, what: str, got: str) -> ShardError:
    hint = "the shard was not touched; check the disk, then run again"
    return ShardError(f"a rewritten shard's {what} do not read back as meant", where=str(path), got=got, hint=hint)
