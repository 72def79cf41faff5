"""Grippers: which dimension they are, when they close and open, and how far that can be trusted.

A gripper is identified by its name. Where names say nothing, a dimension counts only if it is the one that jumps:
nearly all of its travel falls into a few short bursts while every other dimension travels far more evenly.
"""

from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.dataset.signals import Signals
from annotator.vlm.signals.motion import GRIPPER_NAME, Floats, names_of, own_range, repair, side_of

Source = Literal["state", "action"]
Kind = Literal["close", "open"]

# Measured before commanded: a command tells what was wanted, not what the fingers did.
_SOURCES: tuple[Source, Source] = ("state", "action")
_STROKE = 0.2  # a gripper acts when it travels a fifth of what it travels at most
_PAUSE_S = 0.4  # one act may pause this long
_PARTIAL = (0.1, 0.9)  # a level held between these is held by something: an object between the fingers
_HOLD_S = 0.5
_BURSTS, _OTHERS = 0.8, 0.6  # travel in the busiest tenth of the frames: the gripper's least, the others' most
_NOT_A_LEVEL = ("vel", "effort", "torque", "current", "force", "temp", "load")


class Gripper(msgspec.Struct, frozen=True, kw_only=True):
    """One gripper. `level`: (T,) float64 from 0 to 1 in its own range; `named` is false where it was guessed."""

    side: str
    source: Source
    level: Floats
    dims: tuple[int, ...]
    named: bool


class GripperAct(msgspec.Struct, frozen=True, kw_only=True):
    """One closing or opening: frames [start, end). `empty`: it went all the way where holding stops halfway."""

    kind: Kind
    side: str
    start: int
    end: int
    empty: bool = False


def find_grippers(signals: Signals) -> tuple[Gripper, ...]:
    """Return up to one gripper a side: measured (state) rather than commanded (action), named rather than guessed."""
    grippers: dict[str, Gripper] = {}
    for source in _SOURCES:
        named = _named_dims(signals, source)
        for side in sorted({side_of(name) for name, _ in named}):
            dims = tuple(d for name, d in named if side_of(name) == side)
            gripper = _gripper(signals, source, dims, side=side, named=True)
            if gripper is not None:
                grippers.setdefault(side, gripper)
    # Beside grippers that name their side, one that names none is taken for a copy of either.
    sides = [grippers[side] for side in ("left", "right") if side in grippers]
    return tuple(sides or grippers.values()) or _guess_gripper(signals)


def gripper_dims(signals: Signals, grippers: tuple[Gripper, ...]) -> frozenset[tuple[str, int]]:
    """Return every (source, dimension) that is a gripper's, so that it does not count as motion of the arm."""
    dims = {(source, d) for source in ("state", "action") for _, d in _named_dims(signals, source)}
    return frozenset(dims | {(g.source, d) for g in grippers for d in g.dims})


def gripper_acts(gripper: Gripper, times: Floats) -> tuple[GripperAct, ...]:
    """Return what a gripper did, in order. `times`: (T,) float64 seconds, ascending."""
    strokes = _strokes(gripper.level, times)
    if not len(strokes):
        return ()
    # The level before the first stroke and after each, (N + 1,).
    levels = np.concatenate((gripper.level[strokes[:1, 0] - 1], gripper.level[strokes[:, 1] - 1]))
    upwards = levels[1:] > levels[:-1]
    partial_s = _seconds_held_partial(levels, strokes, times)
    # Closing is towards the levels held halfway, where an object stops it, else away from the start: arms set out
    # with an open gripper far more often than with a closed one, and nothing in the signal alone tells more.
    closing_up = bool(upwards[0])
    if partial_s.any():
        closing_up = bool(partial_s[1:][upwards].sum() > partial_s[1:][~upwards].sum())
    shut = levels[1:] >= _PARTIAL[1] if closing_up else levels[1:] <= _PARTIAL[0]
    halfway = bool(partial_s.any())
    return tuple(
        GripperAct(
            kind="close" if up == closing_up else "open",
            side=gripper.side,
            start=int(start),
            end=int(end),
            empty=halfway and bool(up == closing_up and full),
        )
        for (start, end), up, full in zip(strokes, upwards, shut, strict=True)
    )


def _named_dims(signals: Signals, source: str) -> list[tuple[str, int]]:
    """Return (name, dimension) of what is named as a gripper and is a position, not a speed or a load."""
    values = signals.state if source == "state" else signals.action
    names = signals.state_names if source == "state" else signals.action_names
    if values is None:
        return []
    return [
        (name, d)
        for d, name in enumerate(names_of(names, values.shape[1]))
        if GRIPPER_NAME.search(name) and not any(word in name.lower() for word in _NOT_A_LEVEL)
    ]


def _gripper(signals: Signals, source: Source, dims: tuple[int, ...], *, side: str, named: bool) -> Gripper | None:
    """Of several fingers, follow the one that travels most; none if it never moves."""
    values = signals.state if source == "state" else signals.action
    assert values is not None
    fingers = repair(values[:, dims])
    reach = own_range(fingers)
    widest = int(reach.argmax())
    if not reach[widest]:
        return None
    level = (fingers[:, widest] - fingers[:, widest].min()) / reach[widest]
    return Gripper(side=side, source=source, level=level, dims=dims, named=named)


def _guess_gripper(signals: Signals) -> tuple[Gripper, ...]:
    for source in _SOURCES:
        values = signals.state if source == "state" else signals.action
        if values is None or values.shape[1] < 2 or len(values) < 20:
            continue
        dim = _jumping_dim(repair(values))
        gripper = None if dim is None else _gripper(signals, source, (dim,), side="", named=False)
        # More than a dozen strokes is a rhythm of the arm rather than grasping.
        if gripper is not None and 1 <= len(_strokes(gripper.level, signals.timestamps)) <= 12:
            return (gripper,)
    return ()


def _jumping_dim(values: Floats) -> int | None:
    """Return the dimension of (T, D) values whose travel comes in bursts, if it is the only one."""
    steps = np.abs(np.diff(values, axis=0))
    reach = own_range(values)
    travel = steps.sum(axis=0)
    # What barely moves, and noise, which travels its own range over and over, have no say.
    real = (reach > 0.02 * reach.max()) & (travel < 12 * reach)
    if np.count_nonzero(real) < 2:
        return None
    share = np.zeros(values.shape[1])
    busiest = max(1, int(0.1 * np.count_nonzero((steps[:, real] > 0).any(axis=1))))
    share[real] = np.sort(steps, axis=0)[-busiest:].sum(axis=0)[real] / travel[real]
    jumping = int(share.argmax())
    others = np.delete(share, jumping).max(initial=0.0)
    return jumping if share[jumping] >= _BURSTS and others <= _OTHERS else None


def _strokes(level: Floats, times: Floats) -> npt.NDArray[np.int64]:
    """Return frame ranges [start, end) in which the gripper travels one way by at least `_STROKE`: (N, 2) int64."""
    step = np.diff(level)
    lasting = np.diff(times)
    swift = np.abs(step) > np.minimum(0.2 * lasting, 0.5 * _STROKE)  # slower than 5 s for its range is drift
    way = np.where(swift, np.sign(step), 0.0)
    moving = np.flatnonzero(way)
    if not moving.size:
        return np.zeros((0, 2), dtype=np.int64)
    turned = way[moving[1:]] != way[moving[:-1]]
    paused = times[moving[1:]] - times[moving[:-1] + 1] > _PAUSE_S
    cut = np.flatnonzero(turned | paused)
    first = moving[np.concatenate(([0], cut + 1))]
    last = moving[np.concatenate((cut, [len(moving) - 1]))] + 1
    travelled = np.abs(level[last] - level[first])
    return np.stack((first + 1, last + 1), axis=1)[travelled >= _STROKE]


def _seconds_held_partial(levels: Floats, strokes: npt.NDArray[np.int64], times: Floats) -> Floats:
    """Return for how many seconds each of the (N + 1,) levels is held strictly inside the range.

    0 where the level is not left the way it was come to: fingers that pause on their way hold nothing.
    """
    inside = (levels > _PARTIAL[0]) & (levels < _PARTIAL[1])
    until = np.concatenate((strokes[1:, 0], [len(times)])) - 1
    lasted = np.concatenate(([0.0], times[until] - times[strokes[:, 1] - 1]))
    back = np.zeros(len(levels), dtype=np.bool_)
    back[1:-1] = np.sign(levels[1:-1] - levels[:-2]) == np.sign(levels[1:-1] - levels[2:])
    return np.where(inside & (lasted >= _HOLD_S) & back, lasted, 0.0)
