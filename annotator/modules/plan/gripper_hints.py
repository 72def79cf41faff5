"""When the grippers that a dataset names close and open: evidence for prompts, never for an answer by itself."""

from annotator.dataset.signals import Signals
from annotator.modules.base import GripperTime
from annotator.vlm.signals.gripper import find_grippers, gripper_acts


def gripper_times(signals: Signals) -> tuple[GripperTime, ...]:
    """Return when each named gripper begins to close or to open, ascending; nothing where no name is a gripper's.

    Names are those of `observation.state` and `action`; the measured gripper is read before the commanded one. A
    dimension that merely moves like a gripper is not taken for one. Which way is closing is read off the signal: the
    way to where it is held halfway, else the way of its first stroke.
    """
    named = [gripper for gripper in find_grippers(signals) if gripper.named]
    times = [
        GripperTime(
            time=float(signals.timestamps[act.start]), kind=act.kind, side=act.side, measured=gripper.source == "state"
        )
        for gripper in named
        for act in gripper_acts(gripper, signals.timestamps)
    ]
    return tuple(sorted(times, key=lambda grip: (grip.time, grip.side)))
