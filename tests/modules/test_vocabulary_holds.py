"""With a vocabulary, subtasks are its entries, letter by letter, and what is none is on the record."""

import pytest

from annotator.errors import Rejected
from annotator.modules.base import ModuleInput
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.prompting.answers import RelabelledSpan
from tests.modules.planned import episode, run, shown, vocabulary
from tests.modules.scripted_ask import Script, spans

LABELS = "reach for the cup|grasp the Cup  by its rim.|place the cup on the tray"
WORDS = vocabulary(LABELS, "I hold the cup.|I placed the cup on the tray.")
SEGMENTS = spans((0, 2, "reach for the cup"), (2, 5, "grasp the cup by its rim"), (5, 9.9, "place cup on the tray"))
SCRIPT: Script = {"plan.segment": SEGMENTS}
NO_MEMORY = {"emit_memory": False}


def view(words: Vocabulary = WORDS) -> ModuleInput:
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


def test_a_text_that_shares_its_words_with_a_label_but_says_another_is_dropped_and_says_by_which_word() -> None:
    negated, other = "do not place the cup on the tray", "grasp the tray by its rim"
    told = spans((0, 2, "reach for the cup"), (2, 5, negated), (5, 9.9, other))
    found, _ = run(view(), {"plan.segment": told}, **NO_MEMORY)
    assert shown(found, "subtask") == [(0, "reach for the cup")]
    assert [gap.detail.split(" told")[1] for gap in found.gaps] == [" apart by a negation)", ' apart by "tray")']


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
