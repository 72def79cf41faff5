"""The words of each subtask, corrected by a look at it beside its neighbours; where it begins and ends stays.

All are asked about at once, with the words of the segmentation, so that one correction cannot lead to the next.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from annotator.modules.base import gather_all
from annotator.modules.plan.segmentation import PlanContext, Subtask, seconds
from annotator.modules.plan.timeline import Segment, merge_equal
from annotator.modules.views import name_of, sheet_render
from annotator.modules.vocabulary.matching import allowed_values, lines, match_entry
from annotator.prompting.answers import RelabelledSpan
from annotator.prompting.normalize import tidy_label
from annotator_store.keys import MediaItem

PLACES = ("the subtask before", "the subtask in question", "the subtask after")


async def relabelled(context: PlanContext, subtasks: Sequence[Subtask]) -> list[Subtask]:
    """Correct the words of each subtask where the settings ask for it and there is a camera.

    A subtask whose call is declined or rejected keeps its words, and that is a gap. Neighbours that read equal
    afterwards become one.

    Raises:
        CallError, FootageError: something got no reply.
    """
    if not context.settings.subtask_seeded_relabel or not context.episode.cameras:
        return list(subtasks)
    corrected = await gather_all(_relabelled(context, subtasks, index) for index in range(len(subtasks)))
    segments = [msgspec.structs.replace(subtask.segment, source=index) for index, subtask in enumerate(corrected)]
    return [Subtask(segment, corrected[segment.source].call) for segment in merge_equal(segments)]


async def _relabelled(context: PlanContext, subtasks: Sequence[Subtask], index: int) -> Subtask:
    subtask, timestamps = subtasks[index], context.episode.timestamps
    before = subtasks[index - 1].segment if index else None
    after = subtasks[index + 1].segment if index + 1 < len(subtasks) else None
    media, view = _shown(context, (before, subtask.segment, after))
    inputs = {
        "view": view,
        "task": context.task,
        "start_s": seconds(float(timestamps[subtask.segment.first])),
        "end_s": seconds(float(timestamps[min(subtask.segment.stop, len(timestamps) - 1)])),
        "previous": before.text if before else "",
        "current": subtask.segment.text,
        "next": after.text if after else "",
        "labels": lines(context.labels),
    }
    allowed = allowed_values("subtask", context.labels)
    answered = await context.gaps.optional(context.ask, "plan.relabel", RelabelledSpan, inputs, media, allowed=allowed)
    if answered is None:
        return subtask
    match = match_entry(answered.answer.subtask, context.labels, tidy_label)
    if match.refusal:
        context.refuse("plan.relabel", [match.refusal], answered.key)
        return subtask
    return Subtask(msgspec.structs.replace(subtask.segment, text=match.text), answered.key)


def _shown(context: PlanContext, around: Sequence[Segment | None]) -> tuple[tuple[MediaItem, ...], str]:
    """Return one contact sheet for each camera and subtask, and what the prompt says of them.

    They come camera by camera: the subtask before, in question, after. A sheet has frames spread over a subtask, its
    first and its last among them; a single one is from its middle.
    """
    render = sheet_render(context.settings)
    several = len(context.episode.cameras) > 1
    media: list[MediaItem] = []
    listed: list[str] = []
    for camera in context.episode.cameras:
        for place, segment in zip(PLACES, around, strict=True):
            if segment is None:
                continue
            count = min(context.settings.subtask_relabel_frames, segment.stop - segment.first)
            middle = (segment.first + segment.stop - 1) / 2
            frames = np.linspace(segment.first, segment.stop - 1, count) if count > 1 else np.array([middle])
            indices = np.unique(frames.round().astype(np.int64))
            times = tuple(float(time) for time in context.episode.timestamps[indices])
            media.append(MediaItem(footage=camera.footage, timestamps=times, render=render))
            by = f', by the camera "{name_of(camera)}"' if several else ""
            listed.append(f"{len(media)}. {place}{by}")
    count = len(media)
    what = "The image above is a contact sheet" if count == 1 else f"The {count} images above are contact sheets"
    reading = (
        f"{what} of one recording, to be read row by row, left to right, {render.columns} to a row, of frames spread "
        "evenly from a subtask's first to its last. "
        "The time since the recording's start is printed in a corner of each tile, in seconds."
    )
    return tuple(media), "\n".join([reading, *listed])
