"""Wordings of the task along axes."""

from typing import Any

import pytest

from annotator.config.settings import TaskAugAxesSettings
from annotator.errors import Declined, Rejected, StepError
from annotator.modules.plan.task_paraphrases import AXES
from annotator.prompting.answers import AxisRephrasings
from annotator.prompting.loader import load_prompts
from tests.modules.planned import episode, refused, run, shown

TOLD = AxisRephrasings(["a", "b", "c", "d"], ["e"], ["f", "g"], [], ["h"])


def axes(**counts: Any) -> dict[str, Any]:
    return {"task_aug_axes": TaskAugAxesSettings(enabled=True, **counts)}


def texts(answer: AxisRephrasings, **counts: Any) -> list[str | None]:
    found, _ = run(episode(), {"plan.task_aug_axes": answer}, **axes(**counts))
    return [text for _, text in shown(found, "task_aug")]


def test_the_axes_are_those_of_the_settings() -> None:
    assert set(AXES) == set(TaskAugAxesSettings.__struct_fields__) - {"enabled"}
    assert set(AXES) | {"task"} == set(load_prompts()["plan.task_aug_axes"].head.inputs)


def test_the_axes_take_the_place_of_free_wordings_and_the_prompt_is_told_how_many_of_each() -> None:
    _, ask = run(episode(), **axes(omit_arm=0), n_task_rephrasings=7)
    assert not ask.to("plan.task_rephrasings")
    (asked,) = ask.to("plan.task_aug_axes")
    assert asked.inputs == {
        "task": "stack the red cups",
        "synonym_paraphrase": "3",
        "omit_arm": "0",
        "omit_orientation": "2",
        "omit_grasp_method": "2",
        "combined_omissions": "2",
    }
    assert asked.media == ()


def test_they_are_asked_for_even_where_no_free_wordings_are_wanted() -> None:
    assert run(episode(), **axes(), n_task_rephrasings=0)[1].to("plan.task_aug_axes")


def test_the_task_comes_first_then_the_axes_in_order_each_with_no_more_than_was_asked_for() -> None:
    assert texts(TOLD) == ["stack the red cups", "a", "b", "c", "e", "f", "g", "h"]
    assert texts(TOLD, synonym_paraphrase=1, omit_orientation=0) == ["stack the red cups", "a", "e", "h"]


def test_no_wording_stands_twice_and_one_that_does_takes_no_place_of_another() -> None:
    told = AxisRephrasings(["Stack the red cups.", " ", "a", "A. "], ["a", "b"], [], [], ["B", "c", "d"])
    assert texts(told, synonym_paraphrase=2, omit_arm=1, combined_omissions=2) == [
        "stack the red cups",
        "a",
        "b",
        "c",
        "d",
    ]


def test_all_but_the_task_itself_name_the_call() -> None:
    found, ask = run(episode(), {"plan.task_aug_axes": TOLD}, **axes())
    calls = [a.call for a in found.rows if a.row.style == "task_aug"]
    assert calls == [None, *[ask.to("plan.task_aug_axes")[0].key] * 7]


@pytest.mark.parametrize(("counts", "task"), [(dict.fromkeys(AXES, 0), "stack the red cups"), ({}, "")])
def test_nothing_is_asked_without_a_task_or_a_wish_for_any(counts: dict[str, int], task: str) -> None:
    found, ask = run(episode(task=task), **axes(**counts), derive_task_from_video="off")
    assert not ask.to("plan.task_aug_axes")
    assert shown(found, "task_aug") == []


@pytest.mark.parametrize("kind", [Declined, Rejected])
def test_axes_that_cannot_be_had_are_a_gap(kind: type[StepError]) -> None:
    found, _ = run(episode(), {"plan.task_aug_axes": refused(kind, "plan.task_aug_axes")}, **axes())
    assert shown(found, "task_aug") == []
    assert [(g.step, g.reason) for g in found.gaps] == [("plan.task_aug_axes", kind.__name__.lower())]


def test_the_prompt_asks_for_none_of_an_axis_whose_count_is_zero() -> None:
    prompt = load_prompts()["plan.task_aug_axes"]
    counts = dict.fromkeys(AXES, "4")
    for axis in AXES:
        text = prompt.text({"task": "t"} | counts | {axis: "0"})
        assert text.count("an empty list") == 1
        assert f'"{axis}", an empty list' in text
        assert text.count("4 of them") == len(AXES) - 1
