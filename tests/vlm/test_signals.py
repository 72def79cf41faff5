"""The signals engine: what it answers, what it declines, and how well it finds boundaries on a real robot."""

import asyncio
import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from annotator.dataset.signals import Signals
from annotator.errors import Declined
from annotator.prompting.answers import Answer, Description, Memory, Milestones, Rephrasings, Segmentation
from annotator.vlm.base import Engine, Request
from annotator.vlm.signals.engine import MODEL_ID, SignalsEngine
from annotator_store.keys import Model
from tests.contracts.engine_contract import AnsweringContract
from tests.vlm.signal_shapes import BANANA, NAMES, PICK_AND_PLACE, answer, draw, request, signals, spans

REPO = Path(__file__).resolve().parents[2]


class TestSignals(AnsweringContract):
    may_decline = True

    def make_engine(self) -> Engine:
        return SignalsEngine()

    def model(self) -> Model:
        return Model(model_id=MODEL_ID)

    def test_it_wants_no_pixels_and_reads_evidence(self) -> None:
        engine = self.make_engine()
        assert (engine.name, engine.looks, engine.reads_evidence) == ("signals", False, True)


@pytest.fixture(scope="module")
def quality() -> Any:
    """The benchmark, whose way of loading and scoring is used here."""
    spec = importlib.util.spec_from_file_location("bench_quality", REPO / "tests/bench/bench_quality.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_quality"] = module
    spec.loader.exec_module(module)
    return module


def declined(step: str, given: Signals | None = None, **inputs: object) -> Declined:
    with pytest.raises(Declined) as caught:
        asyncio.run(SignalsEngine().generate(request(step, given, **inputs)))
    return caught.value


def test_a_pick_and_place_is_told_in_the_tasks_words() -> None:
    subtasks = spans(signals(draw(PICK_AND_PLACE)), min_seconds=0.5)
    assert [text for _, text in subtasks] == [
        "stay still",
        "reach for the banana",
        "close the gripper on the banana",
        "lift the banana",
        "carry the banana to the plate",
        "lower the banana onto the plate",
        "open the gripper to release the banana",
        "move the arm away",
        "stay still",
    ]
    assert np.allclose([start for start, _ in subtasks], [0, 2, 4, 5, 6.5, 8, 9.5, 10.5, 12.5], atol=0.4)


@pytest.mark.parametrize("task", ["pick and place", "", "香蕉"])
def test_an_unreadable_task_is_worded_neutrally(task: str) -> None:
    texts = [text for _, text in spans(signals(draw(PICK_AND_PLACE)), task)]
    assert "close the gripper" in texts
    assert "open the gripper" in texts


def test_an_episode_in_which_nothing_moves_is_not_called_a_pick(quality: Any) -> None:
    for still in quality.load_signals(REPO / "tests/data/so101_static").values():
        assert spans(still, "pick and place", min_seconds=1.5, max_steps=8) == [(0.0, "stay still")]
        seen = answer(Description, "plan.describe", still).observations
        assert [o.event for o in seen] == ["the arm is at rest"]


def test_boundaries_on_a_real_robot_are_found_far_better_than_by_equal_lengths(quality: Any) -> None:
    cases = quality.banana_cases()
    f1 = {
        way: quality.total(quality.score(way(c, 0.0, 64), c.boundaries, 1.0) for c in cases).f1
        for way in (quality.by_signals, quality.by_equal_lengths)
    }
    assert f1[quality.by_signals] >= 0.85
    assert f1[quality.by_signals] >= f1[quality.by_equal_lengths] + 0.2


@pytest.mark.parametrize(
    ("found", "reference", "matched"),
    [([1.0, 2.0], [1.5], 1), ([1.0], [1.2, 1.4], 1), ([], [1.0], 0), ([1.0, 3.0], [2.0, 4.0], 2), ([1.0], [2.1], 0)],
)
def test_the_benchmark_matches_boundaries_one_to_one(
    quality: Any, found: list[float], reference: list[float], matched: int
) -> None:
    assert quality.score(found, reference, 1.0).matched == matched


def test_windows_of_one_episode_agree() -> None:
    given = signals(draw(PICK_AND_PLACE))
    whole = dict(spans(given, min_seconds=0.5))
    for start_s, end_s in ((0, 7), (5.5, 14), (3, 11)):
        for start, text in spans(given, min_seconds=0.5, start_s=start_s, end_s=end_s)[1:]:
            assert whole[start] == text


def test_max_steps_and_min_seconds_are_kept() -> None:
    given = signals(draw(PICK_AND_PLACE))
    subtasks = answer(Segmentation, "plan.segment", given, task=BANANA, min_seconds=2, max_steps=4).subtasks
    assert len(subtasks) <= 4
    assert all(span.end - span.start >= 2 - 1e-6 for span in subtasks)
    assert (subtasks[0].start, subtasks[-1].end) == (0.0, 14.0)


def test_the_same_request_gets_the_same_bytes() -> None:
    made = request("plan.segment", signals(draw(PICK_AND_PLACE)), task=BANANA)
    texts = {asyncio.run(SignalsEngine().generate(made)).text for _ in range(3)}
    assert len(texts) == 1


def test_velocities_and_a_gripper_in_the_action_are_enough() -> None:
    rows = draw(PICK_AND_PLACE)
    speeds = np.hstack([np.gradient(rows[:, :3], 0.05, axis=0), rows[:, 3:] < 0.9]).astype(np.float32)
    names = ("shoulder_vel", "elbow_vel", "wrist_vel", "gripper")
    texts = [text for _, text in spans(signals(None, action=speeds, action_names=names), min_seconds=0.5)]
    assert texts[:3] == ["stay still", "reach for the banana", "close the gripper on the banana"]
    assert "carry the banana to the plate" in texts


@pytest.mark.parametrize(
    "step", ["plan.task", "plan.unheard_of", "interjections.request", "vqa.bbox", "vocabulary.find"]
)
def test_what_needs_eyes_is_declined_with_a_hint(step: str) -> None:
    error = declined(step, signals(draw(PICK_AND_PLACE)))
    assert error.where == step
    assert error.what
    assert error.hint


FIVE = signals(np.ones((5, 4), dtype=np.float32))
BROKEN = {
    "neither": Signals(timestamps=np.arange(9.0), state=None, action=None, state_names=(), action_names=()),
    "one frame": signals(np.ones((1, 4), dtype=np.float32)),
    "no frame": signals(np.ones((0, 4), dtype=np.float32)),
    "times": msgspec.structs.replace(FIVE, timestamps=np.array([0, 1, 1, 2, 3.0])),
    "shape": msgspec.structs.replace(FIVE, timestamps=np.arange(4.0)),
    "flat": msgspec.structs.replace(FIVE, state=np.ones(5, dtype=np.float32)),
}  # fmt: skip


@pytest.mark.parametrize("given", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("step", ["plan.segment", "plan.describe"])
def test_signals_that_prove_nothing_are_declined(step: str, given: Signals) -> None:
    error = declined(step, given, task=BANANA)
    assert error.got
    assert error.hint


def test_without_signals_nothing_is_segmented() -> None:
    assert "no signals" in declined("plan.segment", None, task=BANANA).what


@pytest.mark.parametrize(("start_s", "end_s"), [(3, 3), (5, 2), (14, 20), (-1, 2), ("soon", 4), ("nan", 4)])
def test_a_window_without_frames_is_declined(start_s: object, end_s: object) -> None:
    assert declined("plan.segment", signals(draw(PICK_AND_PLACE)), start_s=start_s, end_s=end_s).got


def test_memory_and_rephrasings_need_no_signals() -> None:
    memory = answer(Memory, "plan.memory", task=BANANA, memory="", completed="lift the banana", upcoming="")
    assert memory.memory == "I lifted the banana."
    known = "I put the cup down.\nI lifted the banana."
    milestones = answer(
        Milestones, "plan.milestones", task=BANANA, memory="", completed="lift the banana", milestones=known
    )
    assert milestones.memories == ["I lifted the banana."]
    assert len(answer(Rephrasings, "plan.task_rephrasings", task=BANANA, count=7).rephrasings) == 7


@pytest.mark.parametrize(
    "inputs", [{"task": " ", "count": 5}, {"task": BANANA, "count": 0}, {"count": "many", "task": "a"}]
)
def test_nothing_to_rephrase_is_declined(inputs: dict[str, object]) -> None:
    assert declined("plan.task_rephrasings", None, **inputs).got


names = st.sampled_from(["j0", "j5", "gripper", "left_gripper.pos", "right_jaw", "x", "wrist_vel", "l_finger"])
numbers = st.floats(width=32) | st.sampled_from([0.0, 1.0, -1.0, float("nan")])


@st.composite
def tables(draw_: st.DrawFn, frames: int) -> tuple[Any, tuple[str, ...]]:
    """Nothing, any numbers at all, or joints that wander and stop beside a gripper that switches."""
    width = draw_(st.integers(0, 5))
    kind = draw_(st.sampled_from(["none", "any", "robot", "robot"]))
    if kind == "none":
        return None, ()
    if kind == "any":
        values = draw_(arrays(np.float32, (frames, width), elements=numbers))
    else:
        rng = np.random.default_rng(draw_(st.integers(0, 99)))
        stops = rng.random((frames, width)) > 0.7
        values = np.cumsum(rng.normal(size=(frames, width)) * stops, axis=0).astype(np.float32)
        values *= np.float32(draw_(st.sampled_from([1e-20, 1, 1e20])))
        values[:, width - 1 :] = (np.sin(np.arange(frames) / 5) > 0)[:, None]
    count = width + draw_(st.sampled_from([0, 0, 0, 1]))
    return values, tuple(draw_(st.lists(names, min_size=count, max_size=count)))


@st.composite
def any_signals(draw_: st.DrawFn) -> Signals:
    frames = draw_(st.integers(0, 60))
    state, state_names = draw_(tables(frames))
    action, action_names = draw_(tables(frames))
    step_s = draw_(st.sampled_from([0.02, 0.1, 1.0]))
    return Signals(
        timestamps=np.arange(frames, dtype=np.float64) * np.float64(step_s),
        state=state,
        action=action,
        state_names=state_names,
        action_names=action_names,
    )


def answered(made: Request, kind: type[Answer]) -> Any:
    """The answer, checked against its schema; None where the engine declined. Nothing else may be raised."""
    try:
        reply = asyncio.run(SignalsEngine().generate(made))
    except Declined as error:
        assert error.what
        return None
    json.loads(reply.text)
    return msgspec.json.decode(reply.text, type=kind)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(any_signals(), st.text(), st.floats(0, 5), st.floats(0, 8), st.floats(0, 3), st.integers(1, 10))
def test_any_signals_are_cut_into_ascending_spans_that_fill_the_window_or_are_declined(
    given_: Signals, task: str, start_s: float, end_s: float, min_s: float, most: int
) -> None:
    inputs = {"task": task, "start_s": start_s, "end_s": end_s, "min_seconds": min_s, "max_steps": most}
    found = answered(request("plan.segment", given_, **inputs), Segmentation)
    if found is not None:
        assert (found.subtasks[0].start, found.subtasks[-1].end) == (start_s, end_s)
        assert len(found.subtasks) <= most
        assert all(span.start < span.end for span in found.subtasks)
        assert all(a.end == b.start and a.subtask != b.subtask for a, b in pairwise(found.subtasks))
    seen = answered(request("plan.describe", given_, **inputs), Description)
    assert (seen is None) == (found is None)
    if seen is not None:
        times = [o.time for o in seen.observations]
        assert times == sorted(times)
        assert start_s <= times[0] <= times[-1] <= end_s


def test_a_long_episode_takes_no_minutes() -> None:
    rows = np.tile(draw(PICK_AND_PLACE), (60, 1))
    reply = asyncio.run(SignalsEngine().generate(request("plan.segment", signals(rows, NAMES), task=BANANA)))
    assert reply.elapsed_s < 10.0
