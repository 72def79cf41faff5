"""Robot signals with a known course, drawn stroke by stroke, and requests that carry them."""

import asyncio
from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.dataset.signals import Signals
from annotator.prompting.answers import Answer, Segmentation
from annotator.vlm.base import Request
from annotator.vlm.signals.engine import MODEL_ID, SignalsEngine
from annotator_store.digests import Digest
from annotator_store.keys import Model

A = TypeVar("A", bound=Answer)
Stroke = tuple[float, tuple[float, ...], float]
"""Seconds, where the joints are at its end, and where the gripper is."""

BANANA = "put the banana on the plate"
NAMES = ("shoulder", "elbow", "wrist", "gripper")
HOME, ABOVE, OBJECT, LIFTED, OVER, GOAL = (
    (0.0, 0.0, 0.0), (1.0, 0.3, 0.0), (1.0, 0.9, 0.2), (1.0, 0.1, 0.1), (-1.0, 0.1, 0.1), (-1.0, 0.8, 0.3),
)  # fmt: skip
OPEN, HELD, SHUT = 1.0, 0.4, 0.0
PICK_AND_PLACE: tuple[Stroke, ...] = (
    (2.0, HOME, OPEN), (2.0, OBJECT, OPEN), (1.0, OBJECT, HELD), (1.5, LIFTED, HELD), (1.5, OVER, HELD),
    (1.5, GOAL, HELD), (1.0, GOAL, OPEN), (2.0, HOME, OPEN), (1.5, HOME, OPEN),
)  # fmt: skip
"""Waits to 2.0, reaches to 4.0, grasps to 5.0, lifts to 6.5, carries to 8.0, lowers to 9.5, releases to 10.5,
withdraws to 12.5, waits to 14.0."""
PICK_AND_PLACE_S = (2.0, 4.0, 5.0, 6.5, 8.0, 9.5, 10.5, 12.5)


def draw(strokes: Sequence[Stroke], *, start: Stroke | None = None, fps: float = 20.0) -> npt.NDArray[np.float32]:
    """Return minimum-jerk strokes from `start`, else from home with an open gripper.

    (T, D + 1) float32, one row a frame, the gripper last.
    """
    first = start or (0.0, HOME, OPEN)
    pose = np.array([*first[1], first[2]])
    rows: list[npt.NDArray[np.float64]] = []
    for seconds, joints, gripper in strokes:
        s = np.arange(round(seconds * fps))[:, None] / round(seconds * fps)
        to = np.array([*joints, gripper])
        rows.append(pose + (to - pose) * (s**3 * (10 - 15 * s + 6 * s**2)))
        pose = to
    return np.concatenate(rows).astype(np.float32)


def signals(
    state: npt.NDArray[np.float32] | None,
    names: Sequence[str] = NAMES,
    *,
    action: npt.NDArray[np.float32] | None = None,
    action_names: Sequence[str] = (),
    fps: float = 20.0,
) -> Signals:
    """Stamp rows with times from 0."""
    rows = state if state is not None else action
    assert rows is not None
    return Signals(
        timestamps=np.arange(len(rows)) / fps,
        state=state,
        action=action,
        state_names=tuple(names) if state is not None else (),
        action_names=tuple(action_names),
    )


def request(step: str, given: Signals | None = None, **inputs: object) -> Request:
    """Make a request as an ask would for this engine."""
    return Request(
        key=Digest("0" * 32),
        step=step,
        messages=(),
        schema={},
        pictures=(),
        model=Model(model_id=MODEL_ID),
        seed=1729,
        episode=Digest("0" * 32),
        inputs={name: str(value) for name, value in inputs.items()},
        signals=None if given is None else lambda: given,
    )


def answer(kind: type[A], step: str, given: Signals | None = None, **inputs: object) -> A:
    """Ask the engine, and check the reply against its answer type."""
    reply = asyncio.run(SignalsEngine().generate(request(step, given, **inputs)))
    return msgspec.json.decode(reply.text, type=kind)


def spans(given: Signals, task: str = BANANA, **inputs: object) -> list[tuple[float, str]]:
    """Ask for subtasks: (start, text), starts to a tenth of a second."""
    subtasks = answer(Segmentation, "plan.segment", given, task=task, **inputs).subtasks
    return [(round(span.start, 1), span.subtask) for span in subtasks]
