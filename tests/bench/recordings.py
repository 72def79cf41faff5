"""Quickly made LeRobot v3 datasets for benchmarks: many short episodes of smooth motion, one camera, real mp4s.

`meta/episodes` is as LeRobot writes it: ten episodes a row group, and ten columns of statistics for every feature.
All shards share one film, copied: what identifies an episode is its motion.
"""

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CAMERA = "observation.images.top"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
TASK = "put the red cube into the left box, then close the lid"
FPS = 10
JOINTS = 6
HEIGHT_PX, WIDTH_PX = 48, 64
EPISODES_A_ROW_GROUP = 10
STATISTICS = ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99")


class Size(msgspec.Struct, frozen=True):
    """How much there is: shards, episodes in each, frames in each episode."""

    shards: int
    episodes: int
    frames: int

    @property
    def total(self) -> int:
        """Episodes in all shards."""
        return self.shards * self.episodes


def record(root: Path, size: Size) -> Path:
    """Write a dataset of this size into `root`."""
    reel = _film(root / VIDEO_PATH.format(video_key=CAMERA, chunk_index=0, file_index=0), size.episodes * size.frames)
    for shard in range(size.shards):
        _write_shard(root / DATA_PATH.format(chunk_index=0, file_index=shard), shard, size)
        if shard:
            shutil.copyfile(reel, root / VIDEO_PATH.format(video_key=CAMERA, chunk_index=0, file_index=shard))
    _write_meta(root / "meta", size)
    return root


def _film(path: Path, frames: int) -> Path:
    """Encode a bright block that wanders over a dark ground."""
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "g": "2"}
        stream = container.add_stream("libx264", rate=Fraction(FPS), options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT_PX, WIDTH_PX, "yuv420p"
        stream.codec_context.thread_count = 1
        picture = np.zeros((HEIGHT_PX * 3 // 2, WIDTH_PX), np.uint8)  # planes Y, U, V, as yuv420p has them
        picture[HEIGHT_PX:] = 128
        for frame in range(frames):
            x = frame % (WIDTH_PX - 16)
            picture[16:32] = 30
            picture[16:32, x : x + 16] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def _write_shard(path: Path, shard: int, size: Size) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first = shard * size.episodes
    tables = [_frames(first + episode, size.frames) for episode in range(size.episodes)]
    with pq.ParquetWriter(path, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)


def _frames(episode: int, frames: int) -> pa.Table:
    """One episode: joints that swing, and a gripper that closes and opens."""
    random = np.random.default_rng(episode)
    at = np.arange(frames)
    swing = np.sin(at[:, None] / 15 + random.uniform(0, 6, JOINTS - 1))
    gripper = np.where((at > frames * random.uniform(0.2, 0.4)) & (at < frames * random.uniform(0.6, 0.8)), 0.0, 1.0)
    state = np.column_stack([swing, gripper]).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(state.ravel()), JOINTS)
    columns = {
        "observation.state": vectors,
        "action": vectors,
        "timestamp": pa.array((at / FPS).astype(np.float32)),
        "frame_index": pa.array(at),
        "episode_index": pa.array(np.full(frames, episode)),
        "index": pa.array(at + episode * frames),
        "task_index": pa.array(np.zeros(frames, np.int64)),
    }
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": {}}})})


def _write_meta(meta: Path, size: Size) -> None:
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    info = _info(size)
    (meta / "info.json").write_text(json.dumps(info, indent=4))
    pq.write_table(pa.table({"task_index": pa.array([0], pa.int64()), "task": [TASK]}), meta / "tasks.parquet")
    statistics = {
        f"stats/{feature}/{name}": _statistic(one) for feature, one in info["features"].items() for name in STATISTICS
    }
    lines = [_line(episode, size) | statistics for episode in range(size.total)]
    table = pa.Table.from_pylist(lines)
    pq.write_table(table, meta / "episodes" / "chunk-000" / "file-000.parquet", row_group_size=EPISODES_A_ROW_GROUP)


def _statistic(feature: dict[str, Any]) -> list[Any]:
    return [[[0.5]], [[0.25]], [[0.125]]] if feature["dtype"] == "video" else [0.5] * feature["shape"][0]


def _line(episode: int, size: Size) -> dict[str, Any]:
    shard, place = divmod(episode, size.episodes)
    video = f"videos/{CAMERA}"
    return {
        "episode_index": episode,
        "tasks": [TASK],
        "length": size.frames,
        "data/chunk_index": 0,
        "data/file_index": shard,
        "dataset_from_index": episode * size.frames,
        "dataset_to_index": (episode + 1) * size.frames,
        f"{video}/chunk_index": 0,
        f"{video}/file_index": shard,
        f"{video}/from_timestamp": place * size.frames / FPS,
        f"{video}/to_timestamp": (place + 1) * size.frames / FPS,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }


def _info(size: Size) -> dict[str, Any]:
    joints = [f"joint_{index}" for index in range(JOINTS - 1)]
    vector = {"dtype": "float32", "shape": [JOINTS], "names": [*joints, "gripper"]}
    number = {"dtype": "int64", "shape": [1], "names": None}
    video = {"dtype": "video", "shape": [HEIGHT_PX, WIDTH_PX, 3], "names": ["height", "width", "channels"]}
    features = {
        "observation.state": vector,
        "action": vector,
        CAMERA: video,
        "timestamp": number | {"dtype": "float32"},
    }
    features |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), number)
    return {
        "codebase_version": "v3.0",
        "fps": FPS,
        "total_episodes": size.total,
        "total_frames": size.total * size.frames,
        "features": features,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
    }
