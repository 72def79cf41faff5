"""Observations of a window."""

import numpy as np

from annotator.vlm.signals.observations import observe
from annotator.vlm.signals.phases import analyse
from tests.vlm.signal_shapes import PICK_AND_PLACE, draw, signals


def test_what_the_signals_show_is_told_in_order() -> None:
    events = observe(analyse(signals(draw(PICK_AND_PLACE))), 0.0, 14.0)
    assert [event for _, event in events] == [
        "the arm is at rest", "the arm starts to move", "the arm comes to rest", "the gripper closes",
        "the arm starts to move", "the arm comes to rest", "the gripper opens", "the arm starts to move",
        "the arm comes to rest",
    ]  # fmt: skip
    assert np.allclose([t for t, _ in events], [0, 2.1, 3.9, 4.2, 5.1, 9.5, 9.7, 10.6, 12.4], atol=0.2)


def test_a_window_tells_only_of_itself_and_how_it_begins() -> None:
    events = observe(analyse(signals(draw(PICK_AND_PLACE))), 6.0, 9.0)
    assert events == [(6.0, "the arm is moving")]


def test_gripper_events_are_kept_when_there_is_more_than_can_be_told() -> None:
    t = np.arange(4000) / 20
    rows = np.stack([np.sin(t * 2) * (np.sin(t) > 0), t * 0, t * 0, (t > 150) * 1.0], axis=1).astype(np.float32)
    events = observe(analyse(signals(rows)), 0.0, 200.0)
    assert len(events) == 40
    assert "the gripper closes" in [event for _, event in events]
    assert [time for time, _ in events] == sorted(time for time, _ in events)


def test_a_robot_without_arm_signals_is_not_said_to_rest() -> None:
    events = observe(analyse(signals(draw(PICK_AND_PLACE)[:, 3:], ("gripper",))), 0.0, 14.0)
    assert [event for _, event in events] == ["no signal tells of the arm", "the gripper closes", "the gripper opens"]
