"""What vLLM and transformers share: frame numbers of a video, arguments of the chat template, the length of a reply."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import msgspec

from annotator.vlm.base import Request
from annotator_store.keys import Model


class FrameNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """The timestamps of a video as its processor takes them: shown frame i is frame `indices[i]` at `fps`."""

    fps: float
    indices: tuple[int, ...]


def number_frames(timestamps: Sequence[float]) -> FrameNumbers:
    """Number a video's frames so that index / fps is about each one's time, in seconds from the episode's start.

    The models' processors take times in this form alone. `timestamps` ascend.
    """
    steps = [later - earlier for earlier, later in pairwise(timestamps)]
    # The median: where frames were left out, the rate of the others still holds.
    step = median(steps) if steps else 0.0
    fps = 1 / step if step > 0 else 1.0
    indices: list[int] = []
    for time in timestamps:
        # Two frames closer than half a step would get one number; processors want them to ascend.
        indices.append(max(round(time * fps), indices[-1] + 1 if indices else 0))
    return FrameNumbers(fps=fps, indices=tuple(indices))


def media_io(request: Request) -> dict[str, dict[str, Any]]:
    """Return vLLM's `media_io_kwargs`: every frame of the request's videos, at its time; empty without a video.

    vLLM otherwise drops all frames after the 32nd and takes them to be one second apart. It takes the numbers of one
    video for all of a request; where they differ, only the rate is given. Source: vLLM 0.32.
    """
    numbers = [number_frames(picture.timestamps) for picture in request.pictures if picture.kind == "video"]
    if not numbers:
        return {}
    options: dict[str, Any] = {"num_frames": -1, "fps": numbers[0].fps}
    if all(other == numbers[0] for other in numbers):
        indices = list(numbers[0].indices)
        options |= {"frames_indices": indices, "total_num_frames": indices[-1] + 1}
    return {"video": options}


def template_kwargs(model: Model, template: str | None) -> dict[str, Any]:
    """Return the arguments of the chat template. Thinking is off where the template has a switch and nobody set it.

    A schema holds the reply from its first token on, so a model that thinks could not.
    """
    kwargs = dict(model.chat_template_kwargs)
    if model.reasoning_effort is not None:
        kwargs.setdefault("reasoning_effort", model.reasoning_effort)
        kwargs.setdefault("enable_thinking", model.reasoning_effort != "none")
    elif template is not None and "enable_thinking" in template:
        kwargs.setdefault("enable_thinking", False)
    return kwargs


def reply_tokens(model: Model, *, prompt_tokens: int, context_tokens: int) -> int:
    """Return the most tokens of a reply: as many as asked for, but no more than the prompt leaves of the context."""
    left = context_tokens - prompt_tokens
    return min(model.max_new_tokens, left) if model.max_new_tokens else left
