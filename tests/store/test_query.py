"""Queries: every view answers, from the cache or from the journal, and nothing but reading is possible."""

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pytest

from annotator_store.errors import JournalDamaged, QueryRefused
from annotator_store.log import query as query_module
from annotator_store.log.events import AnyEvent, EpisodeSources, ShardWritten
from annotator_store.log.lines import entry_of
from annotator_store.log.log import Log
from annotator_store.log.query import VIEWS, columns_query, run_query
from tests.store.facts import (
    annotated,
    answered,
    at,
    declined,
    digest,
    discovered,
    edited,
    failed,
    finished,
    gap,
    rejected,
    rendered,
    row,
    seen,
)

VIEWS_FOLDER = Path(query_module.__file__).with_name("sql") / "views"
SAY = '{"function":{"arguments":{"text":"done"},"name":"say"},"type":"function"}'
ROWS = (
    row("reach", 0.0),
    row("grasp", 1.1),
    row(None, 1.1, style=None, tool_calls=(SAY,)),
    row('{"count":2,"label":"cup"}', 1.1, style="vqa", camera="observation.images.top"),
)
EVENTS: list[AnyEvent] = [
    seen(0, 1),
    seen(1, 1),
    rendered(0, 1),
    rendered(1, 1),
    answered(0, 0, 2),
    answered(0, 1, 3),
    rejected(0, 1, 4),
    answered(1, 0, 2),
    failed(1, 1, 3),
    failed(1, 2, 3),
    answered(1, 2, 8),
    declined(1, 3, 4),
    annotated(0, 5, rows=(row("old", 0.0),)),
    annotated(0, 6, rows=ROWS, gaps=(gap(0, 1),)),
    annotated(1, 6, module="vqa", rows=ROWS[3:]),
    discovered(1),
    edited(7, ["grasp", "lift"], ["I hold the cup."]),
    discovered(2, ["pour"], ["I poured."], dataset="bowls", recipe="other"),
    finished(9),
]

# What makes each view's order total: no two rows agree on all of these.
ORDER = {
    "rows": ("dataset", "episode_index", "episode", "module", "seq"),
    "calls": ("key",),
    "episodes": ("dataset", "episode_index"),
    "runs": ("finished_at", "id"),
    "failures": ("id", "key", "episode", "detail"),
    "prompts": ("prompt", "step"),
    "vocabulary": ("dataset", "kind", "seq"),
}
COLUMNS = {
    "rows": "episode_index dataset timestamp style role content camera tool_calls module engine model_id call "
    "episode seq",
    "calls": "key step episode_index episode outcome reply answer tokens_in tokens_out elapsed_s engine model_id "
    "model_revision versions endpoint finish_reason recorded_at run_id prompt frames seed attempts",
    "episodes": "digest dataset episode_index tasks frame_count duration_s cameras modules revision seen_at",
    "runs": "id run_id dataset outcome started_at finished_at elapsed_s engine model_id episodes episodes_skipped "
    "calls_answered calls_hit calls_failed calls_declined answers_rejected answered_by_step tokens_in tokens_out "
    "frames_decoded shards_written arguments versions broken_rules",
    "failures": "id outcome step episode_index episode kind detail reply retryable attempts engine model_id key "
    "recorded_at run_id superseded",
    "prompts": "prompt step text calls",
    "vocabulary": "dataset kind seq entry origin since run_id event",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    with Log.open(folder) as log:
        log.record(*EVENTS).result()
    return folder


def rows_of(folder: Path | None, sql: str, parameters: Any = None) -> list[dict[str, Any]]:
    return run_query(folder, sql, parameters).to_pylist()


def forbid_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def built(*_: object) -> None:
        raise AssertionError("built in memory")

    monkeypatch.setattr(query_module, "_in_memory", built)


def forbid_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_module, "open_up_to_date", lambda _folder, _config: None)  # pyright: ignore[reportUnknownLambdaType]


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_its_columns_and_a_total_order(store: Path, view: str) -> None:
    table = run_query(store, f"SELECT * FROM {view}")
    assert table.column_names == COLUMNS[view].split()
    places = list(zip(*(table[name].to_pylist() for name in ORDER[view]), strict=True))
    assert places
    assert len(set(places)) == len(places)
    assert places == sorted(places)


@pytest.mark.parametrize("view", VIEWS)
def test_cache_and_journal_give_the_same_view(store: Path, view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        forbid_memory(patch)
        from_cache = run_query(store, f"SELECT * FROM {view}")
    forbid_cache(monkeypatch)
    assert run_query(store, f"SELECT * FROM {view}").equals(from_cache)


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_s_file_says_what_it_is_and_how_it_is_ordered(view: str) -> None:
    meaning, columns, *_ = (VIEWS_FOLDER / f"{view}.sql").read_text().splitlines()
    assert re.fullmatch(r"-- .+[a-z].*\.", meaning)
    assert re.fullmatch(r"-- Columns: .+ Ordered by .+\.", columns)
    assert all(name in columns for name in ORDER[view])


def test_rows_are_those_of_the_current_annotations(store: Path) -> None:
    found = rows_of(
        store, 'SELECT episode_index, "timestamp", style, content, tool_calls, module, "call", engine FROM rows'
    )
    assert [(r["episode_index"], r["module"], r["style"], r["content"]) for r in found] == [
        (0, "plan", "subtask", "reach"),
        (0, "plan", "subtask", "grasp"),
        (0, "plan", None, None),
        (0, "plan", "vqa", '{"count":2,"label":"cup"}'),
        (1, "vqa", "vqa", '{"count":2,"label":"cup"}'),
    ]
    assert found[2]["tool_calls"] == [SAY]
    assert found[0]["tool_calls"] is None
    assert found[0]["call"] == digest("key", 0, 0)
    assert {r["engine"] for r in found} == {"openai"}


def test_timestamps_are_the_float32_values_of_frames(store: Path) -> None:
    table = run_query(store, "SELECT timestamp FROM rows WHERE content = 'grasp'")
    assert table.schema.field("timestamp").type == pa.float32()
    assert rows_of(store, "SELECT content FROM rows WHERE \"timestamp\" = ?::FLOAT AND style = 'subtask'", [1.1]) == [
        {"content": "grasp"}
    ]


def test_every_call_is_there_once_with_how_it_ended(store: Path) -> None:
    found = rows_of(store, "SELECT key, outcome, reply, answer, tokens_in, episode_index, seed FROM calls")
    assert {r["key"]: r["outcome"] for r in found} == {
        digest("key", 0, 0): "answered",
        digest("key", 0, 1): "rejected",
        digest("key", 1, 0): "answered",
        digest("key", 1, 1): "failed",
        digest("key", 1, 2): "answered",
        digest("key", 1, 3): "declined",
    }
    by_key = {r["key"]: r for r in found}
    first, lost = by_key[digest("key", 0, 0)], by_key[digest("key", 1, 1)]
    assert (first["reply"], first["answer"], first["tokens_in"]) == (
        '{"subtask": "reach 0"}',
        '{"subtask":"reach 0"}',
        900,
    )
    assert (first["episode_index"], first["seed"]) == (0, 1729)
    assert (lost["reply"], lost["seed"], lost["episode_index"]) == (None, None, 1)


def test_failures_say_why_and_whether_it_is_over(store: Path) -> None:
    found = rows_of(store, "SELECT key, outcome, kind, detail, attempts, superseded FROM failures")
    assert {r["key"]: (r["outcome"], r["kind"], r["detail"], r["superseded"]) for r in found} == {
        digest("key", 0, 1): ("rejected", "rejected", "$.subtasks: expected a list", False),
        digest("key", 1, 1): ("failed", "timeout", "no reply in 60 s", False),
        digest("key", 1, 2): ("failed", "timeout", "no reply in 60 s", True),
        digest("key", 1, 3): ("declined", "declined", "cannot see", False),
    }


def test_unreadable_footage_is_missing_until_the_episode_is_seen_with_it(tmp_path: Path) -> None:
    query = "SELECT outcome, kind, episode_index, detail, superseded FROM failures"
    gone = {
        "observation.images.top": "no such file – top.mp4",
        "observation.images.wrist": "cut off – wrist.mp4",
    }
    with Log.open(tmp_path) as log:
        log.record(seen(0, 1), msgspec.structs.replace(seen(1, 1, index=4), unreadable=gone)).result()
    assert rows_of(tmp_path, query) == [
        {
            "outcome": "unreadable",
            "kind": "footage",
            "episode_index": 4,
            "detail": f"{camera}: {why}",
            "superseded": False,
        }
        for camera, why in gone.items()
    ]
    with Log.open(tmp_path) as log:
        assert log.unreadable("cups") == {(digest("episode", 1), 4): gone}
        log.record(seen(1, 5, index=4)).result()
        assert log.unreadable("cups") == {}
    assert {row["superseded"] for row in rows_of(tmp_path, query)} == {True}


def test_a_quarantined_episode_is_missing_by_every_rule_that_kept_it_out_until_its_rows_are_written(
    tmp_path: Path,
) -> None:
    query = "SELECT outcome, kind, episode_index, detail, superseded FROM failures ORDER BY detail"
    said = {"outcome": "quarantined", "kind": "quarantined", "episode_index": 1, "superseded": False}
    kept_out = {digest("episode", 1): ("subtask_cover", "vqa_shape")}
    source = EpisodeSources(episode=digest("episode", 1), start=0, stop=9, sources=None)
    written = ShardWritten(
        recorded_at=at(4), run_id="run-1", dataset="cups", path="data/a.parquet", language=digest("language"),
        episodes=1, frames=9, made_of=(source,),
    )  # fmt: skip
    with Log.open(tmp_path) as log:
        log.record(seen(0), seen(1), annotated(1, 1), written).result()
        log.record(*(msgspec.structs.replace(finished(n, f"run-{n}"), quarantined=kept_out) for n in (2, 3))).result()
    assert rows_of(tmp_path, query) == [said | {"detail": rule} for rule in ("subtask_cover", "vqa_shape")]
    with Log.open(tmp_path) as log:
        now = msgspec.structs.replace(source, sources={"plan": digest("event")})
        log.record(msgspec.structs.replace(written, recorded_at=at(5), made_of=(now,))).result()
    assert {row["superseded"] for row in rows_of(tmp_path, query)} == {True}


def test_a_quarantined_episode_that_was_annotated_anew_is_not_held_against_its_old_rows(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        out = msgspec.structs.replace(finished(2), quarantined={digest("episode", 1): ("subtask_cover",)})
        log.record(seen(1), annotated(1, 1), out, annotated(1, 3)).result()
    assert rows_of(tmp_path, "SELECT superseded FROM failures") == [{"superseded": True}]


def test_runs_say_which_rules_were_broken(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        log.record(msgspec.structs.replace(finished(9), broken_rules={"subtask_cover": 2})).result()
    assert rows_of(tmp_path, "SELECT broken_rules FROM runs") == [{"broken_rules": '{"subtask_cover":2}'}]


def test_a_gap_is_over_when_its_module_finishes_without_it(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        log.record(rejected(0, 1, 4), annotated(0, 6, gaps=(gap(0, 1),))).result()
    assert rows_of(tmp_path, "SELECT superseded FROM failures") == [{"superseded": False}]
    with Log.open(tmp_path) as log:
        log.record(annotated(0, 7)).result()
    assert rows_of(tmp_path, "SELECT superseded FROM failures") == [{"superseded": True}]


def test_what_an_answer_said_in_vain_is_shown_while_its_annotation_counts(tmp_path: Path) -> None:
    """Such a gap has no event of its own; one that a rejection tells of is not shown twice."""
    vain = [msgspec.structs.replace(gap(0, 2), detail=f"{word} is not in the vocabulary") for word in ("sing", "jig")]
    with Log.open(tmp_path) as log:
        log.record(rejected(0, 1, 4), annotated(0, 6, gaps=(gap(0, 1), *vain))).result()
    found = rows_of(tmp_path, "SELECT outcome, step, detail, key, superseded FROM failures WHERE detail LIKE '%vocab%'")
    assert [r["detail"] for r in found] == ["jig is not in the vocabulary", "sing is not in the vocabulary"]
    assert {(r["outcome"], r["step"], r["key"], r["superseded"]) for r in found} == {
        ("rejected", vain[0].step, vain[0].call, False)
    }
    assert len(rows_of(tmp_path, "SELECT id FROM failures")) == 3
    with Log.open(tmp_path) as log:
        log.record(annotated(0, 7)).result()
    assert len(rows_of(tmp_path, "SELECT id FROM failures")) == 1


def test_a_renumbered_episode_shows_where_it_stands_now(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        log.record(*(seen(e, 1) for e in range(3)), annotated(2, 2)).result()
        log.record(msgspec.structs.replace(seen(2, 5, index=1), run_id="another run")).result()
    found = rows_of(tmp_path, "SELECT digest, episode_index, modules FROM episodes")
    assert found == [
        {"digest": digest("episode", 0), "episode_index": 0, "modules": []},
        {"digest": digest("episode", 2), "episode_index": 1, "modules": ["plan"]},
    ]
    assert {r["episode_index"] for r in rows_of(tmp_path, "SELECT episode_index FROM rows")} == {1}


def test_a_vocabulary_s_entries_say_since_when_they_are_there_and_from_where(store: Path) -> None:
    found = rows_of(store, "SELECT dataset, kind, seq, entry, origin, since, run_id, event FROM vocabulary")
    first, hand = entry_of(discovered(1)).id, entry_of(edited(7, ["grasp", "lift"], ["I hold the cup."])).id
    assert [(r["dataset"], r["kind"], r["seq"], r["entry"], r["origin"]) for r in found] == [
        ("bowls", "memory", 0, "I poured.", "discovered"),
        ("bowls", "subtask", 0, "pour", "discovered"),
        ("cups", "memory", 0, "I hold the cup.", "discovered"),
        ("cups", "subtask", 0, "grasp", "discovered"),
        ("cups", "subtask", 1, "lift", "edited"),
    ]
    assert [(r["event"], r["run_id"], r["since"].second) for r in found[2:]] == [
        (first, "run-1", 1),
        (first, "run-1", 1),
        (hand, "run-2", 7),
    ]


def test_an_entry_that_came_back_is_there_since_it_came_back(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        log.record(discovered(1, ["a", "b"]), edited(2, ["b"]), edited(3, ["b", "a"]), edited(4, ["a", "b"])).result()
    found = rows_of(tmp_path, "SELECT entry, origin, since FROM vocabulary WHERE kind = 'subtask'")
    assert [(r["entry"], r["origin"], r["since"].second) for r in found] == [("a", "edited", 3), ("b", "discovered", 1)]


def test_a_rejected_vocabulary_is_over_when_one_was_found_from_the_same_episodes(tmp_path: Path) -> None:
    call = digest("key", "watched", 0)
    spoilt = msgspec.structs.replace(rejected(0, 7, 2), step="vocabulary.discover")
    answer = msgspec.structs.replace(answered(0, 0, 3), step="vocabulary.discover", key=call)
    with Log.open(tmp_path) as log:
        log.record(spoilt, answer).result()
    assert rows_of(tmp_path, "SELECT superseded FROM failures") == [{"superseded": False}]
    with Log.open(tmp_path) as log:
        log.record(discovered(4)).result()
    assert rows_of(tmp_path, "SELECT superseded FROM failures") == [{"superseded": True}]


def test_episodes_prompts_and_runs(store: Path) -> None:
    (first, _) = rows_of(store, "SELECT * FROM episodes")
    assert (first["tasks"], first["frame_count"], first["duration_s"]) == (["stack the cups"], 120, 12.0)
    assert (first["cameras"], first["modules"]) == (["observation.images.top"], ["plan"])
    prompts = {r["prompt"]: (r["step"], r["text"], r["calls"]) for r in rows_of(store, "SELECT * FROM prompts")}
    assert prompts[digest("prompt", 0)] == ("plan.segment", '{"messages":["segment 0"]}', 2)
    (run,) = rows_of(store, "SELECT * FROM runs")
    assert (run["outcome"], run["calls_answered"], run["answered_by_step"]) == ("done", 4, '{"plan.segment":4}')
    assert (run["finished_at"] - run["started_at"]).total_seconds() == 9


def test_parameters_are_bound_by_place_and_by_name(store: Path) -> None:
    assert rows_of(store, "SELECT ? + 1 AS n", [2]) == [{"n": 3}]
    assert rows_of(store, "SELECT $n + 1 AS n", {"n": 2}) == [{"n": 3}]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("folder", [None, Path("/nonexistent/store")], ids=["none", "missing"])
def test_without_a_store_the_views_are_empty(folder: Path | None, view: str) -> None:
    table = run_query(folder, f"SELECT * FROM {view}")
    assert (table.column_names, table.num_rows) == (COLUMNS[view].split(), 0)


REFUSED = [
    "COPY rows TO '{tmp}/out.csv'",
    "COPY (SELECT 1) TO '{tmp}/out.parquet'",
    "EXPORT DATABASE '{tmp}/out'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM parquet_scan('/etc/passwd')",
    "ATTACH '{tmp}/new.duckdb'",
    "DETACH memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "SET threads = 1",
    "SET enable_external_access = true",
    "RESET threads",
    "CREATE TABLE mine (a INTEGER)",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "CREATE OR REPLACE TEMP VIEW rows AS SELECT 1",
    "INSERT INTO events SELECT * FROM events",
    "DELETE FROM events",
    "UPDATE events SET body = ''",
    "DROP TABLE events",
    "CHECKPOINT",
    "CALL enable_logging()",
    "SELECT * FROM enable_logging(storage = 'file', storage_path = '{tmp}/log')",
    "EXPLAIN ANALYZE INSERT INTO events SELECT * FROM events",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE events",
    "",
    "   -- nothing",
]


@pytest.mark.parametrize("sql", REFUSED)
@pytest.mark.parametrize("source", ["cache", "journal"])
def test_all_but_reading_is_refused(
    store: Path, tmp_path: Path, sql: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "journal":
        forbid_cache(monkeypatch)
    with pytest.raises(QueryRefused) as caught:
        run_query(store, sql.replace("{tmp}", str(tmp_path)))
    assert "hint:" in str(caught.value)
    assert "root:" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert run_query(store, "SELECT count(*) AS n FROM calls").to_pylist() == [{"n": 6}]


def test_no_query_opens_a_connection(store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        for scheme in ("http", "https"):
            with pytest.raises(QueryRefused):
                run_query(store, f"SELECT * FROM '{scheme}://127.0.0.1:{server.getsockname()[1]}/a.parquet'")
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_query_sees_no_python_variable(store: Path) -> None:
    secret = pa.table({"a": [1]})
    with pytest.raises(QueryRefused):
        run_query(store, "SELECT * FROM secret")
    assert secret.num_rows == 1


def test_an_unknown_view_is_answered_with_the_views_there_are(store: Path) -> None:
    with pytest.raises(QueryRefused) as caught:
        run_query(store, "SELECT * FROM subtasks")
    assert "subtasks does not exist" in str(caught.value)
    for view in VIEWS:
        assert view in caught.value.hint
    with pytest.raises(QueryRefused, match="nosuch") as caught:
        run_query(store, "SELECT nosuch FROM rows")
    assert "DESCRIBE" in caught.value.hint


def test_a_syntax_error_is_duckdb_s_own_message(store: Path) -> None:
    with pytest.raises(QueryRefused, match='syntax error at or near "SELCT"'):
        run_query(store, "SELCT * FROM rows")


def delete_cache(folder: Path) -> None:
    (folder / "cache.duckdb").unlink()


def garble_cache(folder: Path) -> None:
    (folder / "cache.duckdb").write_bytes(b"no database" * 1000)


def flip_blocks(folder: Path) -> None:
    path = folder / "cache.duckdb"
    data = bytearray(path.read_bytes())
    for place in range(12288 + 200, len(data), 2000):
        data[place] ^= 1
    path.write_bytes(data)


def flip_tail_blocks(folder: Path) -> None:
    path = folder / "cache.duckdb"
    data = bytearray(path.read_bytes())
    for place in range(12288 + 262144 + 200, len(data), 2000):
        data[place] ^= 1
    path.write_bytes(data)


def garbage_wal(folder: Path) -> None:
    (folder / "cache.duckdb.wal").write_bytes(b"\x07garbage" * 500)


def leave_behind(folder: Path) -> None:
    """The cache lacks a segment that was copied in."""
    with duckdb.connect(str(folder / "cache.duckdb")) as connection:
        for table in ("events", "outcomes", "annotations", "ingested"):
            connection.execute(f"DELETE FROM {table}")


@pytest.mark.parametrize(
    "ruin",
    [delete_cache, garble_cache, flip_blocks, flip_tail_blocks, garbage_wal, leave_behind],
    ids=lambda f: f.__name__,
)
def test_a_query_answers_without_a_usable_cache(tmp_path: Path, ruin: Callable[[Path], None]) -> None:
    with Log.open(tmp_path) as log:
        log.record(*EVENTS).result()
    want = run_query(tmp_path, "SELECT * FROM calls")
    ruin(tmp_path)
    assert run_query(tmp_path, "SELECT * FROM calls").equals(want)


RUNNING = """
import itertools, sys
from pathlib import Path
from annotator_store.log import pending as recent
from annotator_store.log.log import Log
from tests.store.facts import answered, seen

recent._INGEST_EVENTS = 32
with Log.open(Path(sys.argv[1])) as log:
    log._journal._seal_bytes = 60_000
    for call in itertools.count():
        log.record(answered(0, call)).result()
        print(call + 1, flush=True)
"""


def test_a_query_answers_while_another_process_records(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", RUNNING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, env={"PYTHONPATH": str(root / "store")}) as child:
        assert child.stdout is not None
        counted = 0
        for target in (1, 40, 150):
            while counted < target:
                counted = int(child.stdout.readline())
            (answer,) = rows_of(tmp_path, "SELECT count(*) AS n FROM calls")
            assert answer["n"] >= counted
        child.kill()
        child.stdout.read()
    assert rows_of(tmp_path, "SELECT count(*) AS n FROM calls")[0]["n"] >= counted


def test_a_query_answers_while_this_process_records(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        log.record(*EVENTS).result()
        answers: list[int] = []
        ask = threading.Thread(target=lambda: answers.append(run_query(tmp_path, "SELECT * FROM calls").num_rows))
        ask.start()
        ask.join()
    assert answers == [6]


def test_a_damaged_journal_is_told_from_a_wrong_query(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        log.record(*EVENTS).result()
    (segment,) = (tmp_path / "journal").glob("*.parquet")
    segment.write_bytes(b"not parquet")
    (tmp_path / "cache.duckdb").unlink()
    with pytest.raises(JournalDamaged, match=segment.name):
        run_query(tmp_path, "SELECT * FROM calls")


PERSISTENT_ROW: dict[str, Any] = {
    "role": "assistant",
    "content": "reach",
    "style": "subtask",
    "timestamp": 0.0,
    "camera": None,
    "tool_calls": None,
}
SPEECH: dict[str, Any] = {"role": "assistant", "content": None, "style": None, "camera": None, "tool_calls": [SAY]}


def language(tool_calls: pa.DataType, *, persistent: bool) -> pa.DataType:
    fields: dict[str, pa.DataType] = {"role": pa.string(), "content": pa.string(), "style": pa.string()}
    if persistent:
        fields["timestamp"] = pa.float32()
    return pa.list_(pa.struct(fields | {"camera": pa.string(), "tool_calls": pa.list_(tool_calls)}))


def frames(tool_calls: pa.DataType) -> pa.Table:
    later = PERSISTENT_ROW | {"content": "grasp", "timestamp": 0.1}
    lists: dict[str, list[Any]] = {
        "language_persistent": [[PERSISTENT_ROW, later]] * 3 + [[PERSISTENT_ROW]],
        "language_events": [[], [SPEECH], [], []],
    }
    plain = {name: pa.array(lists[name], language(pa.string(), persistent="pers" in name)) for name in lists}
    return pa.table(
        {
            "episode_index": pa.array([0, 0, 0, 1], pa.int64()),
            "timestamp": pa.array([0.0, 0.1, 0.2, 0.0], pa.float32()),
            **{name: plain[name].cast(language(tool_calls, persistent="pers" in name)) for name in plain},
        }
    )


@pytest.mark.parametrize("tool_calls", [pa.string(), pa.json_()], ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_foreign_columns_have_the_same_rows_view(tool_calls: pa.DataType, stream: bool) -> None:
    table = frames(tool_calls)
    source = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(2)) if stream else table
    result = columns_query(source, "SELECT * FROM rows ORDER BY episode_index, seq", dataset="theirs")
    assert result.column_names == COLUMNS["rows"].split()
    found = result.to_pylist()
    assert [(r["episode_index"], round(r["timestamp"], 3), r["content"], r["tool_calls"]) for r in found] == [
        (0, 0.0, "reach", None),
        (0, 0.1, "grasp", None),
        (0, 0.1, None, [SAY]),
        (1, 0.0, "reach", None),
    ]
    assert {(r["dataset"], r["engine"], r["model_id"], r["module"]) for r in found} == {
        ("theirs", "unknown", "unknown", None)
    }


def test_foreign_columns_are_read_only_too(tmp_path: Path) -> None:
    with pytest.raises(QueryRefused):
        columns_query(frames(pa.string()), f"COPY rows TO '{tmp_path}/x.csv'")
    with pytest.raises(QueryRefused):
        columns_query(frames(pa.string()), "SELECT * FROM read_text('/etc/passwd')")
    with pytest.raises(QueryRefused, match="calls") as caught:
        columns_query(frames(pa.string()), "SELECT * FROM calls")
    assert "the views are rows;" in caught.value.hint


def test_columns_that_are_not_language_columns_are_refused() -> None:
    with pytest.raises(QueryRefused, match="language_events"):
        columns_query(frames(pa.string()).drop_columns(["language_events"]), "SELECT * FROM rows")
