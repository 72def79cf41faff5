"""Look at each subtask again, beside its neighbours, and correct its words; where it begins and ends stays.

All are looked at at once, from the wordings of the segmentation, so that one correction cannot lead to the next.
"""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from annotator.modules.base import gather_all
from annotator.modules.plan.segmentation import PlanContext, Subtask, seconds
from annotator.modules.plan.timeline import Segment, merge_equal, tidy
from annotator.modules.views import name_of, sheet_render
from annotator.modules.vocabulary.matching import allowed_values, lines, match_entry
from annotator.prompting.answers import RelabelledSpan
from annotator_store.keys import MediaItem

PLACES = ("the subtask before", "the subtask in question", "the subtask after")


class Shown(msgspec.Struct, frozen=True):
    """What a relabel looks at, and a text that says which image is what."""

    media: tuple[MediaItem, ...]
    view: str


async def relabelled(context: PlanContext, subtasks: Sequence[Subtask]) -> list[Subtask]:
    """Correct the words of each subtask where the settings want it and there is a camera.

    A subtask whose call is declined or rejected keeps its words, and that is a gap. Neighbours that read equal
    afterwards become one: the same thing done on is one subtask.

    Raises:
        CallError, FootageError: something got no reply.
    """
    if not context.settings.subtask_seeded_relabel or not context.episode.cameras:
        return list(subtasks)
    corrected = await gather_all(_relabelled(context, subtasks, place) for place in range(len(subtasks)))
    segments = [msgspec.structs.replace(subtask.segment, source=place) for place, subtask in enumerate(corrected)]
    return [Subtask(segment, corrected[segment.source].call) for segment in merge_equal(segments)]


async def _relabelled(context: PlanContext, subtasks: Sequence[Subtask], place: int) -> Subtask:
    subtask = subtasks[place]
    around = _around(subtasks, place)
    shown = _shown(context, around)
    timestamps = context.episode.timestamps
    before, _, after = (segment.text if segment else "" for segment in around)
    inputs = {
        "view": shown.view,
        "task": context.task,
        "start_s": seconds(float(timestamps[subtask.segment.first])),
        "end_s": seconds(float(timestamps[min(subtask.segment.stop, len(timestamps) - 1)])),
        "previous": before,
        "current": subtask.segment.text,
        "next": after,
        "labels": lines(context.labels),
    }
    allowed = allowed_values("subtask", context.labels)
    answered = await context.gaps.optional(
        context.ask, "plan.relabel", RelabelledSpan, inputs, shown.media, allowed=allowed
    )
    if answered is None:
        return subtask
    text = match_entry(answered.answer.subtask, context.labels, tidy)
    if text.refusal:
        context.refuse("plan.relabel", [text.refusal], answered.key)
        return subtask
    return Subtask(msgspec.structs.replace(subtask.segment, text=text.text), answered.key)


def _around(subtasks: Sequence[Subtask], place: int) -> tuple[Segment | None, Segment, Segment | None]:
    before = subtasks[place - 1].segment if place else None
    after = subtasks[place + 1].segment if place + 1 < len(subtasks) else None
    return before, subtasks[place].segment, after


def _shown(context: PlanContext, around: Sequence[Segment | None]) -> Shown:
    """One contact sheet for each subtask and camera: camera by camera, before, in question, after."""
    render = sheet_render(context.settings)
    several = len(context.episode.cameras) > 1
    media: list[MediaItem] = []
    listed: list[str] = []
    for camera in context.episode.cameras:
        for place, segment in zip(PLACES, around, strict=True):
            if segment is None:
                continue
            times = tuple(_times(context, segment))
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
    return Shown(tuple(media), "\n".join([reading, *listed]))


def _times(context: PlanContext, segment: Segment) -> Iterator[float]:
    """Spread some frames over a subtask, its first and its last among them; a single one stands in its middle."""
    count = min(context.settings.subtask_relabel_frames, segment.stop - segment.first)
    last = segment.stop - 1
    places = np.linspace(segment.first, last, count) if count > 1 else np.array([(segment.first + last) / 2])
    for index in np.unique(places.round().astype(np.int64)):
        yield float(context.episode.timestamps[index])
