"""Clean language rows of every style, and shards that hold any rows at all, also such as our own writer refuses."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from annotator_store.log.events import AnnotatedRow
from annotator_store.parquet.columns import language_field
from annotator_store.rows import EVENTS, PERSISTENT, Column, Row, is_persistent
from annotator_store.validation.run import CameraSize, RuleContext

TOP, WRIST = "observation.images.top", "observation.images.wrist"
WIDTH, HEIGHT = 32, 24
FRAMES = 40
CLOCK = (np.arange(FRAMES) / 10).astype(np.float32)
KNOWN = RuleContext(
    cameras=tuple(CameraSize(camera=camera, width_px=WIDTH, height_px=HEIGHT) for camera in (TOP, WRIST)),
    subtasks=("grip the cube", "lift the cube", "open the hand"),
    memories=("I gripped the cube.", "I lifted the cube."),
)

Placed = tuple[Column, Row]
Episodes = dict[int, list[Placed]]


def at(frame: int) -> float:
    """The exact timestamp of a frame."""
    return float(CLOCK[frame])


def persistent(style: str, frame: int, content: str | None, **changes: Any) -> Placed:
    """A persistent row, by its usual role."""
    role = "user" if style == "task_aug" else "assistant"
    row = Row(role=role, content=content, style=style, timestamp=at(frame))
    return PERSISTENT, msgspec.structs.replace(row, **changes)


def say(frame: int, text: str) -> Placed:
    """A speech atom."""
    call = {"type": "function", "function": {"name": "say", "arguments": {"text": text}}}
    return speech(frame, json.dumps(call))


def speech(frame: int, *calls: str) -> Placed:
    """A row of speech with any calls."""
    return EVENTS, Row(role="assistant", content=None, style=None, timestamp=at(frame), tool_calls=calls)


def event(style: str, role: str, frame: int, content: str, camera: str | None = None) -> Placed:
    """An event row."""
    return EVENTS, Row(role=role, content=content, style=style, timestamp=at(frame), camera=camera)


def pair(frame: int, camera: str | None, answer: Any) -> list[Placed]:
    """A question and its answer; an answer that is no text is written as JSON."""
    text = answer if isinstance(answer, str) else json.dumps(answer, sort_keys=True)
    return [event("vqa", "user", frame, "What is there?", camera), event("vqa", "assistant", frame, text, camera)]


def bbox(*edges: Any) -> dict[str, Any]:
    """A `bbox` answer with one box."""
    return {"detections": [{"label": "cube", "bbox_format": "xyxy", "bbox": list(edges)}]}


def point(x: Any, y: Any) -> dict[str, Any]:
    """A `keypoint` answer."""
    return {"label": "cube", "point_format": "xy", "point": [x, y]}


def clean_rows() -> list[Placed]:
    """One episode with every style, both cameras and all five shapes of answers; no rule finds anything."""
    return [
        *(persistent("subtask", frame, text) for frame, text in zip((0, 15, 30), KNOWN.subtasks, strict=True)),
        *(
            persistent("plan", frame, f"1. {text}\n2. done")
            for frame, text in zip((0, 15, 30), KNOWN.subtasks, strict=True)
        ),
        *(persistent("memory", frame, text) for frame, text in zip((15, 30), KNOWN.memories, strict=True)),
        *(persistent("motion", frame, "closes the hand") for frame in (0, 20)),
        *(persistent("task_aug", 0, f"lift the cube, {word}") for word in ("please", "now")),
        say(0, "On it."),
        event("interjection", "user", 15, "Wait, the other one."),
        say(15, "The other one, then."),
        *pair(5, TOP, bbox(0, 0, WIDTH, HEIGHT)),
        *pair(6, WRIST, point(WIDTH - 1, 0.5)),
        *pair(10, TOP, {"label": "cube", "count": 2}),
        *pair(11, WRIST, {"label": "banana, [1,]", "attribute": "color", "value": "red"}),
        *pair(20, TOP, {"subject": "cube", "relation": "left of", "object": "bowl"}),
        *pair(21, WRIST, {"label": "cube", "count": 0, "note": "none left"}),
        event("trace", "assistant", 25, "[[1, 2], [3, 4]]", TOP),
    ]


def clean_episodes() -> Episodes:
    """Two clean episodes, as 3 and 7."""
    return {3: clean_rows(), 7: clean_rows()}


def annotated(episodes: Mapping[int, Iterable[Placed]], call: str | None = None) -> dict[int, list[AnnotatedRow]]:
    """The same rows as `check_rows` takes them."""
    return {index: [AnnotatedRow(row=row, call=call) for _, row in placed] for index, placed in episodes.items()}  # type: ignore[arg-type]


def write_frames(path: Path, episodes: Iterable[int]) -> Path:
    """A shard of frames without language columns."""
    pq.write_table(frames_table(list(episodes)), path)
    return path


def frames_table(episodes: Sequence[int]) -> pa.Table:
    """The index columns of some episodes."""
    return pa.table(
        {
            "episode_index": pa.array(np.repeat(episodes, FRAMES), pa.int64()),
            "frame_index": pa.array(np.tile(np.arange(FRAMES), len(episodes)), pa.int64()),
            "timestamp": pa.array(np.tile(CLOCK, len(episodes))),
        }
    )


Typed = Callable[[pa.Table], pa.Table]


def write_shard(path: Path, episodes: Episodes, *, row_group: int = FRAMES, change: Typed | None = None) -> Path:
    """A shard whose language columns hold these rows, wherever they say they stand, and whatever they say."""
    table = frames_table(list(episodes))
    for column in (PERSISTENT, EVENTS):
        lists = [_list(column, placed, frame) for placed in episodes.values() for frame in range(FRAMES)]
        kind = language_field(column).type
        storage = pa.list_(pa.struct([_plain(field) for field in kind.value_type]))
        table = table.append_column(column, pa.array(lists, storage).cast(kind))
    pq.write_table(change(table) if change else table, path, row_group_size=row_group)
    return path


def _plain(field: pa.Field) -> pa.Field:
    return pa.field(field.name, pa.list_(pa.string())) if field.name == "tool_calls" else field.with_nullable(True)


def _list(column: Column, placed: Iterable[Placed], frame: int) -> list[dict[str, Any]]:
    here = [row for where, row in placed if where == column and (column == PERSISTENT or row.timestamp == at(frame))]
    return [msgspec.structs.asdict(row) for row in here]


def routed(row: Row) -> Placed:
    """A row in the column of its style."""
    return (PERSISTENT if is_persistent(row.style) else EVENTS), row
