"""Motion and rest."""

import numpy as np
import pytest

from annotator.vlm.signals.motion import Motion, analyse_motion, repair, runs
from tests.vlm.signal_shapes import HOME, NAMES, OBJECT, OPEN, draw, signals

STROKES = ((2.0, HOME, OPEN), (2.0, OBJECT, OPEN), (2.0, OBJECT, OPEN), (2.0, HOME, OPEN), (2.0, HOME, OPEN))
GRIPPER = frozenset({("state", 3), ("action", 3)})


def moves_s(motion: Motion) -> list[tuple[float, float]]:
    return [(float(motion.times[a]), float(motion.times[b - 1])) for a, b in runs(motion.moving)]


def test_runs_are_half_open_and_ascending() -> None:
    assert runs(np.array([True, False, True, True])).tolist() == [[0, 1], [2, 4]]
    assert runs(np.zeros(3, dtype=np.bool_)).shape == (0, 2)


def test_an_arm_moves_exactly_where_it_was_moved() -> None:
    moves = moves_s(analyse_motion(signals(draw(STROKES)), GRIPPER))
    assert np.allclose(moves, [(2.0, 4.0), (6.0, 8.0)], atol=0.35)


@pytest.mark.parametrize("units", [(1, 1, 1, 1), (1000, 0.001, 57, 1), (1e-9, 1e9, 1, 1)])
def test_units_do_not_matter(units: tuple[float, ...]) -> None:
    scaled = draw(STROKES) * np.array(units, dtype=np.float32)
    moves = moves_s(analyse_motion(signals(scaled), GRIPPER))
    assert np.allclose(moves, [(2.0, 4.0), (6.0, 8.0)], atol=0.35)


def test_a_joint_in_small_units_moves_the_arm_as_well_as_one_in_large_units() -> None:
    strokes = ((2.0, HOME, OPEN), (2.0, (57.0, 0, 0), OPEN), (2.0, (57.0, 0, 0), OPEN), (2.0, (57.0, 1, 0), OPEN))
    moves = moves_s(analyse_motion(signals(draw(strokes)), GRIPPER))
    assert np.allclose(moves, [(2.0, 4.0), (6.0, 8.0)], atol=0.4)


def test_sensor_noise_is_no_motion() -> None:
    rows = draw(STROKES) + np.random.default_rng(3).normal(scale=0.002, size=(200, 4)).astype(np.float32)
    moves = moves_s(analyse_motion(signals(rows), GRIPPER))
    assert np.allclose(moves, [(2.0, 4.0), (6.0, 8.0)], atol=0.4)


def test_an_arm_that_only_jitters_never_moves() -> None:
    rows = np.random.default_rng(3).normal(scale=0.002, size=(200, 4)).astype(np.float32)
    assert not analyse_motion(signals(rows), GRIPPER).moving.any()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fps", [10, 20, 50])
def test_noise_alone_is_no_motion_whatever_its_rate(seed: int, fps: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(10 * fps, 4)).astype(np.float32)
    assert not analyse_motion(signals(rows, fps=fps), GRIPPER).moving.any()


@pytest.mark.parametrize("period_s", [0.8, 1.2, 2.0])
def test_wiping_to_and_fro_is_motion(period_s: float) -> None:
    t = np.arange(300) / 20
    rows = np.stack([np.sin(2 * np.pi * t / period_s) * (t > 5), np.cos(t) * 0, t * 0, t * 0], axis=1)
    motion = analyse_motion(signals(rows.astype(np.float32)), GRIPPER)
    assert np.allclose(moves_s(motion), [(5.0, 15.0)], atol=0.35)


def test_a_glitch_of_one_frame_is_no_motion() -> None:
    rows = draw(STROKES)
    rows[[0, 110]] += 50
    assert np.allclose(moves_s(analyse_motion(signals(rows), GRIPPER)), [(2.0, 4.0), (6.0, 8.0)], atol=0.35)


def test_missing_values_are_bridged() -> None:
    rows = draw(STROKES)
    rows[45:60, 0] = np.nan
    rows[:, 2] = np.inf
    assert np.isfinite(repair(rows)).all()
    assert np.allclose(moves_s(analyse_motion(signals(rows), GRIPPER)), [(2.0, 4.0), (6.0, 8.0)], atol=0.35)


@pytest.mark.parametrize("names", [("shoulder_vel", "elbow_vel", "wrist_vel", "gripper"), ()])
def test_an_action_of_velocities_is_read_as_velocities(names: tuple[str, ...]) -> None:
    speeds = np.gradient(draw(STROKES), axis=0).astype(np.float32)
    moves = moves_s(analyse_motion(signals(None, action=speeds, action_names=names), GRIPPER))
    assert np.allclose(moves, [(2.0, 4.0), (6.0, 8.0)], atol=0.4)


def test_an_action_of_positions_is_read_as_positions() -> None:
    moves = moves_s(analyse_motion(signals(None, action=draw(STROKES), action_names=NAMES), GRIPPER))
    assert np.allclose(moves, [(2.0, 4.0), (6.0, 8.0)], atol=0.35)


def test_the_action_tells_where_the_state_is_stuck() -> None:
    stuck = np.ones((200, 4), dtype=np.float32)
    given = signals(stuck, action=draw(STROKES), action_names=NAMES)
    assert np.allclose(moves_s(analyse_motion(given, GRIPPER)), [(2.0, 4.0), (6.0, 8.0)], atol=0.35)


def test_effort_and_velocity_columns_of_the_state_are_no_pose() -> None:
    rows = np.hstack([draw(STROKES), np.sin(np.arange(200) / 3)[:, None].astype(np.float32)])
    moves = moves_s(analyse_motion(signals(rows, (*NAMES, "wrist_effort")), GRIPPER))
    assert np.allclose(moves, [(2.0, 4.0), (6.0, 8.0)], atol=0.35)


def test_a_robot_that_is_all_gripper_has_no_known_motion() -> None:
    assert not analyse_motion(signals(draw(STROKES)[:, 3:], ("gripper",)), frozenset({("state", 0)})).known
