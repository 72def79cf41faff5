"""Read the language columns of a shard back into values, in slices of bounded size.

An episode's list is the same on every frame; comparing the rows with themselves, shifted by one list, proves it
without looking at any list in Python. Only distinct lists become Python objects.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from annotator_store.errors import ShardError
from annotator_store.parquet.columns import LANGUAGE_COLUMNS, language_field
from annotator_store.parquet.episode_language import EpisodeLanguage, FrameEvents, RowRun
from annotator_store.parquet.foreign import as_lists, flat_values, foreign_rows
from annotator_store.parquet.frame_times import FrameTimes, repeats_of
from annotator_store.rows import EVENTS, PERSISTENT, Row

VALUES_PER_SLICE = 1 << 19
"""About how many language rows are decoded at once."""

Boundary = tuple[int, int]
Event = tuple[float, int, tuple[Row, ...]]
_TEXTS = frozenset({"role", "content", "style", "camera"})


class Scan(msgspec.Struct, frozen=True):
    """The content of the columns; `exact` where they have the Arrow types that we write and no null lists."""

    exact: bool
    episodes: tuple[EpisodeLanguage, ...]


class _EpisodeBuilder:
    """The language of one episode while its frames arrive."""

    def __init__(self) -> None:
        self.runs: list[RowRun] = []
        self.events: list[Event] = []

    def add_runs(self, runs: Iterable[RowRun]) -> None:
        for run in runs:
            continued = bool(self.runs) and self.runs[-1].rows == run.rows
            frames = self.runs.pop().frames if continued else 0
            self.runs.append(RowRun(frames + run.frames, run.rows))

    def finish(self) -> EpisodeLanguage:
        ordered = sorted(self.events, key=lambda event: event[:2])
        return EpisodeLanguage(
            runs=tuple(self.runs), events=tuple(FrameEvents(repeat, rows) for _, repeat, rows in ordered)
        )


def has_language(schema: pa.Schema) -> bool:
    """Whether a shard has either column."""
    return any(column in schema.names for column in LANGUAGE_COLUMNS)


def is_language_leaf(path: str) -> bool:
    """Whether a Parquet column belongs to either column."""
    return path.partition(".")[0] in LANGUAGE_COLUMNS


def scan_language(file: pq.ParquetFile, path: Path, times: FrameTimes, boundaries: Sequence[Boundary]) -> Scan:
    """Read both columns for the episodes at `boundaries`, ascending (start, stop) row offsets.

    Raises:
        ShardError: what is there cannot be said with our columns.
    """
    source = _Source(times=times, ours=_is_ours(file.schema_arrow))
    builders = [_EpisodeBuilder() for _ in boundaries]
    exact = source.ours
    start = first_open = 0
    for batch in language_batches(file, path, as_dictionaries=source.ours):
        stop = start + batch.num_rows
        exact = exact and not any(column.null_count for column in batch.columns)
        while first_open < len(boundaries) and boundaries[first_open][1] <= start:
            first_open += 1
        for index in range(first_open, len(boundaries)):
            if boundaries[index][0] >= stop:
                break
            low, high = max(start, boundaries[index][0]), min(stop, boundaries[index][1])
            if low < high:
                source.add_frames(builders[index], batch.slice(low - start, high - low), low, boundaries[index])
        start = stop
    return Scan(exact, tuple(episode.finish() for episode in builders))


class _Source(msgspec.Struct, frozen=True, kw_only=True):
    times: FrameTimes
    ours: bool

    def add_frames(self, episode: _EpisodeBuilder, frames: pa.RecordBatch, low: int, boundary: Boundary) -> None:
        """Read the frames from row `low` on, all of one episode."""
        where = self.times.where(*boundary)
        if PERSISTENT in frames.schema.names:
            episode.add_runs(self._runs(as_lists(frames[PERSISTENT], where), where))
        else:
            episode.add_runs([RowRun(frames.num_rows, ())])
        if EVENTS in frames.schema.names:
            episode.events.extend(self._events(as_lists(frames[EVENTS], where), low, boundary))

    def _runs(self, lists: pa.ListArray, where: str) -> Iterator[RowRun]:
        """Split consecutive lists into runs of equal ones, by halving where they differ."""
        if not len(lists):
            return
        offsets = lists.offsets.to_numpy()
        lengths = np.diff(offsets)
        first = int(lengths[0])
        values = flat_values(lists, offsets)
        if bool((lengths == first).all()) and values.slice(first).equals(values.slice(0, len(values) - first)):
            yield RowRun(len(lists), self._rows(values.slice(0, first), None, where))
            return
        half = len(lists) // 2
        yield from self._runs(lists.slice(0, half), where)
        yield from self._runs(lists.slice(half), where)

    def _events(self, lists: pa.ListArray, low: int, boundary: Boundary) -> Iterator[Event]:
        offsets = lists.offsets.to_numpy()
        lengths = np.diff(offsets)
        frames = np.flatnonzero(lengths)
        if not len(frames):
            return
        start, stop = boundary
        stamps = self.times.timestamps[low + frames]
        repeats = repeats_of(self.times.timestamps[start:stop])[low - start + frames]
        per_row = np.repeat(stamps, lengths[frames]).tolist()
        rows = self._rows(flat_values(lists, offsets), per_row, self.times.where(*boundary))
        ends = (offsets[frames + 1] - offsets[0]).tolist()
        for stamp, repeat, length, end in zip(
            stamps.tolist(), repeats.tolist(), lengths[frames].tolist(), ends, strict=True
        ):
            yield stamp, repeat, rows[end - length : end]

    def _rows(self, values: pa.Array, stamps: list[float] | None, where: str) -> tuple[Row, ...]:
        if not len(values):
            return ()
        plain = self.ours and not values.null_count
        rows = _our_rows(values, stamps) if plain else foreign_rows(values, stamps, where)
        if not all(isfinite(row.timestamp) for row in rows):
            raise ShardError(
                "a language row's timestamp is not a number", where=where, hint="annotate the episode anew"
            )
        return rows


def _our_rows(values: pa.StructArray, stamps: list[float] | None) -> tuple[Row, ...]:
    fields = {field.name: _plain(values.field(field.name)) for field in values.type}
    calls = [None if items is None else tuple(items) for items in fields["tool_calls"]]
    texts = (fields["role"], fields["content"], fields["style"], fields["camera"])
    return tuple(
        Row(role=role, content=content, style=style, timestamp=stamp, camera=camera, tool_calls=tool_calls)
        for role, content, style, camera, stamp, tool_calls in zip(
            *texts, fields["timestamp"] if stamps is None else stamps, calls, strict=True
        )
    )


def _plain(array: pa.Array) -> list[Any]:
    if array.null_count == len(array):
        return [None] * len(array)
    return (array.dictionary_decode() if isinstance(array, pa.DictionaryArray) else array).to_pylist()


def _is_ours(schema: pa.Schema) -> bool:
    return all(
        column in schema.names and schema.field(column).type.equals(language_field(column).type)
        for column in LANGUAGE_COLUMNS
    )


def language_batches(file: pq.ParquetFile, path: Path, *, as_dictionaries: bool) -> Iterator[pa.RecordBatch]:
    """Read the language columns of a whole shard, in order, about `VALUES_PER_SLICE` language rows at a time.

    `as_dictionaries` leaves texts in the dictionaries that the file has them in.
    """
    metadata = file.metadata
    leaves = {
        metadata.schema.column(index).path: index
        for index in range(metadata.num_columns)
        if is_language_leaf(metadata.schema.column(index).path)
    }
    texts = [leaf for leaf in leaves if leaf.rpartition(".")[2] in _TEXTS] if as_dictionaries else None
    with pq.ParquetFile(path, metadata=metadata, read_dictionary=texts, pre_buffer=False) as reader:
        for index in range(metadata.num_row_groups):  # one by one: a nested column cannot change its dictionary midway
            group = metadata.row_group(index)
            values = max((group.column(leaf).num_values for leaf in leaves.values()), default=0)
            size = max(64, VALUES_PER_SLICE * group.num_rows // max(1, values))
            yield from reader.iter_batches(size, row_groups=[index], columns=list(leaves), use_threads=False)
