"""What `meta/` says is read as it stands; what cannot be annotated is refused before anything is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotator.cli.main import main
from annotator.dataset.metadata import READABLE, fill_template, open_dataset
from annotator.errors import DatasetError
from annotator_store.log.query import run_query
from tests.datasets import (
    TOP,
    WRIST,
    Recording,
    edit_info,
    edit_parquet,
    film_path,
    set_column,
    shard_path,
    snapshot,
    write_dataset,
)

MakeDataset = Callable[..., Path]
SYNC = ("--vlm.backend", "signals", "--plan.n_task_rephrasings", "0")
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def sync(root: Path, *more: object) -> int:
    return main(["sync", str(root), *SYNC, *map(str, more)])


@pytest.mark.parametrize("version", ["v3.0", "v3.1"])
def test_both_versions_of_the_format_are_read(make_dataset: MakeDataset, tmp_path: Path, version: str) -> None:
    dataset = open_dataset(make_dataset(tmp_path, version=version))
    assert version in READABLE
    assert (dataset.version, dataset.name, dataset.fps) == (version, "tiny", 10)
    assert [e.index for e in dataset.episodes] == [0, 1, 2]
    assert [e.length for e in dataset.episodes] == [24, 24, 24]


def test_several_episodes_share_a_shard_and_others_share_a_film(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(tmp_path, [Recording(s) for s in range(1, 5)], shards=[[0, 1, 2], [3]], films=[[0], [1, 2, 3]])
    dataset = open_dataset(root)
    assert dataset.shards == (shard_path(0), shard_path(1))
    assert [e.shard for e in dataset.episodes] == [shard_path(0)] * 3 + [shard_path(1)]
    stretches = [e.videos[TOP] for e in dataset.episodes]
    assert [s.path for s in stretches] == [film_path(0), *[film_path(1)] * 3]
    assert [s.from_timestamp for s in stretches] == pytest.approx([0, 0, 2.4, 4.8])
    assert [s.to_timestamp for s in stretches] == pytest.approx([2.4, 2.4, 4.8, 7.2])


def test_every_camera_is_found_with_the_size_of_its_stored_frames(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = open_dataset(make_dataset(tmp_path, cameras=(TOP, WRIST)))
    assert [(c.key, c.stored, c.height_px, c.width_px, c.depth) for c in dataset.cameras] == [
        (TOP, "video", 24, 32, False),
        (WRIST, "video", 24, 32, False),
    ]
    assert dataset.episodes[2].videos[WRIST].path == film_path(1, WRIST)
    assert dataset.camera(WRIST) == dataset.cameras[1]
    assert dataset.camera("observation.images.left") is None


def test_a_dataset_without_cameras_needs_no_video_path(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = open_dataset(make_dataset(tmp_path, cameras=()))
    assert dataset.cameras == ()
    assert dataset.episodes[0].videos == {}


@pytest.mark.parametrize("column", ["task", "__index_level_0__"])
def test_task_texts_are_found_whatever_the_pandas_index_is_called(
    make_dataset: MakeDataset, tmp_path: Path, column: str
) -> None:
    root = make_dataset(tmp_path, [Recording(1, task="fold it"), Recording(2, task="stir")], task_column=column)
    assert open_dataset(root).tasks == {0: "fold it", 1: "stir"}


@pytest.mark.parametrize("names", [["a", "b", "c"], {"motors": ["a", "b", "c"]}, {"axes": ["a", "b", "c"]}])
def test_dimension_names_are_read_from_a_list_or_an_object(
    make_dataset: MakeDataset, tmp_path: Path, names: Any
) -> None:
    dataset = open_dataset(make_dataset(tmp_path, names=names))
    assert dataset.names_of("action") == ("a", "b", "c")
    assert dataset.names_of("timestamp") == ()
    assert dataset.names_of("no.such.feature") == ()


def test_files_lie_where_the_path_templates_say(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(
        tmp_path,
        data_path="data/part-{file_index}.parquet",
        video_path="films/{video_key}/{chunk_index}-{file_index}.mp4",
    )
    dataset = open_dataset(root)
    assert dataset.shards == ("data/part-0.parquet", "data/part-1.parquet")
    assert dataset.episodes[2].videos[TOP].path == f"films/{TOP}/0-1.mp4"
    assert sync(root) == 0


@pytest.mark.parametrize(
    "template",
    [
        "../{file_index}.parquet",
        "data/../../{file_index}.parquet",
        "/data/{file_index}.parquet",
        "C:/{file_index}.parquet",
        "data\\..\\..\\{file_index}.parquet",
    ],
)
def test_a_path_template_that_leaves_the_dataset_is_refused(template: str) -> None:
    with pytest.raises(DatasetError, match="leaves the dataset"):
        fill_template(template, chunk_index=0, file_index=0)


@pytest.mark.parametrize(
    "template", ["data/{episode}.parquet", "data/{file_index.x}", "data/{file_index[0]}", "data/{"]
)
def test_a_path_template_that_cannot_be_filled_is_refused(template: str) -> None:
    with pytest.raises(DatasetError, match=r"cannot be filled(.|\n)*hint: its fields are chunk_index, file_index"):
        fill_template(template, chunk_index=0, file_index=0)


def test_shards_of_which_some_have_language_columns_are_all_brought_up_to_date(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    root = make_dataset(tmp_path)
    assert sync(root) == 0
    edit_parquet(root / shard_path(0), lambda t: t.drop_columns(["language_persistent", "language_events"]))
    assert sync(root) == 0
    for shard in (shard_path(0), shard_path(1)):
        stored = pq.read_table(root / shard, columns=["language_persistent"])["language_persistent"].to_pylist()
        assert all({row["style"] for row in rows} == {"subtask", "plan"} for rows in stored)


# What is refused. Each breaks a sound dataset in one way.


def old_version(root: Path) -> None:
    edit_info(root, codebase_version="v2.1")


def unknown_version(root: Path) -> None:
    edit_info(root, codebase_version="v4.0")


def no_info(root: Path) -> None:
    (root / "meta/info.json").unlink()


def broken_json(root: Path) -> None:
    (root / "meta/info.json").write_text('{"codebase_version": "v3.0", "fps": 10,')


def no_fps(root: Path) -> None:
    edit_info(root, fps=None)


def odd_features(root: Path) -> None:
    edit_info(root, features=["action"])


def camera_without_size(root: Path) -> None:
    features = json.loads((root / "meta/info.json").read_text())["features"]
    edit_info(root, features=features | {TOP: {"dtype": "video", "shape": None}})


def no_video_path(root: Path) -> None:
    edit_info(root, video_path=None)


def leaving_template(root: Path) -> None:
    edit_info(root, data_path="../elsewhere/{file_index}.parquet")


def no_tasks(root: Path) -> None:
    (root / "meta/tasks.parquet").unlink()


def tasks_without_text(root: Path) -> None:
    edit_parquet(root / "meta/tasks.parquet", lambda t: t.select(["task_index"]))


def no_episodes(root: Path) -> None:
    (root / EPISODES).unlink()


def truncated_episodes(root: Path) -> None:
    (root / EPISODES).write_bytes((root / EPISODES).read_bytes()[:-40])


def episodes_without_length(root: Path) -> None:
    edit_parquet(root / EPISODES, lambda t: t.drop_columns(["length"]))


def episode_listed_twice(root: Path) -> None:
    edit_parquet(root / EPISODES, lambda t: pa.concat_tables([t, t.slice(1, 1)]))


def episode_with_an_empty_place(root: Path) -> None:
    edit_parquet(root / EPISODES, lambda t: set_column(t, "data/file_index", [0, None, 1]))


def no_shard(root: Path) -> None:
    (root / shard_path(1)).unlink()


def truncated_shard(root: Path) -> None:
    (root / shard_path(1)).write_bytes((root / shard_path(1)).read_bytes()[:-100])


def empty_shard_file(root: Path) -> None:
    (root / shard_path(1)).write_bytes(b"")


def damaged_page(root: Path) -> None:
    data = bytearray((root / shard_path(1)).read_bytes())
    start = pq.ParquetFile(root / shard_path(1)).metadata.row_group(0).column(2).data_page_offset
    data[start : start + 60] = b"\xff" * 60
    (root / shard_path(1)).write_bytes(data)


def stray_shard(root: Path) -> None:
    shutil.copy(root / shard_path(1), root / shard_path(7))


def shard_without_tasks(root: Path) -> None:
    edit_parquet(root / shard_path(0), lambda t: t.drop_columns(["task_index"]))


def with_clock(root: Path, change: Callable[[Any], None]) -> None:
    def edit(table: pa.Table) -> pa.Table:
        values = table["timestamp"].to_numpy().copy()
        change(values)
        return set_column(table, "timestamp", values)

    edit_parquet(root / shard_path(0), edit)


def duplicate_timestamps(root: Path) -> None:
    with_clock(root, lambda t: t.__setitem__(30, t[29]))


def unsorted_timestamps(root: Path) -> None:
    with_clock(root, lambda t: t.__setitem__([30, 31], t[[31, 30]]))


def nan_timestamps(root: Path) -> None:
    with_clock(root, lambda t: t.__setitem__(30, np.nan))


def infinite_timestamps(root: Path) -> None:
    with_clock(root, lambda t: t.__setitem__([30, 31], np.inf))


def wrong_length(root: Path) -> None:
    edit_parquet(root / EPISODES, lambda t: set_column(t, "length", [24, 23, 24]))


def split_inside_a_shard(root: Path) -> None:
    owners = [0] * 12 + [1] * 24 + [0] * 12
    with_clock(root, lambda t: t.__setitem__(slice(None), np.concatenate([t[:12], t[:24], t[12:24]])))
    edit_parquet(root / shard_path(0), lambda t: set_column(t, "episode_index", owners))


def split_over_two_shards(root: Path) -> None:
    table = pq.ParquetFile(root / shard_path(0)).read()
    edit_parquet(root / shard_path(1), lambda t: pa.concat_tables([table.slice(36), t]))
    edit_parquet(root / shard_path(0), lambda t: t.slice(0, 36))


def in_another_shard(root: Path) -> None:
    edit_parquet(root / EPISODES, lambda t: set_column(t, "data/file_index", [0, 1, 1]))


def not_listed(root: Path) -> None:
    edit_parquet(root / EPISODES, lambda t: t.filter(pa.array([True, False, True])))


def without_frames(root: Path) -> None:
    edit_parquet(root / shard_path(0), lambda t: t.slice(0, 24))


REFUSED: list[tuple[Callable[[Path], None], str, str, str, str]] = [
    # what breaks, what is said, where, what was found, what helps
    (old_version, "version cannot be annotated", "meta/info.json", "'v2.1'", "convert_dataset_v21_to_v30"),
    (unknown_version, "version cannot be annotated", "meta/info.json", "'v4.0'", "reads v3.0, v3.1"),
    (no_info, "not a LeRobot dataset", "tiny", "no meta/info.json", "name the folder"),
    (broken_json, "cannot be read", "meta/info.json", "line 1 column 40", "again"),
    (no_fps, "incomplete", "meta/info.json fps", "None", "again"),
    (odd_features, "incomplete", "meta/info.json features", "list", "again"),
    (camera_without_size, "a camera has no size", f"meta/info.json {TOP}", "shape None", "again"),
    (no_video_path, "incomplete", "meta/info.json video_path", "None", "again"),
    (leaving_template, "leaves the dataset", "meta/info.json", "../elsewhere/0.parquet", "stay inside"),
    (no_tasks, "is missing", "meta/tasks.parquet", "", "again"),
    (tasks_without_text, "no task texts", "meta/tasks.parquet", "columns task_index", "pandas index"),
    (no_episodes, "no episodes are listed", "meta/episodes", "no parquet file", "again"),
    (truncated_episodes, "cannot be read", EPISODES, " bytes, ", "truncated or damaged"),
    (episodes_without_length, "lacks columns", "meta/episodes", "no length", "again"),
    (episode_listed_twice, "listed twice", "meta/episodes", "episode 1", "one line"),
    (episode_with_an_empty_place, "has gaps", "meta/episodes", "an empty data/file_index", "again"),
    (no_shard, "data shard is missing", shard_path(1), "", "again"),
    (truncated_shard, "cannot be read", shard_path(1), " bytes, ", "truncated or damaged"),
    (empty_shard_file, "cannot be read", shard_path(1), "0 bytes, ", "truncated or damaged"),
    (damaged_page, "cannot be read", shard_path(1), " bytes, ", "truncated or damaged"),
    (stray_shard, "no episode lies in this", shard_path(7), "", "move it out"),
    (shard_without_tasks, "lacks a column", shard_path(0), "no task_index", "again"),
    (duplicate_timestamps, "do not ascend", f"{shard_path(0)} episode 1 row 29", "0.5, 0.5 s", "later timestamp"),
    (unsorted_timestamps, "do not ascend", f"{shard_path(0)} episode 1 row 30", "0.7, 0.6 s", "later timestamp"),
    (nan_timestamps, "do not ascend", f"{shard_path(0)} episode 1 row 30", "nan", "later timestamp"),
    (infinite_timestamps, "do not ascend", f"{shard_path(0)} episode 1 row 30", "inf", "later timestamp"),
    (wrong_length, "length disagrees", f"{shard_path(0)} episode 1", "24 frames, meta/episodes says 23", "versions"),
    (split_inside_a_shard, "do not lie together", shard_path(0), "episode 0 in 2 places", "one run of rows"),
    (split_over_two_shards, "where no episode is listed", f"{shard_path(1)} episode 1", shard_path(0), "versions"),
    (in_another_shard, "where no episode is listed", f"{shard_path(0)} episode 1", shard_path(1), "versions"),
    (not_listed, "where no episode is listed", f"{shard_path(0)} episode 1", "does not list it", "versions"),
    (without_frames, "an episode has no frames", f"{shard_path(0)} episode 1", "", "versions"),
]


@pytest.mark.parametrize(("breaks", "what", "where", "got", "hint"), REFUSED, ids=lambda v: getattr(v, "__name__", ""))
def test_what_cannot_be_annotated_is_refused_in_one_message_and_nothing_is_written(
    make_dataset: MakeDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    breaks: Callable[[Path], None],
    what: str,
    where: str,
    got: str,
    hint: str,
) -> None:
    root = make_dataset(tmp_path)
    breaks(root)
    before = snapshot(root)

    assert sync(root) == 1

    assert snapshot(root) == before
    said = capsys.readouterr()
    assert said.out == ""
    message, helps = said.err.strip().split("\n")
    assert message.startswith("error: ")
    assert message.count(" – ") == (2 if got else 1)
    assert what in message.split(" – ")[0]
    assert where in message.split(" – ")[1]
    assert got in message.split(" – ")[-1]
    assert helps.startswith("hint: ")
    assert hint in helps


def test_a_wrong_dataset_is_refused_before_an_output_is_begun(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    duplicate_timestamps(root)
    before = snapshot(root)
    assert sync(root, "--output", tmp_path / "out") == 1
    assert snapshot(root) == before
    assert not list((tmp_path / "out").glob("data/**/*.parquet"))


def test_a_missing_film_fails_its_own_episodes_and_the_others_are_annotated(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_dataset(tmp_path, films=[[0], [1, 2]])
    (root / film_path(1)).unlink()

    assert sync(root) == 1

    said = capsys.readouterr().err
    assert f"failed: episodes 1, 2: the video file is missing – {root / film_path(1)}" in said
    assert "hint: fetch the dataset's videos" in said
    assert "1 annotated, 2 failed" in said
    rows = run_query(root / ".annotator", "SELECT DISTINCT episode_index FROM rows").to_pylist()
    assert rows == [{"episode_index": 0}]
    first, second = (
        pq.read_table(root / shard_path(0), columns=["language_persistent"])["language_persistent"].slice(at, 24)
        for at in (0, 24)
    )
    assert all(first.to_pylist())
    assert not any(second.to_pylist())


def test_a_film_that_comes_back_lets_only_its_episodes_be_annotated(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_dataset(tmp_path, films=[[0], [1, 2]])
    kept = (root / film_path(1)).rename(tmp_path / "kept.mp4")
    assert sync(root) == 1
    kept.rename(root / film_path(1))
    capsys.readouterr()
    assert sync(root) == 0
    assert "2 annotated, 1 up to date" in capsys.readouterr().err


def test_an_episode_of_one_frame_is_annotated(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "short", [Recording(1, frames=1), Recording(2)], cameras=())
    assert main(["sync", str(root), "--vlm.backend", "scripted"]) == 0
    rows = pq.read_table(root / shard_path(0), columns=["language_persistent"])["language_persistent"].to_pylist()
    assert len(rows) == 1
    assert "subtask" in {row["style"] for row in rows[0]}
