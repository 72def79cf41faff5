"""The frames' timestamps of a shard, and which frame a timestamp names. Look-ups are exact and without a loop."""

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from annotator_store.errors import ShardError

Times = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class FrameTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Of every row of a shard: its `timestamp`, (N,) float32, and its `episode_index`, (N,) int64 where it has one."""

    timestamps: Times
    episode_index: Ints | None
    path: str

    def where(self, start: int, stop: int) -> str:
        """Name the episode at these rows for a message."""
        rows = f"{self.path}, rows {start}–{stop}"
        if self.episode_index is None or start >= min(stop, len(self.episode_index)):
            return rows
        return f"{self.path}, episode {self.episode_index[start]} (rows {start}–{stop})"


def read_frame_times(file: pq.ParquetFile, path: str) -> FrameTimes:
    """Read the two columns of a whole shard: 12 bytes a frame.

    Raises:
        ShardError: there is no `timestamp` column of numbers.
    """
    names = file.schema_arrow.names
    if "timestamp" not in names:
        raise ShardError("a shard has no timestamp column", where=path, got=", ".join(names))
    table = file.read(columns=[name for name in ("timestamp", "episode_index") if name in names], use_threads=False)
    try:
        timestamps = _to_numpy(table["timestamp"], pa.float32())
        index = _to_numpy(table["episode_index"], pa.int64()) if "episode_index" in names else None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as cause:
        raise ShardError("a shard's timestamps are not numbers", where=path, got=str(cause)) from cause
    return FrameTimes(timestamps=timestamps, episode_index=index, path=path)


def frames_at(times: Times, wanted: npt.NDArray[np.float64], repeats: Ints) -> Ints:
    """Find, for each wanted timestamp, the frame that has exactly it; -1 where none has.

    Args:
        times: (T,) the episode's frames, in any order.
        wanted: (W,) seconds; a value that is not itself a float32 is no frame's.
        repeats: (W,) how many frames with that timestamp to pass over; normally 0.

    Returns: (W,) offsets into `times`.
    """
    if not len(times):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(times, kind="stable")
    ascending = times[order].astype(np.float64)
    found = np.searchsorted(ascending, wanted) + repeats
    inside = np.minimum(found, len(times) - 1)
    return np.where((found < len(times)) & (ascending[inside] == wanted), order[inside], -1)


def repeats_of(times: Times) -> Ints:
    """Count, for each frame, the earlier frames with its very timestamp."""
    if bool(np.all(times[1:] > times[:-1])):
        return np.zeros(len(times), np.int64)
    order = np.argsort(times, kind="stable")
    ascending = times[order]
    first_of_its_kind = np.concatenate(([True], ascending[1:] != ascending[:-1]))
    places = np.arange(len(times))
    repeats = np.empty(len(times), np.int64)
    repeats[order] = places - np.maximum.accumulate(np.where(first_of_its_kind, places, 0))
    return repeats


def _to_numpy(column: pa.ChunkedArray, kind: pa.DataType) -> npt.NDArray[Any]:
    safe = not pa.types.is_floating(kind)  # a float64 column is read as the float32 that LeRobot means
    return column.cast(kind, safe=safe).to_numpy()
