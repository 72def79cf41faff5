"""How an episode is shown to a model: which frames, in which windows, drawn how."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import msgspec
import numpy as np

from annotator.answers import Span
from annotator.config import PlanSettings
from annotator.modules.base import EpisodeView
from annotator.sampling import sample, windows
from store.keys import MediaItem, Render

NO_FOOTAGE = "There is no footage of this recording; go by the text alone."


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of an episode that one call looks at: seconds, the media, and a sentence that says what they are."""

    start: float
    end: float
    media: tuple[MediaItem, ...]
    view: str

    def clip(self, spans: Iterable[Span]) -> Iterator[Span]:
        """Keep the part of each span that lies inside the window, so that neighbours cannot claim each other's time."""
        for span in spans:
            start, end = min(span.start, span.end), max(span.start, span.end)
            if end >= self.start and start <= self.end:
                yield Span(max(start, self.start), min(end, self.end), span.subtask)


def windows_of(episode: EpisodeView, settings: PlanSettings, *, whole: bool = False) -> list[Window]:
    """Divide an episode into windows of constant density; `whole` thins it out into a single one instead.

    Without footage there is one window and no media.
    """
    begin, finish = float(episode.clock[0]), float(episode.clock[-1])
    if episode.footage is None:
        return [Window(start=begin, end=finish, media=(), view=NO_FOOTAGE)]
    budget = settings.max_video_frames if settings.view == "video" else settings.max_frames_per_prompt
    indices = sample(episode.clock, settings.frames_per_second)
    if whole and len(indices) > budget:
        indices = indices[np.unique(np.linspace(0, len(indices) - 1, budget).round().astype(np.int64))]
    parts = windows(indices, budget)
    starts = [begin, *(float(episode.clock[part[0]]) for part in parts[1:]), finish]
    return [
        Window(start=start, end=end, media=_media(episode, settings, part), view=_view(settings, len(part)))
        for part, (start, end) in zip(parts, pairwise(starts), strict=True)
    ]


def _media(episode: EpisodeView, settings: PlanSettings, indices: np.ndarray) -> tuple[MediaItem, ...]:
    assert episode.footage is not None
    times = tuple(float(t) for t in episode.clock[indices])
    if settings.view == "video":
        render = Render(
            kind="video", width_px=settings.video_frame_width, quality=settings.contact_sheet_quality, badge=True
        )
        return (MediaItem(footage=episode.footage, timestamps=times, render=render),)
    size = settings.contact_sheet_frames_per_sheet
    render = Render(
        kind="sheet",
        width_px=settings.contact_sheet_frame_width,
        columns=settings.contact_sheet_columns,
        quality=settings.contact_sheet_quality,
        badge=True,
    )
    return tuple(
        MediaItem(footage=episode.footage, timestamps=times[at : at + size], render=render)
        for at in range(0, len(times), size)
    )


def _view(settings: PlanSettings, frames: int) -> str:
    if settings.view == "video":
        return (
            f"The video above has {frames} frames of one recording, in order. "
            "The time since the recording's start is printed in a corner of each frame, in seconds."
        )
    sheets = -(-frames // settings.contact_sheet_frames_per_sheet)
    many = "The image above is a contact sheet" if sheets == 1 else f"The {sheets} images above are contact sheets"
    return (
        f"{many} of one recording: {frames} frames in all, to be read row by row, left to right, "
        f"{settings.contact_sheet_columns} to a row. "
        "The time since the recording's start is printed in a corner of each tile, in seconds."
    )
