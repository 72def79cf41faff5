"""What the engines that know their model's server or library share: chat-template arguments, the times of frames."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import msgspec

from annotator.vlm.base import Request
from annotator_store.keys import Model


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """The frames of a video by number: frame `indices[i]` of a video of `fps` frames a second is shown at place i."""

    fps: float
    indices: tuple[int, ...]


def clock_of(timestamps: Sequence[float]) -> Clock:
    """Number a video's frames so that index / fps is about each one's time, in seconds from the episode's start.

    The models' processors take times in this form alone. `timestamps` ascend.
    """
    steps = [later - earlier for earlier, later in pairwise(timestamps)]
    step = median(steps) if steps else 0.0
    fps = 1 / step if step > 0 else 1.0
    indices: list[int] = []
    for time in timestamps:
        # Two frames closer than half a step would fall on one number; processors want them to ascend.
        indices.append(max(round(time * fps), indices[-1] + 1 if indices else 0))
    return Clock(fps=fps, indices=tuple(indices))


def media_io(request: Request) -> dict[str, dict[str, Any]]:
    """Say how the request's videos are to be read: every frame of them, at the times they were taken.

    For vLLM, which otherwise drops all frames after the 32nd and takes them to be one second apart. It takes one clock
    for all the videos of a request; where theirs differ, only their rate is told.
    """
    clocks = [clock_of(picture.timestamps) for picture in request.pictures if picture.kind == "video"]
    if not clocks:
        return {}
    told: dict[str, Any] = {"num_frames": -1, "fps": clocks[0].fps}
    if all(clock == clocks[0] for clock in clocks):
        indices = list(clocks[0].indices)
        told |= {"frames_indices": indices, "total_num_frames": indices[-1] + 1}
    return {"video": told}


def template_kwargs(model: Model, template: str | None) -> dict[str, Any]:
    """Gather the arguments of the chat template. Thinking is off where the template has a switch and nobody set it.

    A schema holds the reply from its first token on, so a model that thinks could not.
    """
    given = dict(model.chat_template_kwargs)
    if model.reasoning_effort is not None:
        given.setdefault("reasoning_effort", model.reasoning_effort)
        given.setdefault("enable_thinking", model.reasoning_effort != "none")
    elif template is not None and "enable_thinking" in template:
        given.setdefault("enable_thinking", False)
    return given


def reply_tokens(model: Model, *, prompt_tokens: int, context_tokens: int) -> int:
    """Say how long a reply may get: as asked, but no longer than what the prompt leaves of the context."""
    left = context_tokens - prompt_tokens
    return min(model.max_new_tokens, left) if model.max_new_tokens else left
