"""Which dimension is a gripper, and what it does when."""

import numpy as np
import pytest

from annotator.dataset.signals import Signals
from annotator.vlm.signals.gripper import find_grippers, gripper_acts, gripper_dims
from tests.vlm.signal_shapes import HELD, HOME, NAMES, OBJECT, OPEN, PICK_AND_PLACE, SHUT, Stroke, draw, signals

SO101_LIKE: tuple[Stroke, ...] = (
    (1.0, HOME, SHUT), (2.0, OBJECT, OPEN), (1.0, OBJECT, HELD), (3.0, HOME, HELD), (1.0, HOME, OPEN),
    (2.0, HOME, OPEN), (1.0, HOME, SHUT), (1.0, HOME, SHUT),
)  # fmt: skip


def acts_of(given: Signals) -> list[tuple[str, str, float]]:
    return [
        (act.kind, act.side, round(float(given.timestamps[act.start]), 1))
        for gripper in find_grippers(given)
        for act in gripper_acts(gripper, given.timestamps)
    ]


@pytest.mark.parametrize("name", ["gripper", "Gripper.pos", "main_gripper", "jaw", "finger_joint1", "grip_width"])
def test_a_gripper_is_found_by_name(name: str) -> None:
    given = signals(draw(PICK_AND_PLACE), (*NAMES[:3], name))
    assert [(kind, time_s) for kind, _, time_s in acts_of(given)] == [("close", 4.2), ("open", 9.7)]


def test_a_measured_gripper_is_preferred_to_a_commanded_one_and_neither_counts_as_the_arm() -> None:
    rows = draw(PICK_AND_PLACE)
    given = signals(rows, action=np.roll(rows, -10, axis=0), action_names=NAMES)
    (gripper,) = find_grippers(given)
    assert gripper.source == "state"
    assert gripper_dims(given, (gripper,)) == {("state", 3), ("action", 3)}


def test_a_binary_command_closes_away_from_where_it_started() -> None:
    for command in (1.0, -1.0):
        rows = draw(PICK_AND_PLACE)
        rows[:, 3] = np.where(rows[:, 3] > 0.9, 0.0, command)
        assert [kind for kind, _, _ in acts_of(signals(rows))] == ["close", "open"]


def test_an_object_that_stops_the_fingers_tells_which_way_is_closing() -> None:
    for sign in (1, -1):
        rows = draw(SO101_LIKE, start=SO101_LIKE[0])
        rows[:, 3] *= sign
        assert [kind for kind, _, _ in acts_of(signals(rows))] == ["open", "close", "open", "close"]


def test_closing_all_the_way_is_marked_empty_where_another_grasp_was_stopped() -> None:
    given = signals(draw(SO101_LIKE, start=SO101_LIKE[0]))
    acts = gripper_acts(find_grippers(given)[0], given.timestamps)
    assert [act.empty for act in acts] == [False, False, False, True]


def test_without_names_the_dimension_that_jumps_is_the_gripper() -> None:
    rows = draw(PICK_AND_PLACE)
    rows[:, 3] = rows[:, 3] > 0.9
    (gripper,) = find_grippers(signals(rows, ("j0", "j1", "j2", "j3")))
    assert (gripper.dims, gripper.named) == ((3,), False)


def test_without_names_smooth_joints_are_not_taken_for_a_gripper() -> None:
    rows = draw(PICK_AND_PLACE)
    assert find_grippers(signals(rows[:, :3], ())) == ()


def test_two_grippers_are_left_and_right() -> None:
    rows = draw(PICK_AND_PLACE)
    late = np.roll(rows[:, 3:], 20, axis=0)
    given = signals(np.hstack([rows, late]), (*NAMES[:3], "right_gripper", "left_gripper"))
    assert acts_of(given) == [
        ("close", "left", 5.2), ("open", "left", 10.7), ("close", "right", 4.2), ("open", "right", 9.7),
    ]  # fmt: skip


def test_a_gripper_that_never_moves_does_nothing() -> None:
    rows = draw(PICK_AND_PLACE)
    rows[:, 3] = 0.5
    assert acts_of(signals(rows)) == []


def test_slow_drift_and_noise_are_no_acts() -> None:
    rows = draw(PICK_AND_PLACE)
    noise = np.random.default_rng(5).normal(scale=0.01, size=len(rows))
    rows[:, 3] += (np.linspace(0, 0.15, len(rows)) + noise).astype(np.float32)
    assert [kind for kind, _, _ in acts_of(signals(rows))] == ["close", "open"]


def test_gripper_effort_is_not_a_gripper_position() -> None:
    rows = draw(PICK_AND_PLACE)
    assert find_grippers(signals(rows[:, :3], ("a", "b", "gripper_effort"))) == ()
