"""The columns: their types, and broadcasting in blocks."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotator_store.parquet import columns
from annotator_store.parquet.columns import Spread, broadcast, language_field, physical_field, with_language
from annotator_store.rows import Column, Row

SAY = '{"type":"function"}'


def persistent(text: str) -> Row:
    return Row(role="assistant", content=text, style="subtask", timestamp=0.5)


def spoken(text: str | None) -> Row:
    if text is None:
        return Row(role="assistant", content=None, style=None, timestamp=0.0, tool_calls=(SAY, SAY))
    return Row(role="user", content=text, style="vqa", timestamp=0.0, camera="observation.images.top")


@pytest.mark.parametrize("column", ["language_persistent", "language_events"])
def test_the_field_is_what_lerobot_declares(column: Column) -> None:
    timestamp = [pa.field("timestamp", pa.float32(), nullable=False)] if column == "language_persistent" else []
    text = pa.string()
    expected = pa.list_(
        pa.struct(
            [
                pa.field("role", text, nullable=False),
                pa.field("content", text),
                pa.field("style", text),
                *timestamp,
                pa.field("camera", text),
                pa.field("tool_calls", pa.list_(pa.json_())),
            ]
        )
    )
    field = language_field(column)
    assert (field.name, field.type, field.nullable) == (column, expected, True)


def test_the_fields_go_to_the_end_or_where_they_were() -> None:
    plain = pa.schema([("a", pa.int8()), ("b", pa.int8())])
    assert with_language(plain).names == ["a", "b", "language_persistent", "language_events"]
    there = pa.schema([("language_events", pa.list_(pa.null())), ("a", pa.int8())])
    assert with_language(there).names == ["language_events", "a", "language_persistent"]
    assert with_language(there).field(0) == language_field("language_events")
    assert with_language(there, physical=True).field(0) == physical_field("language_events")


lists_of_rows = st.lists(st.sampled_from([None, "a", "b", "émoji 🦾"]).map(spoken), max_size=4).map(tuple)
spreads = st.lists(st.builds(Spread, lists_of_rows, st.integers(0, 90)), max_size=6)


@settings(deadline=None)
@given(spreads=spreads, per_block=st.sampled_from([1, 7, 64, 1 << 13]), in_memory=st.sampled_from([1, 100, 1 << 20]))
def test_a_broadcast_is_each_list_on_its_frames_whatever_the_block(
    spreads: list[Spread], per_block: int, in_memory: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "VALUES_PER_BLOCK", per_block)
        patch.setattr(columns, "VALUES_IN_MEMORY", in_memory)
        found = broadcast(spreads, "language_events")
    expected = [[as_dict(row) for row in spread.rows] for spread in spreads for _ in range(spread.frames)]
    assert found.to_pylist() == expected
    assert found.type == physical_field("language_events").type
    found.validate(full=True)


def as_dict(row: Row) -> dict[str, object]:
    calls = None if row.tool_calls is None else list(row.tool_calls)
    return {"role": row.role, "content": row.content, "style": row.style, "camera": row.camera, "tool_calls": calls}


def test_nothing_broadcasts_to_an_empty_column() -> None:
    assert len(broadcast([], "language_persistent")) == 0
    assert broadcast([Spread((), 3)], "language_persistent").to_pylist() == [[], [], []]


def test_a_long_stretch_is_one_block_referred_to_many_times() -> None:
    found = broadcast([Spread((persistent("a"), persistent("b")), 1_000_000)], "language_persistent")
    assert len(found) == 1_000_000
    assert found.nbytes // found.num_chunks < 1 << 20
    distinct = {chunk.values.field("timestamp").buffers()[1].address for chunk in found.iterchunks()}
    assert len(distinct) == 1
    assert found[999_999].as_py()[1]["content"] == "b"


def test_all_chunks_share_one_dictionary() -> None:
    found = broadcast([Spread((persistent("a"),), 20_000), Spread((persistent("b"),), 20_000)], "language_persistent")
    assert found.num_chunks > 2
    dictionaries = [chunk.values.field("content").dictionary for chunk in found.iterchunks()]
    assert all(dictionary.equals(pa.array(["a", "b"])) for dictionary in dictionaries)
