"""Tiny LeRobot v3 datasets, written with pyarrow and PyAV: every frame is there, every number can be asked for.

A recording moves and looks by its `seed`, so the same recording written elsewhere, as another episode, is the same.
"""

import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.media.films import film, join

TOP = "observation.images.top"
WRIST = "observation.images.wrist"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FPS = 10
BLOCK = (6, 8)
"""A picture is four such blocks wide and high: 24 × 32 pixels."""


@dataclass(frozen=True)
class Recording:
    """What one episode holds. A still one keeps every signal as it was at the start."""

    seed: int
    frames: int = 24
    task: str = "put the red cube into the bowl"
    still: bool = False


@dataclass(frozen=True)
class Layout:
    """How recordings lie on disk: `shards` and `films` list the episodes that share a file, in file order."""

    shards: Sequence[Sequence[int]]
    films: Sequence[Sequence[int]]
    cameras: tuple[str, ...] = (TOP,)
    version: str = "v3.0"
    task_column: str = "task"
    names: Any = field(default_factory=lambda: ["shoulder", "elbow", "gripper"])
    data_path: str = DATA_PATH
    video_path: str = VIDEO_PATH


def write_dataset(
    root: Path, recordings: Sequence[Recording] | None = None, layout: Layout | None = None, **changes: Any
) -> Path:
    """Write a dataset into `root`; episode i is recording i. By default three episodes in two shards and two films."""
    recordings = recordings or [Recording(seed) for seed in (1, 2, 3)]
    default = [list(range(len(recordings) - 1)), [len(recordings) - 1]] if len(recordings) > 1 else [[0]]
    fields: dict[str, Any] = {"shards": default, "films": default} | changes
    layout = layout or Layout(**fields)
    tasks = list(dict.fromkeys(one.task for one in recordings))
    places = [_place(root, recordings, layout, camera) for camera in layout.cameras]
    _write_shards(root, recordings, layout, tasks)
    _write_meta(root, recordings, layout, tasks, places)
    return root


def clock(frames: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """The timestamps of an episode, (T,) float32 seconds."""
    return (np.arange(frames) / FPS).astype(np.float32)


def motion(one: Recording) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """The state of a recording, (T, 3) float32: two joints that swing, and a gripper that closes and opens."""
    random = np.random.default_rng(one.seed)
    phase = np.linspace(0, np.pi, one.frames)[:, None] + random.uniform(0, 1, 2)
    gripper = np.where(
        (np.arange(one.frames) > one.frames * 0.3) & (np.arange(one.frames) < one.frames * 0.7), 0.0, 1.0
    )
    state = np.column_stack([np.sin(phase), gripper]).astype(np.float32)
    return np.repeat(state[:1], one.frames, axis=0) if one.still else state


def edit_parquet(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write a parquet file anew, changed; its metadata stays."""
    table = pq.ParquetFile(path).read()
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


def edit_info(root: Path, **changes: Any) -> None:
    """Change top-level entries of meta/info.json."""
    path = root / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=4))


def set_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    """Replace a column's values, keeping its type."""
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    """Every file but the log's: bytes and mtime in ns."""
    files = (p for p in root.rglob("*") if p.is_file() and ".annotator" not in p.relative_to(root).parts)
    return {p.relative_to(root).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(files)}


def shard_path(index: int) -> str:
    """The n-th data shard, relative to the root."""
    return DATA_PATH.format(chunk_index=0, file_index=index)


def film_path(index: int, camera: str = TOP) -> str:
    """The n-th video file of a camera, relative to the root."""
    return VIDEO_PATH.format(video_key=camera, chunk_index=0, file_index=index)


def _write_shards(root: Path, recordings: Sequence[Recording], layout: Layout, tasks: list[str]) -> None:
    first = 0
    for file, episodes in enumerate(layout.shards):
        path = root / layout.data_path.format(chunk_index=0, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = None
        for episode in episodes:
            table = _frames(recordings[episode], episode, first, tasks)
            first += table.num_rows
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
        if writer:
            writer.close()


def _frames(one: Recording, episode: int, first: int, tasks: list[str]) -> pa.Table:
    state = motion(one)
    fixed = pa.list_(pa.float32(), state.shape[1])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(state.ravel()), type=fixed)
    count = np.arange(one.frames, dtype=np.int64)
    table = pa.table(
        {
            "observation.state": vectors,
            "action": vectors,
            "timestamp": pa.array(clock(one.frames)),
            "frame_index": count,
            "episode_index": np.full_like(count, episode),
            "index": count + first,
            "task_index": np.full_like(count, tasks.index(one.task)),
        }
    )
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": {}}})})


def _place(root: Path, recordings: Sequence[Recording], layout: Layout, camera: str) -> dict[int, tuple[int, float]]:
    """Write one camera's films; gives each episode its file and its start there in seconds."""
    places: dict[int, tuple[int, float]] = {}
    for file, episodes in enumerate(layout.films):
        path = root / layout.video_path.format(video_key=camera, chunk_index=0, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = 0
        parts: list[bytes] = []
        for episode in episodes:
            one = recordings[episode]
            places[episode] = file, frames / FPS
            frames += one.frames
            parts.append(_filmed(one.seed + 100 * layout.cameras.index(camera), one.frames))
        _join(parts, path)
    return places


def _join(films: Sequence[bytes], path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = [Path(folder) / f"{number}.mp4" for number in range(len(films))]
        for part, content in zip(parts, films, strict=True):
            part.write_bytes(content)
        shutil.copyfile(join(parts, Path(folder) / "film.mp4"), path)


@functools.cache
def _filmed(seed: int, frames: int) -> bytes:
    """Film a recording once a process: pictures that say seed and frame."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = [64 * seed + i for i in range(frames)]
        return film(Path(folder) / "one.mp4", numbers, fps=FPS, block=BLOCK).read_bytes()


def _write_meta(
    root: Path,
    recordings: Sequence[Recording],
    layout: Layout,
    tasks: list[str],
    places: Sequence[Mapping[int, tuple[int, float]]],
) -> None:
    meta = root / "meta"
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    (meta / "info.json").write_text(json.dumps(_info(recordings, layout), indent=4))
    numbers = pa.array(range(len(tasks)), pa.int64())
    pq.write_table(pa.table({"task_index": numbers, layout.task_column: tasks}), meta / "tasks.parquet")
    lines = [_line(episode, one, layout, places) for episode, one in enumerate(recordings)]
    pq.write_table(pa.Table.from_pylist(lines), meta / "episodes" / "chunk-000" / "file-000.parquet")


def _line(
    episode: int, one: Recording, layout: Layout, places: Sequence[Mapping[int, tuple[int, float]]]
) -> dict[str, Any]:
    shard = next(file for file, episodes in enumerate(layout.shards) if episode in episodes)
    line: dict[str, Any] = {
        "episode_index": episode,
        "tasks": [one.task],
        "length": one.frames,
        "data/chunk_index": 0,
        "data/file_index": shard,
    }
    for camera, place in zip(layout.cameras, places, strict=True):
        file, start = place[episode]
        line |= {
            f"videos/{camera}/chunk_index": 0,
            f"videos/{camera}/file_index": file,
            f"videos/{camera}/from_timestamp": start,
            f"videos/{camera}/to_timestamp": start + one.frames / FPS,
        }
    return line | {"stats/timestamp/mean": [0.5], "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}


def _info(recordings: Sequence[Recording], layout: Layout) -> dict[str, Any]:
    scalar = {"shape": [1], "names": None}
    vector = {"dtype": "float32", "shape": [3], "names": layout.names}
    height, width = 4 * BLOCK[0], 4 * BLOCK[1]
    video = {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"]}
    integers = ("frame_index", "episode_index", "index", "task_index")
    features = {
        "observation.state": vector,
        "action": vector,
        **dict.fromkeys(layout.cameras, video),
        "timestamp": {"dtype": "float32", **scalar},
        **{name: {"dtype": "int64", **scalar} for name in integers},
    }
    return {
        "codebase_version": layout.version,
        "fps": FPS,
        "total_episodes": len(recordings),
        "total_frames": sum(one.frames for one in recordings),
        "features": features,
        "data_path": layout.data_path,
        "video_path": layout.video_path if layout.cameras else None,
    }
