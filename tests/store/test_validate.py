"""Verdicts: what is counted and what is shown, whole or in parts, over columns of whoever wrote them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator_store.errors import ShardError
from annotator_store.parquet.episode_language import EpisodeRows
from annotator_store.parquet.rewrite import prepare_shard
from annotator_store.rows import EVENTS, PERSISTENT
from annotator_store.validation import run as validate
from annotator_store.validation.report import ValidationReport, merge_reports
from annotator_store.validation.rules import load_rules
from annotator_store.validation.run import check_rows, check_shards
from annotator_store.validation.tables import CandidateRow, first_change, tables_of_shard
from tests.store.annotated import (
    FRAMES,
    KNOWN,
    Episodes,
    Placed,
    annotated,
    at,
    clean_episodes,
    clean_rows,
    persistent,
    say,
    write_frames,
    write_shard,
)

RULES = load_rules()


def names(verdict: ValidationReport) -> list[str]:
    return [breach.rule.name for breach in verdict.violations]


def spoiled(*episodes: int) -> Episodes:
    """Episodes whose plan lacks the refresh at the interjection, and whose memory changes amid a subtask."""
    rows = [placed for placed in clean_rows() if (placed[1].style, placed[1].timestamp) != ("plan", at(15))]
    return {index: [*rows, persistent("memory", 20, KNOWN.memories[0])] for index in episodes}


# --- what is counted, and what is shown --------------------------------------------------------------------------


def test_a_finding_says_rule_severity_episode_time_and_call(tmp_path: Path) -> None:
    shard = write_frames(tmp_path / "shard.parquet", [3, 7])
    rows = annotated(clean_episodes()) | annotated(spoiled(7), call="c0ffee")
    error, warning = check_rows([(shard, rows)], RULES, KNOWN).findings
    assert (error.rule, error.severity) == ("interjection_replans", "error")
    assert (warning.rule, warning.severity) == ("memory_on_boundary", "warning")
    assert [(one.episode_index, one.timestamp, one.call) for one in (error, warning)] == [
        (7, at(15), "c0ffee"),
        (7, at(20), "c0ffee"),
    ]
    assert "Wait, the other one." in error.detail


def test_all_findings_are_counted_and_the_first_are_kept(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shard.parquet", spoiled(*range(30)))
    verdict = check_shards([shard], RULES, KNOWN, limit=4)
    assert names(verdict) == ["interjection_replans", "memory_on_boundary"]
    assert (verdict.count("error"), verdict.count("warning")) == (30, 30)
    assert [[one.episode_index for one in breach.findings] for breach in verdict.violations] == [[0, 1, 2, 3]] * 2
    assert verdict.bad_episodes == frozenset(range(30)), "also those that are not shown"


def test_an_episode_with_warnings_alone_is_not_bad(tmp_path: Path) -> None:
    episodes = clean_episodes() | {7: [*clean_rows(), persistent("memory", 20, KNOWN.memories[0])]}
    verdict = check_shards([write_shard(tmp_path / "shard.parquet", episodes)], RULES, KNOWN)
    assert (names(verdict), verdict.count("error"), verdict.bad_episodes) == (["memory_on_boundary"], 0, frozenset())


def test_a_finding_without_an_episode_condemns_all_that_it_was_found_with(tmp_path: Path) -> None:
    text = '-- severity: error\n-- meaning: one\nSELECT NULL AS episode_index, NULL AS "timestamp", 2 AS detail'
    (tmp_path / "own.sql").write_text(text)
    shard = write_shard(tmp_path / "shard.parquet", clean_episodes())
    verdict = check_shards([shard], load_rules(tmp_path), KNOWN)
    assert verdict.bad_episodes == {3, 7}
    assert [(one.episode_index, one.timestamp, one.detail) for one in verdict.findings] == [(None, None, "2")]


def test_only_the_episodes_that_are_named_are_judged(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shard.parquet", clean_episodes() | spoiled(8, 9), row_group=13)
    verdict = check_shards([shard], RULES, KNOWN, only=[3, 9])
    assert (verdict.bad_episodes, verdict.episodes, verdict.frames) == ({9}, 2, 2 * FRAMES)
    assert verdict.rows == len(clean_rows()) + len(spoiled(9)[9])
    given_rows = check_rows([(shard, annotated(spoiled(3)))], RULES, KNOWN)
    assert (given_rows.bad_episodes, given_rows.episodes) == ({3}, 1)


def test_an_episode_without_frames_has_no_frame_for_its_rows(tmp_path: Path) -> None:
    shard = write_frames(tmp_path / "shard.parquet", [3])
    verdict = check_rows([(shard, annotated({4: [persistent("motion", 0, "waits")]}))], RULES, KNOWN)
    assert names(verdict) == ["frame_alignment"]


# --- rows that are kept ------------------------------------------------------------------------------------------


def drafted(placed: Sequence[Placed], *kept: str | None) -> list[CandidateRow]:
    """The rows as a run has them; those of some styles are kept."""
    return [CandidateRow(row=row, kept=row.style in kept) for _, row in placed]


def test_what_kept_rows_break_by_themselves_was_there_before(tmp_path: Path) -> None:
    shard = write_frames(tmp_path / "shard.parquet", [3, 7])
    wrong = [*clean_rows(), persistent("subtask", 20, "wait"), persistent("motion", 25, " ")]
    rows = {3: drafted(wrong, "subtask", "motion"), 7: drafted(wrong, "subtask")}
    verdict = check_rows([(shard, rows)], RULES, KNOWN, limit=1)
    assert [(one.rule.name, one.count, one.episodes) for one in verdict.preexisting] == [
        ("no_empty_text", 1, {3}),
        ("vocabulary_subtasks", 2, {3, 7}),
    ]
    assert [(one.rule.name, one.count, one.episodes) for one in verdict.violations] == [("no_empty_text", 1, {7})]
    assert verdict.bad_episodes == {7}
    assert [len(one.findings) for one in (*verdict.preexisting, *verdict.violations)] == [1, 1, 1]


def test_what_kept_and_new_rows_break_together_is_new(tmp_path: Path) -> None:
    """A second subtask on one frame, and one interjection without its plan: neither half is wrong by itself."""
    shard = write_frames(tmp_path / "shard.parquet", [3])
    both = [CandidateRow(row=row, kept=True) for _, row in clean_rows()]
    doubled = [*both, CandidateRow(row=persistent("subtask", 15, "grip the cube")[1])]
    found = check_rows([(shard, {3: doubled})], RULES, KNOWN)
    assert (names(found), found.preexisting) == (["one_row_per_time"], ())
    kept = drafted(spoiled(3)[3], "plan", "subtask", "memory")
    assert names(check_rows([(shard, {3: kept})], RULES, KNOWN)) == ["interjection_replans", "memory_on_boundary"]


def test_a_new_row_that_repeats_an_old_fault_is_new_once(tmp_path: Path) -> None:
    shard = write_frames(tmp_path / "shard.parquet", [3])
    blank = persistent("motion", 25, " ")[1]
    rows = [*drafted(clean_rows()), CandidateRow(row=blank, kept=True), CandidateRow(row=blank)]
    verdict = check_rows([(shard, {3: rows})], [rule for rule in RULES if rule.name == "no_empty_text"], KNOWN)
    assert [one.count for one in (*verdict.violations, *verdict.preexisting)] == [1, 1]


def test_own_rules_see_who_writes_a_row_and_whether_it_is_kept(tmp_path: Path) -> None:
    text = """-- severity: error
-- meaning: one
SELECT episode_index, "timestamp", concat(module, ' ', kept) AS detail FROM rows"""
    (tmp_path / "own.sql").write_text(text)
    (rule,) = [rule for rule in load_rules(tmp_path) if rule.name == "own"]
    row = persistent("motion", 0, "waits")[1]
    shard = write_frames(tmp_path / "shard.parquet", [3])
    mine = [CandidateRow(row=row, module="plan"), CandidateRow(row=row, kept=True)]
    verdict = check_rows([(shard, {3: mine})], [rule], KNOWN)
    assert [one.detail for breach in (*verdict.violations, *verdict.preexisting) for one in breach.findings] == [
        "plan false",
        " true",
    ]


# --- whole or in parts -------------------------------------------------------------------------------------------


def test_a_dataset_in_parts_gets_the_verdict_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [write_shard(tmp_path / f"{n}.parquet", spoiled(3 * n, 3 * n + 1) | {3 * n + 2: []}) for n in range(5)]
    whole = check_shards(shards, RULES, KNOWN, limit=3)
    monkeypatch.setattr(validate, "FRAMES_AT_ONCE", 1)
    assert check_shards(shards, RULES, KNOWN, limit=3) == whole
    apart = [check_shards([shard], RULES, KNOWN, limit=3) for shard in shards]
    assert merge_reports(apart, limit=3) == whole
    assert (whole.episodes, whole.count("error"), len(whole.findings)) == (15, 10, 6)


def test_rows_are_made_shard_by_shard_as_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run does not hold the rows of a whole dataset to have them judged."""
    monkeypatch.setattr(validate, "FRAMES_AT_ONCE", 1)
    made: list[int] = []
    judged: list[int] = []

    def shards() -> Any:
        for number in range(6):
            made.append(number)
            assert len(made) - len(judged) <= 2 * validate.THREADS
            yield write_frames(tmp_path / f"{number}.parquet", [number]), annotated({number: clean_rows()})

    really = validate._check  # pyright: ignore[reportPrivateUsage]

    def judge(*arguments: Any) -> ValidationReport:
        judged.extend(range(validate.THREADS))
        return really(*arguments)

    monkeypatch.setattr(validate, "_check", judge)
    assert check_rows(shards(), RULES, KNOWN).episodes == 6
    assert (len(made), len(judged)) == (6, 6)


def test_no_shards_are_clean() -> None:
    verdict = check_shards([], RULES, KNOWN)
    assert (verdict.violations, verdict.rules, verdict.episodes) == ((), len(RULES), 0)


# --- columns of whoever wrote them -------------------------------------------------------------------------------


def test_what_our_writer_writes_is_read_as_it_was_given(tmp_path: Path) -> None:
    source = write_frames(tmp_path / "source.parquet", [3, 7])
    rows = [row for _, row in clean_rows()]
    episodes = [EpisodeRows(start=start, stop=start + FRAMES, rows=tuple(rows)) for start in (0, FRAMES)]
    prepare_shard(source, tmp_path / "shard.parquet", episodes).commit()
    verdict = check_shards([tmp_path / "shard.parquet"], RULES, KNOWN)
    assert (verdict.violations, verdict.rows) == ((), 2 * len(rows))
    table = tables_of_shard(tmp_path / "shard.parquet", [7]).rows
    assert sorted(table["content"].to_pylist(), key=str) == sorted((row.content for row in rows), key=str)
    assert set(table["episode_index"].to_pylist()) == {7}


def inferred(table: pa.Table) -> pa.Table:
    """Let Arrow infer the types, as LeRobot's own writer does: float64, and calls as structs."""
    for column in (PERSISTENT, EVENTS):
        lists = table[column].to_pylist()
        for row in (row for rows in lists for row in rows):
            row["tool_calls"] = [json.loads(call) for call in row["tool_calls"]] if row["tool_calls"] else None
        index = table.schema.get_field_index(column)
        table = table.set_column(index, column, pa.array(lists))
    return table


def large(table: pa.Table) -> pa.Table:
    """Large lists, with null for an empty one."""
    for column in (PERSISTENT, EVENTS):
        index = table.schema.get_field_index(column)
        kind = pa.large_list(table.schema.field(column).type.value_type)
        lists = [rows or None for rows in inferred(table)[column].to_pylist()]
        for row in (row for rows in lists for row in rows or ()):
            row["tool_calls"] = [json.dumps(call) for call in row["tool_calls"]] if row["tool_calls"] else None
        fields = [f if f.name != "tool_calls" else pa.field(f.name, pa.list_(pa.string())) for f in kind.value_type]
        table = table.set_column(index, column, pa.array(lists, pa.large_list(pa.struct(fields))))
    return table


@pytest.mark.parametrize("change", [inferred, large])
def test_columns_of_other_types_are_judged_alike(change: Any, tmp_path: Path) -> None:
    clean = write_shard(tmp_path / "clean.parquet", clean_episodes(), change=change)
    assert check_shards([clean], RULES, KNOWN).violations == ()
    episodes = clean_episodes() | spoiled(8)
    ours = check_shards([write_shard(tmp_path / "ours.parquet", episodes)], RULES, KNOWN)
    theirs = check_shards([write_shard(tmp_path / "theirs.parquet", episodes, change=change)], RULES, KNOWN)
    assert theirs == ours
    assert names(ours) == ["interjection_replans", "memory_on_boundary"]


def test_a_call_that_is_a_struct_without_a_text_is_found(tmp_path: Path) -> None:
    episodes = clean_episodes() | {8: [*clean_rows()[1:], say(0, " ")]}
    rows = [placed for placed in episodes[8] if placed[1] != say(0, "On it.")[1]] + [clean_rows()[0]]
    shard = write_shard(tmp_path / "shard.parquet", {8: rows}, change=inferred)
    assert names(check_shards([shard], RULES, KNOWN)) == ["say_arguments"]


def test_a_shard_in_which_nothing_was_ever_said_is_clean(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shard.parquet", {1: [], 2: []}, change=inferred)
    assert pa.types.is_null(pq.read_schema(shard).field(EVENTS).type.value_type)
    verdict = check_shards([shard], RULES, KNOWN)
    assert (verdict.violations, verdict.rows, verdict.frames) == ((), 0, 2 * FRAMES)


@pytest.mark.parametrize("column", [PERSISTENT, EVENTS, "frame_index", "timestamp", "episode_index"])
def test_a_shard_that_lacks_a_column_is_refused_by_name(column: str, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shard.parquet", clean_episodes(), change=lambda table: table.drop_columns([column]))
    with pytest.raises(ShardError, match=rf"shard\.parquet.*no {column}"):
        check_shards([shard], RULES, KNOWN)


@pytest.mark.parametrize("value", [[1, 2], ["said"], [{"role": {"of": "user"}}], [{"timestamp": "noon"}], "text"])
def test_a_column_that_holds_no_rows_is_refused_by_its_shard(value: Any, tmp_path: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(3, PERSISTENT, pa.array([value] * len(table)))

    shard = write_shard(tmp_path / "shard.parquet", clean_episodes(), change=change)
    with pytest.raises(ShardError, match=r"shard\.parquet"):
        check_shards([shard], RULES, KNOWN)


def test_a_row_that_is_null_is_found_and_breaks_nothing_else(tmp_path: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        lists = table[EVENTS].to_pylist()
        lists[5] = [None]
        kind = inferred(table).schema.field(EVENTS).type
        for row in (row for rows in lists for row in rows if row):
            row["tool_calls"] = [json.loads(call) for call in row["tool_calls"]] if row["tool_calls"] else None
        return table.set_column(table.schema.get_field_index(EVENTS), EVENTS, pa.array(lists, kind))

    rows = [placed for placed in clean_rows() if placed[1].timestamp != at(5)]
    shard = write_shard(tmp_path / "shard.parquet", {3: rows}, change=change)
    assert names(check_shards([shard], RULES, KNOWN)) == ["row_says_something", "style_role"]


@pytest.mark.parametrize("row_group", [FRAMES, 7, 1000])
def test_row_groups_change_no_verdict(row_group: int, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shard.parquet", clean_episodes() | spoiled(8), row_group=row_group)
    verdict = check_shards([shard], RULES, KNOWN)
    assert (verdict.bad_episodes, verdict.rows) == ({8}, 3 * len(clean_rows()))


def test_a_row_off_a_shard_is_traced_to_its_call(tmp_path: Path) -> None:
    """Two rows differ in nothing but what they say; the log knows one of them."""
    wrong = [persistent("task_aug", 0, content, role="assistant") for content in ("lift it", "raise it")]
    shard = write_shard(tmp_path / "shard.parquet", {3: [*clean_rows(), *wrong], 7: [*clean_rows(), *wrong]})
    line = {"episode_index": 3, "call": "c0ffee"} | msgspec.structs.asdict(wrong[1][1])
    calls = pa.Table.from_pylist([line], tables_of_shard(shard).rows.schema.remove(1))
    found = check_shards([shard], RULES, KNOWN, calls=calls)
    assert names(found) == ["style_role"]
    assert sorted((one.episode_index or 0, one.call or "") for one in found.findings) == [
        (3, ""),
        (3, "c0ffee"),
        (7, ""),
        (7, ""),
    ]


@st.composite
def consecutive_lists(draw: st.DrawFn) -> list[list[int]]:
    """Stretches of one list, of one or two lists that may be of one length."""
    length = draw(st.integers(0, 3))
    kinds = st.lists(st.integers(0, 1), min_size=length, max_size=draw(st.sampled_from([length, 3])))
    stretches = draw(st.lists(st.tuples(kinds, st.integers(1, 9)), min_size=1, max_size=3))
    return [one for one, count in stretches for _ in range(count)]


@given(consecutive_lists())
def test_the_first_list_that_differs_is_found_as_by_looking_at_each(lists: Sequence[Sequence[int]]) -> None:
    values = pa.array([value for one in lists for value in one], pa.int64())
    expected = next((index for index, one in enumerate(lists) if one != lists[0]), None)
    assert first_change(values, np.array([len(one) for one in lists])) == expected
