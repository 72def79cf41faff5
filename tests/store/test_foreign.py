"""Language that another tool wrote: kept where nothing is lost, refused where something would be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotator_store.errors import ShardError
from annotator_store.parquet.episode_language import EpisodeRows
from annotator_store.parquet.rewrite import expected_digest, language_digest, prepare_shard, read_rows
from annotator_store.rows import Row

CALL = {"type": "function", "function": {"name": "say", "arguments": {"text": "hi"}}}
ROW: dict[str, Any] = {
    "role": "assistant",
    "content": "reach",
    "style": "subtask",
    "timestamp": float(np.float32(0.1)),
    "camera": None,
    "tool_calls": None,
}
SPEECH: dict[str, Any] = {"role": "assistant", "content": None, "style": None, "camera": None, "tool_calls": [CALL]}
KEPT = [EpisodeRows(start=0, stop=3, rows=None)]


def write(path: Path, persistent: Any, events: Any) -> Path:
    """A shard of three frames whose language columns have whatever types Arrow infers, or are given as arrays."""
    columns = {
        "timestamp": pa.array(np.arange(3, dtype=np.float32) / np.float32(10)),
        "language_persistent": persistent,
        "language_events": events,
    }
    pq.write_table(pa.table({name: column for name, column in columns.items() if column is not None}), path)
    return path


def keep(path: Path) -> tuple[Row, ...]:
    """Rewrite, giving no rows, and read the rows of the one episode."""
    prepare_shard(path, path, KEPT).commit()
    return read_rows(path, [(0, 3)])[0]


EXPECTED = (
    Row(role="assistant", content="reach", style="subtask", timestamp=float(np.float32(0.1))),
    Row(
        role="assistant",
        content=None,
        style=None,
        timestamp=0.0,
        tool_calls=('{"function":{"arguments":{"text":"hi"},"name":"say"},"type":"function"}',),
    ),
)


def test_types_that_arrow_inferred_are_cast_and_the_rows_stay(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", [[ROW]] * 3, [[SPEECH], [], []])
    inferred = pq.read_schema(path)
    assert pa.types.is_float64(inferred.field("language_persistent").type.value_type.field("timestamp").type)
    assert pa.types.is_struct(inferred.field("language_events").type.value_type.field("tool_calls").type.value_type)
    before = language_digest(path, [(0, 3)])
    assert read_rows(path, [(0, 3)])[0] == EXPECTED
    assert keep(path) == EXPECTED
    assert before != language_digest(path, [(0, 3)]) == expected_digest(KEPT, path)


def test_keys_that_a_struct_invented_are_dropped(tmp_path: Path) -> None:
    louder = {"type": "function", "function": {"name": "say", "arguments": {"text": "hey", "volume": 3}}}
    path = write(tmp_path / "x.parquet", [[]] * 3, [[SPEECH], [SPEECH | {"tool_calls": [louder]}], []])
    assert pq.read_table(path)["language_events"][0].as_py()[0]["tool_calls"][0]["function"]["arguments"] == {
        "text": "hi",
        "volume": None,
    }
    calls = [json.loads(row.tool_calls[0]) for row in keep(path) if row.tool_calls]
    assert calls == [CALL, louder]


def test_columns_of_nulls_and_missing_columns_are_empty_lists(tmp_path: Path) -> None:
    assert keep(write(tmp_path / "a.parquet", [[]] * 3, pa.array([[]] * 3, pa.list_(pa.null())))) == ()
    assert keep(write(tmp_path / "b.parquet", [[ROW]] * 3, None)) == EXPECTED[:1]
    assert keep(write(tmp_path / "c.parquet", None, [[SPEECH], [], []])) == EXPECTED[1:]
    path = write(tmp_path / "d.parquet", [[ROW]] * 3, [None, [SPEECH], None])
    assert keep(path)[1].timestamp == float(np.float32(0.1))
    assert pq.read_table(path)["language_events"].to_pylist()[0] == []


def test_null_lists_in_our_own_types_are_not_already_right(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", [[ROW]] * 3, [[SPEECH], [], []])
    keep(path)
    table = pq.read_table(path)
    field = table.schema.field("language_events")
    storage = pa.list_(pa.struct([*list(field.type.value_type)[:4], pa.field("tool_calls", pa.list_(pa.string()))]))
    nulls = pa.nulls(3, storage).cast(field.type)
    pq.write_table(table.set_column(2, field, nulls), path)
    assert pq.read_schema(path).field("language_events") == field
    assert language_digest(path, [(0, 3)]) != expected_digest(KEPT, path)
    keep(path)
    assert language_digest(path, [(0, 3)]) == expected_digest(KEPT, path)
    assert pq.read_table(path)["language_events"].null_count == 0


@pytest.mark.parametrize("text", [pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str)
@pytest.mark.parametrize(
    "lists", [pa.large_list, pa.list_, lambda row: pa.list_(row, 1)], ids=["large", "list", "fixed"]
)
def test_other_kinds_of_lists_and_strings_are_read(tmp_path: Path, text: pa.DataType, lists: Any) -> None:
    row = pa.struct([("role", text), ("content", pa.string()), ("style", pa.string())])
    event = {"role": "user", "content": "wait", "style": "interjection"}
    found = keep(write(tmp_path / "x.parquet", None, pa.array([[event]] * 3, lists(row))))
    times = [float(np.float32(frame) / np.float32(10)) for frame in range(3)]
    assert found == tuple(Row(role="user", content="wait", style="interjection", timestamp=time) for time in times)


def test_persistent_lists_that_differ_by_frame_are_kept_as_they_are(tmp_path: Path) -> None:
    lists = [[ROW], [ROW, ROW | {"content": "grasp"}], []]
    path = write(tmp_path / "x.parquet", lists, [[]] * 3)
    prepare_shard(path, path, KEPT).commit()
    contents = [[row["content"] for row in found] for found in pq.read_table(path)["language_persistent"].to_pylist()]
    assert contents == [["reach"], ["reach", "grasp"], []]


def test_events_on_frames_with_one_timestamp_stay_where_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", [[]] * 3, [[], [SPEECH], [SPEECH | {"role": "user"}]])
    table = pq.read_table(path).set_column(0, "timestamp", pa.array([0.5, 0.5, 0.5], pa.float32()))
    pq.write_table(table, path)
    prepare_shard(path, path, KEPT).commit()
    roles = [[event["role"] for event in found] for found in pq.read_table(path)["language_events"].to_pylist()]
    assert roles == [[], ["assistant"], ["user"]]


LOST: list[tuple[Any, Any, str]] = [
    ([[ROW | {"mood": "glad"}]] * 3, None, "fields that have no place"),
    ([[ROW | {"timestamp": float("nan")}]] * 3, None, "timestamp is no number"),
    ([[ROW | {"role": None}]] * 3, None, "role is no text"),
    ([[ROW | {"content": 7}]] * 3, None, "content is no text"),
    ([[None]] * 3, None, "null or no struct"),
    (["text"] * 3, None, "holds no lists"),
    (None, [[SPEECH | {"tool_calls": ["say hi"]}], [], []], "tool call is not JSON"),
    (None, [[SPEECH | {"tool_calls": "say"}], [], []], "tool_calls is no list"),
    (None, [[SPEECH | {"tool_calls": [{"raw": b"x"}]}], [], []], "tool call is not JSON"),
    (None, [[SPEECH | {"timestamp": 0.1}], [], []], "fields that have no place"),
]


@pytest.mark.parametrize(("persistent", "events", "said"), LOST, ids=[said for _, _, said in LOST])
def test_what_our_columns_cannot_say_is_refused(tmp_path: Path, persistent: Any, events: Any, said: str) -> None:
    path = write(tmp_path / "x.parquet", persistent, events)
    before = path.read_bytes()
    with pytest.raises(ShardError, match=said):
        prepare_shard(path, path, KEPT)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_giving_rows_replaces_what_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", [[ROW | {"mood": "glad"}]] * 3, [[]] * 3)
    prepare_shard(path, path, [EpisodeRows(start=0, stop=3, rows=EXPECTED)]).commit()
    assert read_rows(path, [(0, 3)])[0] == EXPECTED
