"""Memory: compressed, first person, past tense."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.vlm.signals.memory import LONGEST, past_tense, recount, remember
from tests.vlm.signal_shapes import BANANA

COURSE = {
    "stay still": "I have not started yet.",
    "reach for the banana": "I reached the banana.",
    "try to grasp the banana": "I tried to grasp the banana without success.",
    "open the gripper again": "I tried to grasp the banana without success.",
    "reach for the banana again": "I reached the banana.",
    "close the gripper on the banana": "I grasped the banana.",
    "lift the banana": "I lifted the banana.",
    "carry the banana to the plate": "I carried the banana to the plate.",
    "lower the banana onto the plate": "I lowered the banana onto the plate.",
    "open the gripper to release the banana": "I put the banana on the plate.",
    "move the arm away": "I put the banana on the plate.",
}


def test_a_course_of_subtasks_leaves_only_what_matters() -> None:
    memory = ""
    for completed, expected in COURSE.items():
        memory = remember(BANANA, memory, completed)
        assert memory == expected


def test_what_was_done_with_another_object_stays() -> None:
    task = "put the apple in the bowl and put the pear in the box"
    memory = remember(task, "I put the apple in the bowl.", "close the gripper on the pear")
    assert memory == "I put the apple in the bowl. I grasped the pear."


def test_where_the_arm_was_is_forgotten_as_soon_as_it_does_something_else() -> None:
    assert remember("", "I put the apple in the bowl. I moved the arm away.", "reach for the pear") == (
        "I put the apple in the bowl. I reached the pear."
    )


def test_an_object_that_was_never_carried_was_only_released() -> None:
    assert (
        remember(BANANA, "I grasped the banana.", "open the gripper to release the banana") == "I released the banana."
    )


def test_words_of_others_are_put_into_the_past() -> None:
    assert remember("", "", "Grab the cup.") == "I grabbed the cup."
    assert remember("", "I found the cup.", "hang it up") == "I found the cup. I hung it up."


@pytest.mark.parametrize(
    ("now", "then"),
    [("lift it", "lifted it"), ("drop it", "dropped it"), ("carry", "carried"), ("place", "placed"), ("put x", "put x"),
     ("open", "opened"), ("throw it", "threw it"), ("stay", "stayed"), ("press", "pressed")],
)  # fmt: skip
def test_verbs_are_put_into_the_past(now: str, then: str) -> None:
    assert past_tense(now) == then


def test_the_same_is_not_remembered_twice() -> None:
    once = remember(BANANA, "", "wipe the table")
    assert remember(BANANA, once, "wipe the table") == once == "I wiped the table."


HELD, FREE, WIPED = MILESTONES = ["I grasped the cube.", "I released the cube.", "i wiped the table"]


def test_of_a_vocabulary_s_milestones_those_that_hold_are_kept_and_one_reached_again_stands_twice() -> None:
    reached: list[str] = []
    course = {
        "reach for the cube": [],
        "wipe the table": [WIPED],
        "close the gripper on the cube": [WIPED, HELD],
        "lift the cube": [WIPED, HELD],
        "open the gripper to release the cube": [WIPED, FREE],
        "Wipe the table.": [WIPED, FREE, WIPED],
    }
    for completed, expected in course.items():
        reached = recount("", reached, completed, MILESTONES, 12)
        assert reached == expected
    assert recount("", [WIPED] * 12, "wipe the table", MILESTONES, 12) == [WIPED] * 12
    assert recount("", [WIPED], "wipe the table", [], 12) == [WIPED]


@given(st.text(), st.text(max_size=900), st.text(max_size=300))
def test_memory_is_never_empty_and_never_too_long(task: str, memory: str, completed: str) -> None:
    after = remember(task, memory, completed)
    assert 1 <= len(after) <= LONGEST
    assert after == remember(task, memory, completed)
