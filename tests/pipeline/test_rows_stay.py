"""What a run leaves alone, whoever wrote it; and what a log says of datasets that move, shrink or share it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotator.cli.parsing import parse_sync
from annotator.cli.progress import ConsoleProgress
from annotator.errors import UsageError
from annotator.pipeline.sync import Outcome, sync
from annotator_store.errors import Problem
from annotator_store.log.query import run_query
from annotator_store.rows import EVENTS, PERSISTENT
from tests.conftest import MakeDataset
from tests.datasets import Recording, edit_info, edit_parquet, set_column, shard_path, snapshot

SIGNALS = ("--vlm.backend", "signals", "--plan.min_subtask_seconds", "0")
A, B, C = Recording(1), Recording(2), Recording(3, frames=30)


def run(root: Path, *flags: object) -> Outcome:
    with ConsoleProgress() as report:
        return sync(parse_sync([str(root), *SIGNALS, *(str(flag) for flag in flags)]), report)


def stored(root: Path, shards: Sequence[int] = (0, 1)) -> dict[int, list[dict[str, Any]]]:
    """The persistent rows of each episode, as pyarrow reads them."""
    found: dict[int, list[dict[str, Any]]] = {}
    for shard in shards:
        table = pq.ParquetFile(root / shard_path(shard)).read(["episode_index", PERSISTENT])
        found |= dict(zip(table["episode_index"].to_pylist(), table[PERSISTENT].to_pylist(), strict=True))
    return found


def asked(store: Path) -> list[int]:
    """Calls answered by each run, oldest first."""
    return [r["n"] for r in run_query(store, "SELECT calls_answered AS n FROM runs ORDER BY started_at").to_pylist()]


def hand_edit(root: Path, text: str) -> None:
    """Write another text into the first row of episode 0, as a person with pyarrow would."""

    def change(table: pa.Table) -> pa.Table:
        lists = table[PERSISTENT].to_pylist()
        owners = table["episode_index"].to_pylist()
        new = [
            [rows[0] | {"content": text}, *rows[1:]] if e == 0 else rows for rows, e in zip(lists, owners, strict=True)
        ]
        return table.set_column(table.schema.get_field_index(PERSISTENT), PERSISTENT, pa.array(new))

    edit_parquet(root / shard_path(0), change)


@pytest.mark.parametrize("where", ["the log was left behind", "another store is named"])
def test_a_run_whose_log_knows_none_of_the_rows_leaves_lock_and_card_as_they_are(
    where: str, make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_dataset(tmp_path / "a", [A, B, C])
    run(root)
    before = {path: path.read_bytes() for path in (root / "meta" / "annotations.lock.json", root / "README.md")}
    other: tuple[object, ...] = ("--store", tmp_path / "empty")
    if where == "the log was left behind":
        shutil.rmtree(root / ".annotator")
        other = ()
    for _ in range(2):
        run(root, "--offline", "--only_episodes", "0", *other)
        assert {path: path.read_bytes() for path in before} == before
        assert "this log has none of the rows that they tell of" in capsys.readouterr().err
    run(root, *other)
    assert {path: path.read_bytes() for path in before} == before, "asked anew, they say the same"
    assert "stay as they are" not in capsys.readouterr().err


def test_a_module_that_is_off_leaves_its_rows_as_they_are_also_edited_ones(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    root = make_dataset(tmp_path, [A, B, C])
    run(root)
    before = snapshot(root / "data")
    assert run(root, "--plan.enabled=false") == "done"
    assert snapshot(root / "data") == before
    hand_edit(root, "stay where you are")
    edited = stored(root)
    assert edited[0][0]["content"] == "stay where you are"
    assert run(root, "--plan.enabled=false") == "done"
    assert stored(root) == edited


def test_a_run_that_fails_leaves_an_episode_the_rows_it_had(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(tmp_path, [A, B, C])
    run(root)
    before = snapshot(root / "data")
    assert run(root, "--offline", "--seed", 99) == "incomplete"
    assert snapshot(root / "data") == before


def test_datasets_that_share_a_log_do_not_take_each_others_rows(make_dataset: MakeDataset, tmp_path: Path) -> None:
    one, two = (make_dataset(tmp_path / side, [A, B, C]) for side in ("left", "right"))
    store = ("--store", tmp_path / "log")
    run(one, *store)
    before = snapshot(one / "data")
    run(two, *store, "--plan.n_task_rephrasings", 1, "--plan.emit_plan=false")
    run(one, *store, "--plan.enabled=false")
    run(one, *store, "--offline", "--seed", 99)
    assert snapshot(one / "data") == before
    query = "SELECT dataset, count(DISTINCT episode_index) AS n FROM rows GROUP BY dataset ORDER BY dataset"
    places = run_query(tmp_path / "log", query).to_pylist()
    assert [place["n"] for place in places] == [3, 3]
    assert [place["dataset"] for place in places] == [str(one.resolve()), str(two.resolve())]


def test_some_episodes_of_a_fresh_dataset_give_every_shard_both_columns(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    root = make_dataset(tmp_path, [A, B, C])
    run(root, "--only_episodes", "2")
    rows = stored(root)
    assert (rows[0], rows[1]) == ([], [])
    assert rows[2]
    schemas = [pq.ParquetFile(root / shard_path(shard)).schema_arrow for shard in (0, 1)]
    assert [s.field(name) for s in schemas for name in (PERSISTENT, EVENTS)] == [
        schemas[0].field(name) for _ in schemas for name in (PERSISTENT, EVENTS)
    ]


def test_deleting_and_renumbering_episodes_asks_nothing_and_moves_their_rows(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    whole, less = make_dataset(tmp_path, [A, B, C]), make_dataset(tmp_path / "less", [C, A])
    store = tmp_path / "tiny" / ".annotator"
    run(whole)
    before = stored(whole)
    (less / ".annotator").symlink_to(store)
    run(less, "--store", store)
    assert asked(store)[1:] == [0]
    after = stored(less)
    assert (after[0], after[1]) == (before[2], before[0])


def test_a_dataset_that_shrank_or_moved_shows_each_row_once(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(tmp_path, [A, B, C])
    run(root)
    fewer = make_dataset(tmp_path / "later", [C, A], name="renamed")
    (root / ".annotator").rename(fewer / ".annotator")
    run(fewer)
    query = "SELECT dataset, episode_index, count(*) AS n FROM rows WHERE module = 'plan' GROUP BY ALL ORDER BY 2"
    shown = run_query(fewer / ".annotator", query).to_pylist()
    assert [(r["dataset"], r["episode_index"]) for r in shown] == [("tiny", 0), ("tiny", 1)]
    assert [r["n"] for r in shown] == [len(rows) for _, rows in sorted(stored(fewer).items())]


def test_a_new_description_with_the_same_answer_asks_nothing_after_it(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    """Early cut-off: the signals engine describes the same whatever it is told, so no segment call has a new prompt."""
    root = make_dataset(tmp_path, [A, B, C])
    run(root)
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    shipped = (Path(__file__).parents[2] / "prompts" / "plan_describe.md").read_text(encoding="utf-8")
    (prompts / "plan_describe.md").write_text(shipped.replace("in order, one", "in time order, one"), encoding="utf-8")
    run(root, "--prompts", prompts)
    query = "SELECT answered_by_step AS steps FROM runs ORDER BY started_at"
    assert run_query(root / ".annotator", query).to_pylist()[1] == {"steps": '{"plan.describe":3}'}


def test_a_rerun_with_signals_does_nothing_at_all(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(tmp_path, [A, B, C])
    run(root)
    before = {name: held for name, held in snapshot(root).items() if ".annotator" not in name}
    run(root)
    assert {name: held for name, held in snapshot(root).items() if ".annotator" not in name} == before
    query = "SELECT calls_answered, calls_hit, frames_decoded, shards_written FROM runs ORDER BY started_at"
    assert set(run_query(root / ".annotator", query).to_pylist()[1].values()) == {0}


def test_some_episodes_into_an_older_output_keep_the_others_there(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root, output = make_dataset(tmp_path, [A, B, C]), tmp_path / "out"
    run(root, "--output", output)
    before = stored(output)
    (root / shard_path(0)).touch()
    run(root, "--output", output, "--only_episodes", "0", "--plan.n_task_rephrasings", 1)
    after = stored(output)
    assert after[0] != before[0]
    assert (after[1], after[2]) == (before[1], before[2])


def test_an_output_of_another_layout_is_refused(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root, output = make_dataset(tmp_path, [A, B, C]), tmp_path / "out"
    run(root, "--output", output)
    joined = make_dataset(tmp_path / "joined", [A, B, C], shards=[[0, 1, 2]])
    with pytest.raises(UsageError, match="the output holds a file that the dataset has not"):
        run(joined, "--output", output)


@pytest.mark.parametrize("change", ["names", "fps"])
def test_what_info_json_says_counts_with_and_without_the_cache(
    make_dataset: MakeDataset, tmp_path: Path, change: str
) -> None:
    counts: list[list[int]] = []
    for side in ("kept", "lost"):
        root = make_dataset(tmp_path / side, [A, B, C])
        run(root)
        if change == "fps":
            edit_info(root, fps=20)
        else:
            info = (root / "meta/info.json").read_text(encoding="utf-8")
            (root / "meta/info.json").write_text(info.replace('"gripper"', '"wrist_roll"'), encoding="utf-8")
        if side == "lost":
            (root / ".annotator" / "cache.duckdb").unlink()
        run(root)
        counts.append(asked(root / ".annotator"))
    assert counts[0] == counts[1]
    assert counts[0][1] > 0


def test_a_clock_that_does_not_start_at_zero_only_shifts_the_rows(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root, shifted = (make_dataset(tmp_path / side, [A]) for side in ("zero", "later"))
    edit_parquet(
        shifted / shard_path(0),
        lambda t: set_column(t, "timestamp", pa.array(t["timestamp"].to_numpy() + np.float32(8), pa.float32())),
    )
    run(root)
    run(shifted)
    at_zero, later = stored(root, [0])[0], stored(shifted, [0])[0]
    starts, shifted_starts = (
        [(r["content"], r["timestamp"]) for r in rows if r["style"] == "subtask"][:3] for rows in (at_zero, later)
    )
    assert [content for content, _ in shifted_starts] == [content for content, _ in starts]
    assert [t - 8 for _, t in shifted_starts] == pytest.approx([t for _, t in starts], abs=1e-5)


def test_columns_another_tool_let_arrow_infer_can_be_annotated_over(make_dataset: MakeDataset, tmp_path: Path) -> None:
    """float64 stamps and `list<null>` events: what `pa.array` makes of Python lists."""
    root = make_dataset(tmp_path, [A, B, C])
    row = {
        "role": "assistant",
        "content": "wave",
        "style": "motion",
        "timestamp": 0.3,
        "camera": None,
        "tool_calls": None,
    }

    def change(table: pa.Table) -> pa.Table:
        table = table.append_column(PERSISTENT, pa.array([[row]] * len(table)))
        return table.append_column(EVENTS, pa.array([[]] * len(table)))

    for shard in (0, 1):
        edit_parquet(root / shard_path(shard), change)
    assert run(root, "--only_episodes", "0,1") == "done"
    rows = stored(root)
    assert [r["content"] for r in rows[0] if r["style"] == "motion"] == ["wave"]
    assert any(r["style"] == "subtask" for r in rows[0])
    assert [(r["content"], np.float32(r["timestamp"])) for r in rows[2]] == [("wave", np.float32(0.3))]


def test_columns_that_cannot_be_read_are_refused_before_the_first_call(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    root = make_dataset(tmp_path, [A, B, C])
    numbers = pa.array([[1, 2]] * 54)
    edit_parquet(root / shard_path(0), lambda t: t.append_column(PERSISTENT, numbers[: len(t)]))
    with pytest.raises(Problem, match="hint: "):
        run(root)
    assert asked(root / ".annotator") == [0]


def test_where_nobody_can_answer_not_even_a_store_is_made(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(tmp_path, [A, B, C])
    before = snapshot(root)
    with pytest.raises(UsageError):
        run(root, "--vlm.backend", "openai", "--vlm.api_base", "http://127.0.0.1:9/v1")
    assert snapshot(root) == before
