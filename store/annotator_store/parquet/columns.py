"""The Arrow form of the two language columns: their types, and arrays built by broadcasting.

Every distinct row is built once; the lists of the frames are offsets and a `take` over those rows. Strings are Arrow
dictionaries, which the Parquet writer turns into dictionary pages without hashing 30 equal strings a frame.

Source: the column layout is FORMAT's (LeRobot's language columns); readers see `tool_calls` as Arrow's JSON type.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from annotator_store.parquet.episode_language import EpisodeLanguage
from annotator_store.rows import EVENTS, PERSISTENT, Column, Row

Ints = npt.NDArray[np.int64]

LANGUAGE_COLUMNS: tuple[Column, Column] = (PERSISTENT, EVENTS)
VALUES_PER_BLOCK = 1 << 13
"""About how many broadcast rows are built from one list; a longer run repeats that block by reference."""
VALUES_IN_MEMORY = 1 << 20
"""Broadcast rows that may be in memory at once, about 25 bytes each."""


@cache
def language_field(column: Column) -> pa.Field:
    """Return the field as readers see it, and as `ARROW:schema` declares it."""
    return _field(column, pa.string(), pa.json_())


@cache
def physical_field(column: Column) -> pa.Field:
    """Return the field as it is passed to the Parquet writer: the same leaves, strings as dictionaries."""
    return _field(column, pa.dictionary(pa.int32(), pa.string()), pa.string())


def with_language(schema: pa.Schema, *, physical: bool = False) -> pa.Schema:
    """Return a schema with both fields: in their place where it has them, else at its end."""
    for column in LANGUAGE_COLUMNS:
        field = physical_field(column) if physical else language_field(column)
        index = schema.get_field_index(column)
        schema = schema.append(field) if index < 0 else schema.set(index, field)
    return schema


class PlacedEpisode(msgspec.Struct, frozen=True, kw_only=True):
    """An episode's language and its row offsets [start, stop) in the shard.

    `event_rows`: (E,) int64, ascending row offsets of the frames with events; `events`: their rows, in the same order.
    """

    start: int
    stop: int
    language: EpisodeLanguage
    event_rows: Ints
    events: tuple[tuple[Row, ...], ...]


class Spread(NamedTuple):
    """One list of rows on `frames` consecutive frames."""

    rows: tuple[Row, ...]
    frames: int


def build_columns(episodes: Sequence[PlacedEpisode], start: int, stop: int) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Build both columns for the rows [start, stop) of a shard; `episodes` cover them, in order.

    Returns: the persistent column and the column of events, each with stop - start lists.
    """
    inside = [episode for episode in episodes if episode.start < stop and episode.stop > start]
    persistent = (spread for episode in inside for spread in _persistent(episode, start, stop))
    events = (spread for episode in inside for spread in _events(episode, start, stop))
    return broadcast(persistent, PERSISTENT), broadcast(events, EVENTS)


def broadcast(spreads: Iterable[Spread], column: Column) -> pa.ChunkedArray:
    """Build a column from lists and the number of frames each is on."""
    lists = [spread for spread in spreads if spread.frames]
    pool = _pool([row for spread in lists for row in spread.rows], column)
    counts = np.array([len(spread.rows) for spread in lists], np.int64)
    frames = np.array([spread.frames for spread in lists], np.int64)
    firsts = np.cumsum(counts) - counts
    if int((counts * frames).sum()) <= VALUES_PER_BLOCK:
        chunks = [_gather(pool, firsts, counts, frames)]
    else:
        block = min(VALUES_PER_BLOCK // int(counts.max()), VALUES_IN_MEMORY // int(counts.sum()))
        chunks = list(_gather_blocks(pool, firsts, counts, frames, max(8, block)))
    return pa.chunked_array(chunks, physical_field(column).type)


def _gather_blocks(pool: pa.StructArray, firsts: Ints, counts: Ints, frames: Ints, block: int) -> Iterator[pa.Array]:
    long = frames > block
    edges = [0, *(np.flatnonzero(np.diff(long)) + 1).tolist(), len(frames)]
    for low, high in pairwise(edges):
        if not long[low]:
            yield _gather(pool, firsts[low:high], counts[low:high], frames[low:high])
            continue
        for i in range(low, high):
            repeated = _gather(pool, firsts[i : i + 1], counts[i : i + 1], np.array([block]))
            times, rest = divmod(int(frames[i]), block)
            yield from [repeated] * times
            if rest:
                yield repeated.slice(0, rest)


def _gather(pool: pa.StructArray, firsts: Ints, counts: Ints, frames: Ints) -> pa.ListArray:
    lengths = np.repeat(counts, frames)
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if bool((frames[counts > 0] == 1).all()):  # events: every row stands once, in the order of the pool
        values = pool.slice(int(firsts[0]) if len(firsts) else 0, int(offsets[-1]))
    else:
        indices = np.arange(offsets[-1]) + np.repeat(np.repeat(firsts, frames) - offsets[:-1], lengths)
        values = _take(pool, pa.array(indices.astype(np.int32)))
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values, type=pa.list_(values.type))


def _take(pool: pa.StructArray, indices: pa.Array) -> pa.StructArray:
    # Most lists have no camera and no tool calls: building nulls is far cheaper than taking them.
    columns = [
        pa.nulls(len(indices), child.type) if child.null_count == len(child) else child.take(indices)
        for child in (pool.field(index) for index in range(pool.type.num_fields))
    ]
    return pa.StructArray.from_arrays(columns, fields=list(pool.type))


def _pool(rows: Sequence[Row], column: Column) -> pa.StructArray:
    arrays = {
        "role": _texts([row.role for row in rows]),
        "content": _texts([row.content for row in rows]),
        "style": _texts([row.style for row in rows]),
        "timestamp": pa.array([row.timestamp for row in rows], pa.float32()),
        "camera": _texts([row.camera for row in rows]),
        "tool_calls": pa.array([row.tool_calls for row in rows], pa.list_(pa.string())),
    }
    fields = list(physical_field(column).type.value_type)
    return pa.StructArray.from_arrays([arrays[field.name] for field in fields], fields=fields)


def _texts(values: Sequence[str | None]) -> pa.DictionaryArray:
    # In Python: Arrow's own encoding sets up a hash table each time, which costs more than a few dozen strings.
    codes: dict[str, int] = {}
    indices = [None if value is None else codes.setdefault(value, len(codes)) for value in values]
    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(list(codes), pa.string()))


def _persistent(episode: PlacedEpisode, start: int, stop: int) -> Iterator[Spread]:
    begin = episode.start
    for run in episode.language.runs:
        yield Spread(run.rows, max(0, min(begin + run.frames, stop) - max(begin, start)))
        begin += run.frames


def _events(episode: PlacedEpisode, start: int, stop: int) -> Iterator[Spread]:
    done, end = max(episode.start, start), min(episode.stop, stop)
    low, high = np.searchsorted(episode.event_rows, [done, end])
    for index in range(int(low), int(high)):
        row = int(episode.event_rows[index])
        yield Spread((), row - done)
        yield Spread(episode.events[index], 1)
        done = row + 1
    yield Spread((), end - done)


def _field(column: Column, text: pa.DataType, call: pa.DataType) -> pa.Field:
    timestamp = [pa.field("timestamp", pa.float32(), nullable=False)] if column == PERSISTENT else []
    row = pa.struct(
        [
            pa.field("role", text, nullable=False),
            pa.field("content", text),
            pa.field("style", text),
            *timestamp,
            pa.field("camera", text),
            pa.field("tool_calls", pa.list_(call)),
        ]
    )
    return pa.field(column, pa.list_(row))
