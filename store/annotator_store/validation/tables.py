"""The Arrow tables that rules run over: rows that are about to be written, or a shard's columns as they are.

Of a shard as it is, only the events and the persistent list of each episode's first frame become rows. Whether the
other frames repeat that list is found by comparing Arrow values with themselves, shifted by one list.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from annotator_store.errors import ShardError
from annotator_store.log.events import AnnotatedRow
from annotator_store.parquet.columns import LANGUAGE_COLUMNS
from annotator_store.parquet.files import opened_shard
from annotator_store.parquet.foreign import as_lists, flat_values, tool_call_texts
from annotator_store.parquet.read import language_batches
from annotator_store.rows import EVENTS, PERSISTENT, is_persistent

FRAMES = pa.schema({"episode_index": pa.int64(), "frame_index": pa.int64(), "timestamp": pa.float32()})
ROWS = pa.schema(
    {
        "episode_index": pa.int64(),
        "column": pa.string(),
        "role": pa.string(),
        "content": pa.string(),
        "style": pa.string(),
        "timestamp": pa.float64(),
        "camera": pa.string(),
        "tool_calls": pa.list_(pa.string()),
        "call": pa.string(),
        "module": pa.string(),
        "kept": pa.bool_(),
    }
)
CHANGES = pa.schema(
    {"episode_index": pa.int64(), "timestamp": pa.float32(), "rows_here": pa.int64(), "rows_at_start": pa.int64()}
)
_TEXTS = ("role", "content", "style", "camera")

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class CandidateRow(AnnotatedRow, frozen=True, kw_only=True):
    """A row that an episode is to have. `kept`: a run leaves it as it is. `module`: the one that writes such rows."""

    module: str | None = None
    kept: bool = False


class RuleTables(msgspec.Struct, frozen=True, kw_only=True):
    """Some whole episodes as rules see them; the schemas are `FRAMES`, `ROWS` and `CHANGES`."""

    frames: pa.Table
    rows: pa.Table
    changes: pa.Table


def concat_rule_tables(parts: Sequence[RuleTables]) -> RuleTables:
    """Concatenate the tables of several shards."""
    return RuleTables(
        frames=pa.concat_tables([FRAMES.empty_table(), *(part.frames for part in parts)]),
        rows=pa.concat_tables([ROWS.empty_table(), *(part.rows for part in parts)]),
        changes=pa.concat_tables([CHANGES.empty_table(), *(part.changes for part in parts)]),
    )


def kept_rows_only(tables: RuleTables) -> RuleTables:
    """Drop the rows that are new, as if no module had written anything."""
    return msgspec.structs.replace(tables, rows=tables.rows.filter(tables.rows["kept"]))


def tables_of_rows(shard: Path, episodes: Mapping[int, Sequence[AnnotatedRow]]) -> RuleTables:
    """Build the tables of rows that episodes, by episode index, are to have; their frames are those in the shard.

    An `AnnotatedRow` that is no `CandidateRow` is new.

    Raises:
        ShardError: the shard cannot be read, or has no frame indices and timestamps.
    """
    with opened_shard(shard) as file:
        frames = _read_frames(file, str(shard))
    return RuleTables(
        frames=_select_episodes(frames, episodes), rows=_row_table(episodes), changes=CHANGES.empty_table()
    )


def tables_of_shard(shard: Path, only: Collection[int] | None = None) -> RuleTables:
    """Build the tables of a shard's language columns as they are; `only` selects episodes by index.

    Raises:
        ShardError: the shard cannot be read, lacks a column, or a language column holds no rows.
    """
    with opened_shard(shard) as file:
        missing = [column for column in LANGUAGE_COLUMNS if column not in file.schema_arrow.names]
        if missing:
            got, hint = f"no {', '.join(missing)}", "annotator sync writes them"
            raise ShardError("a data shard has no language columns", where=str(shard), got=got, hint=hint)
        frames = _read_frames(file, str(shard))
        language = _ShardLanguage(frames, None if only is None else frozenset(only), str(shard))
        for batch in language_batches(file, shard, as_dictionaries=True):
            language.add(batch)
    return language.tables()


def _read_frames(file: pq.ParquetFile, where: str) -> pa.Table:
    missing = [name for name in FRAMES.names if name not in file.schema_arrow.names]
    if missing:
        got, hint = f"no {', '.join(missing)}", "LeRobot writes these columns into every shard"
        raise ShardError("a data shard lacks a column", where=where, got=got, hint=hint)
    table = file.read(columns=FRAMES.names, use_threads=False).select(FRAMES.names)
    try:
        return table.cast(FRAMES, safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as cause:
        raise ShardError("a shard's frames are not numbered", where=where, got=str(cause)) from cause


def _select_episodes(frames: pa.Table, episodes: Iterable[int] | None) -> pa.Table:
    if episodes is None:
        return frames
    indices = np.array(list(episodes), np.int64)
    return frames.filter(pa.array(np.isin(frames["episode_index"].to_numpy(), indices)))


def _row_table(episodes: Mapping[int, Sequence[AnnotatedRow]]) -> pa.Table:
    lengths = [len(rows) for rows in episodes.values()]
    annotated = [item for rows in episodes.values() for item in rows]
    rows = [item.row for item in annotated]
    columns = {
        "episode_index": np.repeat(np.array(list(episodes), np.int64), lengths),
        # Where the row will be written. An unknown style breaks a rule of its own.
        "column": [PERSISTENT if is_persistent(row.style) else EVENTS for row in rows],
        "role": [row.role for row in rows],
        "content": [row.content for row in rows],
        "style": [row.style for row in rows],
        "timestamp": [row.timestamp for row in rows],
        "camera": [row.camera for row in rows],
        "tool_calls": [row.tool_calls for row in rows],
        "call": [item.call for item in annotated],
        "module": [item.module if isinstance(item, CandidateRow) else None for item in annotated],
        "kept": [isinstance(item, CandidateRow) and item.kept for item in annotated],
    }
    return pa.table({name: pa.array(values, ROWS.field(name).type) for name, values in columns.items()}, schema=ROWS)


class _ShardLanguage:
    """Gathers the language columns of one shard, batch by batch.

    `_episode_index`: (N,) int64 and `_timestamps`: (N,) float32, of the shard's N frames; `_selected`: (N,) bool, None
    for all.
    """

    def __init__(self, frames: pa.Table, only: frozenset[int] | None, where: str) -> None:
        self._frames = frames
        self._episode_index: Ints = frames["episode_index"].to_numpy()
        self._timestamps: Floats = frames["timestamp"].to_numpy()
        self._only = only
        self._selected = np.isin(self._episode_index, np.array(sorted(only), np.int64)) if only is not None else None
        self._where = where
        self._done = 0
        self._first: dict[int, pa.Array] = {}
        self._changes: dict[int, tuple[float, int, int]] = {}
        self._events: list[tuple[pa.Array, Ints, Floats]] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the next frames."""
        start, stop = self._done, self._done + batch.num_rows
        self._done = stop
        self._add_events(as_lists(batch[EVENTS], self._where), slice(start, stop))
        lists = as_lists(batch[PERSISTENT], self._where)
        edges = np.flatnonzero(np.diff(self._episode_index[start:stop])) + 1
        for low, high in pairwise([0, *edges.tolist(), batch.num_rows]):
            episode = int(self._episode_index[start + low])
            if low < high and (self._only is None or episode in self._only):
                self._add_persistent(lists.slice(low, high - low), episode, self._timestamps[start + low :])

    def _add_events(self, lists: pa.ListArray, frames: slice) -> None:
        offsets = lists.offsets.to_numpy()
        lengths = np.diff(offsets)
        if self._selected is not None and not self._selected[frames].all():
            lists = lists.filter(pa.array(self._selected[frames] & (lengths > 0)))
            kept = np.flatnonzero(self._selected[frames] & (lengths > 0))
            offsets, lengths = lists.offsets.to_numpy(), lengths[kept]
        else:
            kept = np.arange(len(lengths))
        if lengths.sum():
            episodes = np.repeat(self._episode_index[frames][kept], lengths)
            timestamps = np.repeat(self._timestamps[frames][kept], lengths)
            self._events.append((flat_values(lists, offsets), episodes, timestamps))

    def _add_persistent(self, lists: pa.ListArray, episode: int, timestamps: Floats) -> None:
        offsets = lists.offsets.to_numpy()
        values = flat_values(lists, offsets)
        lengths = np.diff(offsets)
        length = int(lengths[0])
        if episode not in self._first:
            # A copy, since a slice keeps its batch in memory; `take` would need ten times as long.
            self._first[episode] = pa.concat_arrays([values.slice(0, length), values.slice(0, 0)])
        if episode in self._changes:
            return
        first, head = self._first[episode], values.slice(0, length)
        # By value where they differ: equal lists may be encoded in dictionaries of their own.
        same = length == len(first) and (first.equals(head) or first.to_pylist() == head.to_pylist())
        change = first_change(values, lengths) if same else 0
        if change is not None:
            self._changes[episode] = float(timestamps[change]), int(lengths[change]), len(first)

    def tables(self) -> RuleTables:
        """Return the tables of the frames that were added."""
        episodes = np.repeat(np.array(list(self._first), np.int64), [len(rows) for rows in self._first.values()])
        persistent = _rows_table(list(self._first.values()), self._where, episodes, None)
        # With an empty array in front, since a shard may have no events.
        of_events = np.concatenate([np.empty(0, np.int64), *(episodes for _, episodes, _ in self._events)])
        timestamps = np.concatenate([np.empty(0, np.float32), *(times for *_, times in self._events)])
        events = _rows_table([values for values, *_ in self._events], self._where, of_events, timestamps)
        changes = [(episode, *change) for episode, change in self._changes.items()]
        return RuleTables(
            frames=_select_episodes(self._frames, self._only),
            rows=pa.concat_tables([persistent, events]),
            changes=pa.Table.from_pylist(
                [dict(zip(CHANGES.names, change, strict=True)) for change in changes], CHANGES
            ),
        )


def first_change(values: pa.Array, lengths: Ints) -> int | None:
    """Return the index of the first of consecutive lists that differs from the one before it; None where all are equal.

    Args:
        values: the values of all lists, one list after the other.
        lengths: (N,) int64, the number of values in each list.
    """
    length = int(lengths[0])
    other_lengths = np.flatnonzero(lengths != length)
    stop = int(other_lengths[0]) if len(other_lengths) else len(lengths)

    def alike(count: int) -> bool:
        return values.slice(length, (count - 1) * length).equals(values.slice(0, (count - 1) * length))

    if alike(stop):
        return stop if len(other_lengths) else None
    low, high = 1, stop  # the first `low` lists are alike, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if alike(middle) else (low, middle)
    return low


def _rows_table(pieces: Sequence[pa.Array], where: str, episodes: Ints, timestamps: Floats | None) -> pa.Table:
    """Convert rows of any struct type to the schema `ROWS`.

    Args:
        pieces: struct arrays with R rows in all.
        episodes: (R,) int64, the episode index of each row.
        timestamps: (R,) float32, those of the frames of events; None for persistent rows, which have their own.
    """
    pieces = [piece for piece in pieces if len(piece)]
    if not pieces:
        return ROWS.empty_table()
    if not pa.types.is_struct(pieces[0].type):
        raise ShardError("a language column holds no rows", where=where, got=str(pieces[0].type))
    rows = pa.Table.from_batches([pa.RecordBatch.from_struct_array(piece) for piece in pieces])
    columns = {name: _column_as(rows, name, ROWS.field(name).type, where) for name in _TEXTS}
    if timestamps is None:
        columns["timestamp"] = _column_as(rows, "timestamp", pa.float32(), where).cast(pa.float64())
    else:
        columns["timestamp"] = pa.array(timestamps.astype(np.float64))
    columns["episode_index"] = pa.array(episodes)
    columns["column"] = pa.repeat(PERSISTENT if timestamps is None else EVENTS, len(episodes))
    columns["tool_calls"] = _tool_calls(rows, where)
    columns["call"] = columns["module"] = pa.nulls(len(episodes), pa.string())
    columns["kept"] = pa.repeat(pa.scalar(False), len(episodes))
    # In one chunk: DuckDB takes many times as long over thousands of small ones.
    return pa.table({name: columns[name] for name in ROWS.names}, schema=ROWS).combine_chunks()


def _column_as(rows: pa.Table, name: str, kind: pa.DataType, where: str) -> pa.ChunkedArray:
    if name not in rows.column_names:
        return pa.chunked_array([pa.nulls(len(rows), kind)])
    try:
        return rows[name].cast(kind, safe=False)  # float64 timestamps are read as the float32 that readers make of them
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as cause:
        raise ShardError(f"a language row's {name} cannot be read", where=where, got=str(cause)) from cause


def _tool_calls(rows: pa.Table, where: str) -> pa.Array:
    calls = rows["tool_calls"].combine_chunks() if "tool_calls" in rows.column_names else pa.nulls(len(rows))
    if calls.null_count == len(calls):
        return pa.nulls(len(calls), pa.list_(pa.string()))
    lists = as_lists(calls, where)
    offsets = lists.offsets.to_numpy()
    texts = tool_call_texts(flat_values(lists, offsets), where)
    return pa.ListArray.from_arrays(pa.array(offsets - offsets[0]), texts, mask=lists.is_null())
