"""The phases of an episode: what the gripper and the arm did, in order, as frame ranges that leave no gap.

A gripper acts while its arm is still, so each closing and opening takes over the rest that belongs to it. Between
two acts the arm reaches, carries or withdraws, by whether something is held; a transfer is cut at the two corners
of its path. No threshold here has a unit but seconds.
"""

from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.dataset.signals import Signals
from annotator.vlm.signals.gripper import GripperAct, find_grippers, gripper_acts, gripper_dims
from annotator.vlm.signals.motion import Bools, Floats, Motion, analyse_motion, runs

PhaseKind = Literal[
    "wait", "move", "reach", "grasp", "try", "shut", "ready", "lift", "carry", "lower", "keep", "back", "release",
    "reopen", "retract", "kept_open", "kept_closed",
]  # fmt: skip
ACTS: frozenset[PhaseKind] = frozenset({"grasp", "try", "shut", "ready", "release", "reopen"})
GRASPS: frozenset[PhaseKind] = frozenset({"grasp", "try"})
_HOLDING_KINDS: frozenset[PhaseKind] = frozenset({"carry", "keep", "back"})

_PAUSE_S = 2.0  # a shorter rest inside a movement is part of it
_BEFORE_ACT_S = 3.0  # an arm that rested longer than this before its gripper acted was waiting
_SHIFT_S = 1.5  # how far the gripper's clock may be from the arm's
_NEAR_S = 0.25
_STRAY_S = 0.75  # an act this far from any rest still belongs to it
_TOGETHER_S = 0.5  # two grippers acting this close act together
_SAME_PLACE = 0.25  # root mean square over the dimensions, each in its own range
_BEND = 0.1  # a path this little longer than its chord is straight
_CORNER_POINTS = 160


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """Frames [start, end) of one kind. `side`: left, right, both or empty. `again`: a grasp was given up just before.

    `transfer` counts the releases before, so that it picks the object in a task that names several.
    """

    kind: PhaseKind
    start: int
    end: int
    side: str = ""
    again: bool = False
    transfer: int = 0


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """A whole episode, analysed once: its motion, what the grippers did, and the phases, from frame 0 to T."""

    motion: Motion
    acts: tuple[GripperAct, ...]
    phases: tuple[Phase, ...]


def analyse(signals: Signals) -> Timeline:
    """Analyse a whole episode. Windows of it are cut from this, so that they agree."""
    grippers = find_grippers(signals)
    dims = gripper_dims(signals, grippers)
    motion = analyse_motion(signals, dims)
    placed: list[GripperAct] = []
    acts: list[GripperAct] = []
    for gripper in grippers:
        own = gripper_acts(gripper, signals.timestamps)
        arm = analyse_motion(signals, dims, gripper.side) if gripper.side else motion
        acts.extend(own)
        placed.extend(_place(own, arm))
    ordered = _untangle(sorted(placed, key=lambda a: (a.start, a.end, a.side)), motion)
    acts.sort(key=lambda a: (a.start, a.side))
    return Timeline(motion=motion, acts=tuple(acts), phases=tuple(_phases(ordered, motion)))


def _place(acts: tuple[GripperAct, ...], arm: Motion) -> list[GripperAct]:
    """Give each act the rest it happened in.

    Gripper and arm are often recorded by clocks that disagree, so one shift is sought for the episode: the smallest
    at which the most acts fall into rests of their own.
    """
    rests = runs(~arm.moving)
    if not acts or not arm.known or not len(rests):
        return list(acts)
    begin, end = arm.times[rests[:, 0]], arm.times[rests[:, 1] - 1]
    starts = np.array([arm.times[a.start] for a in acts])
    shifted = starts + _best_shift(starts, begin, end)
    return [_widen(act, arm, rests, time) for act, time in zip(acts, shifted.tolist(), strict=True)]


def _best_shift(starts: Floats, begin: Floats, end: Floats) -> float:
    """Return the shift, in seconds, for (A,) starts of acts and (R,) rests from `begin` to `end`."""
    tried = np.arange(-_SHIFT_S, _SHIFT_S + 0.05, 0.1)
    shifts = tried[np.argsort(np.abs(tried), kind="stable")]
    shifted = starts[None, :] + shifts[:, None]
    # Seconds from each shifted act to each rest, (S, A, R), 0 inside it; then each act's rest, -1 where none is near.
    away = np.maximum(np.maximum(begin - shifted[..., None], shifted[..., None] - end), 0.0)
    nearest = np.where(away.min(axis=2) <= _NEAR_S, away.argmin(axis=2), -1)
    # Two acts in one rest count once.
    ranked = np.sort(nearest, axis=1)
    fresh = np.diff(ranked, axis=1, prepend=-1) != 0
    return float(shifts[int((fresh & (ranked >= 0)).sum(axis=1).argmax())])


def _widen(act: GripperAct, arm: Motion, rests: npt.NDArray[np.int64], time: float) -> GripperAct:
    """Let an act last as long as the rest around `time`, as far as that rest can be its own."""
    begin, end = arm.times[rests[:, 0]], arm.times[rests[:, 1] - 1]
    away = np.maximum(np.maximum(begin - time, time - end), 0.0)
    if away.min() > _STRAY_S:
        return act
    start, stop = (int(i) for i in rests[int(away.argmin())])
    lasts_s = arm.times[act.end - 1] - arm.times[act.start]
    start = max(start, int(np.searchsorted(arm.times, time - _BEFORE_ACT_S)))
    stop = min(stop, int(np.searchsorted(arm.times, time + lasts_s + _BEFORE_ACT_S)))
    # An act that overlaps its rest keeps its own frames; one that only lies near it is moved there whole.
    if act.start < stop and act.end > start:
        start, stop = min(start, act.start), max(stop, act.end)
    return msgspec.structs.replace(act, start=start, end=max(stop, start + 1))


def _untangle(acts: list[GripperAct], motion: Motion) -> list[GripperAct]:
    """Make acts follow each other: two grippers doing the same at once are one act, an overlap is cut."""
    kept: list[GripperAct] = []
    for act in acts:
        last = kept[-1] if kept else None
        if last is None:
            kept.append(act)
        elif (
            last.side != act.side
            and last.kind == act.kind
            and motion.times[act.start] - motion.times[last.start] <= _TOGETHER_S
        ):
            kept[-1] = msgspec.structs.replace(last, end=max(last.end, act.end), side="both")
        elif act.end > last.end:
            kept.append(msgspec.structs.replace(act, start=max(act.start, last.end)))
    return kept


class _Holding:
    """What each gripper holds while acts are walked through in order: by side, the kind of grasp that took it."""

    def __init__(self) -> None:
        self._grasps: dict[str, PhaseKind] = {}

    def grasps(self, side: str) -> list[PhaseKind]:
        return [self._grasps[s] for s in self._sides(side) if s in self._grasps]

    def follow(self, side: str, kind: PhaseKind) -> None:
        """Note an act of `kind`: a grasp takes hold, any other act lets go."""
        for s in self._sides(side):
            self._grasps.pop(s, None)
            if kind in GRASPS:
                self._grasps[s] = kind

    def arm_moves(self, acted: bool, to_come: list[PhaseKind]) -> PhaseKind:
        """Return what the arm moves for while the grippers do nothing, before the acts `to_come`."""
        if self._grasps:
            if set(self._grasps.values()) == {"try"}:
                return "back"
            return "carry" if "release" in to_come else "keep"
        if GRASPS & set(to_come):
            return "reach"
        return "retract" if acted else "move"

    def _sides(self, side: str) -> tuple[str, ...]:
        return ("left", "right") if side == "both" else (side,)


def _phases(acts: list[GripperAct], motion: Motion) -> list[Phase]:
    """Walk through the acts once, filling what lies between them."""
    kinds = _act_kinds(acts, motion)
    phases: list[Phase] = []
    holding = _Holding()
    gap = Phase(kind="move", start=0, end=0)
    for i, (act, kind) in enumerate(zip(acts, kinds, strict=True)):
        moves = holding.arm_moves(i > 0, kinds[i:])
        # A reach is made by the arm whose gripper closes next.
        side = next((a.side for a in acts[i:] if a.kind == "close"), "") if moves == "reach" else ""
        phases += _fill(msgspec.structs.replace(gap, kind=moves, end=act.start, side=side), motion)
        phases.append(msgspec.structs.replace(gap, kind=kind, start=act.start, end=act.end, side=act.side))
        holding.follow(act.side, kind)
        transfer = gap.transfer + (kind == "release")
        gap = Phase(kind="move", start=act.end, end=0, again=kind == "reopen", transfer=transfer)
    moves = holding.arm_moves(bool(acts), [])
    return phases + _fill(msgspec.structs.replace(gap, kind=moves, end=len(motion.times)), motion)


def _act_kinds(acts: list[GripperAct], motion: Motion) -> list[PhaseKind]:
    """Return the kind of each act, by what came before and after it on the same side."""
    kinds: list[PhaseKind] = []
    holding = _Holding()
    for i, act in enumerate(acts):
        grasps = holding.grasps(act.side)
        if act.kind == "open":
            kinds.append("ready" if not grasps else "reopen" if grasps == ["try"] else "release")
        elif act.empty and not any(a.kind == "close" and a.side == act.side for a in acts[i + 1 :]):
            kinds.append("shut")
        else:
            kinds.append("try" if act.empty or _given_up(acts, i, motion) else "grasp")
        holding.follow(act.side, kinds[-1])
    return kinds


def _given_up(acts: list[GripperAct], i: int, motion: Motion) -> bool:
    """Whether the gripper opened again and came back to the same place, and that is not where things are put."""
    own = [a for a in acts[i:] if a.side == acts[i].side]
    if not motion.known or len(own) < 3 or own[2].kind != "close" or own[1].kind != "open":
        return False
    grasped, opened, closed, put = (
        motion.path[(a.start + a.end) // 2] for a in (*own[:3], [a for a in own if a.kind == "open"][-1])
    )
    put_down = sum(a.kind == "open" for a in own) > 1 and _distance(opened, put) < _SAME_PLACE
    return _distance(grasped, closed) < _SAME_PLACE and not put_down


def _distance(pose: Floats, other: Floats) -> float:
    return float(np.sqrt(np.mean((pose - other) ** 2)))


def _fill(gap: Phase, motion: Motion) -> list[Phase]:
    """Cut a gap between acts into waits and movements; a transfer further into its legs."""
    if gap.start >= gap.end:
        return []
    if not motion.known:
        return [msgspec.structs.replace(gap, kind="kept_closed" if gap.kind in _HOLDING_KINDS else "kept_open")]
    moving = _without_short_rests(motion.moving[gap.start : gap.end], motion, gap.start)
    phases: list[Phase] = []
    cuts = [0, *(np.flatnonzero(np.diff(moving.astype(np.int8))) + 1).tolist(), len(moving)]
    for first, last in pairwise(cuts):
        kind = gap.kind if moving[first] else "wait"
        piece = msgspec.structs.replace(gap, kind=kind, start=gap.start + first, end=gap.start + last)
        phases += _legs(piece, motion) if kind == "carry" else [piece]
    return phases


def _without_short_rests(moving: Bools, motion: Motion, start: int) -> Bools:
    """Count rests shorter than `_PAUSE_S` as movement, except at the episode's ends. `moving` begins at frame `start`.

    A gap of nothing but rest stays one, however short it is.
    """
    filled = moving.copy()
    if not moving.any():
        return filled
    for first, last in runs(~moving):
        at_the_ends = start + first == 0 or start + last == len(motion.times)
        lasted = motion.times[start + last - 1] - motion.times[start + first]
        if not at_the_ends and lasted < _PAUSE_S:
            filled[first:last] = True
    return filled


def _legs(carry: Phase, motion: Motion) -> list[Phase]:
    """Cut a transfer at the two corners that make the longest three-chord line through its path."""
    # All pairs of corners are tried, so the path is thinned to a fixed number of points.
    frames = np.unique(np.linspace(carry.start, carry.end - 1, _CORNER_POINTS).astype(np.int64))
    path = motion.path[frames]
    squares = (path**2).sum(axis=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * path @ path.T, 0.0))
    length = apart[0][:, None] + apart + apart[-1][None, :]
    ordered = np.where(np.triu(np.ones_like(apart), 1) > 0, length, -1.0)
    first, second = np.unravel_index(int(ordered.argmax()), ordered.shape)
    longest = float(ordered[first, second])
    # A path that hardly bends has no lifting and lowering to tell apart: a push, or a slide.
    if len(frames) < 4 or longest <= 0 or 1 - apart[0, -1] / longest < _BEND:
        return [carry]
    cuts = [carry.start, int(frames[first]), int(frames[second]), carry.end]
    kinds: tuple[PhaseKind, ...] = ("lift", "carry", "lower")
    return [
        msgspec.structs.replace(carry, kind=kind, start=a, end=b)
        for kind, (a, b) in zip(kinds, pairwise(cuts), strict=True)
        if b > a
    ]
