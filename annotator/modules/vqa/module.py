"""The `vqa` module: questions about single frames, with typed answers.

ticks → frames × cameras → [type, topic drawn] → question + answer → a user and an assistant row
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.config.settings import QuestionType, VqaSettings
from annotator.errors import CallError
from annotator.modules.base import Ask, CameraView, Gaps, Module, ModuleInput, ModuleOutput
from annotator.modules.plan.task_paraphrases import is_placeholder
from annotator.modules.rng import pick
from annotator.modules.vqa.geometry import CoordinateFrame, VqaAnswer, content, misfit
from annotator.modules.vqa.topics import TOPICS
from annotator.prompting.answers import AttributeAnswer, BboxAnswer, CountAnswer, KeypointAnswer, SpatialAnswer
from annotator.prompting.normalize import folded
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

BATCHES_AT_ONCE, BATCH = 2, 32
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
    topic: str


async def annotate(episode: ModuleInput, ask: Ask, settings: VqaSettings) -> ModuleOutput:
    """Ask about single frames of every camera in `episode.cameras`; nothing where there is none.

    The first question goes alone: an engine that declines it is asked no other.

    Raises:
        CallError, FootageError: something got no reply; what was answered is kept, the next run goes on from there.
    """
    questions = questions_of(episode, settings)
    asking = _Asking(episode, ask)
    await asking.batch(questions[:1])
    if not any(gap.reason == "declined" for gap in asking.gaps.recorded):
        batches = (questions[start : start + BATCH] for start in range(1, len(questions), BATCH))
        await asyncio.gather(*(asking.work_through(batches) for _ in range(BATCHES_AT_ONCE)))
    if asking.errors:
        raise asking.errors[min(asking.errors)]
    rows = sorted(asking.rows, key=lambda annotated: order_key(annotated.row))
    return ModuleOutput(rows=tuple(rows), gaps=asking.gaps.in_order())


def frames_asked(
    timestamps: npt.NDArray[np.float32], *, hz: float, per_camera: int, cameras: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Choose the frames to ask about, and the number of the camera that each is asked of; one call for each.

    `timestamps`: (T,) float32 seconds, ascending. Ticks are `1 / hz` s apart from the first frame on; each is at the
    first frame that is not before it, and several in a gap of the recording are one. From there, camera 0 takes
    `per_camera` consecutive frames, camera 1 the following ones, and so on: no frame goes to two cameras, since a
    LeRobot recipe that names no camera could not tell their questions apart. What does not fit before the next tick or
    the end is left out. Both results are (N,) int64, frames ascending and distinct.
    """
    seconds = timestamps.astype(np.float64) - float(timestamps[0])
    starts = np.flatnonzero(np.diff(np.floor((seconds + _ON_TIME_S) * hz), prepend=-1) > 0)
    fits = np.diff(starts, append=len(timestamps))
    offsets = np.arange(min(per_camera * cameras, int(fits.max(initial=0))))
    tick, offset = np.nonzero(offsets < fits[:, None])
    return starts[tick] + offset, offset // per_camera


def questions_of(episode: ModuleInput, settings: VqaSettings) -> list[FrameQuestion]:
    """List what is asked about one episode, in the order of the frames.

    Type and topic depend on (seed, episode, frame, camera) alone: another rate, another K or a further camera leaves
    them as they are for the frames that stay.
    """
    frames, cameras = frames_asked(
        episode.timestamps, hz=settings.vqa_emission_hz, per_camera=settings.K, cameras=len(episode.cameras)
    )
    questions: list[FrameQuestion] = []
    for frame, number in zip(frames.tolist(), cameras.tolist(), strict=True):
        camera = episode.cameras[number]
        draw = partial(pick, seed=episode.seed, episode=episode.digest, place=f"{frame} {camera.key}")
        kind = draw(settings.question_types, purpose="vqa.question_type")
        topic = draw(TOPICS[kind], purpose="vqa.focus")
        questions.append(FrameQuestion(frame, camera, kind, topic))
    return questions


@dataclass
class _Asking:
    """One episode's questions under way. `errors` are what ended without an answer, by frame."""

    episode: ModuleInput
    ask: Ask
    gaps: Gaps = field(default_factory=Gaps)
    rows: list[AnnotatedRow] = field(default_factory=list[AnnotatedRow])
    errors: dict[int, BaseException] = field(default_factory=dict[int, BaseException])

    async def work_through(self, batches: Iterator[Sequence[FrameQuestion]]) -> None:
        """Ask batch after batch, until there are none left or asking more is no use."""
        for questions in batches:
            # Too much failed, or something did that asking again will not mend.
            lasting = any(not (isinstance(e, CallError) and e.retryable) for e in self.errors.values())
            if lasting or len(self.errors) >= MOST_FAILURES:
                return
            await self.batch(questions)

    async def batch(self, questions: Sequence[FrameQuestion]) -> None:
        """Ask about some frames together; all of them end before anything is made of an error."""
        results = await asyncio.gather(*(self._rows(question) for question in questions), return_exceptions=True)
        for question, result in zip(questions, results, strict=True):
            if isinstance(result, BaseException):
                self.errors[question.frame] = result
            else:
                self.rows.extend(result)

    async def _rows(self, question: FrameQuestion) -> tuple[AnnotatedRow, ...]:
        """Ask one question; its two rows come together or not at all."""
        episode, camera = self.episode, question.camera
        frame = CoordinateFrame(
            width_px=camera.width_px, height_px=camera.height_px, units=episode.borrowed["coordinates"]
        )
        # The task is context; one that says nothing would only mislead.
        task = "" if is_placeholder(episode.task, 1) else folded(episode.task)
        time = float(episode.timestamps[question.frame])
        answered = await self.gaps.optional(
            self.ask,
            f"vqa.{question.question_type}",
            ANSWERS[question.question_type],
            {"task": task, "focus": question.topic, "coordinates": frame.prompt_text},
            (MediaItem(footage=camera.footage, timestamps=(time,), render=RENDER),),
            misfit=lambda answer: misfit(answer, frame),
        )
        if answered is None:
            return ()
        texts = (("user", folded(answered.answer.question)), ("assistant", content(answered.answer, frame)))
        return tuple(
            AnnotatedRow(
                row=Row(role=role, content=text, style="vqa", timestamp=time, camera=camera.key), call=answered.key
            )
            for role, text in texts
        )


def warn(settings: VqaSettings, cameras: int, fps: float) -> str:
    """Return what to say where more frames are to be asked about than a second has; else ""."""
    if settings.vqa_emission_hz * settings.K * cameras / fps <= 1:
        return ""
    load = f"{cameras} camera{'s' * (cameras > 1)} × K {settings.K} at {settings.vqa_emission_hz:g} Hz"
    hint = "a lower --vqa.vqa_emission_hz or --vqa.K leaves room for all frames"
    return f"vqa: {load} need more than {fps:g} frames a second; what does not fit is left out\nhint: {hint}"


VQA = Module(
    name=NAME,
    version=VERSION,
    steps=STEPS,
    styles=STYLES,
    settings=VqaSettings,
    annotate=annotate,
    estimate_calls=lambda seconds, cameras, settings: (
        (1 + int(seconds * settings.vqa_emission_hz)) * settings.K * cameras
    ),
    borrowed={"coordinates": "vlm.coordinates"},
    cameras="frame",
    needs_pixels=True,
    warn=warn,
)
