"""The timestamps of a shard's frames, and the frame that has a timestamp. Look-ups are exact and vectorized."""

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
    """`timestamps`: (N,) float32 seconds, `episode_index`: (N,) int64 or None, of the N rows of a shard."""

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


def frames_at(times: Times, timestamps: npt.NDArray[np.float64], repeats: Ints) -> Ints:
    """Return, for each timestamp, the offset of the frame that has exactly it; -1 where none has.

    Args:
        times: (T,) float32, timestamps of the episode's frames, in any order.
        timestamps: (W,) float64 seconds; a value that is no float32 matches no frame.
        repeats: (W,) int64, how many frames with that timestamp to skip; normally 0.

    Returns: (W,) int64 offsets into `times`.
    """
    if not len(times):
        return np.full(len(timestamps), -1, np.int64)
    order = np.argsort(times, kind="stable")
    ascending = times[order].astype(np.float64)
    places = np.searchsorted(ascending, timestamps) + repeats
    inside = np.minimum(places, len(times) - 1)
    return np.where((places < len(times)) & (ascending[inside] == timestamps), order[inside], -1)


def repeats_of(times: Times) -> Ints:
    """Return for each of (T,) float32 timestamps how many earlier ones equal it, (T,) int64."""
    if bool(np.all(times[1:] > times[:-1])):
        return np.zeros(len(times), np.int64)
    order = np.argsort(times, kind="stable")
    ascending = times[order]
    is_first = np.concatenate(([True], ascending[1:] != ascending[:-1]))
    places = np.arange(len(times))
    repeats = np.empty(len(times), np.int64)
    repeats[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return repeats


def _to_numpy(column: pa.ChunkedArray, kind: pa.DataType) -> npt.NDArray[Any]:
    safe = not pa.types.is_floating(kind)  # a float64 column is read as the float32 that LeRobot means
    return column.cast(kind, safe=safe).to_numpy()
