"""Rephrasings by rules."""

from hypothesis import given
from hypothesis import strategies as st

from annotator.vlm.signals.paraphrase import LONGEST, rephrase
from tests.vlm.signal_shapes import BANANA


def test_a_plain_task_has_ten_rephrasings_that_keep_its_object_and_its_goal() -> None:
    rephrasings = rephrase(BANANA, 10)
    assert len(rephrasings) == len(set(rephrasings)) == 10
    assert all("the banana" in sentence and "the plate" in sentence for sentence in rephrasings)
    assert BANANA not in rephrasings


def test_the_first_few_differ_in_verb_relation_and_frame() -> None:
    rephrasings = rephrase(BANANA, 10)
    assert any("place the banana" in sentence for sentence in rephrasings)
    assert any("onto the plate" in sentence for sentence in rephrasings)
    assert any("pick up the banana and put it on" in sentence for sentence in rephrasings)
    assert any(sentence.startswith(("please", "could you", "I would")) for sentence in rephrasings)


def test_nothing_that_the_task_says_is_lost() -> None:
    rephrasings = rephrase("stack the red block on the blue block with the left arm", 50)
    assert all("left arm" in sentence and "red block" in sentence for sentence in rephrasings)
    rephrasings = rephrase("pick up the pen from the box and put it in the cup", 50)
    assert all("from the box" in sentence and "in the cup" in sentence for sentence in rephrasings)


def test_many_objects_are_called_them() -> None:
    assert any("put them on the tray" in sentence for sentence in rephrase("put all cups on the tray", 40))


def test_there_are_fewer_where_the_rules_give_no_more() -> None:
    assert 0 < len(rephrase("open the drawer", 64)) < 64
    assert 0 < len(rephrase("香蕉", 64)) < 5


def test_an_empty_task_has_none() -> None:
    assert rephrase("  ", 5) == []


def test_a_capital_letter_is_kept() -> None:
    assert all(sentence[0].isupper() for sentence in rephrase("Put the banana on the plate.", 10))


@given(st.text(), st.integers(1, 64))
def test_rephrasings_are_distinct_bounded_and_repeatable(task: str, count: int) -> None:
    rephrasings = rephrase(task, count)
    assert len(rephrasings) == len({sentence.lower() for sentence in rephrasings}) <= count
    assert all(1 <= len(sentence) <= LONGEST for sentence in rephrasings)
    assert rephrasings == rephrase(task, count)
