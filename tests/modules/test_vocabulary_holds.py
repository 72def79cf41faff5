"""With a vocabulary, subtasks and memories are its entries, letter by letter, and what is none is on the record."""

import pytest

from annotator.answers import Memory, RelabelledSpan
from annotator.errors import Rejected
from annotator.modules.base import EpisodeView
from annotator.modules.memory import NOTHING_YET
from annotator.prompts import load_prompts
from annotator.vocabulary import Vocabulary
from tests.modules.planned import episode, run, shown, vocabulary
from tests.modules.scripted_ask import Question, Script, spans

LABELS = "reach for the cup|grasp the Cup  by its rim.|place the cup on the tray"
MILESTONES = "I hold the cup.|I placed the cup on the tray."
WORDS = vocabulary(LABELS, MILESTONES)
DONE = {
    "reach for the cup": NOTHING_YET,
    "grasp the Cup  by its rim.": "I hold the cup.",
    "place the cup on the tray": "I placed the cup on the tray.",
}
SEGMENTS = spans((0, 2, "reach for the cup"), (2, 5, "grasp the cup by its rim"), (5, 9.9, "place cup on the tray"))
SCRIPT: Script = {"plan.segment": SEGMENTS, "plan.memory": lambda q: Memory(DONE[q.inputs["completed"]])}
NO_MEMORY = {"emit_memory": False}


def view(words: Vocabulary = WORDS) -> EpisodeView:
    return episode(vocabulary=words)


def test_labels_are_in_the_prompt_and_in_the_schema_and_the_rows_have_them_to_the_letter() -> None:
    found, ask = run(view(), SCRIPT)
    (cut,) = ask.to("plan.segment")
    assert cut.inputs["labels"] == LABELS.replace("|", "\n")
    assert cut.allowed == {"subtask": tuple(LABELS.split("|"))}
    assert shown(found, "subtask") == list(zip((0, 2, 5), LABELS.split("|"), strict=True))
    assert found.gaps == ()


def test_the_first_look_is_not_told_the_labels() -> None:
    _, ask = run(view(), SCRIPT)
    (described,) = ask.to("plan.describe")
    assert not described.allowed
    assert "labels" not in described.inputs


def test_a_text_that_is_no_label_is_dropped_recorded_and_its_time_goes_to_the_one_before() -> None:
    told = spans((0, 2, "reach for the cup"), (2, 5, "wave at the camera"), (5, 9.9, "place the cup on the tray"))
    found, ask = run(view(), {"plan.segment": told}, **NO_MEMORY)
    assert shown(found, "subtask") == [(0, "reach for the cup"), (5, "place the cup on the tray")]
    (gap,) = found.gaps
    assert (gap.step, gap.reason, gap.call) == ("plan.segment", "rejected", ask.to("plan.segment")[0].key)
    assert gap.detail.startswith('"wave at the camera" is not in the vocabulary; the nearest is "')


def test_every_text_that_was_dropped_is_on_the_record() -> None:
    told = spans((0, 2, "wave"), (2, 5, " . "), (5, 9.9, "place the cup on the tray"))
    found, _ = run(view(), {"plan.segment": told}, **NO_MEMORY)
    assert [gap.detail.split(" is")[0] for gap in found.gaps] == ['" . "', '"wave"']


def test_paraphrases_of_one_label_become_one_subtask() -> None:
    told = spans((0, 2, "reach for the cup"), (2, 5, "reach for cup"), (5, 9.9, "place the cup on the tray"))
    found, _ = run(view(), {"plan.segment": told}, **NO_MEMORY)
    assert shown(found, "subtask") == [(0, "reach for the cup"), (5, "place the cup on the tray")]


def test_an_answer_without_any_label_is_refused_with_the_text_and_the_nearest() -> None:
    with pytest.raises(
        Rejected, match=r'no usable subtask: "juggle" is not in the vocabulary; the nearest is'
    ) as caught:
        run(view(), {"plan.segment": spans((0, 9.9, "juggle"))})
    assert caught.value.call


def test_each_boundary_has_the_milestone_reached_last_and_one_that_reached_none_has_no_row() -> None:
    found, ask = run(view(), SCRIPT)
    first, second = ask.to("plan.memory")
    assert shown(found, "memory") == [(5, "I hold the cup.")]
    assert first.inputs["milestones"] == second.inputs["milestones"] == MILESTONES.replace("|", "\n")
    assert (first.inputs["memory"], second.inputs["memory"]) == ("", "")
    assert found.gaps == ()


def test_nothing_yet_may_be_answered_until_a_milestone_is_reached_and_not_after() -> None:
    found, ask = run(view(), {**SCRIPT, "plan.memory": Memory("I hold the cup")})
    milestones = tuple(MILESTONES.split("|"))
    assert [q.allowed["memory"] for q in ask.to("plan.memory")] == [(*milestones, NOTHING_YET), milestones]
    assert shown(found, "memory") == [(2, "I hold the cup.")]


def test_the_prompt_offers_nothing_yet_where_it_may_be_answered() -> None:
    prompt = load_prompts()["plan.memory"]
    inputs = {"task": "t", "completed": "a", "upcoming": "b", "milestones": "I hold it."}
    assert f'"{NOTHING_YET}"' in prompt.text(inputs | {"memory": ""})
    assert NOTHING_YET not in prompt.text(inputs | {"memory": "I hold it."})


def test_a_memory_that_is_no_milestone_is_a_gap_and_the_memory_stays() -> None:
    def answer(question: Question) -> Memory:
        return Memory(
            "I hold the cup." if question.inputs["completed"] == "reach for the cup" else "bananas are yellow"
        )

    told = spans((0, 2, "reach for the cup"), (2, 5, "grasp the cup by its rim"), (5, 8, "place the cup on the tray"),
                 (8, 9.9, "reach for the cup"))  # fmt: skip
    found, ask = run(view(), {"plan.segment": told, "plan.memory": answer})
    assert shown(found, "memory") == [(2, "I hold the cup.")]
    assert [q.inputs["memory"] for q in ask.to("plan.memory")] == ["", "I hold the cup.", "I hold the cup."]
    assert [gap.detail[:20] for gap in found.gaps] == ['"bananas are yellow"'] * 2
    assert {gap.call for gap in found.gaps} == {q.key for q in ask.to("plan.memory")[1:]}


def test_a_vocabulary_without_milestones_leaves_memory_to_be_worded_freely() -> None:
    script: Script = {**SCRIPT, "plan.memory": lambda q: Memory(f"Did {q.inputs['completed']}")}
    found, ask = run(view(vocabulary(LABELS)), script)
    assert [q.allowed for q in ask.to("plan.memory")] == [{}, {}]
    assert shown(found, "memory")[0] == (2, "Did reach for the cup")


@pytest.mark.parametrize(
    ("said", "text", "gaps"),
    [
        ("place the cup on a tray", "place the cup on the tray", 0),
        ("throw it away", "reach for the cup", 1),
    ],
)
def test_a_relabel_is_held_to_the_labels_too(said: str, text: str, gaps: int) -> None:
    first = spans((0, 9.9, "reach for the cup"))
    script: Script = {**SCRIPT, "plan.segment": first, "plan.relabel": RelabelledSpan(said)}
    found, ask = run(view(), script, subtask_seeded_relabel=True)
    (again,) = ask.to("plan.relabel")
    assert again.allowed == {"subtask": tuple(LABELS.split("|"))}
    assert again.inputs["labels"] == LABELS.replace("|", "\n")
    assert shown(found, "subtask") == [(0, text)]
    assert [gap.step for gap in found.gaps] == ["plan.relabel"] * gaps
