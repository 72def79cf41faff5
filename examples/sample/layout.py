"""The files of a LeRobot v3.0 dataset: data shards, episode and task tables, info and statistics.

Source: the files that LeRobot 0.6.1's own recorder writes; names, types, metadata keys and orders are the same.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from .footage import Camera, Film
from .motion import NAMES, Episode
from .statistics import Stats, merged, of_signal

Json = dict[str, Any]

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
VECTOR = pa.list_(pa.field("element", pa.float32()), len(NAMES))
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """An episode as stored: its place in the dataset, and its footage per camera."""

    episode: Episode
    task_index: int
    first_row: int
    fps: int
    films: Mapping[str, Film]

    @property
    def length(self) -> int:
        """The number of frames."""
        return len(self.episode.state)

    def counters(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns that LeRobot adds to each frame, (T,) each, in its order."""
        frames = np.arange(self.length)
        return {
            "timestamp": (frames / self.fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full_like(frames, self.episode.index),
            "index": self.first_row + frames,
            "task_index": np.full_like(frames, self.task_index),
        }

    def stats(self) -> dict[str, Stats]:
        """Return the statistics of every column and camera, in the order of the features."""
        signals = {"observation.state": self.episode.state, "action": self.episode.action}
        counted = {name: of_signal(values.astype(np.float64)) for name, values in self.counters().items()}
        moved = {name: of_signal(values.astype(np.float64)) for name, values in signals.items()}
        return {**moved, **{key: film.stats for key, film in self.films.items()}, **counted}


def write_shards(root: Path, recorded: Sequence[Recorded], files: Sequence[range]) -> None:
    """Write the data shards, one row group per episode."""
    for file_index, indices in enumerate(files):
        # The metadata stands at the head of the file and describes all its rows, so these are made first.
        tables = [_rows(recorded[i]) for i in indices]
        schema = tables[0].schema.with_metadata(_hub_metadata(tables[0].schema, [recorded[i] for i in indices]))
        with _writer(root / DATA_PATH.format(chunk_index=0, file_index=file_index), schema) as writer:
            for table in tables:
                writer.write_table(table.replace_schema_metadata(schema.metadata))


def write_episodes(
    root: Path, recorded: Sequence[Recorded], texts: Sequence[str], shards: Sequence[range], cameras: Sequence[Camera]
) -> None:
    """Write the episode table: where each episode's rows and footage lie, and its statistics."""
    rows = [
        _place(row, texts, shards)
        | dict(_footage_places(row.episode.index, recorded, cameras))
        | {f"stats/{key}/{name}": v.tolist() for key, stats in row.stats().items() for name, v in stats.items()}
        | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        for row in recorded
    ]
    table = pa.Table.from_pylist(rows)
    with _writer(root / EPISODES_PATH, table.schema) as writer:
        writer.write_table(table)


def write_tasks(root: Path, texts: Sequence[str]) -> None:
    """Write the task table: `task_index`, and the text as the index that pandas will read."""
    table = pa.table({"task_index": pa.array(range(len(texts)), pa.int64()), "task": pa.array(texts, pa.string())})
    schema = table.schema.with_metadata({"pandas": json.dumps(_pandas_index())})
    with _writer(root / "meta/tasks.parquet", schema) as writer:
        writer.write_table(table.replace_schema_metadata(schema.metadata))


def write_info(root: Path, recorded: Sequence[Recorded], tasks: int, cameras: Sequence[tuple[Camera, Json]]) -> None:
    """Write `meta/info.json`; each camera comes with what is known of its video, nothing for an image camera."""
    info = {
        "codebase_version": "v3.0",
        "fps": recorded[0].fps,
        "features": _features(cameras),
        "total_episodes": len(recorded),
        "total_frames": sum(episode.length for episode in recorded),
        "total_tasks": tasks,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "robot_type": "sample_arm",
        "splits": {"train": f"0:{len(recorded)}"},
    }
    (root / "meta/info.json").write_text(json.dumps(info, indent=4), encoding="utf-8")


def write_stats(root: Path, recorded: Sequence[Recorded]) -> None:
    """Write `meta/stats.json`: the statistics of all episodes together."""
    parts = [episode.stats() for episode in recorded]
    whole = {key: merged([part[key] for part in parts]) for key in parts[0]}
    lists = {key: {name: value.tolist() for name, value in stats.items()} for key, stats in whole.items()}
    (root / "meta/stats.json").write_text(json.dumps(lists, indent=4), encoding="utf-8")


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    return pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=True)


def _rows(recorded: Recorded) -> pa.Table:
    columns: dict[str, pa.Array] = {
        "observation.state": _vectors(recorded.episode.state),
        "action": _vectors(recorded.episode.action),
    }
    for key, film in recorded.films.items():
        if film.pngs:
            images = [{"bytes": png, "path": f"frame-{i:06d}.png"} for i, png in enumerate(film.pngs)]
            columns[key] = pa.array(images, IMAGE)
    columns |= {name: pa.array(values) for name, values in recorded.counters().items()}
    return pa.table(columns)


def _vectors(values: npt.NDArray[np.float32]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=VECTOR)


def _hub_metadata(schema: pa.Schema, recorded: Sequence[Recorded]) -> dict[str, str]:
    """Describe the columns as the `datasets` library does; the fingerprint covers the signals."""
    signals = hashlib.sha256(b"".join(row.episode.state.tobytes() + row.episode.action.tobytes() for row in recorded))
    features = {field.name: _hub_feature(field.type) for field in schema}
    return {"huggingface": json.dumps({"info": {"features": features}, "fingerprint": signals.hexdigest()[:16]})}


def _hub_feature(kind: pa.DataType) -> Json:
    if kind == IMAGE:
        return {"_type": "Image"}
    if kind == VECTOR:
        return {"feature": {"dtype": "float32", "_type": "Value"}, "length": len(NAMES), "_type": "List"}
    return {"dtype": "float32" if kind == pa.float32() else str(kind), "_type": "Value"}


def _place(recorded: Recorded, texts: Sequence[str], shards: Sequence[range]) -> Json:
    index = recorded.episode.index
    return {
        "episode_index": index,
        "tasks": [texts[recorded.task_index]],
        "length": recorded.length,
        "data/chunk_index": 0,
        "data/file_index": next(i for i, shard in enumerate(shards) if index in shard),
        "dataset_from_index": recorded.first_row,
        "dataset_to_index": recorded.first_row + recorded.length,
    }


def _footage_places(index: int, recorded: Sequence[Recorded], cameras: Sequence[Camera]) -> Iterator[tuple[str, Any]]:
    for camera in cameras:
        for file_index, episodes in enumerate(camera.files):
            if index in episodes:
                before = sum(recorded[i].length for i in range(episodes.start, index))
                yield f"videos/{camera.key}/chunk_index", 0
                yield f"videos/{camera.key}/file_index", file_index
                yield f"videos/{camera.key}/from_timestamp", before / recorded[index].fps
                yield f"videos/{camera.key}/to_timestamp", (before + recorded[index].length) / recorded[index].fps


def _pandas_index() -> Json:
    number = {"pandas_type": "int64", "numpy_type": "int64"}
    text = {"pandas_type": "unicode", "numpy_type": "object"}
    return {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": "task_index", "field_name": "task_index", **number, "metadata": None},
            {"name": "task", "field_name": "task", **text, "metadata": None},
        ],
        "attributes": {},
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.3.3",
    }  # fmt: skip


def _features(cameras: Sequence[tuple[Camera, Json]]) -> Json:
    vector = {"dtype": "float32", "shape": [len(NAMES)], "names": list(NAMES)}
    features: Json = {"observation.state": vector, "action": vector}
    for camera, info in cameras:
        shape, names = [camera.height_px, camera.width_px, 3], ["height", "width", "channels"]
        kind: Json = {"dtype": "video" if camera.files else "image", "shape": shape, "names": names}
        features[camera.key] = kind | ({"info": info} if info else {})
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        features[name] = {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
    return features
