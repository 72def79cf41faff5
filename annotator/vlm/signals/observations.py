"""What happens in a window, as timed observations of the signals: no intent, no object."""

from annotator.vlm.signals.motion import runs
from annotator.vlm.signals.phases import Timeline

_MOST_OBSERVATIONS = 40  # as `Description` allows


def observe(timeline: Timeline, start_s: float, end_s: float) -> list[tuple[float, str]]:
    """Return (seconds, event) inside [start_s, end_s], ascending; the first tells how the window begins.

    Of more than 40, gripper events are kept before changes of motion.
    """
    motion, times = timeline.motion, timeline.motion.times
    frame = max(int(times.searchsorted(start_s, side="right")) - 1, 0)
    first = "the arm is moving" if motion.moving[frame] else "the arm is at rest"
    events = [
        (float(times[act.start]), f"the {act.side} gripper {act.kind}s" if act.side else f"the gripper {act.kind}s")
        for act in timeline.acts
    ]
    events = [(time, event) for time, event in events if start_s <= time <= end_s][: _MOST_OBSERVATIONS - 1]
    changes = [(time, event) for time, event in _motion_changes(timeline) if start_s < time <= end_s]
    kept = changes[: _MOST_OBSERVATIONS - 1 - len(events)]
    return [(start_s, first if motion.known else "no signal tells of the arm"), *sorted(events + kept)]


def _motion_changes(timeline: Timeline) -> list[tuple[float, str]]:
    """Return where movements start and end, but for those at the episode's first and last frame."""
    times = timeline.motion.times
    changes: list[tuple[float, str]] = []
    for start, end in runs(timeline.motion.moving).tolist():
        if start > 0:
            changes.append((float(times[start]), "the arm starts to move"))
        if end < len(times):
            changes.append((float(times[end]), "the arm comes to rest"))
    return changes
