"""Rephrasings by rules."""

from hypothesis import given
from hypothesis import strategies as st

from annotator.vlm.signals.paraphrase import LONGEST, rephrase
from tests.vlm.signal_shapes import BANANA


def test_a_plain_task_has_ten_rephrasings_that_keep_its_object_and_its_goal() -> None:
    found = rephrase(BANANA, 10)
    assert len(found) == len(set(found)) == 10
    assert all("the banana" in said and "the plate" in said for said in found)
    assert BANANA not in found


def test_the_first_few_differ_in_verb_relation_and_frame() -> None:
    found = rephrase(BANANA, 10)
    assert any("place the banana" in said for said in found)
    assert any("onto the plate" in said for said in found)
    assert any("pick up the banana and put it on" in said for said in found)
    assert any(said.startswith(("please", "could you", "I would")) for said in found)


def test_nothing_that_the_task_says_is_lost() -> None:
    found = rephrase("stack the red block on the blue block with the left arm", 50)
    assert all("left arm" in said and "red block" in said for said in found)
    found = rephrase("pick up the pen from the box and put it in the cup", 50)
    assert all("from the box" in said and "in the cup" in said for said in found)


def test_many_objects_are_called_them() -> None:
    assert any("put them on the tray" in said for said in rephrase("put all cups on the tray", 40))


def test_there_are_fewer_where_the_rules_give_no_more() -> None:
    assert 0 < len(rephrase("open the drawer", 64)) < 64
    assert 0 < len(rephrase("香蕉", 64)) < 5


def test_an_empty_task_has_none() -> None:
    assert rephrase("  ", 5) == []


def test_a_capital_letter_is_kept() -> None:
    assert all(said[0].isupper() for said in rephrase("Put the banana on the plate.", 10))


@given(st.text(), st.integers(1, 64))
def test_rephrasings_are_distinct_bounded_and_repeatable(task: str, count: int) -> None:
    found = rephrase(task, count)
    assert len(found) == len({said.lower() for said in found}) <= count
    assert all(1 <= len(said) <= LONGEST for said in found)
    assert found == rephrase(task, count)
