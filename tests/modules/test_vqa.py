"""The vqa module against a scripted `ask`: which frames it asks about, what it asks, and which rows come of it."""

import asyncio
import gc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.config.settings import SyncSettings, VlmSettings, VqaSettings
from annotator.errors import CallError, Declined, FootageError, Rejected, StepError
from annotator.media.picture import Picture
from annotator.media.render_pool import EpisodeMedia, RenderPool
from annotator.modules.base import CameraView, ModuleInput, ModuleOutput
from annotator.modules.vqa.module import (
    BATCH,
    BATCHES_AT_ONCE,
    MOST_FAILURES,
    STEPS,
    VQA,
    FrameQuestion,
    frames_asked,
    questions_of,
)
from annotator.modules.vqa.topics import TOPICS
from annotator.prompting import answers
from annotator.prompting.answers import (
    AttributeAnswer,
    BboxAnswer,
    CountAnswer,
    Detection,
    KeypointAnswer,
    SpatialAnswer,
)
from annotator.prompting.loader import load_prompts
from annotator_store.digests import Digest, digest_parts
from annotator_store.keys import Render
from annotator_store.rows import order_key
from tests.media.films import clip, film
from tests.modules.scripted_ask import Question, Script, ScriptedAsk, annotated, with_settings

DIGEST = digest_parts("episode", [b"x"])
CALL = digest_parts("call", [b"x"])
TOP, WRIST = (
    CameraView(
        key=f"observation.images.{name}", footage=digest_parts("footage", [name.encode()]), width_px=w, height_px=h
    )
    for name, w, h in (("top", 640, 480), ("wrist", 320, 240))
)
ANSWERS: Script = {
    "vqa.bbox": BboxAnswer("Where is the cup?", [Detection("cup", [300, 400, 100, 200])]),
    "vqa.keypoint": KeypointAnswer("Where is  the tip?", "tip", [1000, 500]),
    "vqa.count": CountAnswer("How many cups are there?", "cups", 2, ""),
    "vqa.attribute": AttributeAnswer("Which colour is the lid?", "lid", "colour", "red"),
    "vqa.spatial": SpatialAnswer("Where is the lid?", "lid", "on", "jar"),
}


def episode(frames: int = 100, *cameras: CameraView, fps: int = 10, digest: Digest = DIGEST) -> ModuleInput:
    timestamps = (np.arange(frames) / fps).astype(np.float32)
    return ModuleInput(
        where="episode 0", digest=digest, task="stack  the cups", timestamps=timestamps, cameras=cameras or (TOP,)
    )


def settings(seed: int = 1729, coordinates: Any = "relative_1000", **vqa: Any) -> SyncSettings:
    return SyncSettings(seed=seed, vqa=VqaSettings(**vqa), vlm=VlmSettings(coordinates=coordinates))


def run(
    view: ModuleInput, how: SyncSettings | None = None, script: Script | None = None
) -> tuple[ModuleOutput, ScriptedAsk]:
    ask = ScriptedAsk({**ANSWERS, **(script or {})})
    return asyncio.run(annotated(VQA, view, ask, how or settings())), ask


def questions(view: ModuleInput, how: SyncSettings) -> list[FrameQuestion]:
    return questions_of(with_settings(VQA, view, how), how.vqa)


def refused(kind: type[StepError], step: str) -> StepError:
    error = kind("it will not do", where=step, got=f"no {step}")
    error.call = CALL
    return error


def failed(*, retryable: bool = True, got: str = "") -> CallError:
    return CallError("no reply", kind="timeout", retryable=retryable, got=got)


def at(question: Question) -> float:
    return question.media[0].timestamps[0]


# Which frames


def test_every_second_of_a_recording_gives_one_frame() -> None:
    frames, cameras = frames_asked(episode(95).timestamps, hz=1, per_camera=1, cameras=1)
    assert frames.tolist() == list(range(0, 95, 10))
    assert cameras.tolist() == [0] * 10


def test_cameras_take_their_frames_one_after_the_other() -> None:
    frames, cameras = frames_asked(episode(20).timestamps, hz=1, per_camera=2, cameras=3)
    assert frames.tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]
    assert cameras.tolist() == [0, 0, 1, 1, 2, 2] * 2


def test_what_does_not_fit_before_the_next_tick_or_the_end_is_left_out() -> None:
    frames, cameras = frames_asked(episode(8).timestamps, hz=2, per_camera=3, cameras=2)
    assert frames.tolist() == list(range(8))
    assert cameras.tolist() == [0, 0, 0, 1, 1, 0, 0, 0]


def test_a_tick_in_a_gap_of_the_recording_waits_for_the_next_frame() -> None:
    clock = np.array([5.0, 5.4, 5.99, 6.5, 9.2, 9.3], np.float32)
    frames, _ = frames_asked(clock, hz=1, per_camera=1, cameras=1)
    assert frames.tolist() == [0, 3, 4]


@pytest.mark.parametrize("fps", [10, 15, 25, 30, 50, 60])
@pytest.mark.parametrize("per_tick", [1, 2, 3, 5, 15])
def test_float32_times_lose_no_tick(fps: int, per_tick: int) -> None:
    """With ticks a whole number of frames apart, every so manieth frame is one, also after an hour."""
    clock = episode(fps * 3600, fps=fps).timestamps
    frames, _ = frames_asked(clock, hz=fps / per_tick, per_camera=1, cameras=1)
    assert frames.tolist() == list(range(0, fps * 3600, per_tick))


steps = st.lists(st.floats(0.01, 3), max_size=120)


@given(
    gaps=steps,
    start=st.floats(0, 100),
    hz=st.floats(0.01, 100),
    per_camera=st.integers(1, 200),
    cameras=st.integers(0, 4),
)
def test_any_recording_has_each_frame_asked_of_one_camera_at_most(
    gaps: list[float], start: float, hz: float, per_camera: int, cameras: int
) -> None:
    clock = (start + np.cumsum([0.0, *gaps])).astype(np.float32)
    frames, numbers = frames_asked(clock, hz=hz, per_camera=per_camera, cameras=cameras)
    assert (np.diff(frames) > 0).all()
    assert len(frames) == len(numbers)
    assert ((frames >= 0) & (frames < len(clock))).all()
    assert ((numbers >= 0) & (numbers < cameras)).all()
    assert frames.tolist() == _by_hand(clock, hz, per_camera * cameras)


def _by_hand(clock: npt.NDArray[np.float32], hz: float, most: int) -> list[int]:
    """The same, one frame after the other."""
    chosen: list[int] = []
    tick, since = -1.0, 0
    for frame, time in enumerate((clock.astype(np.float64) - float(clock[0]) + 0.001).tolist()):
        if np.floor(time * hz) > tick:
            tick, since = np.floor(time * hz), frame
        if frame - since < most:
            chosen.append(frame)
    return chosen


# What is asked


def test_a_place_keeps_its_question_whatever_else_is_asked() -> None:
    def places(how: SyncSettings, *cameras: CameraView) -> dict[tuple[int, str], FrameQuestion]:
        return {(p.frame, p.camera.key): p for p in questions(episode(300, *cameras), how)}

    few = places(settings(), TOP)
    assert len(few) == 30
    for more in (places(settings(K=3), TOP), places(settings(vqa_emission_hz=5), TOP), places(settings(), TOP, WRIST)):
        assert len(more) > len(few)
        assert few.items() <= more.items()


def test_types_and_topics_follow_the_seed_and_the_episode() -> None:
    def drawn(seed: int, name: bytes) -> list[tuple[str, str]]:
        view = episode(1000, digest=digest_parts("episode", [name]))
        return [(p.question_type, p.topic) for p in questions(view, settings(seed))]

    assert drawn(1, b"a") == drawn(1, b"a")
    assert drawn(1, b"a") != drawn(2, b"a")
    assert drawn(1, b"a") != drawn(1, b"b")
    kinds = Counter(kind for kind, _ in drawn(1, b"a"))
    assert set(kinds) == {"bbox", "keypoint", "count", "attribute", "spatial"}
    assert max(kinds.values()) < 40
    assert all(focus in TOPICS[kind] for kind, focus in drawn(1, b"a"))  # type: ignore[index]
    assert len({focus for _, focus in drawn(1, b"a")}) > 15


def test_only_the_types_that_are_wanted_are_asked() -> None:
    _, ask = run(episode(300), settings(question_types=("count", "spatial")))
    assert set(ask.steps) == {"vqa.count", "vqa.spatial"}


def test_one_stored_frame_is_shown_unscaled_and_unstamped() -> None:
    view = episode(100, TOP, WRIST)
    _, ask = run(view)
    assert len(ask.asked) == 20
    for question in ask.asked:
        (item,) = question.media
        assert item.render == Render(kind="frame", width_px=0, quality=90, badge=False)
        assert np.float32(at(question)) in view.timestamps
        assert float(np.float32(at(question))) == at(question)
    assert {q.media[0].footage for q in ask.asked} == {TOP.footage, WRIST.footage}


@pytest.mark.parametrize("units", ["relative_1000", "pixels"])
def test_the_prompt_says_how_to_point(units: str) -> None:
    _, ask = run(episode(300, WRIST), settings(coordinates=units))
    prompts = load_prompts()
    for question in ask.asked:
        text = prompts[question.step].text(question.inputs)
        pointing = question.step in ("vqa.bbox", "vqa.keypoint")
        assert ("1000 at the right edge" in text) == (pointing and units == "relative_1000")
        assert ("320 wide and 240 high" in text) == (pointing and units == "pixels")
        assert question.inputs["focus"] in text
        assert "stack the cups\n" in text


# Which rows come of it


def test_each_frame_and_camera_gets_one_question_and_one_answer_at_its_exact_time() -> None:
    view = episode(205, TOP, WRIST)
    found, ask = run(view, settings(K=2))
    assert found.gaps == ()
    rows = [a.row for a in found.rows]
    assert len(rows) == 2 * len(ask.asked) == 2 * (20 * 4 + 4)
    assert rows == sorted(rows, key=order_key)
    assert {(row.timestamp, row.camera, row.role) for row in rows} == {
        (at(question), camera.key, role)
        for question in ask.asked
        for camera in (TOP, WRIST)
        if camera.footage == question.media[0].footage
        for role in ("user", "assistant")
    }
    assert len({(row.timestamp, row.role) for row in rows}) == len(rows)
    assert {row.style for row in rows} == {"vqa"}
    calls = {(a.row.timestamp, a.call) for a in found.rows}
    assert calls == {(at(question), question.key) for question in ask.asked}


def test_answers_are_in_pixels_of_the_camera_that_was_asked() -> None:
    found, _ = run(episode(400, TOP, WRIST), settings(question_types=("bbox", "keypoint")))
    said = {(a.row.camera, a.row.content) for a in found.rows if a.row.role == "assistant"}
    box = '{"detections":[{"bbox":[%d,%d,%d,%d],"bbox_format":"xyxy","label":"cup"}]}'
    point = '{"label":"tip","point":[%d,%d],"point_format":"xy"}'
    assert said == {
        (TOP.key, box % (64, 96, 192, 192)),
        (WRIST.key, box % (32, 48, 96, 96)),
        (TOP.key, point % (639, 240)),
        (WRIST.key, point % (319, 120)),
    }
    assert {a.row.content for a in found.rows if a.row.role == "user"} == {"Where is the cup?", "Where is the tip?"}


def test_rows_are_the_same_every_time() -> None:
    assert run(episode(200, TOP, WRIST))[0] == run(episode(200, TOP, WRIST))[0]


def test_an_episode_without_a_camera_is_not_asked_about() -> None:
    view = msgspec.structs.replace(episode(), cameras=())
    found, ask = run(view)
    assert (found.rows, found.gaps, ask.asked) == ((), (), [])


# What goes wrong


def test_a_pair_that_is_rejected_leaves_a_gap_and_no_half() -> None:
    def outside(question: Question) -> BboxAnswer:
        corners = [0, 0, 1200, 50] if at(question) == 5 else [0, 0, 100, 50]
        return BboxAnswer("Where is the cup?", [Detection("cup", list(map(float, corners)))])

    found, _ = run(episode(), settings(question_types=("bbox",)), {"vqa.bbox": outside})
    assert len(found.rows) == 18
    assert 5 not in {a.row.timestamp for a in found.rows}
    (gap,) = found.gaps
    assert (gap.step, gap.reason) == ("vqa.bbox", "rejected")
    assert gap.detail == "detections[0].bbox: x is 1200, outside 0 to 1000"


def test_an_engine_that_declines_the_first_question_is_asked_no_other() -> None:
    found, ask = run(episode(600), script={step: refused(Declined, step) for step in STEPS})
    assert len(ask.asked) == 1
    assert found.rows == ()
    (gap,) = found.gaps
    assert gap.reason == "declined"
    assert gap.call == CALL


def test_a_later_refusal_is_a_gap_like_any_other() -> None:
    def late(step: str) -> Callable[[Question], Any]:
        return lambda question: refused(Declined, step) if at(question) == 7 else ANSWERS[step]

    found, _ = run(episode(), script={step: late(step) for step in STEPS})
    assert len(found.rows) == 18
    assert [gap.reason for gap in found.gaps] == ["declined"]


def test_a_first_question_that_is_rejected_does_not_end_it() -> None:
    def first(step: str) -> Callable[[Question], Any]:
        return lambda question: refused(Rejected, step) if at(question) == 0 else ANSWERS[step]

    found, ask = run(episode(), script={step: first(step) for step in STEPS})
    assert len(ask.asked) == 10
    assert len(found.rows) == 18
    assert len(found.gaps) == 1


def test_a_lost_call_fails_the_episode_after_the_others_were_asked() -> None:
    """The first in time is raised; with the others kept, the next run asks these two alone."""

    def lost(step: str) -> Callable[[Question], Any]:
        return lambda question: failed(got=f"{at(question):g}") if at(question) in (30, 70) else ANSWERS[step]

    ask = ScriptedAsk({step: lost(step) for step in STEPS})
    with pytest.raises(CallError) as caught:
        asyncio.run(annotated(VQA, episode(1000), ask, settings()))
    assert caught.value.got == "30"
    assert len(ask.asked) == 100


def test_an_episode_of_which_much_is_lost_is_left_for_another_run() -> None:
    ask = ScriptedAsk(dict.fromkeys(STEPS, failed()))
    with pytest.raises(CallError):
        asyncio.run(annotated(VQA, episode(6000), ask, settings()))
    assert MOST_FAILURES <= len(ask.asked) <= 1 + BATCHES_AT_ONCE * BATCH


@pytest.mark.parametrize("error", [failed(retryable=False), FootageError("a frame cannot be decoded")])
def test_what_no_further_run_will_mend_ends_the_episode_soon(error: Exception) -> None:
    def bad(step: str) -> Callable[[Question], Any]:
        return lambda question: error if at(question) == 3 else ANSWERS[step]

    ask = ScriptedAsk({step: bad(step) for step in STEPS})
    with pytest.raises(type(error)) as caught:
        asyncio.run(annotated(VQA, episode(6000), ask, settings()))
    assert caught.value is error
    assert len(ask.asked) <= 1 + 2 * BATCHES_AT_ONCE * BATCH


class Crowd(ScriptedAsk):
    """Takes a while to answer, and remembers how many waited at once."""

    waiting = 0
    most = 0

    async def __call__(self, *given: Any, **more: Any) -> Any:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await asyncio.sleep(0.001)
        self.waiting -= 1
        return await super().__call__(*given, **more)


class Looker(ScriptedAsk):
    """Holds each picture while it answers, as a call does, and counts now and then how many there are."""

    pictures: EpisodeMedia
    most = 0

    async def __call__(self, step: str, answer: Any, inputs: Any, media: Any = (), **more: Any) -> Any:
        picture = await self.pictures.get(media[0])
        assert picture.timestamps == media[0].timestamps
        await asyncio.sleep(0.001 * (len(inputs["focus"]) % 7))
        if media[0].timestamps[0] % 10 == 0:
            self.most = max(self.most, sum(isinstance(one, Picture) for one in gc.get_objects()))
        answered = await super().__call__(step, answer, inputs, media, **more)
        del picture
        return answered


def test_frames_are_decoded_together_and_not_kept(tmp_path: Path) -> None:
    """There is one key frame: each frame decoded by itself would make 200,000 in all."""
    footage = clip(film(tmp_path / "a.mp4", range(900), fps=10, gop=900, block=(4, 4), options={"bf": "0"}), 0, 900, 10)
    view = msgspec.structs.replace(episode(), timestamps=footage.frame_timestamps)
    decoded: list[int] = []
    ask = Looker(ANSWERS)

    async def look() -> ModuleOutput:
        with RenderPool(2) as studio, studio.open({TOP.footage: footage}, decoded.append) as ask.pictures:
            return await annotated(VQA, view, ask, settings(vqa_emission_hz=5))

    assert len(asyncio.run(look()).rows) == 2 * 450
    assert len(decoded) <= 1 + -(-449 // BATCH)
    assert sum(decoded) < 10_000
    assert 0 < ask.most <= BATCHES_AT_ONCE * BATCH


def test_only_so_many_questions_are_under_way_at_once() -> None:
    ask = Crowd(ANSWERS)
    found = asyncio.run(annotated(VQA, episode(3000, TOP, WRIST), ask, settings()))
    assert len(found.rows) == 1200
    assert ask.most == BATCHES_AT_ONCE * BATCH


def test_cancelling_an_episode_cancels_its_questions() -> None:
    async def cancelled() -> Crowd:
        ask = Crowd(ANSWERS)
        task = asyncio.create_task(annotated(VQA, episode(3000), ask, settings()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return ask

    ask = asyncio.run(cancelled())
    assert len(ask.asked) < 300


@pytest.mark.parametrize("step", STEPS)
def test_every_prompt_shows_the_form_that_its_answer_is_read_as(step: str) -> None:
    prompt = load_prompts()[step]
    form = prompt.body.strip().splitlines()[-1]
    for blank in ("left", "top", "right", "bottom", "x", "y", "number"):
        form = form.replace(f"<{blank}>", "1")
    msgspec.json.decode(form, type=getattr(answers, prompt.head.answer or ""))


def test_each_type_has_a_prompt_and_no_other_is_shipped() -> None:
    assert {f.head.id for f in load_prompts() if f.head.id.startswith("vqa.")} == set(STEPS)
