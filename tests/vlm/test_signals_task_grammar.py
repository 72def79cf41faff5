"""Tasks read by rules, and phases worded in the task's words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.vlm.signals.phases import Phase, PhaseKind
from annotator.vlm.signals.task_grammar import parse_task, phase_texts


def words(task: str) -> list[tuple[str, str, str, str]]:
    return [(t.verb, t.thing, t.relation, t.place) for t in parse_task(task)]


def text(kind: PhaseKind, task: str, **more: object) -> str:
    phase = Phase(kind=kind, start=0, end=1, **more)  # type: ignore[arg-type]
    return phase_texts((Phase(kind="grasp", start=0, end=1), phase), task)[1]


@pytest.mark.parametrize(
    ("task", "parsed"),
    [
        ("put the banana on the plate", ("put", "the banana", "on", "the plate")),
        ("Please put a banana onto a plate.", ("put", "the banana", "onto", "the plate")),
        ("Put The Banana On The Plate", ("put", "the banana", "on", "the plate")),
        ("place_the_red_cube_in_the_bowl", ("place", "the red cube", "in", "the bowl")),
        ("stack the red block on top of the blue block", ("stack", "the red block", "on top of", "the blue block")),
        ("pick up the pen", ("pick up", "the pen", "", "")),
        ("pick up the cup on the table and put it in the sink", ("put", "the cup", "in", "the sink")),
        ("Pick the LEGO brick and place it next to the cup", ("place", "the LEGO brick", "next to", "the cup")),
        ("move the can from the shelf to the counter", ("move", "the can", "to", "the counter")),
        ("put all cups on the tray with the left arm", ("put", "all cups", "on", "the tray")),
        ("put the salt and pepper on the table", ("put", "the salt and pepper", "on", "the table")),
        ("open the drawer", ("open", "the drawer", "", "")),
    ],
)  # fmt: skip
def test_a_task_is_read(task: str, parsed: tuple[str, str, str, str]) -> None:
    assert words(task) == [parsed]


def test_several_objects_are_several_transfers() -> None:
    assert words("put the apple in the bowl and put the pear in the box") == [
        ("put", "the apple", "in", "the bowl"), ("put", "the pear", "in", "the box"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "task", ["", "pick and place", "do the task", "move the arm", "香蕉", "42", "put it there", "?!"]
)
def test_what_cannot_be_read_is_not_guessed(task: str) -> None:
    assert parse_task(task) == ()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("wait", "stay still"),
        ("reach", "reach for the banana"),
        ("grasp", "close the gripper on the banana"),
        ("lift", "lift the banana"),
        ("carry", "carry the banana to the plate"),
        ("lower", "lower the banana onto the plate"),
        ("release", "open the gripper to release the banana"),
        ("retract", "move the arm away"),
        ("try", "try to grasp the banana"),
        ("shut", "close the gripper"),
    ],
)
def test_phases_are_worded_in_the_tasks_words(kind: PhaseKind, expected: str) -> None:
    assert text(kind, "put the banana on the plate") == expected


@pytest.mark.parametrize(("kind", "expected"), [("grasp", "close the gripper"), ("release", "open the gripper")])
def test_phases_are_worded_neutrally_where_the_task_cannot_be_read(kind: PhaseKind, expected: str) -> None:
    assert text(kind, "pick and place") == expected


def test_a_task_that_moves_no_object_does_not_lift_or_carry_one() -> None:
    assert text("carry", "open the drawer") == "open the drawer"
    assert text("grasp", "open the drawer") == "close the gripper"


def test_without_a_place_the_object_is_only_lifted() -> None:
    assert text("keep", "grab the cup") == "lift the cup"


def test_left_right_and_both_are_said() -> None:
    task = "put the box on the shelf"
    assert text("grasp", task, side="left") == "close the left gripper on the box"
    assert text("grasp", task, side="both") == "close both grippers on the box"
    assert text("reach", task, side="right") == "reach for the box with the right arm"


def test_a_second_reach_after_a_failed_grasp_says_again() -> None:
    assert text("reach", "put the box on the shelf", again=True) == "reach for the box again"


def test_several_objects_are_named_in_order_only_where_the_grasps_are_as_many() -> None:
    task = "put the apple in the bowl and put the pear in the box"
    grasps = tuple(Phase(kind="grasp", start=i, end=i + 1, transfer=i) for i in range(2))
    assert phase_texts(grasps, task) == ["close the gripper on the apple", "close the gripper on the pear"]
    assert phase_texts(grasps[:1], task) == ["close the gripper"]


@given(st.text())
def test_any_text_is_worded_within_bounds(task: str) -> None:
    kinds: tuple[PhaseKind, ...] = ("wait", "reach", "grasp", "lift", "carry", "lower", "keep", "release", "retract")
    for worded in phase_texts(tuple(Phase(kind=k, start=0, end=1, side="left") for k in kinds), task):
        assert 1 <= len(worded) <= 200
