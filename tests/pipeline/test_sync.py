"""The main job, on real footage, against a real OpenAI-compatible server process."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from annotator_store.log.query import run_query

Annotator = Callable[..., Any]
REPO = Path(__file__).parents[2]
EPISODES = 3
SHARD = "data/chunk-000/file-000.parquet"


@pytest.fixture
def sync(annotator: Annotator, server: str) -> Callable[..., str]:
    """Sync the first episodes through the server; gives back what it said on stderr."""

    def run(root: Path, *more: object, episodes: str = f"0-{EPISODES - 1}", status: int = 0) -> str:
        flags = ("--vlm.api_base", server, "--vlm.model_id", "test-model", "--only_episodes", episodes)
        return str(annotator("sync", root, *flags, *more, status=status).stderr)

    return run


def steps(root: Path) -> Counter[str]:
    """How many calls the log holds, by step."""
    table = run_query(
        root / ".annotator", "SELECT step, count(*) AS n FROM calls WHERE outcome = 'answered' GROUP BY 1"
    )
    return Counter({row["step"]: row["n"] for row in table.to_pylist()})


def last_run(root: Path) -> dict[str, Any]:
    query = "SELECT * FROM runs ORDER BY started_at DESC, run_id LIMIT 1"
    return run_query(root / ".annotator", query).to_pylist()[0]


def columns(root: Path) -> pa.Table:
    return pq.ParquetFile(root / SHARD).read()


def episode_bytes(table: pa.Table, episode: int) -> list[Any]:
    return (
        table.filter(pc.field("episode_index") == episode)
        .select(["language_persistent", "language_events"])
        .to_pylist()
    )


def test_a_whole_real_dataset_is_annotated_and_reads_back_as_the_format_says(
    banana: Path, sync: Callable[..., str]
) -> None:
    before = columns(banana)
    sync(banana, episodes="0-11")
    after = columns(banana)

    assert after.drop_columns(["language_persistent", "language_events"]).equals(before)
    stored, clock = after["language_persistent"].to_pylist(), after["timestamp"].to_pylist()
    owner = after["episode_index"].to_pylist()
    for episode in range(12):
        frames = [i for i, e in enumerate(owner) if e == episode]
        rows = stored[frames[0]]
        assert all(stored[i] == rows for i in frames)
        assert {"subtask", "plan", "task_aug"} <= {row["style"] for row in rows}
        times = {clock[i] for i in frames}
        assert all(row["timestamp"] in times for row in rows)
        starts = [row["timestamp"] for row in rows if row["style"] == "subtask"]
        assert starts[0] == clock[frames[0]]
        assert len(set(starts)) == len(starts)
        assert [row["timestamp"] for row in rows if row["style"] == "plan"] == starts
        assert all(row["role"] == ("user" if row["style"] == "task_aug" else "assistant") for row in rows)
    info = json.loads((banana / "meta/info.json").read_text())
    assert info["features"]["language_events"] == {"dtype": "language", "shape": [1], "names": None}
    assert [tool["function"]["name"] for tool in info["tools"]] == ["say"]
    assert info["codebase_version"] == "v3.0"


def test_a_second_run_asks_nothing_decodes_nothing_and_writes_nothing(
    banana: Path, sync: Callable[..., str], answered: Callable[[], int]
) -> None:
    sync(banana)
    first, asked = last_run(banana), answered()
    assert first["calls_answered"] > 0
    assert first["frames_decoded"] > 0
    assert first["shards_written"] == 1
    kept = {p: p.stat().st_mtime_ns for p in sorted(banana.rglob("*")) if ".annotator" not in p.parts}

    sync(banana)

    second = last_run(banana)
    assert (second["calls_answered"], second["frames_decoded"], second["shards_written"]) == (0, 0, 0)
    assert (second["calls_hit"], second["calls_failed"]) == (0, 0)
    assert answered() == asked
    assert {p: p.stat().st_mtime_ns for p in sorted(banana.rglob("*")) if ".annotator" not in p.parts} == kept


def test_a_run_with_nothing_to_ask_needs_no_server(
    banana: Path, sync: Callable[..., str], annotator: Annotator
) -> None:
    sync(banana)
    flags = ("--vlm.api_base", "http://127.0.0.1:1/v1", "--vlm.model_id", "test-model", "--only_episodes", "0-2")
    annotator("sync", banana, *flags)
    assert last_run(banana)["outcome"] == "done"


def test_an_edited_memory_prompt_asks_memory_calls_again_and_no_others(
    banana: Path, sync: Callable[..., str], annotator: Annotator, tmp_path: Path
) -> None:
    sync(banana)
    before = steps(banana)
    prompts = tmp_path / "prompts"
    annotator("prompts", "eject", prompts)
    memory = prompts / "plan_milestones.md"
    memory.write_text(memory.read_text().replace("It has just finished:", "It has now finished:"))

    sync(banana, "--prompts", prompts)

    assert before["plan.milestones"] > 0
    assert steps(banana) - before == Counter({"plan.milestones": before["plan.milestones"]})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# Rewrites the memory", "# Says it again:"),
        ('id = "plan.milestones"\n', 'id = "plan.milestones"\nscope = "episode"\n'),
    ],
)
def test_a_comment_or_a_header_edit_asks_nothing(
    banana: Path, sync: Callable[..., str], annotator: Annotator, tmp_path: Path, old: str, new: str
) -> None:
    sync(banana)
    before = steps(banana)
    annotator("prompts", "eject", tmp_path / "prompts")
    memory = tmp_path / "prompts" / "plan_milestones.md"
    text = memory.read_text().replace('scope = "episode"\n', "").replace(old, new)
    assert text != memory.read_text()
    memory.write_text(text)

    sync(banana, "--prompts", tmp_path / "prompts")

    assert steps(banana) == before
    assert last_run(banana)["calls_hit"] == 0


def test_a_new_description_that_says_the_same_stops_there(banana: Path, sync: Callable[..., str]) -> None:
    """Early cut-off, seen from the log: new wordings of the task change nothing that stands on the segments."""
    sync(banana)
    before = steps(banana)
    sync(banana, "--plan.n_task_rephrasings", 3)
    assert steps(banana) - before == Counter({"plan.task_rephrasings": EPISODES})
    sync(banana)
    assert last_run(banana)["calls_answered"] == 0


def test_annotating_one_episode_leaves_the_others_byte_for_byte(banana: Path, sync: Callable[..., str]) -> None:
    sync(banana)
    before = columns(banana)
    sync(banana, "--seed", 7, episodes="0")
    after = columns(banana)
    assert episode_bytes(after, 0) != episode_bytes(before, 0)
    for episode in range(1, 12):
        assert episode_bytes(after, episode) == episode_bytes(before, episode)


def test_going_back_to_earlier_settings_costs_nothing_and_gives_the_earlier_rows(
    banana: Path, sync: Callable[..., str]
) -> None:
    sync(banana)
    shard = (banana / SHARD).read_bytes()
    sync(banana, "--seed", 7)
    assert (banana / SHARD).read_bytes() != shard
    asked = steps(banana)
    sync(banana)
    assert steps(banana) == asked
    assert (banana / SHARD).read_bytes() == shard


def test_the_log_alone_rebuilds_the_columns_on_a_fresh_copy(
    banana: Path, sync: Callable[..., str], annotator: Annotator, tmp_path: Path
) -> None:
    fresh = Path(shutil.copytree(banana, tmp_path / "elsewhere" / "copy"))
    sync(banana)
    (tmp_path / "log").mkdir()
    shutil.copytree(banana / ".annotator" / "journal", tmp_path / "log" / "journal")
    flags = ("--vlm.model_id", "test-model", "--only_episodes", "0-2", "--offline", "--store", tmp_path / "log")
    annotator("sync", fresh, *flags)
    assert (fresh / SHARD).read_bytes() == (banana / SHARD).read_bytes()
    assert (fresh / "meta/info.json").read_bytes() == (banana / "meta/info.json").read_bytes()


def test_what_the_log_lacks_while_offline_is_said_once_and_is_no_call_on_the_record(
    banana: Path, annotator: Annotator
) -> None:
    flags = ("--only_episodes", "0-2", "--vocabulary.enabled=false", "--vqa.enabled=false", "--offline")
    said = annotator("sync", banana, "--vlm.model_id", "test-model", *flags, status=1).stderr
    (line,) = [line for line in said.splitlines() if "failed:" in line]
    assert line == (
        "failed: 6 calls are not in the log, and nobody was asked – plan.describe 3, plan.task_rephrasings 3"
    )
    assert said.count("hint:") == 1
    for view in ("failures", "calls"):
        assert not run_query(banana / ".annotator", f"SELECT * FROM {view}").num_rows
    (run,) = run_query(banana / ".annotator", "SELECT outcome FROM runs").to_pylist()
    assert run == {"outcome": "incomplete"}


def test_the_files_metadata_and_row_groups_come_back_as_they_were(banana: Path, sync: Callable[..., str]) -> None:
    before = pq.ParquetFile(banana / SHARD)
    sync(banana)
    after = pq.ParquetFile(banana / SHARD)
    groups = [after.metadata.row_group(i).num_rows for i in range(after.metadata.num_row_groups)]
    assert groups == [before.metadata.row_group(i).num_rows for i in range(before.metadata.num_row_groups)]
    assert after.metadata.metadata[b"huggingface"] == before.metadata.metadata[b"huggingface"]
    assert np.array_equal(after.read(["timestamp"])["timestamp"], before.read(["timestamp"])["timestamp"])


def test_a_camera_stored_as_images_is_watched_like_any_other(
    tmp_path: Path, sync: Callable[..., str], answered: Callable[[], int]
) -> None:
    root = tmp_path / "sample"
    command = [sys.executable, str(REPO / "examples/make_sample.py"), str(root), "--episodes", "1", "--image-camera"]
    subprocess.run(command, check=True, capture_output=True)
    wrist = ("--vlm.camera_key", "observation.images.wrist")

    sync(root, *wrist, episodes="0")

    assert last_run(root)["frames_decoded"] > 0
    asked = answered()
    sync(root, *wrist, episodes="0")
    assert answered() == asked
    sync(root, episodes="0")
    assert answered() > asked, "another camera is other footage"
