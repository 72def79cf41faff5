"""The plan module against a scripted `ask`: what it asks, in which order, and what it makes of the answers."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest

from annotator.config.settings import PlanSettings
from annotator.errors import CallError, Declined, Rejected, StepError
from annotator.modules.base import GripperTime
from annotator.modules.plan.module import STEPS, STYLES, annotate
from annotator.modules.plan.task_paraphrases import is_placeholder
from annotator.prompting.answers import Description, Memory, Observation, Rephrasings, Segmentation, Span, Task
from annotator_store.keys import Render
from tests.modules.planned import CALL, FOOTAGE, episode, refused, run, shown
from tests.modules.scripted_ask import Question, Script, ScriptedAsk, spans


def test_an_episode_gives_subtasks_plans_memories_and_wordings() -> None:
    found, ask = run(episode())
    assert set(ask.steps) == set(STEPS) - {"plan.task", "plan.relabel", "plan.milestones", "plan.task_aug_axes"}
    assert {a.row.style for a in found.rows} == STYLES
    assert shown(found, "subtask") == [(0, "reach"), (2, "grasp"), (5, "place")]
    assert shown(found, "task_aug") == [(0, "stack the red cups"), (0, "Stack cups"), (0, "pile the cups up")]
    assert found.gaps == ()
    assert {a.row.role for a in found.rows if a.row.style == "task_aug"} == {"user"}
    assert {a.row.role for a in found.rows if a.row.style != "task_aug"} == {"assistant"}


def test_rows_come_in_the_order_of_their_times_and_are_the_same_every_time() -> None:
    found, _ = run(episode())
    times = [a.row.timestamp for a in found.rows]
    assert times == sorted(times)
    assert run(episode())[0] == found


def test_every_row_stands_exactly_on_a_frame() -> None:
    view = episode()
    found, _ = run(view, {"plan.segment": spans((0.0, 1.97, "reach"), (1.97, 9.9, "grasp"))})
    assert {np.float32(a.row.timestamp) for a in found.rows} <= set(view.timestamps)
    assert shown(found, "subtask")[1] == (2.0, "grasp")


def test_a_description_is_asked_first_and_segmentation_reads_it() -> None:
    script: Script = {"plan.describe": Description([Observation(0.52, "it  moves."), Observation(3, "it grips")])}
    _, ask = run(episode(), script)
    steps = [step for step in ask.steps if step in ("plan.describe", "plan.segment")]
    assert steps == ["plan.describe", "plan.segment"]
    assert ask.to("plan.segment")[0].inputs["description"] == "0.5 s: it moves\n3.0 s: it grips"
    assert "task" not in ask.to("plan.describe")[0].inputs


def test_describing_can_be_left_out() -> None:
    _, ask = run(episode(), subtask_describe_first=False)
    assert not ask.to("plan.describe")
    assert ask.to("plan.segment")[0].inputs["description"] == ""


def test_segmentation_is_told_the_task_the_bounds_and_the_limits() -> None:
    _, ask = run(episode(), plan_max_steps=5, min_subtask_seconds=0.75)
    inputs = ask.to("plan.segment")[0].inputs
    assert (inputs["task"], inputs["start_s"], inputs["end_s"]) == ("stack the red cups", "0.0", "9.9")
    assert (inputs["max_steps"], inputs["min_seconds"]) == ("5", "0.75")


@pytest.mark.parametrize("view", ["video", "contact_sheets"])
def test_describe_and_segment_look_at_identical_media(view: str) -> None:
    _, ask = run(episode(400), view=view, max_video_frames=30, max_frames_per_prompt=30)
    described, cut = ask.to("plan.describe"), ask.to("plan.segment")
    assert len(described) > 1
    assert [q.media for q in described] == [q.media for q in cut]
    assert [q.inputs["view"] for q in described] == [q.inputs["view"] for q in cut]


def test_contact_sheets_hold_a_set_number_of_tiles_in_order() -> None:
    _, ask = run(episode(), contact_sheet_frames_per_sheet=8, contact_sheet_columns=4, contact_sheet_frame_width=99)
    sheets = ask.to("plan.segment")[0].media
    assert [len(sheet.timestamps) for sheet in sheets] == [8, 8, 5]
    times = [t for sheet in sheets for t in sheet.timestamps]
    assert times == sorted(times)
    assert {sheet.render for sheet in sheets} == {
        Render(kind="sheet", width_px=99, columns=4, quality=84, badge=True, renderer="1")
    }
    assert {sheet.footage for sheet in sheets} == {FOOTAGE}
    assert "The 3 images above are contact sheets" in ask.to("plan.segment")[0].inputs["view"]


def test_a_video_is_one_block_of_at_most_max_video_frames() -> None:
    _, ask = run(episode(400), view="video", max_video_frames=30, video_frame_width=320)
    blocks = [q.media for q in ask.to("plan.segment")]
    assert [len(media) for media in blocks] == [1, 1, 1]
    assert [len(media[0].timestamps) for media in blocks] == [27, 27, 27]
    assert {media[0].render.kind for media in blocks} == {"video"}
    assert {media[0].render.width_px for media in blocks} == {320}
    assert "The video above has 27 frames" in ask.to("plan.segment")[0].inputs["view"]


@pytest.mark.parametrize(
    ("view", "limit"), [("video", "max_video_frames"), ("contact_sheets", "max_frames_per_prompt")]
)
def test_a_long_episode_is_cut_into_windows_at_the_same_density_not_thinned_out(view: str, limit: str) -> None:
    _, one = run(episode(400), view=view, **{limit: 1000})
    _, many = run(episode(400), view=view, **{limit: 7})
    whole = [t for item in one.to("plan.segment")[0].media for t in item.timestamps]
    parts = [[t for item in q.media for t in item.timestamps] for q in many.to("plan.segment")]
    assert len(whole) == 81
    assert [t for part in parts for t in part] == whole
    assert max(map(len, parts)) <= 7
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert max(b - a for a, b in pairwise(whole)) == pytest.approx(0.5)


def test_windows_cover_the_episode_without_a_gap_or_an_overlap() -> None:
    _, ask = run(episode(400), max_frames_per_prompt=30)
    bounds = [(float(q.inputs["start_s"]), float(q.inputs["end_s"])) for q in ask.to("plan.segment")]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == 39.9
    assert all(a[1] == b[0] for a, b in pairwise(bounds))


def test_a_span_reaching_out_of_its_window_is_clipped_and_equal_ones_merge_across_the_border() -> None:
    def answer(question: Question) -> Segmentation:
        start, end = float(question.inputs["start_s"]), float(question.inputs["end_s"])
        if start == 0:
            return spans((0, 5, "reach"), (5, 99, "carry"))
        return spans((0, end - 5, "carry"), (end - 5, end, "place"))

    found, ask = run(episode(200), {"plan.segment": answer}, max_frames_per_prompt=21)
    assert len(ask.to("plan.segment")) == 2
    assert shown(found, "subtask") == [(0, "reach"), (5, "carry"), (14.9, "place")]


def test_a_window_cannot_claim_the_time_of_its_neighbour() -> None:
    def answer(question: Question) -> Segmentation:
        return spans((0, 99, "first" if question.inputs["start_s"] == "0.0" else "second"))

    found, ask = run(episode(200), {"plan.segment": answer}, max_frames_per_prompt=21)
    border = round(float(ask.to("plan.segment")[1].inputs["start_s"]), 3)
    assert shown(found, "subtask") == [(0, "first"), (border, "second")]


def test_a_span_wholly_outside_its_window_counts_for_nothing() -> None:
    def answer(question: Question) -> Segmentation:
        first = question.inputs["start_s"] == "0.0"
        return spans((0, 9, "first"), (15, 18, "beyond")) if first else spans((2, 5, "before"), (10, 20, "second"))

    found, _ = run(episode(200), {"plan.segment": answer}, max_frames_per_prompt=21)
    assert [text for _, text in shown(found, "subtask")] == ["first", "second"]


def test_each_subtask_names_the_call_of_its_own_window() -> None:
    def answer(question: Question) -> Segmentation:
        return spans((0, 99, "first" if question.inputs["start_s"] == "0.0" else "second"))

    found, ask = run(episode(200), {"plan.segment": answer}, max_frames_per_prompt=21)
    calls = [a.call for a in found.rows if a.row.style == "subtask"]
    assert calls == [q.key for q in ask.to("plan.segment")]


@pytest.mark.parametrize(
    ("mode", "task", "asked"),
    [
        ("off", "", False),
        ("off", "test", False),
        ("if_short", "stack the red cups", False),
        ("if_short", "", True),
        ("if_short", "stack cups", True),
        ("if_short", "Test task 12", True),
        ("if_short", "n/a", True),
        ("if_short", "TODO: unnamed episode!", True),
        ("always", "stack the red cups", True),
    ],
)
def test_the_task_is_read_off_the_footage_only_when_asked_for(mode: str, task: str, asked: bool) -> None:
    found, ask = run(episode(task=task), derive_task_from_video=mode)
    assert bool(ask.to("plan.task")) == asked
    expected = "stack the cups" if asked else task
    assert ask.to("plan.segment")[0].inputs["task"] == expected
    assert [q.inputs["task"] for q in ask.to("plan.memory")] == [expected] * 2
    assert (0, expected) in shown(found, "task_aug") or not expected
    if asked:
        assert ask.steps[0] == "plan.task"
        assert ask.to("plan.task")[0].inputs["given"] == task.strip()


def test_a_long_episode_is_thinned_out_to_one_call_for_its_task_alone() -> None:
    _, ask = run(episode(400, task=""), max_frames_per_prompt=30)
    times = [t for item in ask.to("plan.task")[0].media for t in item.timestamps]
    assert len(times) == 30
    assert (times[0], times[-1]) == (0, pytest.approx(39.9))


def test_a_task_that_came_back_blank_leaves_the_given_one() -> None:
    _, ask = run(episode(task="stack cups"), {"plan.task": Task(" . ")})
    assert ask.to("plan.segment")[0].inputs["task"] == "stack cups"


@pytest.mark.parametrize(
    ("text", "vague"),
    [("pick up the cup", False), ("pick cup", True), ("", True), ("test test test", True), ("fold 3 towels", False)],
)
def test_a_placeholder_is_short_or_says_nothing(text: str, vague: bool) -> None:
    assert is_placeholder(text, 3) == vague


def test_without_footage_only_text_is_asked_and_nothing_is_described() -> None:
    found, ask = run(episode(400, task="test", cameras=()))
    assert [q.step for q in ask.asked if q.media] == []
    assert set(ask.steps) == {"plan.segment", "plan.memory", "plan.task_rephrasings"}
    assert len(ask.to("plan.segment")) == 1
    assert "no footage" in ask.to("plan.segment")[0].inputs["view"]
    assert shown(found, "subtask")


def test_every_boundary_has_a_numbered_plan_of_what_is_left() -> None:
    found, _ = run(episode())
    assert shown(found, "plan") == [
        (0, "1. reach\n2. grasp\n3. place"),
        (2, "1. grasp\n2. place"),
        (5, "1. place"),
    ]
    assert {a.call for a in found.rows if a.row.style == "plan"} == {None}


def test_each_memory_is_written_from_the_one_before_it() -> None:
    found, ask = run(episode())
    assert [(q.inputs["memory"], q.inputs["completed"], q.inputs["upcoming"]) for q in ask.to("plan.memory")] == [
        ("", "reach", "grasp"),
        ("I did reach.", "grasp", "place"),
    ]
    assert shown(found, "memory") == [(2, "I did reach."), (5, "I did grasp.")]
    assert [a.call for a in found.rows if a.row.style == "memory"] == [q.key for q in ask.to("plan.memory")]


def test_a_memory_that_could_not_be_had_keeps_the_one_before_and_the_chain_goes_on() -> None:
    def answer(question: Question) -> Memory | Exception:
        return refused(Rejected, "plan.memory") if question.inputs["completed"] == "grasp" else Memory("I hold it.")

    script: Script = {
        "plan.segment": spans((0, 2, "reach"), (2, 5, "grasp"), (5, 7, "lift"), (7, 9.9, "place")),
        "plan.memory": answer,
    }
    found, ask = run(episode(), script)
    assert [q.inputs["memory"] for q in ask.to("plan.memory")] == ["", "I hold it.", "I hold it."]
    assert shown(found, "memory") == [(2, "I hold it."), (7, "I hold it.")]
    assert [(g.step, g.reason, g.call) for g in found.gaps] == [("plan.memory", "rejected", CALL)]


def test_a_blank_memory_is_a_gap_and_no_row() -> None:
    found, ask = run(episode(), {"plan.memory": Memory(" ")})
    assert shown(found, "memory") == []
    assert [gap.call for gap in found.gaps] == sorted(q.key for q in ask.to("plan.memory"))


@pytest.mark.parametrize(("setting", "style"), [("emit_plan", "plan"), ("emit_memory", "memory")])
def test_plans_and_memories_can_be_left_out(setting: str, style: str) -> None:
    found, ask = run(episode(), **{setting: False})
    assert {a.row.style for a in found.rows} == STYLES - {style}
    assert bool(ask.to("plan.memory")) == (style != "memory")


def test_the_task_itself_is_the_first_wording_and_no_two_are_alike() -> None:
    told = ["Stack the Red Cups.", "pile them", "Pile  them.", "stack them", " . ", "set them up"]
    found, ask = run(episode(), {"plan.task_rephrasings": Rephrasings(told)}, n_task_rephrasings=3)
    assert ask.to("plan.task_rephrasings")[0].inputs == {"task": "stack the red cups", "count": "3"}
    wordings = [(a.row.content, a.call) for a in found.rows if a.row.style == "task_aug"]
    key = ask.to("plan.task_rephrasings")[0].key
    assert wordings == [
        ("stack the red cups", None),
        ("pile them", key),
        ("stack them", key),
        ("set them up", key),
    ]


def test_no_more_wordings_are_kept_than_were_asked_for() -> None:
    script: Script = {"plan.task_rephrasings": Rephrasings([f"way {i}" for i in range(9)])}
    found, _ = run(episode(), script, n_task_rephrasings=2)
    assert shown(found, "task_aug") == [(0, "stack the red cups"), (0, "way 0"), (0, "way 1")]


@pytest.mark.parametrize(("wanted", "task"), [(0, "stack the red cups"), (5, "")])
def test_no_wordings_are_asked_for_without_a_task_or_a_wish_for_them(wanted: int, task: str) -> None:
    found, ask = run(episode(task=task), n_task_rephrasings=wanted, derive_task_from_video="off")
    assert not ask.to("plan.task_rephrasings")
    assert shown(found, "task_aug") == []


@pytest.mark.parametrize("kind", [Declined, Rejected])
def test_a_step_that_gives_nothing_is_a_gap_and_the_rest_goes_on(kind: type[StepError]) -> None:
    optional = ("plan.task", "plan.describe", "plan.memory", "plan.task_rephrasings")
    script: Script = {step: refused(kind, step) for step in optional}
    found, ask = run(episode(), script, derive_task_from_video="always")
    assert shown(found, "subtask") == [(0, "reach"), (2, "grasp"), (5, "place")]
    assert {a.row.style for a in found.rows} == {"subtask", "plan"}
    assert [(g.step, g.reason, g.detail, g.call) for g in found.gaps] == [
        (step, kind.__name__.lower(), f"no {step}", CALL)
        for step in ("plan.describe", "plan.memory", "plan.memory", "plan.task", "plan.task_rephrasings")
    ]
    assert ask.to("plan.segment")[0].inputs["task"] == "stack the red cups"


@pytest.mark.parametrize("kind", [Declined, Rejected])
def test_an_episode_without_a_segmentation_fails(kind: type[StepError]) -> None:
    with pytest.raises(kind):
        run(episode(), {"plan.segment": refused(kind, "plan.segment")})


def test_a_segmentation_of_nothing_usable_is_rejected_with_its_call() -> None:
    with pytest.raises(Rejected, match="no usable subtask: a blank text") as caught:
        run(episode(), {"plan.segment": Segmentation([Span(3, 4, " . ")])})
    assert caught.value.call


@pytest.mark.parametrize("step", ["plan.task_rephrasings", "plan.memory", "plan.describe", "plan.segment"])
def test_a_call_without_a_reply_fails_the_episode(step: str) -> None:
    with pytest.raises(CallError):
        run(episode(), {step: CallError("no reply", kind="timeout", retryable=True)})


class SlowAsk(ScriptedAsk):
    """Takes its time over what `slow` names."""

    def __init__(self, script: Script, slow: Callable[[str, dict[str, str]], bool]) -> None:
        super().__init__(script)
        self.slow = slow
        self.late: list[str] = []

    async def __call__(self, step: str, answer: Any, inputs: dict[str, str], media: Any = (), **more: Any) -> Any:
        if self.slow(step, inputs):
            await asyncio.sleep(0.02)
            self.late.append(step)
        return await super().__call__(step, answer, inputs, media, **more)


NO_REPLY = CallError("no reply", kind="timeout", retryable=True)


def test_when_one_branch_fails_the_other_is_still_heard_out() -> None:
    ask = SlowAsk({"plan.describe": NO_REPLY}, lambda step, _: step == "plan.task_rephrasings")
    with pytest.raises(CallError):
        asyncio.run(annotate(episode(), ask, PlanSettings()))
    assert ask.late == ["plan.task_rephrasings"]


def test_when_one_window_fails_the_others_are_still_heard_out() -> None:
    def answer(question: Question) -> Segmentation | Exception:
        return NO_REPLY if question.inputs["start_s"] == "0.0" else spans((0, 99, "go on"))

    ask = SlowAsk({"plan.segment": answer}, lambda step, inputs: step == "plan.segment" and inputs["start_s"] != "0.0")
    with pytest.raises(CallError):
        asyncio.run(annotate(episode(400), ask, PlanSettings(max_frames_per_prompt=20)))
    assert ask.late == ["plan.segment"] * 4


def test_a_window_without_a_usable_subtask_is_a_gap_and_the_others_stand() -> None:
    def answer(question: Question) -> Segmentation | Exception:
        return refused(Rejected, "plan.segment") if question.inputs["start_s"] == "0.0" else spans((0, 99, "go on"))

    found, ask = run(episode(200), {"plan.segment": answer}, max_frames_per_prompt=21)
    assert shown(found, "subtask") == [(0, "go on")]
    assert [(g.step, g.detail, g.call) for g in found.gaps] == [("plan.segment", "no plan.segment", CALL)]
    assert len(ask.to("plan.segment")) == 2


def test_of_equal_texts_each_names_the_call_of_its_own_window() -> None:
    def answer(question: Question) -> Segmentation:
        start = float(question.inputs["start_s"])
        return spans((start, start + 5, "pick"), (start + 5, 99, "place"))

    found, ask = run(episode(200), {"plan.segment": answer}, max_frames_per_prompt=21)
    first, second = (q.key for q in ask.to("plan.segment"))
    assert [a.call for a in found.rows if a.row.style == "subtask"] == [first, first, second, second]


def never() -> tuple[GripperTime, ...]:
    raise AssertionError("the gripper's signals were read")


ACTS = tuple(
    GripperTime(time=time, kind=kind, side=side)
    for time, kind, side in [(1.24, "close", "left"), (3.0, "open", ""), (15.0, "close", "right")]
)


def test_the_gripper_is_told_to_the_segmentation_of_the_window_in_which_it_acts_and_to_no_other_step() -> None:
    view = episode(200, grippers=lambda: ACTS)
    _, ask = run(view, {"plan.segment": spans((0, 99, "go on"))}, gripper_hints=True, max_frames_per_prompt=21)
    assert [q.inputs["gripper"] for q in ask.to("plan.segment")] == [
        "1.2 s: the left gripper closes\n3.0 s: the gripper opens",
        "15.0 s: the right gripper closes",
    ]
    assert all("gripper" not in q.inputs for q in ask.asked if q.step != "plan.segment")


def test_a_command_to_the_gripper_is_told_apart_from_what_was_measured() -> None:
    acts = (ACTS[0], msgspec.structs.replace(ACTS[1], measured=False))
    _, ask = run(episode(grippers=lambda: acts), gripper_hints=True)
    inputs = ask.to("plan.segment")[0].inputs
    assert (inputs["gripper"], inputs["commanded"]) == (
        "1.2 s: the left gripper closes",
        "3.0 s: the gripper is told to open",
    )


def test_the_segmentation_knows_whether_there_is_any_footage() -> None:
    for view, footage in ((episode(), "the footage"), (episode(cameras=()), "")):
        assert run(view)[1].to("plan.segment")[0].inputs["footage"] == footage


def test_a_segmentation_is_held_to_the_steps_that_are_wanted() -> None:
    _, ask = run(episode(), plan_max_steps=3)
    assert [q.most for q in ask.to("plan.segment")] == [{"subtasks": 3}]


def test_the_gripper_is_not_even_read_unless_that_is_wanted() -> None:
    _, ask = run(episode(grippers=never))
    assert ask.to("plan.segment")[0].inputs["gripper"] == ""


def test_without_a_vocabulary_nothing_is_held_to_a_list() -> None:
    _, ask = run(episode(), subtask_seeded_relabel=True)
    assert {q.inputs[name] for q in ask.asked for name in ("labels", "milestones") if name in q.inputs} == {""}
    assert not any(q.allowed for q in ask.asked)
