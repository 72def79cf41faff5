"""The times at which named grippers act: what a dataset says of itself, never a guess."""

from pathlib import Path

import numpy as np
import pytest

from annotator.dataset.metadata import open_dataset
from annotator.dataset.shard_scan import scan_shard
from annotator.dataset.signals import Signals, read_signals
from annotator.modules.plan.gripper_hints import gripper_times
from annotator.vlm.signals.gripper import find_grippers
from tests.vlm.signal_shapes import NAMES, PICK_AND_PLACE, draw, signals

DATA = Path(__file__).parents[1] / "data"


def told(given: Signals) -> list[tuple[str, str, float]]:
    return [(one.kind, one.side, round(one.time, 1)) for one in gripper_times(given)]


def stored(name: str, episode: int) -> Signals:
    dataset = open_dataset(DATA / name)
    shard = dataset.episodes[episode].shard
    (scanned,) = [one for one in scan_shard(dataset, shard) if one.index == episode]
    return read_signals(dataset, scanned)


def test_a_named_gripper_is_told_of_when_it_begins_to_close_and_to_open() -> None:
    assert told(signals(draw(PICK_AND_PLACE))) == [("close", "", 4.2), ("open", "", 9.7)]
    assert all(one.measured for one in gripper_times(signals(draw(PICK_AND_PLACE))))


def test_one_that_only_the_action_names_is_told_of_too() -> None:
    rows = draw(PICK_AND_PLACE)
    assert told(signals(rows[:, :3], NAMES[:3], action=rows, action_names=NAMES)) == [
        ("close", "", 4.2),
        ("open", "", 9.7),
    ]


@pytest.mark.parametrize("names", [(), ("j0", "j1", "j2", "j3")])
def test_a_dimension_that_moves_like_a_gripper_and_is_not_named_one_is_not_told_of(names: tuple[str, ...]) -> None:
    rows = draw(PICK_AND_PLACE)
    rows[:, 3] = rows[:, 3] > 0.9
    given = signals(rows, names)
    assert find_grippers(given)
    assert gripper_times(given) == ()


def test_two_grippers_are_told_of_together_in_order_of_time() -> None:
    rows = draw(PICK_AND_PLACE)
    both = np.hstack([rows, np.roll(rows[:, 3:], 20, axis=0)])
    assert told(signals(both, (*NAMES[:3], "right_gripper", "left_gripper"))) == [
        ("close", "right", 4.2),
        ("close", "left", 5.2),
        ("open", "right", 9.7),
        ("open", "left", 10.7),
    ]


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_an_episode_of_few_frames_or_of_no_numbers_tells_nothing(frames: int) -> None:
    rows = draw(PICK_AND_PLACE)[:frames]
    assert gripper_times(signals(rows)) == ()
    assert gripper_times(signals(np.full_like(rows, np.nan))) == ()


def test_in_a_recording_the_times_are_those_at_which_the_commanded_gripper_jumps() -> None:
    given = stored("cr5_banana", 3)
    assert given.action is not None
    jumps = np.flatnonzero(np.diff(given.action[:, given.action_names.index("gripper")])) + 1
    assert [one.time for one in gripper_times(given)] == given.timestamps[jumps].tolist()
    assert [one.kind for one in gripper_times(given)] == ["close", "open", "close", "open"]
    assert not any(one.measured for one in gripper_times(given))


def test_a_recording_that_names_no_gripper_tells_nothing() -> None:
    assert gripper_times(stored("so101_static", 0)) == ()
