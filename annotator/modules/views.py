"""How an episode is shown to a model: which frames, in which windows, by which cameras, drawn how."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec
import numpy as np

from annotator.config.settings import PlanSettings
from annotator.media.sampling import sample, windows
from annotator.modules.base import CameraView, ModuleInput
from annotator.prompting.answers import Span
from annotator_store.keys import MediaItem, Render

NO_FOOTAGE = "There is no footage of this recording; go by the text alone."


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of an episode that one call looks at: seconds, the media, and a sentence that says what they are.

    The media of the first camera come first, then those of the second, and so on, all of the same frames' times.
    """

    start: float
    end: float
    media: tuple[MediaItem, ...]
    view: str

    def clip(self, spans: Iterable[Span]) -> Iterator[Span]:
        """Keep the part of each span that lies inside the window, so that neighbours cannot claim each other's time."""
        for span in spans:
            if not (math.isfinite(span.start) and math.isfinite(span.end)):
                continue
            start, end = min(span.start, span.end), max(span.start, span.end)
            if end >= self.start and start <= self.end:
                yield Span(max(start, self.start), min(end, self.end), span.subtask)


def windows_of(episode: ModuleInput, settings: PlanSettings, *, whole: bool = False) -> list[Window]:
    """Divide an episode into windows with as many frames a second; `whole` thins it out into a single one instead.

    The frames that one prompt may hold are shared by the cameras, at least one each. Without a camera there is one
    window and no media.
    """
    begin, finish = float(episode.timestamps[0]), float(episode.timestamps[-1])
    if not episode.cameras:
        return [Window(start=begin, end=finish, media=(), view=NO_FOOTAGE)]
    budget = settings.max_video_frames if settings.view == "video" else settings.max_frames_per_prompt
    budget = max(1, budget // len(episode.cameras))
    indices = sample(episode.timestamps, settings.frames_per_second)
    if whole and len(indices) > budget:
        indices = indices[np.unique(np.linspace(0, len(indices) - 1, budget).round().astype(np.int64))]
    parts = [tuple(float(t) for t in episode.timestamps[part]) for part in windows(indices, budget)]
    names = [name_of(camera) for camera in episode.cameras]
    return [
        Window(
            start=start,
            end=end,
            media=tuple(item for camera in episode.cameras for item in _media(camera, settings, times)),
            view=_view(settings, len(times), names),
        )
        for times, (start, end) in zip(parts, pairwise([begin, *(part[0] for part in parts[1:]), finish]), strict=True)
    ]


def name_of(camera: CameraView) -> str:
    """Name a camera as prompts do: its key without the prefix that all of them have."""
    return camera.key.removeprefix("observation.images.")


def sheet_render(settings: PlanSettings) -> Render:
    """How a contact sheet is drawn."""
    return Render(
        kind="sheet",
        width_px=settings.contact_sheet_frame_width,
        columns=settings.contact_sheet_columns,
        quality=settings.contact_sheet_quality,
        badge=True,
    )


def _media(camera: CameraView, settings: PlanSettings, times: tuple[float, ...]) -> Iterator[MediaItem]:
    if settings.view == "video":
        render = Render(
            kind="video", width_px=settings.video_frame_width, quality=settings.contact_sheet_quality, badge=True
        )
        yield MediaItem(footage=camera.footage, timestamps=times, render=render)
        return
    size, render = settings.contact_sheet_frames_per_sheet, sheet_render(settings)
    for start in range(0, len(times), size):
        yield MediaItem(footage=camera.footage, timestamps=times[start : start + size], render=render)


def _view(settings: PlanSettings, frames: int, cameras: Sequence[str]) -> str:
    if len(cameras) > 1:
        return _view_by_several(settings, frames, cameras)
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


def _view_by_several(settings: PlanSettings, frames: int, cameras: Sequence[str]) -> str:
    """Say which media show which camera, by their place: they come camera by camera, as many of each."""
    video = settings.view == "video"
    each = 1 if video else -(-frames // settings.contact_sheet_frames_per_sheet)
    several = "" if each == 1 else f" {each}"
    places = [
        f'the {"next" if number else "first"}{several} by the camera "{name}"' for number, name in enumerate(cameras)
    ]
    what, part = ("videos above show", "frame") if video else ("images above are contact sheets of", "tile")
    rows = f"to be read row by row, left to right, {settings.contact_sheet_columns} to a row"
    return (
        f"The {each * len(cameras)} {what} one recording, seen by {len(cameras)} cameras at the same times: "
        f"{', '.join(places)}. Each camera shows the same {frames} moments, {'in order' if video else rows}. "
        f"The time since the recording's start is printed in a corner of each {part}, in seconds; the same time by two "
        "cameras is the same moment."
    )
