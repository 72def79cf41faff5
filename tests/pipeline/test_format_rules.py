"""What readers of the language columns rely on, held on a fully annotated two-camera dataset with pyarrow alone.

Nothing of the project reads here: the schema, the rows and the rules are spelled out once more.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from shutil import copytree
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.lerobot.annotate import STYLES, annotate

REPO = Path(__file__).parents[2]
TOP, WRIST = "observation.images.top", "observation.images.wrist"
PERSISTENT, EVENTS = "language_persistent", "language_events"
NEAR_S = 0.1
"""Readers take a persistent row for one that starts here if it starts this near."""

CALLS = pa.field("tool_calls", pa.list_(pa.json_()))
HEAD = [pa.field("role", pa.string(), nullable=False), pa.field("content", pa.string()), pa.field("style", pa.string())]
CAMERA = pa.field("camera", pa.string())
TYPES = {
    PERSISTENT: pa.list_(pa.struct([*HEAD, pa.field("timestamp", pa.float32(), nullable=False), CAMERA, CALLS])),
    EVENTS: pa.list_(pa.struct([*HEAD, CAMERA, CALLS])),
}
ROLES = {
    PERSISTENT: {"subtask": "assistant", "plan": "assistant", "memory": "assistant", "task_aug": "user"},
    EVENTS: {"interjection": "user", None: "assistant"},
}
"""The role that goes with each style; vqa has both."""


class Frame(NamedTuple):
    """One frame as it is stored. `timestamp` is the float32, widened."""

    episode: int
    timestamp: float
    persistent: list[dict[str, Any]]
    events: list[dict[str, Any]]


class Annotated(NamedTuple):
    """A dataset before and after."""

    before: Path
    after: Path

    def frames(self) -> list[Frame]:
        """Every frame, in order."""
        columns = ["episode_index", "timestamp", PERSISTENT, EVENTS]
        tables = [pq.ParquetFile(path).read(columns) for path in shards(self.after)]
        return [Frame(*row.values()) for table in tables for row in table.to_pylist()]

    def episodes(self) -> dict[int, list[Frame]]:
        """The frames of each episode."""
        found: dict[int, list[Frame]] = {}
        for frame in self.frames():
            found.setdefault(frame.episode, []).append(frame)
        return found

    def info(self) -> dict[str, Any]:
        return json.loads((self.after / "meta/info.json").read_text())


@pytest.fixture(scope="module", params=["two videos", "a video and images"])
def annotated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Annotated:
    folder = tmp_path_factory.mktemp("rules")
    flags = ["--episodes", "2", "--fps", "10", *(["--image-camera"] if "images" in request.param else [])]
    made = Annotated(folder / "before", folder / "after")
    command = [sys.executable, str(REPO / "examples/make_sample.py"), str(made.before), *flags]
    subprocess.run(command, check=True, capture_output=True)
    annotate(copytree(*made))
    return made


def shards(root: Path) -> list[Path]:
    return sorted((root / "data").glob("*/*.parquet"))


def footer(path: Path) -> dict[bytes, bytes]:
    return pq.read_metadata(path).metadata or {}


def says(frame: Frame) -> list[Any]:
    return [json.loads(call) for row in frame.events for call in row["tool_calls"] or ()]


def of(rows: list[dict[str, Any]], style: str | None) -> list[dict[str, Any]]:
    return [row for row in rows if row["style"] == style]


# 1, 2, 3: columns


def test_every_style_is_there_in_its_own_column(annotated: Annotated) -> None:
    frames = annotated.frames()
    lasting = {row["style"] for frame in frames for row in frame.persistent}
    events = {row["style"] for frame in frames for row in frame.events}
    assert lasting == set(ROLES[PERSISTENT])
    assert events == {*ROLES[EVENTS], "vqa"}
    assert lasting | events == STYLES


def test_every_shard_has_both_columns_and_all_have_one_schema(annotated: Annotated) -> None:
    assert len(shards(annotated.after)) == 2
    first, *others = [pq.ParquetFile(path).schema_arrow for path in shards(annotated.after)]
    assert all(first.equals(other) for other in others)
    for name, expected in TYPES.items():
        assert first.field(name).type == expected
        assert first.names.count(name) == 1


def test_a_tool_call_is_one_json_object_kept_as_text_that_is_marked_as_json(annotated: Annotated) -> None:
    for path in shards(annotated.after):
        schema = pq.ParquetFile(path).schema
        leaves = [schema.column(i) for i in range(len(schema.names)) if ".tool_calls." in schema.column(i).path]
        assert [leaf.physical_type for leaf in leaves] == ["BYTE_ARRAY"] * 2
        assert {leaf.path.split(".")[0] for leaf in leaves} == {PERSISTENT, EVENTS}
    calls = [call for frame in annotated.frames() for call in says(frame)]
    assert calls and all(isinstance(call, dict) for call in calls)


def test_the_metadata_that_readers_take_images_from_is_kept(annotated: Annotated) -> None:
    for before, after in zip(shards(annotated.before), shards(annotated.after), strict=True):
        kept = {key: value for key, value in footer(before).items() if key != b"ARROW:schema"}
        assert b"huggingface" in kept
        assert kept.items() <= footer(after).items()


def test_all_other_columns_and_row_groups_are_as_they_were(annotated: Annotated) -> None:
    for before, after in zip(shards(annotated.before), shards(annotated.after), strict=True):
        was, now = pq.ParquetFile(before), pq.ParquetFile(after)
        assert now.read().drop_columns([PERSISTENT, EVENTS]).equals(was.read())
        sizes = [[f.metadata.row_group(i).num_rows for i in range(f.num_row_groups)] for f in (was, now)]
        assert sizes[0] == sizes[1]


def test_nothing_but_shards_lies_under_data(annotated: Annotated) -> None:
    found = [[p.relative_to(root) for p in sorted((root / "data").rglob("*"))] for root in annotated]
    assert found[0] == found[1]


def test_the_info_declares_both_columns_and_the_tool_and_is_else_as_it_was(annotated: Annotated) -> None:
    before, after = json.loads((annotated.before / "meta/info.json").read_text()), annotated.info()
    declared = {"dtype": "language", "shape": [1], "names": None}
    assert after["features"] == before["features"] | {PERSISTENT: declared, EVENTS: declared}
    (say,) = (tool for tool in after["tools"] if tool["function"]["name"] == "say")
    parameters = say["function"]["parameters"]
    assert (say["type"], parameters["type"], parameters["required"]) == ("function", "object", ["text"])
    assert parameters["properties"]["text"]["type"] == "string"
    same = [{k: v for k, v in info.items() if k not in ("features", "tools")} for info in (before, after)]
    assert same[0] == same[1]


# 4, 6: when


def test_the_persistent_rows_are_the_same_on_every_frame_of_an_episode(annotated: Annotated) -> None:
    for frames in annotated.episodes().values():
        assert frames[0].persistent
        assert all(frame.persistent == frames[0].persistent for frame in frames)


def test_every_persistent_time_is_exactly_that_of_a_frame_of_its_episode(annotated: Annotated) -> None:
    for frames in annotated.episodes().values():
        clock = np.array([frame.timestamp for frame in frames], np.float32).tobytes()
        times = {np.float32(row["timestamp"]).tobytes() for row in frames[0].persistent}
        assert times <= {clock[i : i + 4] for i in range(0, len(clock), 4)}


def test_no_two_rows_of_one_style_are_at_one_time_or_too_near(annotated: Annotated) -> None:
    for frames in annotated.episodes().values():
        for style in ("subtask", "plan", "memory"):
            times = sorted(row["timestamp"] for row in of(frames[0].persistent, style))
            assert len(times) > 1
            assert all(b - a > 2 * NEAR_S for a, b in pairwise(times))


def test_one_subtask_is_active_at_every_frame(annotated: Annotated) -> None:
    for frames in annotated.episodes().values():
        assert min(row["timestamp"] for row in of(frames[0].persistent, "subtask")) == frames[0].timestamp


def test_wordings_of_the_task_differ_and_are_all_at_the_first_frame(annotated: Annotated) -> None:
    for frames in annotated.episodes().values():
        wordings = of(frames[0].persistent, "task_aug")
        assert {row["timestamp"] for row in wordings} == {frames[0].timestamp}
        assert len({row["content"] for row in wordings}) == len(wordings)


# 5: what belongs together


def test_every_interjection_has_its_reply_on_its_frame_and_a_plan_at_its_time(annotated: Annotated) -> None:
    asked = [frame for frame in annotated.frames() if of(frame.events, "interjection")]
    assert asked
    for frame in asked:
        assert len(of(frame.events, "interjection")) == len(says(frame)) == 1
        plans = of(frame.persistent, "plan")
        assert [row["timestamp"] for row in plans].count(frame.timestamp) == 1


def test_the_robot_says_one_thing_at_a_time_at_first_and_in_reply(annotated: Annotated) -> None:
    for frames in annotated.episodes().values():
        speaking = [frame for frame in frames if says(frame)]
        assert [len(says(frame)) for frame in speaking] == [1] * len(speaking)
        expected = [frame for frame in frames if frame is frames[0] or of(frame.events, "interjection")]
        assert speaking == expected


def test_a_say_is_a_function_call_with_one_text(annotated: Annotated) -> None:
    for call in (call for frame in annotated.frames() for call in says(frame)):
        text = call["function"]["arguments"]["text"]
        assert isinstance(text, str) and text.strip()
        assert call == {"type": "function", "function": {"name": "say", "arguments": {"text": text}}}


# the rows themselves


def test_a_row_has_the_role_and_the_camera_of_its_style_and_says_something(annotated: Annotated) -> None:
    for column, row in _rows(annotated):
        style = row["style"]
        assert row["role"] in (("user", "assistant") if style == "vqa" else (ROLES[column][style],))
        assert (row["camera"] in (TOP, WRIST)) if style == "vqa" else row["camera"] is None
        assert (row["content"] is None) == (style is None) == bool(row["tool_calls"])
        assert style is None or row["content"].strip()


def test_vqa_is_one_question_and_one_answer_for_a_camera_and_one_camera_for_a_frame(annotated: Annotated) -> None:
    asked: Counter[str] = Counter()
    for frame in annotated.frames():
        rows = of(frame.events, "vqa")
        assert sorted(row["role"] for row in rows) in ([], ["assistant", "user"])
        assert len({row["camera"] for row in rows}) <= 1
        asked.update(row["camera"] for row in rows if row["role"] == "user")
    assert asked[TOP] == asked[WRIST] > 0


def test_rows_stand_in_the_order_that_readers_are_promised(annotated: Annotated) -> None:
    for frame in annotated.frames():
        lasting = [(row["timestamp"], row["style"], row["role"]) for row in frame.persistent]
        events = [(row["style"] or "", row["role"], row["camera"] or "") for row in frame.events]
        assert lasting == sorted(lasting)
        assert events == sorted(events)


def _rows(annotated: Annotated) -> Iterator[tuple[str, dict[str, Any]]]:
    for frames in annotated.episodes().values():
        yield from ((PERSISTENT, row) for row in frames[0].persistent)
        yield from ((EVENTS, row) for frame in frames for row in frame.events)
