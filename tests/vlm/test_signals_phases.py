"""Phases of a whole episode."""

from itertools import pairwise

import numpy as np

from annotator.dataset.signals import Signals
from annotator.vlm.signals.phases import analyse
from tests.vlm.signal_shapes import (
    ABOVE,
    GOAL,
    HELD,
    HOME,
    LIFTED,
    NAMES,
    OBJECT,
    OPEN,
    OVER,
    PICK_AND_PLACE,
    PICK_AND_PLACE_S,
    SHUT,
    Stroke,
    draw,
    signals,
)

FAILED_FIRST: tuple[Stroke, ...] = (
    (2.0, OBJECT, OPEN), (1.0, OBJECT, SHUT), (1.0, ABOVE, SHUT), (1.0, ABOVE, OPEN), (1.0, OBJECT, OPEN),
    (1.0, OBJECT, HELD), (1.0, LIFTED, HELD), (1.0, OVER, HELD), (1.0, GOAL, HELD), (1.0, GOAL, OPEN),
    (1.0, HOME, OPEN),
)  # fmt: skip


def kinds(given: Signals) -> list[str]:
    """Kinds of the phases longer than 0.4 s: strokes set off so gently that their first frames count as rest."""
    return [p.kind for p in analyse(given).phases if given.timestamps[p.end - 1] - given.timestamps[p.start] > 0.4]


def starts_s(given: Signals) -> list[float]:
    return [float(given.timestamps[phase.start]) for phase in analyse(given).phases]


def test_a_pick_and_place_has_its_nine_phases_where_they_were_drawn() -> None:
    given = signals(draw(PICK_AND_PLACE))
    assert kinds(given) == [
        "wait", "reach", "grasp", "lift", "carry", "lower", "release", "retract", "wait",
    ]  # fmt: skip
    assert np.allclose(starts_s(given)[1:], PICK_AND_PLACE_S, atol=0.4)


def test_phases_leave_no_gap_and_do_not_overlap() -> None:
    phases = analyse(signals(draw(FAILED_FIRST))).phases
    assert phases[0].start == 0
    assert phases[-1].end == 20 * 12
    assert all(a.end == b.start and a.start < a.end for a, b in pairwise(phases))


def test_a_gripper_recorded_late_is_moved_to_the_rest_it_belongs_to() -> None:
    rows = draw(PICK_AND_PLACE)
    rows[:, 3] = np.roll(rows[:, 3], 24)  # 1.2 s
    assert np.allclose(starts_s(signals(rows))[1:], PICK_AND_PLACE_S, atol=0.4)


def test_several_late_acts_are_moved_together_though_another_rest_is_nearer() -> None:
    rows = draw(FAILED_FIRST)
    rows[:, 3] = np.roll(rows[:, 3], 29)  # 1.45 s: the first closing is now nearer to the rest of the opening
    rows[:29, 3] = OPEN
    late, exact = signals(rows), signals(draw(FAILED_FIRST))
    assert kinds(late) == kinds(exact)
    assert np.allclose(starts_s(late), starts_s(exact), atol=0.4)


def test_a_failed_grasp_is_told_from_the_one_that_held() -> None:
    phases = analyse(signals(draw(FAILED_FIRST))).phases
    assert kinds(signals(draw(FAILED_FIRST))) == [
        "reach", "try", "back", "reopen", "reach", "grasp", "lift", "carry", "lower", "release", "retract",
    ]  # fmt: skip
    assert [p.again for p in phases if p.kind == "reach"] == [False, True]


def test_a_binary_gripper_that_comes_back_to_the_same_place_has_failed_too() -> None:
    rows = draw(FAILED_FIRST)
    rows[:, 3] = rows[:, 3] < 0.9
    assert kinds(signals(rows))[:5] == ["reach", "try", "back", "reopen", "reach"]


def test_two_objects_from_two_places_are_two_transfers() -> None:
    other, beside = (0.4, 0.9, -1.0), (-1.0, 0.8, -0.3)
    strokes = (*PICK_AND_PLACE[1:7], (1.5, other, OPEN), (1.0, other, HELD), (1.0, HOME, HELD), (1.0, beside, HELD),
               (1.0, beside, OPEN), (1.0, HOME, OPEN))  # fmt: skip
    phases = analyse(signals(draw(strokes))).phases
    assert [p.transfer for p in phases if p.kind == "grasp"] == [0, 1]
    assert "try" not in {p.kind for p in phases}


def test_two_objects_from_one_place_to_one_goal_are_two_transfers() -> None:
    course = kinds(signals(draw((*PICK_AND_PLACE[1:8], *PICK_AND_PLACE[1:8]))))
    assert course.count("grasp") == course.count("release") == 2
    assert "try" not in course


def test_a_straight_push_with_a_closed_gripper_is_not_cut_into_legs() -> None:
    strokes = ((1.0, HOME, OPEN), (1.0, HOME, SHUT), (2.0, OBJECT, SHUT), (1.0, OBJECT, OPEN), (1.0, HOME, OPEN))
    assert kinds(signals(draw(strokes))) == ["grasp", "carry", "release", "retract"]


def test_an_object_still_held_at_the_end_is_not_put_down() -> None:
    course = kinds(signals(draw(PICK_AND_PLACE[:5])))
    assert course[:3] == ["wait", "reach", "grasp"]
    assert set(course[3:]) == {"keep"}


def test_a_long_pause_is_a_wait_and_a_short_one_is_not() -> None:
    for pause_s, expected in ((3.0, ["move", "wait", "move"]), (1.0, ["move"])):
        rows = draw(((2.0, OBJECT, OPEN), (pause_s, OBJECT, OPEN), (2.0, HOME, OPEN)))
        assert kinds(signals(rows)) == expected


def test_an_episode_in_which_nothing_moves_is_one_wait() -> None:
    assert kinds(signals(np.ones((50, 4), dtype=np.float32))) == ["wait"]


def test_a_gripper_alone_says_nothing_about_the_arm() -> None:
    course = kinds(signals(draw(PICK_AND_PLACE)[:, 3:], ("gripper",)))
    assert course == ["kept_open", "grasp", "kept_closed", "release", "kept_open"]


def two_arms(left: tuple[Stroke, ...], right: tuple[Stroke, ...]) -> Signals:
    names = [f"{side}_{name}" for side in ("left", "right") for name in NAMES]
    rows = np.hstack([draw(left), draw(right)])
    return signals(rows, names)


def test_two_grippers_that_close_at_once_act_together() -> None:
    phases = analyse(two_arms(PICK_AND_PLACE, PICK_AND_PLACE)).phases
    assert {p.side for p in phases if p.kind in ("grasp", "release")} == {"both"}


def test_each_of_two_grippers_is_named() -> None:
    waiting = ((7.0, HOME, OPEN),)
    phases = analyse(two_arms((*PICK_AND_PLACE[1:8], *waiting), (*waiting, *PICK_AND_PLACE[1:8]))).phases
    acts = [(p.kind, p.side) for p in phases if p.kind in ("grasp", "release")]
    assert acts == [("grasp", "left"), ("release", "left"), ("grasp", "right"), ("release", "right")]
