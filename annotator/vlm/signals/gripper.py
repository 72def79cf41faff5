"""Grippers: which dimension they are, when they close and open, and how far that can be trusted.

A gripper is found by its name. Where names say nothing, a dimension counts only if it is the one that jumps:
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

_STROKE = 0.2  # a gripper acts when it travels a fifth of what it travels at most
_PAUSE_S = 0.4  # one act may pause this long
_PARTIAL = (0.1, 0.9)  # a level held between these is held by something: an object between the fingers
_HELD_S = 0.5
_BURSTS, _OTHERS = 0.8, 0.6  # travel in the busiest tenth of the frames: the gripper's least, the others' most
_NOT_A_LEVEL = ("vel", "effort", "torque", "current", "force", "temp", "load")


class Gripper(msgspec.Struct, frozen=True, kw_only=True):
    """One gripper. `level`: (T,) from 0 to 1 in its own range; `named` is false where only evidence found it."""

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
    """Find up to one gripper a side: measured (state) rather than commanded (action), named rather than guessed."""
    named = _named(signals)
    return named if named else _by_evidence(signals)


def gripper_dims(signals: Signals, found: tuple[Gripper, ...]) -> frozenset[tuple[str, int]]:
    """Every (source, dimension) that is a gripper's, so that it does not count as motion of the arm."""
    dims = {(source, d) for source in ("state", "action") for _, d in _candidates(signals, source)}
    return frozenset(dims | {(g.source, d) for g in found for d in g.dims})


def gripper_acts(gripper: Gripper, times: Floats) -> tuple[GripperAct, ...]:
    """List what a gripper did, in order."""
    strokes = _strokes(gripper.level, times)
    if not len(strokes):
        return ()
    held = _levels_between(gripper.level, strokes)
    upwards = held[1:] > held[:-1]
    partial_s = _held_partial(held, strokes, times)
    closing_up = _closes_upwards(upwards, partial_s)
    shut = held[1:] >= _PARTIAL[1] if closing_up else held[1:] <= _PARTIAL[0]
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


def _candidates(signals: Signals, source: str) -> list[tuple[str, int]]:
    values = signals.state if source == "state" else signals.action
    names = signals.state_names if source == "state" else signals.action_names
    if values is None:
        return []
    return [
        (name, d)
        for d, name in enumerate(names_of(names, values.shape[1]))
        if GRIPPER_NAME.search(name) and not any(word in name.lower() for word in _NOT_A_LEVEL)
    ]


def _named(signals: Signals) -> tuple[Gripper, ...]:
    sources: tuple[Source, Source] = ("state", "action")
    found: dict[str, Gripper] = {}
    for source in sources:
        for side in sorted({side_of(name) for name, _ in _candidates(signals, source)}):
            dims = tuple(d for name, d in _candidates(signals, source) if side_of(name) == side)
            gripper = _gripper(signals, source, dims, side=side, named=True)
            if gripper is not None:
                found.setdefault(side, gripper)
    sides = [found[side] for side in ("left", "right") if side in found]
    return tuple(sides) if sides else tuple(found.values())


def _gripper(signals: Signals, source: Source, dims: tuple[int, ...], *, side: str, named: bool) -> Gripper | None:
    """Of several fingers, follow the one that travels most; none if it never moves."""
    values = signals.state if source == "state" else signals.action
    assert values is not None
    whole = repair(values[:, dims])
    reach = own_range(whole)
    lead = int(reach.argmax())
    if not reach[lead]:
        return None
    level = (whole[:, lead] - whole[:, lead].min()) / reach[lead]
    return Gripper(side=side, source=source, level=level, dims=dims, named=named)


def _by_evidence(signals: Signals) -> tuple[Gripper, ...]:
    sources: tuple[Source, Source] = ("state", "action")
    for source in sources:
        values = signals.state if source == "state" else signals.action
        if values is None or values.shape[1] < 2 or len(values) < 20:
            continue
        dim = _jumping_dim(repair(values))
        found = None if dim is None else _gripper(signals, source, (dim,), side="", named=False)
        if found is not None and 1 <= len(_strokes(found.level, signals.timestamps)) <= 12:
            return (found,)
    return ()


def _jumping_dim(whole: Floats) -> int | None:
    """The dimension whose travel comes in bursts, if it is the only one and the others travel evenly."""
    steps = np.abs(np.diff(whole, axis=0))
    reach = own_range(whole)
    lively = steps[:, (reach > 0.02 * reach.max(initial=0.0)) & (steps.sum(axis=0) < 12 * reach)]
    if lively.shape[1] < 2:
        return None
    share = np.zeros(whole.shape[1])
    busiest = max(1, int(0.1 * np.count_nonzero((lively > 0).any(axis=1))))
    travel = steps.sum(axis=0)
    real = (reach > 0.02 * reach.max()) & (travel < 12 * reach)
    share[real] = np.sort(steps, axis=0)[-busiest:].sum(axis=0)[real] / travel[real]
    lead = int(share.argmax())
    others = np.delete(share, lead).max(initial=0.0)
    return lead if share[lead] >= _BURSTS and others <= _OTHERS else None


def _strokes(level: Floats, times: Floats) -> npt.NDArray[np.int64]:
    """Frame ranges [start, end) in which the gripper travels one way by at least `_STROKE`; (N, 2)."""
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


def _levels_between(level: Floats, strokes: npt.NDArray[np.int64]) -> Floats:
    """The level before the first stroke and after each: (N + 1,)."""
    return np.concatenate((level[strokes[:1, 0] - 1], level[strokes[:, 1] - 1]))


def _held_partial(held: Floats, strokes: npt.NDArray[np.int64], times: Floats) -> Floats:
    """Seconds that each level is held strictly inside the range, left the way it was come to; else 0. (N + 1,)."""
    inside = (held > _PARTIAL[0]) & (held < _PARTIAL[1])
    until = np.concatenate((strokes[1:, 0], [len(times)])) - 1
    lasted = np.concatenate(([0.0], times[until] - times[strokes[:, 1] - 1]))
    back = np.zeros(len(held), dtype=np.bool_)
    back[1:-1] = np.sign(held[1:-1] - held[:-2]) == np.sign(held[1:-1] - held[2:])
    return np.where(inside & (lasted >= _HELD_S) & back, lasted, 0.0)


def _closes_upwards(upwards: npt.NDArray[np.bool_], partial_s: Floats) -> bool:
    """Which way is closing: towards the levels held halfway (an object stops it), else away from the start.

    Arms set out with an open gripper far more often than with a closed one; nothing in the signal alone tells more.
    """
    if partial_s.any():
        return bool(partial_s[1:][upwards].sum() > partial_s[1:][~upwards].sum())
    return bool(upwards[0])
