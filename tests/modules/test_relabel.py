"""The second look: each subtask beside its neighbours, all from the first wordings, bounds as they were."""

from typing import Any

import pytest

from annotator.errors import CallError, Declined, Rejected, StepError
from annotator.modules.base import ModuleInput, ModuleOutput
from annotator.prompting.answers import RelabelledSpan
from annotator_store.digests import digest_parts
from tests.modules.planned import CALL, FOOTAGE, camera, episode, refused, run, shown
from tests.modules.scripted_ask import Question, Script, ScriptedAsk, spans

WRIST = digest_parts("footage", [b"wrist"])


def look_again(view: ModuleInput, script: Script | None = None, /, **settings: Any) -> tuple[ModuleOutput, ScriptedAsk]:
    return run(view, script, subtask_seeded_relabel=True, **settings)


def test_it_is_off_unless_wanted() -> None:
    assert not run(episode())[1].to("plan.relabel")


def test_it_needs_something_to_look_at() -> None:
    assert not look_again(episode(cameras=()))[1].to("plan.relabel")


def test_each_subtask_is_shown_once_with_the_first_wordings_around_it() -> None:
    def answer(question: Question) -> RelabelledSpan:
        return RelabelledSpan(f"{question.inputs['current']} slowly")

    _, ask = look_again(episode(), {"plan.relabel": answer})
    names = ("previous", "current", "next", "start_s", "end_s")
    assert [tuple(q.inputs[name] for name in names) for q in ask.to("plan.relabel")] == [
        ("", "reach", "grasp", "0.0", "2.0"),
        ("reach", "grasp", "place", "2.0", "5.0"),
        ("grasp", "place", "", "5.0", "9.9"),
    ]


def test_words_change_and_bounds_do_not_and_what_follows_has_the_new_words() -> None:
    def answer(question: Question) -> RelabelledSpan:
        return RelabelledSpan(
            {"grasp": " Grasp the  blue cup. "}.get(question.inputs["current"], question.inputs["current"])
        )

    found, ask = look_again(episode(), {"plan.relabel": answer})
    assert shown(found, "subtask") == [(0, "reach"), (2, "Grasp the blue cup"), (5, "place")]
    assert shown(found, "plan")[1] == (2, "1. Grasp the blue cup\n2. place")
    assert ask.to("plan.memory")[1].inputs["completed"] == "Grasp the blue cup"
    assert [a.call for a in found.rows if a.row.style == "subtask"] == [q.key for q in ask.to("plan.relabel")]


def test_neighbours_that_read_equal_afterwards_are_one_subtask() -> None:
    found, ask = look_again(
        episode(), {"plan.relabel": lambda q: RelabelledSpan("place" if q.inputs["previous"] else "reach")}
    )
    assert shown(found, "subtask") == [(0, "reach"), (2, "place")]
    assert [a.call for a in found.rows if a.row.style == "subtask"] == [q.key for q in ask.to("plan.relabel")[:2]]
    assert shown(found, "plan") == [(0, "1. reach\n2. place"), (2, "1. place")]


@pytest.mark.parametrize("kind", [Declined, Rejected])
def test_a_second_look_that_gives_nothing_leaves_the_first_words_and_a_gap(kind: type[StepError]) -> None:
    def answer(question: Question) -> RelabelledSpan | Exception:
        return refused(kind, "plan.relabel") if question.inputs["current"] == "grasp" else RelabelledSpan("go on")

    found, ask = look_again(episode(), {"plan.relabel": answer})
    assert shown(found, "subtask") == [(0, "go on"), (2, "grasp"), (5, "go on")]
    assert [(g.step, g.reason, g.call) for g in found.gaps] == [("plan.relabel", kind.__name__.lower(), CALL)]
    assert [a.call for a in found.rows if a.row.style == "subtask"][1] == ask.to("plan.segment")[0].key


def test_blank_words_leave_the_first_ones_and_a_gap() -> None:
    found, ask = look_again(episode(), {"plan.relabel": RelabelledSpan(" . ")})
    assert shown(found, "subtask") == [(0, "reach"), (2, "grasp"), (5, "place")]
    assert {g.detail for g in found.gaps} == {"a blank text"}
    assert {g.call for g in found.gaps} == {q.key for q in ask.to("plan.relabel")}


def test_a_call_without_a_reply_fails_the_episode() -> None:
    def answer(question: Question) -> RelabelledSpan | Exception:
        return (
            RelabelledSpan("go on")
            if question.inputs["previous"]
            else CallError("gone", kind="timeout", retryable=True)
        )

    with pytest.raises(CallError):
        look_again(episode(), {"plan.relabel": answer})


def test_three_contact_sheets_show_before_in_question_and_after_and_the_text_says_so() -> None:
    _, ask = look_again(episode(), subtask_relabel_frames=3, contact_sheet_columns=3)
    middle = ask.to("plan.relabel")[1]
    assert [[round(t, 1) for t in item.timestamps] for item in middle.media] == [
        [0.0, 1.0, 1.9],
        [2.0, 3.4, 4.9],
        [5.0, 7.4, 9.9],
    ]
    assert {(item.render.kind, item.render.columns, item.render.badge) for item in middle.media} == {("sheet", 3, True)}
    assert middle.inputs["view"].splitlines()[1:] == [
        "1. the subtask before",
        "2. the subtask in question",
        "3. the subtask after",
    ]
    assert middle.inputs["view"].startswith("The 3 images above are contact sheets of one recording, ")


def test_a_neighbour_that_is_missing_is_neither_shown_nor_listed() -> None:
    _, ask = look_again(episode(), {"plan.segment": spans((0, 5, "reach"), (5, 9.9, "grasp"))})
    views = [q.inputs["view"].splitlines()[1:] for q in ask.to("plan.relabel")]
    assert views == [
        ["1. the subtask in question", "2. the subtask after"],
        ["1. the subtask before", "2. the subtask in question"],
    ]
    assert [len(q.media) for q in ask.to("plan.relabel")] == [2, 2]
    _, ask = look_again(episode(), {"plan.segment": spans((0, 9.9, "reach"))})
    assert ask.to("plan.relabel")[0].inputs["view"].startswith("The image above is a contact sheet of one recording, ")


def test_several_cameras_come_one_after_the_other_each_with_its_three() -> None:
    _, ask = look_again(episode(cameras=(camera(), camera("wrist", WRIST))))
    middle = ask.to("plan.relabel")[1]
    assert [item.footage for item in middle.media] == [FOOTAGE] * 3 + [WRIST] * 3
    assert [item.timestamps for item in middle.media[:3]] == [item.timestamps for item in middle.media[3:]]
    assert middle.inputs["view"].splitlines()[4] == '4. the subtask before, by the camera "wrist"'


@pytest.mark.parametrize(
    ("frames", "times"), [(1, [1.0]), (2, [0.0, 1.9]), (500, [round(0.1 * i, 1) for i in range(20)])]
)
def test_as_many_frames_are_shown_as_wanted_and_no_more_than_there_are(frames: int, times: list[float]) -> None:
    _, ask = look_again(episode(), subtask_relabel_frames=frames)
    assert [round(t, 1) for t in ask.to("plan.relabel")[0].media[0].timestamps] == times
