"""Scan a data shard's columns: where its episodes lie, and the digests that identify them.

An episode is identified by what the robot did, never by its index, path or task (see docs/keys.md).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from annotator.dataset.metadata import Dataset, damaged
from annotator.errors import DatasetError
from annotator_store.digests import Digest, digest_parts

STATE, ACTION = "observation.state", "action"
Array = npt.NDArray[np.generic]


class EpisodeScan(msgspec.Struct, frozen=True, kw_only=True):
    """What a data shard says of one episode: rows `start` to `stop` of it.

    `timestamps_digest` covers its timestamps; `motion_digest` these and the first of state and action that moves: None
    where neither does, and the footage must identify the episode. `signals_digest` covers all that an engine may read.
    """

    index: int
    shard: str
    start: int
    stop: int
    duration_s: float
    task_indices: tuple[int, ...]
    timestamps_digest: Digest
    motion_digest: Digest | None
    signals_digest: Digest

    def identity(self, footage: Mapping[str, Digest]) -> Digest:
        """Identify the episode by what the robot did; where nothing moves, by what its cameras saw, in order of key."""
        if self.motion_digest is not None:
            return self.motion_digest
        digests = [digest.encode() for _, digest in sorted(footage.items())]
        return digest_parts("episode.v1:footage", [self.timestamps_digest.encode(), *digests])

    def as_scan(self) -> "EpisodeScan":
        """Return what the scan alone says, without what a subclass adds."""
        return EpisodeScan(**{name: getattr(self, name) for name in EpisodeScan.__struct_fields__})


def scan_shard(dataset: Dataset, shard: str) -> list[EpisodeScan]:
    """Scan one shard, in row order; memory is bounded by the shard's narrow columns.

    Raises:
        DatasetError: missing, damaged, or timestamps of an episode that do not ascend.
    """
    path = dataset.root / shard
    with open_shard(path) as file:
        columns = ["episode_index", "timestamp", "task_index", STATE, ACTION]
        present = set(file.schema_arrow.names)
        for column in columns[:3]:
            if column not in present:
                hint = "copy or download the dataset again; LeRobot writes this column into every shard"
                raise DatasetError("a data shard lacks a column", where=str(path), got=f"no {column}", hint=hint)
        table = _read(path, file, [column for column in columns if column in present])
    return list(_episodes(dataset, shard, table)) if table.num_rows else []


def _episodes(dataset: Dataset, shard: str, table: pa.Table) -> Iterator[EpisodeScan]:
    """Split a shard's table into its episodes; rows of one episode are contiguous."""
    path = dataset.root / shard
    owners = column_vector(table, "episode_index")
    timestamps = column_vector(table, "timestamp").astype(np.float32, copy=False)
    cuts = np.flatnonzero(np.diff(owners)) + 1
    starts, stops = np.concatenate([[0], cuts]), np.concatenate([cuts, [len(owners)]])
    _check_timestamps(path, owners, timestamps, cuts)
    _check_owners(path, owners[starts])
    task_indices = column_vector(table, "task_index")
    state, action = (column_matrix(path, table, name) for name in (STATE, ACTION))
    names = "\0".join((*dataset.names_of(STATE), "\1", *dataset.names_of(ACTION))).encode()
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        rows = slice(start, stop)
        recorded = [None if values is None else values[rows] for values in (state, action)]
        yield EpisodeScan(
            index=int(owners[start]),
            shard=shard,
            start=start,
            stop=stop,
            duration_s=float(timestamps[stop - 1] - timestamps[start]),
            task_indices=tuple(dict.fromkeys(task_indices[rows].tolist())),
            timestamps_digest=digest_parts("clock.v1", [timestamps[rows].tobytes()]),
            motion_digest=_motion(timestamps[rows], recorded),
            signals_digest=digest_parts("signals.v1", [names, *_buffers(timestamps[rows], *recorded)]),
        )


def _motion(timestamps: Array, candidates: Sequence[Array | None]) -> Digest | None:
    for name, values in zip(("state", "action"), candidates, strict=True):
        if values is not None and len(values) > 1 and bool((values != values[:1]).any()):
            return digest_parts(f"episode.v1:{name}", _buffers(timestamps, values))
    return None


def _buffers(*arrays: Array | None) -> Iterator[bytes]:
    """Name each array's dtype and shape before its bytes, so that equal bytes of another shape differ."""
    for values in arrays:
        if values is None:
            yield b"none"
            continue
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        yield f"{little.dtype.str}{little.shape[1:]}".encode()
        yield np.ascontiguousarray(little).tobytes()


def _check_timestamps(
    path: Path, owner: Array, timestamps: npt.NDArray[np.float32], cuts: npt.NDArray[np.int64]
) -> None:
    bad = np.flatnonzero(~np.isfinite(timestamps))
    if not len(bad):
        steps = np.diff(timestamps)
        steps[cuts - 1] = 1.0  # from one episode to the next, time may go back
        bad = np.flatnonzero(~(steps > 0))
    if len(bad):
        row = int(bad[0])
        near = ", ".join(f"{t:g}" for t in timestamps[row : row + 2].tolist())
        raise DatasetError(
            "timestamps do not ascend",
            where=f"{path} episode {owner[row]} row {row}",
            got=f"{near} s",
            hint="within an episode each frame needs a later timestamp; LeRobot itself writes frame_index / fps",
        )


def _check_owners(path: Path, owners: Array) -> None:
    values, counts = np.unique(owners, return_counts=True)
    if (counts > 1).any():
        hint = "an episode is one run of rows in one shard; LeRobot's own tools write it so"
        got = f"episode {values[counts > 1][0]} in {counts[counts > 1][0]} places"
        raise DatasetError("an episode's frames do not lie together", where=str(path), got=got, hint=hint)


def read_frames_table(root: Path, episode: EpisodeScan, columns: Sequence[str]) -> pa.Table:
    """Read some columns of an episode's rows, touching only the row groups that hold them.

    Raises:
        DatasetError: missing or damaged.
    """
    path = root / episode.shard
    with open_shard(path) as file:
        groups, first, row = [], 0, 0
        for index in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(index).num_rows
            if row < episode.stop and row + rows > episode.start:
                first = row if not groups else first
                groups.append(index)
            row += rows
        present = [column for column in columns if column in file.schema_arrow.names]
        table = _read(path, file, present, groups)
        return table.slice(episode.start - first, episode.stop - episode.start)


def read_timestamps(root: Path, episode: EpisodeScan) -> npt.NDArray[np.float32]:
    """Read an episode's timestamps: (T,) float32 seconds, as stored."""
    return column_vector(read_frames_table(root, episode, ["timestamp"]), "timestamp").astype(np.float32, copy=False)


def open_shard(path: Path) -> pq.ParquetFile:
    """Open a data shard.

    Raises:
        DatasetError: missing or damaged.
    """
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError as cause:
        hint = "copy or download the dataset again; meta/episodes names this file"
        raise DatasetError("a data shard is missing", where=str(path), hint=hint) from cause
    except (pa.ArrowException, OSError) as cause:
        raise damaged(path, cause) from cause


def _read(path: Path, file: pq.ParquetFile, columns: list[str], groups: list[int] | None = None) -> pa.Table:
    try:
        if groups is None:
            return file.read(columns=columns)
        return file.read_row_groups(groups, columns=columns)
    except (pa.ArrowException, OSError) as cause:
        raise damaged(path, cause) from cause


def column_vector(table: pa.Table, name: str) -> Array:
    """Return a column of T frames as a (T,) array."""
    return table[name].combine_chunks().to_numpy(zero_copy_only=False)


def column_matrix(path: Path, table: pa.Table, name: str) -> Array | None:
    """Turn a column of numbers or (nested) lists of numbers into (T, D), or None where there is none.

    Raises:
        DatasetError: rows differ in length, are missing, or hold no numbers.
    """
    if name not in table.column_names or not table.num_rows:
        return None
    flat = column = table[name].combine_chunks()
    even = not column.null_count
    while isinstance(flat, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        even = even and (isinstance(flat, pa.FixedSizeListArray) or len(flat.value_lengths().unique()) <= 1)
        flat = flat.flatten()
    numbers = pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type) or pa.types.is_boolean(flat.type)
    if not (even and numbers and not flat.null_count):
        hint = "each frame has one vector of the size that meta/info.json declares"
        raise DatasetError(
            "a signal is not one vector a frame", where=f"{path} {name}", got=str(column.type), hint=hint
        )
    return flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)
