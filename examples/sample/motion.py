"""What happens in an episode: an arm moves an object to its goal along minimum-jerk paths.

Metres and seconds; x to the right, y away from the viewer, z up, the table's surface at z = 0.
The hand is the point between the fingertips. `gripper` is 0 closed, 1 open.
"""

from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Point = tuple[float, float, float]

FINGER_TRAVEL_M = 0.08
"""The gap between the fingers when `gripper` is 1."""
NAMES = ("x", "y", "z", "gripper")
HOME: Point = (0.0, 0.03, 0.15)
HOVER_M = 0.11
CARRY_M = 0.13
SQUEEZE = 0.15
"""How far below the object's width the closing command goes, as a fraction of the travel."""
SENSOR_NOISE = (0.0002, 0.0002, 0.0002, 0.001)

PhaseName = Literal["idle", "reach", "grasp", "lift", "carry", "lower", "release", "retract"]


class Thing(msgspec.Struct, frozen=True):
    """Something that can be picked up: its size is width (x, across the fingers), depth (y), height (z)."""

    name: str
    shape: Literal["box", "cylinder"]
    colour: tuple[int, int, int]
    size: Point


class Goal(msgspec.Struct, frozen=True):
    """Where the object goes. `surface` is the height it comes to rest on; a bowl has a rim above that."""

    name: str
    shape: Literal["plate", "bowl"]
    colour: tuple[int, int, int]
    surface: float


class Task(msgspec.Struct, frozen=True):
    """An instruction, its object and its goal."""

    text: str
    thing: Thing
    goal: Goal


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """What truly happens from `start_frame` up to, not including, `end_frame`."""

    phase: PhaseName
    subtask: str
    start_frame: int
    end_frame: int
    start_s: float
    end_s: float
    outcome: Literal["done", "missed"]


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """One episode of T frames: where everything is, what the robot recorded, what it was told.

    `hand`, `thing`: (T, 3) metres. `opening`: (T,) true gap between the fingers, metres. `held`: (T,) bool.
    `state`, `action`: (T, 4) float32 in the order of `NAMES`. `goal_xy`, `bystander_xy`: where those two lie.
    """

    index: int
    task: Task
    bystander: Thing
    hand: Floats
    opening: Floats
    thing: Floats
    held: npt.NDArray[np.bool_]
    goal_xy: tuple[float, float]
    bystander_xy: tuple[float, float]
    state: npt.NDArray[np.float32]
    action: npt.NDArray[np.float32]
    phases: tuple[Phase, ...]


class Move(msgspec.Struct, frozen=True):
    """One minimum-jerk stroke: where the hand and the gripper command are at its end."""

    phase: PhaseName
    subtask: str
    seconds: float
    hand: Point
    gripper: float
    outcome: Literal["done", "missed"] = "done"


RED_BLOCK = Thing("red block", "box", (205, 45, 40), (0.036, 0.030, 0.046))
GREEN_CUBE = Thing("green cube", "box", (40, 150, 65), (0.038, 0.038, 0.038))
ORANGE_CYLINDER = Thing("orange cylinder", "cylinder", (235, 130, 30), (0.036, 0.036, 0.044))
BLUE_PLATE = Goal("blue plate", "plate", (50, 95, 190), 0.008)
YELLOW_BOWL = Goal("yellow bowl", "bowl", (232, 190, 45), 0.006)
WHITE_PLATE = Goal("white plate", "plate", (235, 233, 228), 0.008)

TASKS = (
    Task("put the red block on the blue plate", RED_BLOCK, BLUE_PLATE),
    Task("put the green cube into the yellow bowl", GREEN_CUBE, YELLOW_BOWL),
    Task("move the orange cylinder to the white plate", ORANGE_CYLINDER, WHITE_PLATE),
)

IDLE_EPISODE = 1
RETRY_EPISODE = 2


def simulate(index: int, *, seed: int, fps: int) -> Episode:
    """Simulate an episode. Every third repeats a task; one starts idle, one misses its first grasp."""
    rng = np.random.default_rng([seed, index])
    task, bystander = TASKS[index % len(TASKS)], TASKS[(index + 1) % len(TASKS)].thing
    thing_xy, goal_xy, bystander_xy = _places(rng)
    moves = _moves(task, thing_xy, goal_xy, idle=index == IDLE_EPISODE, retry=index == RETRY_EPISODE, rng=rng)
    starts = np.cumsum([0] + [max(2, round(m.seconds * fps)) for m in moves])
    command = _command(moves, starts)
    opening, held, thing = _contact(command, moves, starts, task.thing, (*thing_xy, 0.0))
    # The state is measured: what the fingers really span, with noise. The action is the command of the next frame.
    state = np.column_stack([command[:, :3], opening / FINGER_TRAVEL_M])
    state += rng.normal(scale=SENSOR_NOISE, size=state.shape)
    return Episode(
        index=index,
        task=task,
        bystander=bystander,
        hand=command[:, :3],
        opening=opening,
        thing=thing,
        held=held,
        goal_xy=goal_xy,
        bystander_xy=bystander_xy,
        state=state.astype(np.float32),
        action=np.concatenate([command[1:], command[-1:]]).astype(np.float32),
        phases=_phases(moves, starts, fps),
    )


def _places(rng: np.random.Generator) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
    """Return (x, y) of the object, of the goal opposite it, and of the bystander, which is clear of both."""
    side = rng.choice([-1.0, 1.0])
    thing = (side * rng.uniform(0.11, 0.17), rng.uniform(-0.06, 0.06))
    goal = (-side * rng.uniform(0.10, 0.16), rng.uniform(-0.05, 0.05))
    bystander = (side * rng.uniform(-0.03, 0.02), rng.choice([-0.12, 0.15]))
    rounded = [(round(float(x), 4), round(float(y), 4)) for x, y in (thing, goal, bystander)]
    return rounded[0], rounded[1], rounded[2]


def _moves(
    task: Task,
    thing_xy: tuple[float, float],
    goal_xy: tuple[float, float],
    *,
    idle: bool,
    retry: bool,
    rng: np.random.Generator,
) -> list[Move]:
    """Return the strokes of an episode, each a little faster or slower than the last episode's."""
    name, goal = task.thing.name, task.goal
    into = "into" if goal.shape == "bowl" else "onto"
    width = task.thing.size[0] / FINGER_TRAVEL_M
    grip = width - SQUEEZE
    low = 0.4 * task.thing.size[2]
    (x, y), (gx, gy) = thing_xy, goal_xy
    # Two strokes of one phase: over the object first, so that the fingers come down around it.
    moves = [Move("idle", "wait", 2.0, HOME, 1.0)] if idle else []
    if retry:
        moves += _missed_grasp(name, (x, y - 0.045), low)
    again = " again" if retry else ""
    moves += [
        Move("reach", f"reach for the {name}{again}", 1.2, (x, y, HOVER_M), 1.0),
        Move("reach", f"reach for the {name}{again}", 0.8, (x, y, low), 1.0),
        Move("grasp", f"grasp the {name}", 0.7, (x, y, low), grip),
        Move("lift", f"lift the {name}", 0.8, (x, y, CARRY_M), grip),
        Move("carry", f"carry the {name} to the {goal.name}", 1.5, (gx, gy, CARRY_M), grip),
        Move("lower", f"lower the {name} {into} the {goal.name}", 0.9, (gx, gy, goal.surface + low), grip),
        Move("release", f"release the {name}", 0.5, (gx, gy, goal.surface + low), 1.0),
        Move("retract", "move the gripper away", 0.7, (gx, gy, CARRY_M), 1.0),
        Move("retract", "move the gripper away", 0.9, HOME, 1.0),
    ]
    pace = rng.uniform(0.78, 0.95, size=len(moves))
    return [msgspec.structs.replace(m, seconds=m.seconds * p) for m, p in zip(moves, pace.tolist(), strict=True)]


def _missed_grasp(name: str, beside: tuple[float, float], low: float) -> list[Move]:
    x, y = beside
    return [
        Move("reach", f"reach for the {name}", 1.0, (x, y, HOVER_M), 1.0),
        Move("reach", f"reach for the {name}", 0.7, (x, y, low), 1.0),
        Move("grasp", f"try to grasp the {name}", 0.8, (x, y, low), 0.0, "missed"),
        Move("lift", "lift the empty gripper", 0.7, (x, y, HOVER_M), 0.0, "missed"),
        Move("release", "open the gripper", 0.5, (x, y, HOVER_M), 1.0),
    ]


def _command(moves: list[Move], starts: npt.NDArray[np.int64]) -> Floats:
    """Return the strokes end to end: (T, 4) x, y, z and gripper. A stroke's first frame is where the last one ended."""
    ends = np.array([(*HOME, 1.0)] + [(*m.hand, m.gripper) for m in moves])
    strokes = [
        a + (b - a) * _minimum_jerk(stop - start)[:, None]
        for (a, b), (start, stop) in zip(pairwise(ends), pairwise(starts), strict=True)
    ]
    return np.concatenate(strokes)


def _minimum_jerk(frames: int) -> Floats:
    """Return (frames,) shares from 0 towards 1, with no jolt at either end.

    Source: Flash and Hogan (1985), "The coordination of arm movements".
    """
    s = np.arange(frames) / frames
    return s**3 * (10 - 15 * s + 6 * s**2)


def _contact(
    command: Floats, moves: list[Move], starts: npt.NDArray[np.int64], thing: Thing, rest: Point
) -> tuple[Floats, npt.NDArray[np.bool_], Floats]:
    """Return the gap between the fingers (T,), whether they hold the object (T,), and where it is (T, 3).

    The fingers stop at the object, and the object goes with the hand while they touch it.
    """
    gap = np.maximum(command[:, 3], 0.0) * FINGER_TRAVEL_M
    around = np.zeros(len(command), dtype=bool)
    grasp = next(i for i, m in enumerate(moves) if m.phase == "grasp" and m.outcome == "done")
    around[starts[grasp] :] = True
    held = around & (gap <= thing.size[0])
    first, last = np.flatnonzero(held)[[0, -1]]
    position = np.tile(np.array(rest), (len(command), 1))
    position[held] = command[held, :3] + (np.array(rest) - command[first, :3])
    position[last + 1 :] = position[last]
    return np.where(held, thing.size[0], gap), held, position


def _phases(moves: list[Move], starts: npt.NDArray[np.int64], fps: int) -> tuple[Phase, ...]:
    """Join consecutive strokes of one phase."""
    phases: list[Phase] = []
    for move, (start, stop) in zip(moves, pairwise(starts.tolist()), strict=True):
        first = phases.pop().start_frame if phases and phases[-1].phase == move.phase else start
        phases.append(
            Phase(
                phase=move.phase,
                subtask=move.subtask,
                start_frame=first,
                end_frame=stop,
                start_s=round(first / fps, 6),
                end_s=round(stop / fps, 6),
                outcome=move.outcome,
            )
        )
    return tuple(phases)
