"""The `vqa` module: questions about single frames, with typed answers.

ticks → frames × cameras → [type, focus drawn] → question + answer → a user and an assistant row
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.config.settings import QuestionType, SyncSettings
from annotator.errors import CallError
from annotator.modules.base import Ask, CameraView, Gaps, ModuleInput, ModuleOutput
from annotator.modules.plan.task_paraphrases import is_placeholder
from annotator.modules.rng import pick
from annotator.modules.vqa.geometry import CoordinateFrame, VqaAnswer, content, folded, misfit
from annotator.modules.vqa.topics import FOCI
from annotator.prompting.answers import AttributeAnswer, BboxAnswer, CountAnswer, KeypointAnswer, SpatialAnswer
from annotator_store.keys import MediaItem, Render
from annotator_store.log.events import AnnotatedRow
from annotator_store.rows import Row, order_key

NAME = "vqa"
VERSION = 2
"""Raise it when rows change for the same answers, or what is asked changes; every episode is then folded anew."""
STEPS = ("vqa.bbox", "vqa.keypoint", "vqa.count", "vqa.attribute", "vqa.spatial")
STYLES = frozenset({"vqa"})

RENDER = Render(kind="frame", quality=90)
"""The frame as it is stored: unscaled, so that pixels are pixels, and without a time in it that could be asked of."""

LANES, BATCH = 2, 32
"""Batches under way at once, and frames in one: a batch's frames are decoded in one pass, and only so many are held."""

MOST_FAILURES = 8
"""Calls of one episode that may fail before the rest is left for another run."""

_ON_TIME_S = 0.001
"""A frame so little before a tick is on it: float32 times are not exact, and no camera takes 1,000 frames a second."""

ANSWERS: Mapping[QuestionType, type[VqaAnswer]] = {
    "bbox": BboxAnswer,
    "keypoint": KeypointAnswer,
    "count": CountAnswer,
    "attribute": AttributeAnswer,
    "spatial": SpatialAnswer,
}


class FrameQuestion(msgspec.Struct, frozen=True):
    """One frame of one camera that is asked about, and what is asked."""

    frame: int
    camera: CameraView
    question_type: QuestionType
    focus: str


async def annotate(episode: ModuleInput, ask: Ask, settings: SyncSettings) -> ModuleOutput:
    """Ask about single frames of every camera in `episode.cameras`; nothing where there is none.

    The first question goes alone: an engine that declines it is asked no other.

    Raises:
        CallError, FootageError: something got no reply; what was answered is kept, the next run goes on from there.
    """
    work = _Work(episode, ask, settings)
    places = places_of(episode, settings)
    await work.batch(places[:1])
    if not any(gap.reason == "declined" for gap in work.gaps.found):
        pending = (places[at : at + BATCH] for at in range(1, len(places), BATCH))
        await asyncio.gather(*(work.lane(pending) for _ in range(LANES)))
    if work.errors:
        raise work.errors[min(work.errors)]
    rows = sorted(work.rows, key=lambda annotated: order_key(annotated.row))
    return ModuleOutput(rows=tuple(rows), gaps=tuple(sorted(work.gaps.found, key=lambda gap: (gap.step, gap.call))))


def frames_asked(
    clock: npt.NDArray[np.float32], *, hz: float, per_camera: int, cameras: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Choose the frames to ask about, and the number of the camera that each is asked of; one call for each.

    `clock`: (T,) float32 seconds, ascending. Ticks are `1 / hz` s apart from the first frame on; each is at the first
    frame that is not before it, and several in a gap of the recording are one. From there, camera 0 takes `per_camera`
    consecutive frames, camera 1 the following ones, and so on: no frame goes to two cameras, since a recipe that names
    no camera could not tell their questions apart. What does not fit before the next tick or the end is left out.
    Both results are (N,), frames ascending and distinct.
    """
    seconds = clock.astype(np.float64) - float(clock[0])
    starts = np.flatnonzero(np.diff(np.floor((seconds + _ON_TIME_S) * hz), prepend=-1) > 0)
    fits = np.diff(starts, append=len(clock))
    offsets = np.arange(min(per_camera * cameras, int(fits.max(initial=0))))
    at, offset = np.nonzero(offsets < fits[:, None])
    return starts[at] + offset, offset // per_camera


def places_of(episode: ModuleInput, settings: SyncSettings) -> list[FrameQuestion]:
    """List what is asked about one episode, in the order of the frames.

    Type and focus depend on (seed, episode, frame, camera) alone: another rate, another K or a further camera leaves
    them as they are for the frames that stay.
    """
    vqa = settings.vqa
    frames, cameras = frames_asked(
        episode.clock, hz=vqa.vqa_emission_hz, per_camera=vqa.K, cameras=len(episode.cameras)
    )
    return [
        _place(episode, settings, frame, episode.cameras[number])
        for frame, number in zip(frames.tolist(), cameras.tolist(), strict=True)
    ]


def _place(episode: ModuleInput, settings: SyncSettings, frame: int, camera: CameraView) -> FrameQuestion:
    where = f"{frame} {camera.key}"
    seed, digest = settings.seed, episode.digest
    kind = pick(settings.vqa.question_types, seed=seed, episode=digest, purpose="vqa.question_type", place=where)
    focus = pick(FOCI[kind], seed=seed, episode=digest, purpose="vqa.focus", place=where)
    return FrameQuestion(frame, camera, kind, focus)


def _task(episode: ModuleInput) -> str:
    """The task as context; one that says nothing would only mislead."""
    return "" if is_placeholder(episode.task, 1) else folded(episode.task)


@dataclass
class _Work:
    """One episode's questions under way. `errors` are what ended without an answer, by frame."""

    episode: ModuleInput
    ask: Ask
    settings: SyncSettings
    gaps: Gaps = field(default_factory=Gaps)
    rows: list[AnnotatedRow] = field(default_factory=list[AnnotatedRow])
    errors: dict[int, BaseException] = field(default_factory=dict[int, BaseException])

    async def lane(self, pending: Iterator[Sequence[FrameQuestion]]) -> None:
        """Take batch after batch, until there are none or it is no use."""
        for places in pending:
            if self.hopeless():
                return
            await self.batch(places)

    async def batch(self, places: Sequence[FrameQuestion]) -> None:
        """Ask about some frames together; all of them end before anything is made of an error."""
        answered = await asyncio.gather(*(self._pair(place) for place in places), return_exceptions=True)
        for place, result in zip(places, answered, strict=True):
            if isinstance(result, BaseException):
                self.errors[place.frame] = result
            else:
                self.rows.extend(result)

    def hopeless(self) -> bool:
        """Say whether to ask no more: too much failed, or something did that asking again will not mend."""
        lasting = any(not (isinstance(e, CallError) and e.retryable) for e in self.errors.values())
        return lasting or len(self.errors) >= MOST_FAILURES

    async def _pair(self, place: FrameQuestion) -> tuple[AnnotatedRow, ...]:
        camera = place.camera
        axes = CoordinateFrame(
            width_px=camera.width_px, height_px=camera.height_px, units=self.settings.vlm.coordinates
        )
        time = float(self.episode.clock[place.frame])
        asked = await self.gaps.optional(
            self.ask,
            f"vqa.{place.question_type}",
            ANSWERS[place.question_type],
            {"task": _task(self.episode), "focus": place.focus, "coordinates": axes.told},
            (MediaItem(footage=camera.footage, timestamps=(time,), render=RENDER),),
            misfit=lambda answer: misfit(answer, axes),
        )
        if asked is None:
            return ()
        said = (("user", folded(asked.answer.question)), ("assistant", content(asked.answer, axes)))
        return tuple(
            AnnotatedRow(
                row=Row(role=role, content=text, style="vqa", timestamp=time, camera=camera.key), call=asked.key
            )
            for role, text in said
        )
