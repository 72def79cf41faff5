"""Read what a LeRobot v3 dataset says of itself: `meta/` only, no frames.

Source: FORMAT of LeRobot v3 (codebase v3.0 and v3.1): info.json, tasks.parquet, meta/episodes/**.
"""

import json
import posixpath
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from annotator.errors import DatasetError

READABLE = ("v3.0", "v3.1")
_COPY_HINT = "copy or download the dataset again"
_V2_HINT = (
    "convert it first with LeRobot: python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=<name> --root=<dir>"
)


class Camera(msgspec.Struct, frozen=True, kw_only=True):
    """One camera feature. `height_px` and `width_px` are those of the stored frame."""

    key: str
    stored: Literal["video", "image"]
    height_px: int
    width_px: int
    depth: bool


class VideoSpan(msgspec.Struct, frozen=True, kw_only=True):
    """An episode's part of one video file; seconds on the file's own clock."""

    path: str
    from_timestamp: float
    to_timestamp: float


class EpisodeMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """One episode as `meta/episodes` describes it. `shard` and video paths are relative to the root."""

    index: int
    length: int
    tasks: tuple[str, ...]
    shard: str
    videos: dict[str, VideoSpan]


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset's description. Episodes ascend by index; shards ascend by path."""

    root: Path
    name: str
    version: str
    fps: float
    info: dict[str, Any]
    cameras: tuple[Camera, ...]
    tasks: dict[int, str]
    episodes: tuple[EpisodeMetadata, ...]
    shards: tuple[str, ...]
    revision: str | None = None
    """The commit on the Hub that it was downloaded at."""

    def names_of(self, feature: str) -> tuple[str, ...]:
        """Name the dimensions of a feature, from a plain list or `{"motors": [...]}`; empty where unnamed."""
        names: Any = self.info["features"].get(feature, {}).get("names")
        if isinstance(names, dict):
            names = next(iter(cast("dict[str, Any]", names).values()), None)
        return tuple(str(n) for n in cast("list[Any]", names)) if isinstance(names, list) else ()

    def camera(self, key: str) -> Camera | None:
        """Return the camera with this feature key; None where there is none."""
        return next((c for c in self.cameras if c.key == key), None)


def open_dataset(root: Path) -> Dataset:
    """Read the description of the dataset at `root`.

    Raises:
        DatasetError: not a dataset, a version this release cannot read, or meta files that contradict each other.
    """
    info = _read_info(root)
    tasks = _read_tasks(root)
    table = _read_episode_table(root)
    cameras = tuple(_cameras(root, info))
    episodes = _episodes(root, info, cameras, table)
    shards = tuple(sorted({e.shard for e in episodes}))
    _refuse_strays(root, shards)
    return Dataset(
        root=root,
        name=root.resolve().name,
        version=str(info["codebase_version"]),
        fps=float(info["fps"]),
        info=info,
        cameras=cameras,
        tasks=tasks,
        episodes=episodes,
        shards=shards,
    )


def _refuse_strays(root: Path, shards: Iterable[str]) -> None:
    """Refuse shards that no episode names: readers take them in, and fail where they lack the language columns."""
    present = {path.relative_to(root).as_posix() for path in (root / "data").glob("**/*.parquet")}
    strays = sorted(present - set(shards))
    if strays:
        hint = "move it out of data/, where readers take every parquet file, or list its episodes in meta/episodes"
        raise DatasetError("no episode lies in this data shard", where=str(root / strays[0]), hint=hint)


def _read_info(root: Path) -> dict[str, Any]:
    path = root / "meta" / "info.json"
    if not path.is_file():
        hint = "name the folder that holds meta/info.json, data/ and videos/"
        raise DatasetError("not a LeRobot dataset", where=str(root), got="no meta/info.json", hint=hint)
    try:
        info: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as cause:
        raise DatasetError("meta/info.json cannot be read", where=str(path), got=str(cause), hint=_COPY_HINT) from cause
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version not in READABLE:
        old = isinstance(version, str) and version.startswith(("v1", "v2"))
        hint = _V2_HINT if old else f"this release reads {', '.join(READABLE)}; a newer annotator may read it"
        raise DatasetError("dataset version cannot be annotated", where=str(path), got=repr(version), hint=hint)
    _check_info(path, info)
    return cast("dict[str, Any]", info)


def _check_info(path: Path, info: dict[str, Any]) -> None:
    fps, features = info.get("fps"), info.get("features")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not fps > 0:
        raise DatasetError("meta/info.json is incomplete", where=f"{path} fps", got=repr(fps), hint=_COPY_HINT)
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        got = f"{type(features).__name__}, expected one object for each feature"
        raise DatasetError("meta/info.json is incomplete", where=f"{path} features", got=got, hint=_COPY_HINT)
    if not isinstance(info.get("data_path"), str):
        got = repr(info.get("data_path"))
        raise DatasetError("meta/info.json is incomplete", where=f"{path} data_path", got=got, hint=_COPY_HINT)


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a whole parquet file of `meta/`.

    Raises:
        DatasetError: missing, or not readable as parquet.
    """
    try:
        return pq.ParquetFile(path).read(columns=columns)
    except FileNotFoundError as cause:
        hint = f"{_COPY_HINT}; the file is part of it"
        raise DatasetError("a file of the dataset is missing", where=str(path), hint=hint) from cause
    except (pa.ArrowException, OSError) as cause:
        raise damaged(path, cause) from cause


def damaged(path: Path, cause: Exception) -> DatasetError:
    """Return the error of a parquet file that cannot be read."""
    size = path.stat().st_size if path.exists() else 0
    return DatasetError(
        "a parquet file cannot be read",
        where=str(path),
        got=f"{size} bytes, {str(cause).splitlines()[0]}",
        hint="it is truncated or damaged: copy or download it again",
    )


def _read_tasks(root: Path) -> dict[int, str]:
    path = root / "meta" / "tasks.parquet"
    table = read_parquet(path)
    texts = [f.name for f in table.schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    if "task_index" not in table.column_names or not texts:
        got = f"columns {', '.join(table.column_names) or 'none'}"
        hint = "LeRobot writes task_index and, as the pandas index, the text"
        raise DatasetError("meta/tasks.parquet has no task texts", where=str(path), got=got, hint=hint)
    text = "task" if "task" in texts else texts[0]
    return {int(i): t or "" for i, t in zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True)}


def _read_episode_table(root: Path) -> pa.Table:
    folder = root / "meta" / "episodes"
    files = sorted(folder.glob("**/*.parquet"))
    if not files:
        raise DatasetError("no episodes are listed", where=str(folder), got="no parquet file", hint=_COPY_HINT)
    tables = [_without_stats(read_parquet(f)) for f in files]
    table = pa.concat_tables(tables, promote_options="permissive")
    if "episode_index" not in table.column_names:
        got = "no episode_index"
        raise DatasetError("meta/episodes lacks columns", where=str(folder), got=got, hint=_COPY_HINT)
    table = table.sort_by("episode_index")
    indices = table["episode_index"].to_pylist()
    twice = next((index for index, following in pairwise(indices) if index == following), None)
    if twice is not None:
        hint = "each episode has one line in meta/episodes; remove the file that is left over"
        raise DatasetError("an episode is listed twice", where=str(folder), got=f"episode {twice}", hint=hint)
    return table


def _without_stats(table: pa.Table) -> pa.Table:
    return table.select([c for c in table.column_names if not c.startswith("stats/")])


def _cameras(root: Path, info: dict[str, Any]) -> Iterable[Camera]:
    for key, feature in info["features"].items():
        if feature.get("dtype") not in ("video", "image"):
            continue
        shape, names = feature.get("shape"), feature.get("names") or ["height", "width", "channels"]
        if not isinstance(shape, list) or len(cast("list[Any]", shape)) < 2:
            where = f"{root / 'meta/info.json'} {key}"
            raise DatasetError("a camera has no size", where=where, got=f"shape {shape!r}", hint=_COPY_HINT)
        by_name = dict(zip(names, shape, strict=False))
        details = feature.get("info") or feature.get("video_info") or {}
        yield Camera(
            key=key,
            stored=feature["dtype"],
            height_px=int(by_name.get("height", shape[0])),
            width_px=int(by_name.get("width", shape[1])),
            depth=bool(details.get("video.is_depth_map") or details.get("is_depth_map")),
        )


def fill_template(template: str, **fields: object) -> str:
    """Fill a path template of info.json, relative to the root.

    Raises:
        DatasetError: a field it does not have, or a path that leaves the root.
    """
    try:
        path = posixpath.normpath(template.format(**fields))
    except (LookupError, ValueError, AttributeError, TypeError) as cause:
        hint = f"its fields are {', '.join(fields)}"
        raise DatasetError(
            "a path template cannot be filled", where="meta/info.json", got=template, hint=hint
        ) from cause
    if path.startswith(("/", "..")) or "\\" in path or ":" in path.split("/")[0]:
        hint = "data_path and video_path must stay inside the dataset"
        raise DatasetError("a path template leaves the dataset", where="meta/info.json", got=path, hint=hint)
    return path


def _episodes(
    root: Path, info: dict[str, Any], cameras: tuple[Camera, ...], table: pa.Table
) -> tuple[EpisodeMetadata, ...]:
    need = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    videos = [c.key for c in cameras if c.stored == "video"]
    need += [f"videos/{key}/{part}" for key in videos for part in _VIDEO_COLUMNS]
    missing = [c for c in need if c not in table.column_names]
    if missing:
        where, got = str(root / "meta/episodes"), f"no {', '.join(missing)}"
        raise DatasetError("meta/episodes lacks columns", where=where, got=got, hint=_COPY_HINT)
    empty = [c for c in need if table[c].null_count]
    if empty:
        where, got = str(root / "meta/episodes"), f"an empty {empty[0]}"
        raise DatasetError("meta/episodes has gaps", where=where, got=got, hint=_COPY_HINT)
    if videos and not isinstance(info.get("video_path"), str):
        where, got = f"{root / 'meta/info.json'} video_path", repr(info.get("video_path"))
        raise DatasetError("meta/info.json is incomplete", where=where, got=got, hint=_COPY_HINT)
    return tuple(_episode(info, videos, line) for line in table.to_pylist())


_VIDEO_COLUMNS = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")


def _episode(info: dict[str, Any], videos: list[str], line: dict[str, Any]) -> EpisodeMetadata:
    chunk, file = line["data/chunk_index"], line["data/file_index"]
    spans: dict[str, VideoSpan] = {}
    for key in videos:
        chunk_v, file_v, start, stop = (line[f"videos/{key}/{part}"] for part in _VIDEO_COLUMNS)
        path = fill_template(info["video_path"], video_key=key, chunk_index=chunk_v, file_index=file_v)
        spans[key] = VideoSpan(path=path, from_timestamp=float(start), to_timestamp=float(stop))
    return EpisodeMetadata(
        index=int(line["episode_index"]),
        length=int(line["length"]),
        tasks=tuple(line.get("tasks") or ()),
        shard=fill_template(info["data_path"], chunk_index=chunk, file_index=file),
        videos=spans,
    )
