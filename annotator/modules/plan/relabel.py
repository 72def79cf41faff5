"""Look at each subtask again, beside its neighbours, and correct its words; where it begins and ends stays.

All are looked at at once, from the wordings of the segmentation, so that one correction cannot lead to the next.
"""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from annotator.modules.plan.segmentation import PlanContext, Subtask, gather_all, seconds
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


async def relabelled(work: PlanContext, cuts: Sequence[Subtask]) -> list[Subtask]:
    """Correct the words of each cut where the settings want it and there is a camera.

    A cut whose call is declined or rejected keeps its words, and that is a gap. Neighbours that read equal afterwards
    become one: the same thing done on is one subtask.

    Raises:
        CallError, FootageError: something got no reply.
    """
    if not work.settings.subtask_seeded_relabel or not work.episode.watched:
        return list(cuts)
    corrected = await gather_all(_relabelled(work, cuts, at) for at in range(len(cuts)))
    segments = [msgspec.structs.replace(cut.segment, source=at) for at, cut in enumerate(corrected)]
    return [Subtask(segment, corrected[segment.source].call) for segment in merge_equal(segments)]


async def _relabelled(work: PlanContext, cuts: Sequence[Subtask], at: int) -> Subtask:
    cut = cuts[at]
    around = _around(cuts, at)
    shown = _shown(work, around)
    clock = work.episode.clock
    before, _, after = (segment.text if segment else "" for segment in around)
    inputs = {
        "view": shown.view,
        "task": work.task,
        "start_s": seconds(float(clock[cut.segment.first])),
        "end_s": seconds(float(clock[min(cut.segment.stop, len(clock) - 1)])),
        "previous": before,
        "current": cut.segment.text,
        "next": after,
        "labels": lines(work.labels),
    }
    allowed = allowed_values("subtask", work.labels)
    asked = await work.gaps.optional(work.ask, "plan.relabel", RelabelledSpan, inputs, shown.media, allowed=allowed)
    if asked is None:
        return cut
    text = match_entry(asked.answer.subtask, work.labels, tidy)
    if text.refusal:
        work.refuse("plan.relabel", [text.refusal], asked.key)
        return cut
    return Subtask(msgspec.structs.replace(cut.segment, text=text.text), asked.key)


def _around(cuts: Sequence[Subtask], at: int) -> tuple[Segment | None, Segment, Segment | None]:
    before = cuts[at - 1].segment if at else None
    after = cuts[at + 1].segment if at + 1 < len(cuts) else None
    return before, cuts[at].segment, after


def _shown(work: PlanContext, around: Sequence[Segment | None]) -> Shown:
    """One contact sheet for each subtask and camera: camera by camera, before, in question, after."""
    render = sheet_render(work.settings)
    several = len(work.episode.watched) > 1
    media: list[MediaItem] = []
    listed: list[str] = []
    for camera in work.episode.watched:
        for place, segment in zip(PLACES, around, strict=True):
            if segment is None:
                continue
            times = tuple(_times(work, segment))
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


def _times(work: PlanContext, segment: Segment) -> Iterator[float]:
    """Spread some frames over a subtask, its first and its last among them; a single one stands in its middle."""
    count = min(work.settings.subtask_relabel_frames, segment.stop - segment.first)
    last = segment.stop - 1
    places = np.linspace(segment.first, last, count) if count > 1 else np.array([(segment.first + last) / 2])
    for index in np.unique(places.round().astype(np.int64)):
        yield float(work.episode.clock[index])
