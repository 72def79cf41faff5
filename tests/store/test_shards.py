"""Shards: what is written, what is left alone, and what is refused."""

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotator_store.atomic_files import LEFTOVER_SUFFIX, sweep_leftovers
from annotator_store.errors import ShardError
from annotator_store.parquet import parallel
from annotator_store.parquet import rewrite as shards
from annotator_store.parquet.episode_language import EpisodeRows
from annotator_store.parquet.parallel import ShardJob, prepare_shards
from annotator_store.parquet.rewrite import expected_digest, language_digest, prepare_shard, read_rows
from annotator_store.rows import Row

CR5 = Path(__file__).parents[1] / "data" / "cr5_banana" / "data" / "chunk-000" / "file-000.parquet"
SAY = json.dumps({"function": {"arguments": {"text": "hi"}, "name": "say"}, "type": "function"})
HUGGINGFACE = b'{"info": {"features": {"timestamp": {"dtype": "float32", "_type": "Value"}}}}'
LANGUAGE = ("language_persistent", "language_events")


def stamp(frame: int) -> float:
    """The timestamp of a frame at 10 Hz, as LeRobot stores it."""
    return float(np.float32(frame / 10))


def sample_rows(name: str, last: int = 4) -> tuple[Row, ...]:
    """Rows of every kind, for an episode of at least `last + 1` frames, in the order they are written."""
    return (
        Row(role="user", content=f"{name}: do it", style="task_aug", timestamp=0.0),
        Row(role="assistant", content=f"{name}: reach", style="subtask", timestamp=0.0),
        Row(role="assistant", content=f"{name}: grasp", style="subtask", timestamp=stamp(2)),
        Row(role="assistant", content=None, style=None, timestamp=0.0, tool_calls=(SAY,)),
        Row(role="user", content=f"{name}: faster", style="interjection", timestamp=stamp(last)),
        Row(
            role="assistant",
            content='{"count": 1}',
            style="vqa",
            timestamp=stamp(last),
            camera="observation.images.top",
        ),
        Row(
            role="user",
            content=f"{name}: how many?",
            style="vqa",
            timestamp=stamp(last),
            camera="observation.images.top",
        ),
    )


def in_order(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Sort as FORMAT says, written once more: persistent by (timestamp, style, role), events by frame, then so."""
    persistent = {"subtask", "plan", "memory", "motion", "task_aug"}

    def key(row: Row) -> tuple[Any, ...]:
        full = (row.timestamp, row.style or "", row.role, row.camera or "", row.content or "", row.tool_calls or ())
        return (row.style not in persistent, *full, row.content is not None)

    return tuple(sorted(rows, key=key))


def frames_table(lengths: Sequence[int], **extra: pa.Array) -> pa.Table:
    """Index columns and a state for episodes of these lengths; `extra` columns go in front of the last."""
    total = sum(lengths)
    frame = np.concatenate([np.arange(length) for length in lengths] or [np.arange(0)])
    columns: dict[str, Any] = {
        "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(total * 3), pa.float32()), 3),
        "timestamp": pa.array((frame / 10).astype(np.float32)),
        "frame_index": pa.array(frame, pa.int64()),
        **extra,
        "episode_index": pa.array(np.repeat(np.arange(len(lengths)), lengths), pa.int64()),
    }
    return pa.table(columns).replace_schema_metadata({b"huggingface": HUGGINGFACE})


def write_groups(path: Path, table: pa.Table, groups: Sequence[int], **options: Any) -> Path:
    """Write a shard with these row groups."""
    with pq.ParquetWriter(path, table.schema, **options) as writer:
        start = 0
        for group in groups:
            writer.write_table(table.slice(start, group), row_group_size=max(1, group))
            start += group
    return path


def episodes_of(lengths: Sequence[int], rows: Sequence[tuple[Row, ...] | None]) -> list[EpisodeRows]:
    stops = np.cumsum(lengths).tolist()
    return [
        EpisodeRows(start=stop - length, stop=stop, rows=mine)
        for length, stop, mine in zip(lengths, stops, rows, strict=True)
    ]


def bounds_of(episodes: Sequence[EpisodeRows]) -> list[tuple[int, int]]:
    return [(episode.start, episode.stop) for episode in episodes]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Three episodes of 5, 7 and 6 frames, a row group each."""
    return write_groups(tmp_path / "file-000.parquet", frames_table([5, 7, 6]), [5, 7, 6])


THREE = [5, 7, 6]


def three(*rows: tuple[Row, ...] | None) -> list[EpisodeRows]:
    return episodes_of(THREE, rows)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def leftovers(folder: Path) -> list[str]:
    return [name for name in names_in(folder) if name.endswith(LEFTOVER_SUFFIX)]


# --- what is written ---------------------------------------------------------------------------------------------


def test_a_written_shard_keeps_every_fact_of_the_format_as_plain_pyarrow_reads_it(shard: Path) -> None:
    prepare_shard(shard, shard, three(sample_rows("a"), (), sample_rows("c"))).commit()
    table = pq.read_table(shard)
    assert table.column_names[-2:] == list(LANGUAGE)
    persistent, events = (table.schema.field(name).type.value_type for name in LANGUAGE)
    calls = pa.list_(pa.json_())
    text = pa.string()
    assert [(f.name, f.type, f.nullable) for f in persistent] == [
        ("role", text, False),
        ("content", text, True),
        ("style", text, True),
        ("timestamp", pa.float32(), False),
        ("camera", text, True),
        ("tool_calls", calls, True),
    ]
    assert [(f.name, f.type, f.nullable) for f in events] == [
        ("role", text, False),
        ("content", text, True),
        ("style", text, True),
        ("camera", text, True),
        ("tool_calls", calls, True),
    ]
    frames = table.to_pylist()
    for frame in frames[:5]:
        assert [row["content"] for row in frame["language_persistent"]] == ["a: reach", "a: do it", "a: grasp"]
        assert [row["timestamp"] for row in frame["language_persistent"]] == [0.0, 0.0, float(np.float32(0.2))]
        assert {row["camera"] for row in frame["language_persistent"]} == {None}
        assert {row["tool_calls"] for row in frame["language_persistent"]} == {None}
    assert frames[0]["language_events"] == [
        {"role": "assistant", "content": None, "style": None, "camera": None, "tool_calls": [SAY]}
    ]
    assert [frame["language_events"] for frame in frames[1:4]] == [[], [], []]
    assert [(row["style"], row["role"], row["camera"]) for row in frames[4]["language_events"]] == [
        ("interjection", "user", None),
        ("vqa", "assistant", "observation.images.top"),
        ("vqa", "user", "observation.images.top"),
    ]
    assert all(frame["language_persistent"] == frame["language_events"] == [] for frame in frames[5:12])
    assert all(frame[name] is not None for frame in frames for name in LANGUAGE)


def test_tool_calls_are_one_json_string_each_in_the_file(shard: Path) -> None:
    prepare_shard(shard, shard, three(sample_rows("a"), (), ())).commit()
    plain = pq.ParquetFile(shard, arrow_extensions_enabled=False)
    leaf = plain.schema.column(len(plain.schema) - 1)
    assert (leaf.path, leaf.physical_type, leaf.logical_type.type) == (
        "language_events.list.element.tool_calls.list.element",
        "BYTE_ARRAY",
        "STRING",
    )


def test_every_shard_has_the_same_language_schema_even_with_no_rows(shard: Path, tmp_path: Path) -> None:
    silent = tmp_path / "silent.parquet"
    prepare_shard(shard, silent, three((), (), ())).commit()
    empty = write_groups(tmp_path / "empty.parquet", frames_table([]), [])
    prepare_shard(empty, empty, []).commit()
    prepare_shard(shard, shard, three(sample_rows("a"), None, None)).commit()
    fields = [[pq.read_schema(path).field(name) for name in LANGUAGE] for path in (silent, empty, shard)]
    assert fields[0] == fields[1] == fields[2]
    assert pq.read_metadata(silent).schema.to_arrow_schema().equals(pq.read_metadata(shard).schema.to_arrow_schema())


def test_what_is_written_is_what_is_read(shard: Path) -> None:
    episodes = three(sample_rows("a"), sample_rows("b", 6), ())
    image = prepare_shard(shard, shard, episodes).commit()
    assert read_rows(shard, bounds_of(episodes)) == (in_order(sample_rows("a")), in_order(sample_rows("b", 6)), ())
    assert (image.frames, image.episodes) == (18, 3)


def test_the_order_of_the_rows_given_does_not_matter(shard: Path, tmp_path: Path) -> None:
    forth, back = tmp_path / "forth.parquet", tmp_path / "back.parquet"
    rows = sample_rows("a")
    prepare_shard(shard, forth, three(rows, (), ())).commit()
    prepare_shard(shard, back, three(rows[::-1], (), ())).commit()
    assert forth.read_bytes() == back.read_bytes()


@pytest.mark.parametrize("groups", [[18], [5, 7, 6], [3, 3, 12], [1] * 18, [0, 18, 0], [4, 14]], ids=str)
def test_row_groups_may_hold_many_episodes_or_cut_one(tmp_path: Path, groups: list[int]) -> None:
    path = write_groups(tmp_path / "file.parquet", frames_table(THREE), groups)
    episodes = three(sample_rows("a"), sample_rows("b", 6), sample_rows("c", 5))
    prepare_shard(path, path, episodes).commit()
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == groups
    assert read_rows(path, bounds_of(episodes)) == tuple(in_order(e.rows or ()) for e in episodes)
    assert language_digest(path, bounds_of(episodes)) == expected_digest(episodes)


def test_a_real_shard_of_twelve_episodes_in_one_row_group(tmp_path: Path) -> None:
    path = Path(shutil.copy(CR5, tmp_path))
    before = pq.read_table(path)
    index = before["episode_index"].to_numpy()
    edges = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(index)]
    times = before["timestamp"].to_numpy()
    episodes = [
        EpisodeRows(
            start=a,
            stop=b,
            rows=(
                Row(role="assistant", content=f"reach {a}", style="subtask", timestamp=float(times[a])),
                Row(role="assistant", content=None, style=None, timestamp=float(times[b - 1]), tool_calls=(SAY,)),
            ),
        )
        for a, b in pairwise(edges)
    ]
    image = prepare_shard(path, path, episodes).commit()
    assert (image.episodes, image.frames) == (12, 2702)
    after = pq.read_table(path)
    assert after.select(before.column_names).equals(before)
    starts = [f"reach {start}" for start in np.repeat(edges[:-1], np.diff(edges))]
    assert [frame[0]["content"] for frame in after["language_persistent"].to_pylist()] == starts
    spoken = [i for i, found in enumerate(after["language_events"].to_pylist()) if found]
    assert spoken == [stop - 1 for stop in edges[1:]]


cameras = st.sampled_from(["observation.images.top", "observation.images.wrist"])
objects = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=3)
stamps = st.integers(0, 4).map(stamp)
texts = st.text(max_size=8)
valid_rows = st.lists(
    st.builds(Row, role=texts, content=texts, style=st.sampled_from(["subtask", "plan", "memory"]), timestamp=stamps)
    | st.builds(Row, role=texts, content=texts, style=st.just("interjection"), timestamp=stamps)
    | st.builds(
        Row, role=texts, content=texts, style=st.sampled_from(["vqa", "trace"]), timestamp=stamps, camera=cameras
    )
    | st.builds(
        Row,
        role=st.just("assistant"),
        content=st.none(),
        style=st.none(),
        timestamp=stamps,
        tool_calls=st.lists(objects.map(json.dumps), min_size=1, max_size=2).map(tuple),
    ),
    max_size=6,
).map(tuple)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=valid_rows, second=valid_rows, cut=st.integers(0, 18))
def test_any_valid_rows_are_read_back_in_order(
    tmp_path: Path, first: tuple[Row, ...], second: tuple[Row, ...], cut: int
) -> None:
    path = write_groups(tmp_path / "any.parquet", frames_table(THREE), [cut, 18 - cut])
    episodes = three(first, (), second)
    image = prepare_shard(path, path, episodes).commit()
    assert read_rows(path, bounds_of(episodes)) == (in_order(first), (), in_order(second))
    assert image.language == expected_digest(episodes) == language_digest(path, bounds_of(episodes))


# --- what comes back as it was -----------------------------------------------------------------------------------


def odd_columns(total: int) -> dict[str, pa.Array]:
    """Columns of every kind that a dataset may have beside the usual ones."""
    images = [{"bytes": os.urandom(40), "path": f"frame-{i}.png"} if i % 5 else None for i in range(total)]
    return {
        "observation.images.top": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "matrix": pa.array([[[float(i)] * 2] * 3 for i in range(total)], pa.list_(pa.list_(pa.float64(), 2))),
        "word": pa.array([f"w{i % 3}" for i in range(total)]).dictionary_encode(),
        "taken": pa.array(range(total), pa.timestamp("ns", "UTC")),
        "took": pa.array(range(total), pa.duration("us")),
        "price": pa.array([Decimal(i) / 100 for i in range(total)], pa.decimal128(9, 2)),
        "half": pa.array(np.arange(total, dtype=np.float16)),
        "large": pa.array([None if i % 2 else "x" * i for i in range(total)], pa.large_string()),
        "map": pa.array([[(f"k{i}", i)] for i in range(total)], pa.map_(pa.string(), pa.int32())),
        "json": pa.array([f'{{"i": {i}}}' for i in range(total)], pa.json_()),
        "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([os.urandom(16)] * total, pa.binary(16))),
        "nothing": pa.nulls(total),
        "language_persistent_notes": pa.array(["mine"] * total),
    }


def test_every_other_column_and_pair_of_metadata_comes_back(tmp_path: Path) -> None:
    table = frames_table(THREE, **odd_columns(18))
    table = table.replace_schema_metadata(
        {b"huggingface": HUGGINGFACE, b"pandas": b"{}", b"mine \xc3\xa9": b"\x00\xff"}
    )
    path = write_groups(tmp_path / "file.parquet", table, [4, 0, 14])
    before, kept = pq.read_metadata(path), pq.read_table(path)
    prepare_shard(path, path, three(sample_rows("a"), (), ())).commit()
    after, found = pq.read_metadata(path), pq.read_table(path)
    for name in kept.column_names:
        assert found[name].equals(kept[name]), name
        assert found.schema.field(name).equals(kept.schema.field(name), check_metadata=True), name
    assert found.column_names == [*kept.column_names, *LANGUAGE]
    assert without_schema(after) == without_schema(before)
    assert found.schema.metadata == kept.schema.metadata
    assert row_group_sizes(after) == row_group_sizes(before)


def without_schema(metadata: Any) -> dict[bytes, bytes]:
    return {key: value for key, value in metadata.metadata.items() if key != b"ARROW:schema"}


def row_group_sizes(metadata: Any) -> list[int]:
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


def chunk_facts(path: Path) -> dict[str, tuple[Any, ...]]:
    group = pq.read_metadata(path).row_group(0)
    chunks = [group.column(index) for index in range(group.num_columns)]
    return {
        chunk.path_in_schema: (
            chunk.compression,
            chunk.has_dictionary_page,
            chunk.encodings,
            chunk.is_stats_set,
            chunk.has_offset_index,
            chunk.num_values,
        )
        for chunk in chunks
        if not chunk.path_in_schema.startswith(LANGUAGE)
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "none", "use_dictionary": False},
        {"compression": {"timestamp": "zstd", "frame_index": "gzip"}, "use_dictionary": ["frame_index"]},
        {"write_statistics": ["timestamp"], "write_page_index": True},
        {"use_dictionary": False, "column_encoding": {"timestamp": "BYTE_STREAM_SPLIT"}, "compression": "lz4"},
        {"use_compliant_nested_type": False, "version": "1.0", "store_schema": False},
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_codecs_dictionaries_and_statistics_come_back(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write_groups(tmp_path / "file.parquet", frames_table(THREE), [18], **options)
    before = chunk_facts(path)
    prepare_shard(path, path, three(sample_rows("a"), (), ())).commit()
    assert chunk_facts(path) == before


def test_the_language_columns_take_the_codec_of_the_shard(tmp_path: Path) -> None:
    path = write_groups(tmp_path / "file.parquet", frames_table(THREE), [18], compression="zstd")
    prepare_shard(path, path, three((), (), ())).commit()
    group = pq.read_metadata(path).row_group(0)
    assert {group.column(index).compression for index in range(group.num_columns)} == {"ZSTD"}


def test_language_columns_are_replaced_where_they_stand(tmp_path: Path) -> None:
    table = frames_table(THREE)
    path = write_groups(tmp_path / "file.parquet", table, THREE)
    prepare_shard(path, path, three(sample_rows("a"), (), ())).commit()
    moved = pq.read_table(path).select(["timestamp", "language_events", "episode_index", "language_persistent"])
    path = write_groups(tmp_path / "moved.parquet", moved, THREE)
    prepare_shard(path, path, three((), sample_rows("b"), ())).commit()
    assert pq.read_schema(path).names == moved.column_names
    assert read_rows(path, [(0, 5), (5, 12)]) == ((), in_order(sample_rows("b")))


def test_rewriting_what_is_already_right_gives_the_same_bytes(shard: Path) -> None:
    episodes = three(sample_rows("a"), (), sample_rows("c"))
    prepare_shard(shard, shard, episodes).commit()
    before = shard.read_bytes()
    prepare_shard(shard, shard, episodes).commit()
    assert shard.read_bytes() == before


def test_an_episode_without_rows_given_keeps_what_it_has(shard: Path) -> None:
    prepare_shard(shard, shard, three(sample_rows("a"), sample_rows("b"), None)).commit()
    before = pq.read_table(shard).select(LANGUAGE)
    episodes = three(None, sample_rows("new"), None)
    planned = expected_digest(episodes, shard)
    image = prepare_shard(shard, shard, episodes).commit()
    after = pq.read_table(shard).select(LANGUAGE)
    assert after.slice(0, 5).equals(before.slice(0, 5))
    assert after.slice(12).equals(before.slice(12))
    assert read_rows(shard, [(5, 12), (0, 5)]) == (in_order(sample_rows("new")), in_order(sample_rows("a")))
    assert image.language == planned == language_digest(shard, bounds_of(episodes))


def test_frames_of_no_episode_given_keep_what_they_have(shard: Path) -> None:
    prepare_shard(shard, shard, three(sample_rows("a"), sample_rows("b"), sample_rows("c"))).commit()
    image = prepare_shard(shard, shard, three((), (), ())[1:2]).commit()
    assert read_rows(shard, [(0, 5), (5, 12), (12, 18)]) == (in_order(sample_rows("a")), (), in_order(sample_rows("c")))
    assert (image.episodes, image.frames) == (1, 18)
    assert image.language == language_digest(shard, [(5, 12)])


# --- digests -----------------------------------------------------------------------------------------------------


def test_a_shard_without_language_columns_has_no_digest(shard: Path) -> None:
    assert language_digest(shard, [(0, 5)]) is None
    assert read_rows(shard, [(0, 5), (5, 12)]) == ((), ())


def test_the_digest_does_not_depend_on_row_groups_or_codecs(tmp_path: Path) -> None:
    episodes = three(sample_rows("a"), sample_rows("b", 6), ())
    digests: set[str | None] = set()
    for index, (groups, codec) in enumerate([([18], "snappy"), ([2, 9, 7], "zstd"), ([1] * 18, "none")]):
        path = write_groups(tmp_path / f"{index}.parquet", frames_table(THREE), groups, compression=codec)
        prepare_shard(path, path, episodes).commit()
        digests.add(language_digest(path, bounds_of(episodes)))
    assert digests == {expected_digest(episodes)}


ROW = Row(role="user", content="x", style="vqa", timestamp=0.0, camera="observation.images.top")
CHANGES: list[dict[str, Any]] = [
    {"role": "assistant"},
    {"content": "y"},
    {"style": "trace"},
    {"timestamp": stamp(1)},
    {"camera": "observation.images.wrist"},
    {"tool_calls": (SAY,)},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_every_field_of_a_row_is_in_the_digest(change: dict[str, Any]) -> None:
    changed = Row(**{name: getattr(ROW, name) for name in Row.__struct_fields__} | change)
    assert expected_digest(three((changed,), (), ())) != expected_digest(three((ROW,), (), ()))


def test_which_episode_has_the_rows_and_how_long_it_is_are_in_the_digest() -> None:
    rows = sample_rows("a")
    variants = [three(rows, (), ()), three((), rows, ()), episodes_of([6, 6, 6], [rows, (), ()])]
    assert len({expected_digest(episodes) for episodes in variants}) == 3


def test_the_digest_of_a_language_is_pinned() -> None:
    assert expected_digest(three(sample_rows("a"), (), ())) == "d0b321223e0002d31f4b5750882ab008"


def test_a_list_that_differs_on_one_frame_changes_the_digest(shard: Path) -> None:
    prepare_shard(shard, shard, three(sample_rows("a"), sample_rows("b"), ())).commit()
    table = pq.read_table(shard)
    right = language_digest(shard, [(0, 5), (5, 12), (12, 18)])
    frames = table["language_persistent"].combine_chunks()
    wrong = pa.concat_arrays([frames.slice(0, 4), frames.slice(7, 1), frames.slice(5)])  # frame 4 has the list of 7
    place = table.column_names.index("language_persistent")
    pq.write_table(table.set_column(place, table.schema.field(place), wrong), shard)
    assert pq.read_schema(shard).equals(table.schema)
    assert language_digest(shard, [(0, 5), (5, 12), (12, 18)]) != right
    with pytest.raises(ShardError, match="persistent rows change within an episode"):
        read_rows(shard, [(0, 5)])


# --- what is refused ---------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"timestamp": 0.15}, "timestamp is no frame's"),
    ({"timestamp": 0.2}, "timestamp is no frame's"),  # the double nearest to a frame is not the frame
    ({"timestamp": stamp(6)}, "timestamp is no frame's"),
    ({"timestamp": float("nan")}, "not a number"),
    ({"content": None}, "neither content nor tool_calls"),
    ({"style": "dance"}, "unknown style 'dance'"),
    ({"camera": "observation.images.top"}, "has a camera"),
    ({"style": "vqa"}, "no camera"),
    ({"style": "trace", "camera": ""}, "no camera"),
    ({"tool_calls": (SAY,)}, "is persistent and has tool_calls"),
    ({"style": None}, "no style, so it must have tool_calls and no content"),
    ({"style": None, "content": None, "tool_calls": ("[1]",)}, "not a JSON object"),
    ({"content": "\ud800"}, "not Unicode"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_a_row_that_breaks_the_format_is_refused_and_nothing_is_written(
    shard: Path, change: dict[str, Any], said: str
) -> None:
    good: dict[str, Any] = {"role": "assistant", "content": "x", "style": "subtask", "timestamp": 0.0}
    before = shard.read_bytes()
    with pytest.raises(ShardError) as caught:
        prepare_shard(shard, shard, three((), sample_rows("b"), (Row(**good | change),))[::-1])
    message = str(caught.value)
    assert said in message
    assert "episode 2 (rows 12–18)" in message
    assert f"timestamp {(good | change)['timestamp']!r}" in message
    assert "hint:" in message
    assert shard.read_bytes() == before
    assert names_in(shard.parent) == [shard.name]


def test_an_event_at_a_time_that_is_no_frame_is_refused(shard: Path) -> None:
    row = Row(role="user", content="x", style="interjection", timestamp=0.25)
    with pytest.raises(ShardError, match=r"nearest frame is at 0\.2"):
        prepare_shard(shard, shard, three((row,), (), ()))


def test_boundaries_that_do_not_fit_the_shard_are_refused(shard: Path) -> None:
    for start, stop, said in [(0, 19, "outside its shard"), (3, 8, "are of several"), (-1, 5, "outside its shard")]:
        with pytest.raises(ShardError, match=said):
            prepare_shard(shard, shard, [EpisodeRows(start=start, stop=stop, rows=())])
    with pytest.raises(ShardError, match="overlaps another"):
        prepare_shard(shard, shard, [EpisodeRows(start=0, stop=5, rows=()), EpisodeRows(start=4, stop=5, rows=())])
    with pytest.raises(ShardError, match="without frames has rows"):
        prepare_shard(shard, shard, [EpisodeRows(start=5, stop=5, rows=sample_rows("a"))])


def test_a_shard_without_timestamps_is_refused(tmp_path: Path) -> None:
    path = write_groups(tmp_path / "x.parquet", frames_table(THREE).drop_columns(["timestamp"]), [18])
    with pytest.raises(ShardError, match="no timestamp column"):
        prepare_shard(path, path, three((), (), ()))


# --- disks and crashes -------------------------------------------------------------------------------------------


def test_a_shard_cut_short_is_refused(shard: Path) -> None:
    whole = shard.read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 1):
        shard.write_bytes(whole[:size])
        with pytest.raises(ShardError, match="cannot be read") as caught:
            prepare_shard(shard, shard, three((), (), ()))
        assert "hint:" in str(caught.value)
        assert names_in(shard.parent) == [shard.name]


def test_a_shard_damaged_inside_is_refused(tmp_path: Path) -> None:
    path = write_groups(tmp_path / "file.parquet", frames_table([4000]), [2000, 2000])
    whole = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(1).column(0)
    whole[chunk.data_page_offset : chunk.data_page_offset + 200] = b"\xff" * 200
    path.write_bytes(whole)
    with pytest.raises(ShardError, match="cannot be read"):
        prepare_shard(path, path, episodes_of([4000], [()]))
    assert names_in(tmp_path) == [path.name]
    assert path.read_bytes() == whole


FULL_DISK = """
import resource, sys
from pathlib import Path
from annotator_store.errors import ShardError
from annotator_store.parquet.episode_language import EpisodeRows
from annotator_store.parquet.rewrite import prepare_shard
path, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    prepare_shard(path, path, [EpisodeRows(start=0, stop=20000, rows=())])
except ShardError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 100, 60_000], ids=["at once", "in the first group", "later"])
def test_a_full_disk_leaves_the_shard_as_it_was(tmp_path: Path, limit: int) -> None:
    path = write_groups(tmp_path / "file.parquet", frames_table([20_000]), [10_000, 10_000])
    before = path.read_bytes()
    assert len(before) > limit
    command = [sys.executable, "-W", "error", "-c", FULL_DISK, str(path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "a shard cannot be written" in done.stdout
    assert "hint: free space on that disk" in done.stdout
    assert done.stderr == ""
    assert path.read_bytes() == before
    assert names_in(tmp_path) == [path.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(shard: Path) -> None:
    shard.parent.chmod(0o500)
    try:
        with pytest.raises(ShardError, match="make the folder writable"):
            prepare_shard(shard, shard, three((), (), ()))
    finally:
        shard.parent.chmod(0o700)


def test_a_folder_that_refuses_files_gives_one_error_with_a_hint(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shards, "fsync_file", refuse)
    with pytest.raises(ShardError, match="make the folder writable"):
        prepare_shard(shard, shard, three((), (), ()))
    assert leftovers(shard.parent) == []


def test_a_source_that_changes_meanwhile_is_refused(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shards.fsync_file

    def touch(path: Path) -> None:
        real(path)
        os.utime(shard, ns=(1, 1))

    monkeypatch.setattr(shards, "fsync_file", touch)
    with pytest.raises(ShardError, match="changed while it was rewritten"):
        prepare_shard(shard, shard, three((), (), ()))
    assert names_in(shard.parent) == [shard.name]


def test_a_target_that_changed_since_is_not_replaced(shard: Path) -> None:
    prepared = prepare_shard(shard, shard, three((), (), ()))
    os.utime(shard, ns=(1, 1))
    before = shard.read_bytes()
    with pytest.raises(ShardError, match="changed while it was rewritten"):
        prepared.commit()
    assert shard.read_bytes() == before
    assert leftovers(shard.parent) == []


def test_what_does_not_read_back_as_meant_is_refused(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shards.build_columns

    def wrong(*arguments: Any) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        persistent, events = real(*arguments)
        return persistent, pa.chunked_array([events.chunk(0).take(pa.array(range(len(events))[::-1]))])

    monkeypatch.setattr(shards, "build_columns", wrong)
    before = shard.read_bytes()
    with pytest.raises(ShardError, match="do not read back as meant"):
        prepare_shard(shard, shard, three(sample_rows("a"), (), ()))
    assert shard.read_bytes() == before
    assert leftovers(shard.parent) == []


def test_columns_that_do_not_read_back_with_our_types_are_refused(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shards.read_layout

    def without_arrow_schema(file: Any) -> Any:
        return msgspec.structs.replace(real(file), key_values={})

    monkeypatch.setattr(shards, "read_layout", without_arrow_schema)
    with pytest.raises(ShardError, match="language columns do not read back as meant"):
        prepare_shard(shard, shard, three(sample_rows("a"), (), ()))


def test_other_columns_that_do_not_read_back_in_shape_are_refused(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shards.build_columns

    def in_two_groups(*arguments: Any) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        monkeypatch.setattr(
            pq.ParquetWriter, "write_table", lambda self, table, **_: write(self, table, row_group_size=3)
        )
        return real(*arguments)

    write = pq.ParquetWriter.write_table
    monkeypatch.setattr(shards, "build_columns", in_two_groups)
    with pytest.raises(ShardError, match="other columns or row groups do not read back"):
        prepare_shard(shard, shard, three(sample_rows("a"), (), ()))


def test_a_prepared_shard_touches_nothing_until_it_is_committed(shard: Path) -> None:
    before = shard.read_bytes()
    prepared = prepare_shard(shard, shard, three(sample_rows("a"), (), ()))
    assert shard.read_bytes() == before
    assert prepared.temporary.parent == shard.parent
    assert not prepared.temporary.name.endswith(".parquet")
    prepared.discard()
    prepared.discard()
    assert names_in(shard.parent) == [shard.name]


def test_leftovers_of_a_crashed_writer_are_swept(shard: Path) -> None:
    shard.chmod(0o640)
    prepared = prepare_shard(shard, shard, three((), (), ()))
    mine = shard.parent / "notes.txt"
    mine.write_text("keep")
    assert sweep_leftovers(shard.parent) == (prepared.temporary,)
    assert names_in(shard.parent) == sorted([shard.name, mine.name])


def test_permissions_of_a_shard_come_back(shard: Path) -> None:
    shard.chmod(0o640)
    prepare_shard(shard, shard, three((), (), ())).commit()
    assert shard.stat().st_mode & 0o777 == 0o640


# --- several at once ---------------------------------------------------------------------------------------------


def jobs_in(folder: Path, count: int) -> list[ShardJob]:
    paths = [write_groups(folder / f"file-{i:03}.parquet", frames_table(THREE), THREE) for i in range(count)]
    return [ShardJob(source=path, target=path, episodes=tuple(three(sample_rows(path.stem), (), ()))) for path in paths]


def test_shards_prepared_together_are_as_those_prepared_alone(tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path, 5)
    alone = [prepare_shard(job.source, job.target, job.episodes) for job in jobs]
    together = prepare_shards(jobs, workers=3)
    for one, other in zip(alone, together, strict=True):
        assert other.image == one.image
        assert other.temporary.read_bytes() == one.temporary.read_bytes()


def test_one_bad_shard_leaves_all_untouched(tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path, 4)
    before = {job.source: job.source.read_bytes() for job in jobs}
    bad = ShardJob(source=jobs[2].source, target=jobs[2].target, episodes=(EpisodeRows(start=0, stop=99, rows=()),))
    with pytest.raises(ShardError, match="outside its shard"):
        prepare_shards([*jobs[:2], bad, *jobs[3:]], workers=2)
    assert {job.source: job.source.read_bytes() for job in jobs} == before
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("cap", "most"), [(1, 1), (1 << 40, 3)])
def test_the_cap_on_memory_says_how_many_are_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cap: int, most: int
) -> None:
    jobs = jobs_in(tmp_path, 6)
    at_work, seen, lock = [0], [0], threading.Lock()
    barrier = threading.Barrier(most)

    def watched(source: Path, target: Path, episodes: Sequence[EpisodeRows]) -> Any:
        with lock:
            at_work[0] += 1
            seen[0] = max(seen[0], at_work[0])
        barrier.wait(10)
        time.sleep(0.03)  # long enough for another to begin, were it let
        with lock:
            at_work[0] -= 1
        return prepare_shard(source, target, episodes)

    monkeypatch.setattr(parallel, "prepare_shard", watched)
    assert len(prepare_shards(jobs, workers=3, memory_bytes=cap)) == 6
    assert seen[0] == most


def test_a_long_row_group_of_many_episodes_is_broadcast_in_slices(tmp_path: Path) -> None:
    count, frames = 60, 1000
    path = write_groups(tmp_path / "file.parquet", frames_table([frames] * count), [count * frames])
    rows = [
        tuple(
            Row(role="assistant", content=f"{episode} {row}", style="subtask", timestamp=stamp(row))
            for row in range(30)
        )
        for episode in range(count)
    ]
    episodes = episodes_of([frames] * count, rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = prepare_shard(path, path, episodes).commit()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000  # KiB; 1.8 million rows broadcast
    assert image.language == expected_digest(episodes)
