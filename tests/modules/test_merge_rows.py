"""An episode's rows: a module's new rows replace its own old ones and nothing else."""

from collections.abc import Sequence

import pytest

from annotator.modules.merge_rows import merge_rows, owners
from annotator_store.digests import Digest
from annotator_store.log.events import AnnotatedRow
from annotator_store.rows import Row, order_key

SAY = '{"function":{"arguments":{"text":"Sure."},"name":"say"},"type":"function"}'


def row(style: str | None, at: float, content: str | None = "x", *calls: str) -> Row:
    role = "user" if style in ("interjection", "task_aug") else "assistant"
    if style is None:
        return Row(role=role, content=None, style=None, timestamp=at, tool_calls=calls or (SAY,))
    return Row(role=role, content=content, style=style, timestamp=at, camera="top" if style == "vqa" else None)


def new(*rows: Row) -> list[AnnotatedRow]:
    return [AnnotatedRow(row=one) for one in rows]


PLANNED = [row("subtask", 0), row("plan", 0, "1. a\n2. b"), row("subtask", 4), row("plan", 4, "1. b")]
SPOKEN = [row(None, 0), row("interjection", 4), row(None, 4), row("plan", 4, "1. b, as asked")]
"""The refresh is the plan's own at that time; another wording here shows which of two rows it is."""


def said(rows: Sequence[AnnotatedRow]) -> list[tuple[str | None, float, str | None]]:
    return [(one.row.style, one.row.timestamp, one.row.content) for one in rows]


def test_a_plan_at_an_interjection_belongs_to_the_interjection_and_any_other_to_the_plan() -> None:
    rows = [row("plan", 0), row("plan", 4), row("interjection", 4), row(None, 4), row("vqa", 4), row("motion", 4)]
    assert owners(rows) == ["plan", "interjections", "interjections", "interjections", "vqa", None]


def test_new_rows_of_all_modules_stand_together_with_one_plan_at_each_time() -> None:
    rows = merge_rows([], {"plan": new(*PLANNED), "interjections": new(*SPOKEN), "vqa": new(row("vqa", 2))})
    assert [one.row for one in rows] == sorted((one.row for one in rows), key=order_key)
    plans = [(one.row.timestamp, one.row.content, one.module) for one in rows if one.row.style == "plan"]
    assert plans == [(0, "1. a\n2. b", "plan"), (4, "1. b", "interjections")]
    assert sum(1 for s, _, _ in said(rows) if s is None) == 2


def test_what_nobody_wrote_anew_stays_as_it_is() -> None:
    held = [row("motion", 1), row("vqa", 2), row("trace", 3), *PLANNED]
    rows = [one.row for one in merge_rows(held, {"vqa": new(row("vqa", 5))})]
    assert rows == sorted([row("motion", 1), row("vqa", 5), row("trace", 3), *PLANNED], key=order_key)


def test_a_new_plan_leaves_switched_off_interjections_a_refresh_that_says_what_is_left_of_it() -> None:
    held = [PLANNED[0], PLANNED[1], PLANNED[2], *SPOKEN]
    planned = new(row("subtask", 0), row("plan", 0, "1. c\n2. d"), row("subtask", 4, "d"), row("plan", 4, "1. d"))
    rows = merge_rows(held, {"plan": planned})
    plans = [(one.row.timestamp, one.row.content, one.module) for one in rows if one.row.style == "plan"]
    assert plans == [(0, "1. c\n2. d", "plan"), (4, "1. d", "interjections")]
    assert ("interjection", 4, "x") in said(rows)


@pytest.mark.parametrize("spoken", ["held", "new"])
def test_a_refresh_between_two_subtasks_of_another_plan_begins_with_the_one_in_force(spoken: str) -> None:
    planned = new(*(row("subtask", at, text) for at, text in ((0, "c"), (3, "d"), (5, "e"))))
    at_once = spoken == "held"
    rows = said(
        merge_rows(SPOKEN if at_once else [], {"plan": planned} | ({} if at_once else {"interjections": new(*SPOKEN)}))
    )
    assert [(t, c) for s, t, c in rows if s == "plan"] == [(4, "1. d\n2. e")]


def test_interjections_elsewhere_leave_the_plan_where_they_were() -> None:
    held = [PLANNED[0], PLANNED[1], PLANNED[2], *SPOKEN]
    moved = [row("interjection", 0), row(None, 0), row("plan", 0, "1. a\n2. b, as asked")]
    rows = said(merge_rows(held, {"interjections": new(*moved)}))
    assert [(t, c) for s, t, c in rows if s == "plan"] == [(0, "1. a\n2. b, as asked"), (4, "1. b, as asked")]
    assert {(s, t) for s, t, _ in rows if s in ("interjection", None)} == {(None, 0), ("interjection", 0)}


def test_plan_and_interjections_written_anew_leave_nothing_of_the_old() -> None:
    held = [*PLANNED[:3], *SPOKEN]
    rows = merge_rows(
        held, {"plan": new(row("subtask", 0), row("plan", 0, "1. z")), "interjections": new(row(None, 0))}
    )
    assert said(rows) == [(None, 0, None), ("plan", 0, "1. z"), ("subtask", 0, "x")]


def test_a_row_keeps_the_call_it_came_from() -> None:
    mine = AnnotatedRow(row=row("vqa", 2), call=Digest("1" * 32))
    assert [(one.row, one.call) for one in merge_rows([], {"vqa": [mine]})] == [(mine.row, mine.call)]


def test_rows_say_whether_a_run_leaves_them_as_they_are_and_who_writes_such() -> None:
    rows = merge_rows([row("motion", 1), row("subtask", 0), row("vqa", 2)], {"vqa": new(row("vqa", 5))})
    assert [(one.row.style, one.module, one.kept) for one in rows] == [
        ("subtask", "plan", True),
        ("motion", None, True),
        ("vqa", "vqa", False),
    ]


def test_calls_of_other_tools_are_nobody_s_and_stay() -> None:
    """A dataset may have rows that wave: interjections written anew replace what is said, and nothing else."""
    others = [
        row(None, 4, None, '{"function":{"arguments":{},"name":"wave"},"type":"function"}'),
        row(None, 5, None, SAY, '{"function":{"arguments":{},"name":"wave"},"type":"function"}'),
        row(None, 6, None, "no JSON"),
    ]
    assert owners([*others, row(None, 0)]) == [None, None, None, "interjections"]
    rows = merge_rows([row(None, 0), *others, row(None, 7)], {"interjections": new(row(None, 1))})
    assert [one.row for one in rows] == [row(None, 1), *others]


def test_new_interjections_at_the_time_of_a_plan_that_stands_take_its_place() -> None:
    spoken = [row("interjection", 4), row(None, 4), row("plan", 4, "1. b, as asked")]
    rows = merge_rows(PLANNED, {"interjections": new(*spoken)})
    plans = [(one.row.timestamp, one.row.content, one.module, one.kept) for one in rows if one.row.style == "plan"]
    assert plans == [(0, "1. a\n2. b", "plan", True), (4, "1. b, as asked", "interjections", False)]


def test_a_refresh_that_no_new_plan_says_more_of_keeps_its_own_words() -> None:
    """Interjections were made after another plan, and the new one has nothing at or before their time."""
    rows = said(merge_rows(SPOKEN, {"plan": new(row("subtask", 6, "c"), row("plan", 6, "1. c"))}))
    assert [(t, c) for s, t, c in rows if s == "plan"] == [(4, "1. b, as asked"), (6, "1. c")]


def test_no_new_rows_of_a_module_take_its_old_ones_away() -> None:
    assert said(merge_rows([row("vqa", 2), row("motion", 1)], {"vqa": []})) == [("motion", 1, "x")]
    assert said(merge_rows(PLANNED, {"plan": []})) == []
    assert said(merge_rows([*PLANNED[:3], *SPOKEN], {"interjections": []})) == [
        ("plan", 0, "1. a\n2. b"),
        ("subtask", 0, "x"),
        ("plan", 4, "1. b, as asked"),
        ("subtask", 4, "x"),
    ]


def test_the_order_in_which_rows_stand_and_modules_wrote_does_not_matter() -> None:
    standing = [*PLANNED[:3], *SPOKEN, row("motion", 1), row("vqa", 2)]
    written = {"plan": new(*PLANNED), "vqa": new(row("vqa", 5), row("vqa", 3))}
    merged = merge_rows(standing, written)
    turned = {module: rows[::-1] for module, rows in reversed(written.items())}
    assert merge_rows(standing[::-1], turned) == merged
    assert [one.row for one in merged] == sorted((one.row for one in merged), key=order_key)


def test_merging_the_same_rows_again_changes_none_of_them() -> None:
    written = {"plan": new(*PLANNED), "interjections": new(*SPOKEN), "vqa": new(row("vqa", 5))}
    once = [one.row for one in merge_rows([row("motion", 1), row("vqa", 2)], written)]
    assert [one.row for one in merge_rows(once, written)] == once
    assert [one.row for one in merge_rows(once, {})] == once
