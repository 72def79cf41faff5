"""What happens in a window, as timed observations of the signals: no intent, no object."""

from annotator.vlm.signals.gripper import GripperAct
from annotator.vlm.signals.motion import runs
from annotator.vlm.signals.phases import Timeline

_MOST = 40


def observe(timeline: Timeline, start_s: float, end_s: float) -> list[tuple[float, str]]:
    """List (seconds, event) inside [start_s, end_s], ascending, at most 40: gripper events before changes of motion."""
    acts = [(_at(timeline, act.start), _act_text(act)) for act in timeline.acts]
    changes = _changes(timeline)
    inside = [(t, e) for t, e in acts if start_s <= t <= end_s][: _MOST - 1]
    room = _MOST - 1 - len(inside)
    moves = [(t, e) for t, e in changes if start_s < t <= end_s]
    first = (start_s, _at_first(timeline, start_s))
    return [first, *sorted(inside + moves[:room])]


def _at(timeline: Timeline, frame: int) -> float:
    return float(timeline.motion.times[frame])


def _act_text(act: GripperAct) -> str:
    which = f"the {act.side} gripper" if act.side else "the gripper"
    return f"{which} {act.kind}s"


def _changes(timeline: Timeline) -> list[tuple[float, str]]:
    """Where movements start and end, those at the episode's first and last frame left out."""
    found: list[tuple[float, str]] = []
    for first, last in runs(timeline.motion.moving):
        if first > 0:
            found.append((_at(timeline, int(first)), "the arm starts to move"))
        if last < len(timeline.motion.times):
            found.append((_at(timeline, int(last)), "the arm comes to rest"))
    return found


def _at_first(timeline: Timeline, start_s: float) -> str:
    motion = timeline.motion
    if not motion.known:
        return "no signal tells of the arm"
    frame = max(int(motion.times.searchsorted(start_s, side="right")) - 1, 0)
    return "the arm is moving" if motion.moving[frame] else "the arm is at rest"
