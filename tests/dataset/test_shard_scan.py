"""An episode is what the robot did: its identity stays through everything that is not that, and changes with it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotator.dataset.episodes import EpisodeRecord, read_episodes
from annotator.dataset.footage import file_stamp
from annotator.dataset.metadata import open_dataset
from annotator.dataset.shard_scan import read_frames_table, read_timestamps, scan_shard
from annotator.dataset.signals import read_signals
from annotator.errors import DatasetError
from annotator_store.digests import Digest
from annotator_store.log.log import Log
from tests.datasets import (
    TOP,
    WRIST,
    Recording,
    clock,
    edit_info,
    edit_parquet,
    motion,
    set_column,
    shard_path,
)

MakeDataset = Callable[..., Path]
STATIC = Path(__file__).parents[1] / "data" / "so101_static"
A, B, C = Recording(1), Recording(2), Recording(3, frames=30)


def surveyed(root: Path, store: Path, camera: str | None = None) -> list[EpisodeRecord]:
    dataset = open_dataset(root)
    with Log.open(store) as log:
        episodes = [e.index for e in dataset.episodes]
        used = [one for one in dataset.cameras if camera in (None, one.key)]
        return read_episodes(dataset, log, used, episodes, threads=1)


@pytest.fixture
def identities(tmp_path: Path) -> Callable[[Path], list[Digest]]:
    """The digests of a dataset's episodes, in order, found with a log of their own."""
    stores = iter(range(1000))
    return lambda root: [one.digest for one in surveyed(root, tmp_path / f"log{next(stores)}")]


@pytest.fixture
def tiny(make_dataset: MakeDataset, tmp_path: Path) -> Path:
    return make_dataset(tmp_path, [A, B, C])


Identities = Callable[[Path], list[Digest]]


def test_renumbered_episodes_keep_their_identity(
    tiny: Path, make_dataset: MakeDataset, tmp_path: Path, identities: Identities
) -> None:
    a, b, c = identities(tiny)
    assert len({a, b, c}) == 3
    assert identities(make_dataset(tmp_path, [C, A], name="without b")) == [c, a]


@pytest.mark.parametrize(
    ("shards", "films"),
    [([[0, 1, 2]], [[0, 1, 2]]), ([[2], [0], [1]], [[1, 0, 2]]), ([[1, 0], [2]], [[0], [1], [2]])],
)
def test_episodes_in_other_shards_and_another_order_keep_their_identity(
    tiny: Path,
    make_dataset: MakeDataset,
    tmp_path: Path,
    identities: Identities,
    shards: Sequence[Sequence[int]],
    films: Sequence[Sequence[int]],
) -> None:
    moved = make_dataset(tmp_path, [A, B, C], name="moved", shards=shards, films=films)
    assert identities(moved) == identities(tiny)


def test_a_renamed_dataset_keeps_its_episodes_identities(tiny: Path, tmp_path: Path, identities: Identities) -> None:
    before = identities(tiny)
    assert identities(tiny.rename(tmp_path / "another name")) == before


def test_another_task_text_leaves_the_identity(tiny: Path, identities: Identities) -> None:
    before = identities(tiny)
    edit_parquet(tiny / "meta/tasks.parquet", lambda t: set_column(t, "task", ["wave"]))
    assert identities(tiny) == before


def test_another_task_index_on_a_frame_leaves_the_identity(tiny: Path, identities: Identities) -> None:
    before = identities(tiny)
    edit_parquet(tiny / "meta/tasks.parquet", lambda t: pa.table({"task_index": [0, 1], "task": ["put", "then wave"]}))
    edit_parquet(tiny / shard_path(0), lambda t: set_column(t, "task_index", [0] * 12 + [1] * 36))
    assert identities(tiny) == before


def test_language_columns_leave_the_identity(tiny: Path, identities: Identities) -> None:
    before = identities(tiny)
    edit_parquet(tiny / shard_path(0), lambda t: t.append_column("language_persistent", pa.array([["x"]] * len(t))))
    assert identities(tiny) == before


def test_an_unread_column_leaves_the_identity(tiny: Path, identities: Identities) -> None:
    before = identities(tiny)
    edit_parquet(tiny / shard_path(0), lambda t: t.append_column("next.reward", pa.array(np.arange(len(t)))))
    assert identities(tiny) == before


def test_another_state_on_one_frame_changes_that_episodes_identity_alone(tiny: Path, identities: Identities) -> None:
    def nudge(table: pa.Table) -> pa.Table:
        state = np.array(table["observation.state"].to_pylist(), np.float32)
        state[30, 1] = np.nextafter(state[30, 1], np.float32(9))
        return set_column(table, "observation.state", state.tolist())

    a, b, c = identities(tiny)
    edit_parquet(tiny / shard_path(0), nudge)
    changed = identities(tiny)
    assert changed[1] != b
    assert [changed[0], changed[2]] == [a, c]


def test_another_timestamp_changes_that_episodes_identity_alone(tiny: Path, identities: Identities) -> None:
    def nudge(table: pa.Table) -> pa.Table:
        values = table["timestamp"].to_numpy().copy()
        values[30] += np.float32(0.01)
        return set_column(table, "timestamp", values)

    a, b, c = identities(tiny)
    edit_parquet(tiny / shard_path(0), nudge)
    changed = identities(tiny)
    assert changed[1] != b
    assert [changed[0], changed[2]] == [a, c]


def test_where_the_state_stands_still_the_action_identifies(tiny: Path, identities: Identities) -> None:
    def freeze(table: pa.Table) -> pa.Table:
        return set_column(table, "observation.state", [[0.0, 0.0, 0.0]] * len(table))

    before = identities(tiny)
    for shard in (shard_path(0), shard_path(1)):
        edit_parquet(tiny / shard, freeze)
    frozen = identities(tiny)
    assert len(set(frozen)) == 3
    assert not set(frozen) & set(before)


def test_state_and_action_of_the_same_values_are_not_mistaken_for_each_other(
    tiny: Path, identities: Identities
) -> None:
    with_state = identities(tiny)
    for shard in (shard_path(0), shard_path(1)):
        edit_parquet(tiny / shard, lambda t: t.drop_columns(["observation.state"]))
    assert not set(identities(tiny)) & set(with_state)


def test_motionless_episodes_are_told_apart_by_their_footage(tmp_path: Path) -> None:
    found = surveyed(STATIC, tmp_path / "log")
    assert [one.motion_digest for one in found] == [None] * 6
    assert len({one.digest for one in found}) == 6
    assert len({digest for one in found for digest in one.footage.values()}) == 6


def test_a_motionless_episode_keeps_its_identity_in_another_film(
    make_dataset: MakeDataset, tmp_path: Path, identities: Identities
) -> None:
    still = [Recording(seed, still=True) for seed in (1, 2, 3)]
    before = identities(make_dataset(tmp_path, still))
    after = identities(make_dataset(tmp_path, still[::-1], name="turned", shards=[[0, 1, 2]], films=[[2, 0], [1]]))
    assert len(set(before)) == 3
    assert after == before[::-1]


def test_a_row_span_and_its_clock_are_exactly_the_episodes(tiny: Path) -> None:
    dataset = open_dataset(tiny)
    first, second = scan_shard(dataset, shard_path(0))
    assert [(s.index, s.start, s.stop) for s in (first, second)] == [(0, 0, 24), (1, 24, 48)]
    assert second.duration_s == pytest.approx(2.3)
    read = read_timestamps(tiny, second)
    assert read.dtype == np.float32
    assert read.tobytes() == clock(24).tobytes()


def test_rows_are_read_out_of_the_middle_of_a_row_group(tiny: Path) -> None:
    path = tiny / shard_path(0)
    pq.write_table(pq.ParquetFile(path).read(), path, row_group_size=10)
    second = scan_shard(open_dataset(tiny), shard_path(0))[1]
    table = read_frames_table(tiny, second, ["index", "no.such.column"])
    assert table.column_names == ["index"]
    assert table["index"].to_pylist() == list(range(24, 48))


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 3), pa.list_(pa.float32()), pa.large_list(pa.float64())])
def test_signals_come_back_as_they_were_recorded_from_any_kind_of_list(tiny: Path, kind: pa.DataType) -> None:
    def retype(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("observation.state")
        return table.set_column(at, "observation.state", pa.array(table["observation.state"].to_pylist(), kind))

    edit_parquet(tiny / shard_path(0), retype)
    dataset = open_dataset(tiny)
    signals = read_signals(dataset, scan_shard(dataset, shard_path(0))[1])
    assert signals.state is not None
    assert signals.state.dtype == np.float32
    np.testing.assert_array_equal(signals.state, motion(B))
    assert signals.state_names == ("shoulder", "elbow", "gripper")


@pytest.mark.parametrize("rows", [[[0.0], [0.0] * 5], [None, [0.0] * 3], [[0.0, None, 0.0]] * 2])
def test_a_state_that_is_not_one_vector_a_frame_is_refused(tiny: Path, rows: list[Any]) -> None:
    def ragged(table: pa.Table) -> pa.Table:
        values = rows + table["observation.state"].to_pylist()[2:]
        at = table.schema.get_field_index("observation.state")
        return table.set_column(at, "observation.state", pa.array(values, pa.list_(pa.float32())))

    edit_parquet(tiny / shard_path(0), ragged)
    with pytest.raises(DatasetError, match=r"not one vector a frame – .*file-000.parquet observation.state – list"):
        scan_shard(open_dataset(tiny), shard_path(0))


def test_a_vector_in_nested_lists_is_read_flat(tiny: Path) -> None:
    def nest(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("observation.state")
        return table.set_column(at, "observation.state", pa.array([[[1.0, 2.0], [3.0, 4.0]]] * 48))

    edit_parquet(tiny / shard_path(0), nest)
    dataset = open_dataset(tiny)
    state = read_signals(dataset, scan_shard(dataset, shard_path(0))[1]).state
    assert state is not None
    assert state.tolist() == [[1, 2, 3, 4]] * 24


def test_a_task_that_changes_within_an_episode_is_told_in_order(tiny: Path, tmp_path: Path) -> None:
    edit_parquet(tiny / "meta/tasks.parquet", lambda t: pa.table({"task_index": [0, 1], "task": ["put it", "wave"]}))
    edit_parquet(tiny / shard_path(0), lambda t: set_column(t, "task_index", [1] * 12 + [0] * 36))
    assert [one.task for one in surveyed(tiny, tmp_path / "log")] == ["wave, then put it", "put it", "put it"]


def test_what_an_engine_may_read_covers_names_state_and_action(tiny: Path) -> None:
    def scanned() -> list[Digest]:
        return [one.signals_digest for one in scan_shard(open_dataset(tiny), shard_path(0))]

    before = scanned()
    features = open_dataset(tiny).info["features"]
    edit_info(tiny, features=features | {"action": features["action"] | {"names": ["x", "y", "z"]}})
    named = scanned()
    assert not set(named) & set(before)
    edit_parquet(tiny / shard_path(0), lambda t: set_column(t, "action", [[0.0, 0.0, 1.0]] * len(t)))
    assert not set(scanned()) & {*before, *named}


def test_a_second_survey_reads_no_shard_and_demuxes_no_film(tiny: Path, tmp_path: Path) -> None:
    first = surveyed(tiny, tmp_path / "log")
    for path in [*tiny.glob("data/**/*.parquet"), *tiny.glob("videos/**/*.mp4")]:
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)  # unreadable, but of the same size and time
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert surveyed(tiny, tmp_path / "log") == first


def test_a_touched_shard_and_a_touched_film_are_read_again(tiny: Path, tmp_path: Path) -> None:
    first = surveyed(tiny, tmp_path / "log")
    edit_parquet(
        tiny / shard_path(0), lambda t: set_column(t, "observation.state", [[0.0, 0.0, float(i)] for i in range(48)])
    )
    second = surveyed(tiny, tmp_path / "log")
    assert [a.digest == b.digest for a, b in zip(first, second, strict=True)] == [False, False, True]


def test_each_camera_has_footage_of_its_own_and_motion_identifies_whichever_is_watched(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    root = make_dataset(tmp_path, [A, B], cameras=(TOP, WRIST))
    top, wrist = (surveyed(root, tmp_path / camera, camera) for camera in (TOP, WRIST))
    assert [set(one.footage) for one in (*top, *wrist)] == [{TOP}, {TOP}, {WRIST}, {WRIST}]
    assert len({digest for one in (*top, *wrist) for digest in one.footage.values()}) == 4
    assert [one.digest for one in top] == [one.digest for one in wrist]


def test_the_same_recording_twice_is_one_identity(
    make_dataset: MakeDataset, tmp_path: Path, identities: Identities
) -> None:
    first, second, other = identities(make_dataset(tmp_path, [A, A, B]))
    assert first == second
    assert other != first


def test_identities_are_pinned() -> None:
    """A change here asks every call of every dataset again: raise the tag and say so in the changelog."""
    cr5 = open_dataset(STATIC.parent / "cr5_banana")
    scanned = scan_shard(cr5, cr5.shards[0])
    assert scanned[0].motion_digest == "32a9779ce203f35985969b0da6cd743b"
    assert scanned[0].timestamps_digest == "ace85ae06ac9bb8fbff2198dda1e366c"
    assert scanned[0].signals_digest == "6a86b0b244a060d90c665d1df6dbfebf"


def test_where_nothing_moves_all_cameras_identify_the_episode_whichever_is_watched(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    still = Recording(seed=5, frames=A.frames, still=True)
    root = make_dataset(tmp_path, [still], cameras=(TOP, WRIST))
    top, wrist = (surveyed(root, tmp_path / camera, camera) for camera in (TOP, WRIST))
    assert [one.digest for one in top] == [one.digest for one in wrist]
    assert top[0].footage == wrist[0].footage
    assert len(set(top[0].footage.values())) == 2


def test_a_files_stamp_holds_while_the_file_does(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1")
    os.utime(path, ns=(1, 1))
    first = file_stamp(path)
    assert file_stamp(path) == first
    os.utime(path, ns=(1, 2))
    assert file_stamp(path) != first
    path.write_bytes(b"22")
    os.utime(path, ns=(1, 1))
    assert file_stamp(path) != first
    assert file_stamp(tmp_path / "none.mp4") == ""
