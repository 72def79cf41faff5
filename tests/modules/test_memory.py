"""Memory with a vocabulary: the milestones that hold, one after the other; what was achieved is not forgotten."""

from collections.abc import Callable

import msgspec
import pytest

from annotator.errors import Rejected
from annotator.modules.base import ModuleInput
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.prompting.answers import MOST_MILESTONES, Memory, Milestones
from annotator.prompting.loader import load_prompts
from tests.modules.planned import CALL, episode, refused, run, shown, vocabulary
from tests.modules.scripted_ask import Question, Script, spans

LABELS = "pick up a cube|put the cube into the box"
HOLD, PLACED = MILESTONES = ("I hold a cube.", "I put a cube into the box.")
WORDS = vocabulary(LABELS, "|".join(MILESTONES))
THREE_CUBES = spans(*((at, at + 1, LABELS.split("|")[at % 2]) for at in range(6)))


def view(words: Vocabulary | None = WORDS) -> ModuleInput:
    return episode(vocabulary=words)


def accountant(question: Question) -> Milestones:
    """Keeps what was placed, and forgets what was held once it is placed."""
    before = [one for one in question.inputs["memory"].splitlines() if one != HOLD]
    return Milestones([*before, HOLD if question.inputs["completed"].startswith("pick") else PLACED])


def in_turn(*answers: list[str]) -> Callable[[Question], Milestones]:
    """Answers boundary after boundary."""
    left = iter(answers)
    return lambda _: Milestones(next(left))


def script(answer: Callable[[Question], Milestones] = accountant) -> Script:
    return {"plan.segment": THREE_CUBES, "plan.milestones": answer}


def plan(answer: Callable[[Question], Milestones]) -> list[str | None]:
    return [text for _, text in shown(run(view(), script(answer), min_subtask_seconds=0.5)[0], "memory")]


def test_of_three_cubes_memory_knows_how_many_are_in_the_box() -> None:
    found, ask = run(view(), script(), min_subtask_seconds=0.5)
    assert shown(found, "memory") == [
        (1, HOLD),
        (2, PLACED),
        (3, f"{PLACED} {HOLD}"),
        (4, f"{PLACED} {PLACED}"),
        (5, f"{PLACED} {PLACED} {HOLD}"),
    ]
    assert [q.inputs["memory"].splitlines() for q in ask.to("plan.milestones")] == [
        [], [HOLD], [PLACED], [PLACED, HOLD], [PLACED, PLACED]
    ]  # fmt: skip
    assert [a.call for a in found.rows if a.row.style == "memory"] == [q.key for q in ask.to("plan.milestones")]
    assert not ask.to("plan.memory")


def test_each_milestone_is_held_to_the_vocabulary_in_prompt_and_schema() -> None:
    _, ask = run(view(), script(), min_subtask_seconds=0.5)
    for question in ask.to("plan.milestones"):
        assert question.allowed == {"memories": MILESTONES}
        assert question.inputs["milestones"].splitlines() == [*MILESTONES]


def test_a_boundary_at_which_nothing_changes_writes_no_row() -> None:
    assert plan(in_turn([HOLD], [HOLD], [PLACED], [PLACED], [PLACED, PLACED])) == [HOLD, PLACED, f"{PLACED} {PLACED}"]


def test_until_a_milestone_is_reached_there_is_no_row_and_nothing_left_to_say_keeps_the_row_before() -> None:
    """What the next call is shown is what the rows say: a row cannot be empty."""
    found, ask = run(view(), script(in_turn([], [], [HOLD], [], [HOLD])), min_subtask_seconds=0.5)
    assert shown(found, "memory") == [(3, HOLD)]
    assert [q.inputs["memory"] for q in ask.to("plan.milestones")] == ["", "", "", HOLD, HOLD]
    assert found.gaps == ()


def test_a_text_that_is_no_milestone_is_dropped_and_recorded_and_the_rest_stays() -> None:
    strange, opposite = "bananas are yellow", "I never put a cube into the box."
    said = in_turn(["I hold cube"], [strange, PLACED], [opposite], [PLACED], [HOLD])
    found, ask = run(view(), script(said), min_subtask_seconds=0.5)
    assert shown(found, "memory") == [(1, HOLD), (2, PLACED), (5, HOLD)]
    second, third = ask.to("plan.milestones")[1:3]
    assert {(gap.step, gap.reason, gap.call, gap.detail.split(" is not")[0]) for gap in found.gaps} == {
        ("plan.milestones", "rejected", second.key, f'"{strange}"'),
        ("plan.milestones", "rejected", third.key, f'"{opposite}"'),
    }


def test_a_call_that_gives_nothing_is_a_gap_and_the_chain_goes_on() -> None:
    def answer(question: Question) -> Milestones | Exception:
        return refused(Rejected, "plan.milestones") if PLACED in question.inputs["memory"] else accountant(question)

    found, _ = run(view(), {**script(), "plan.milestones": answer}, min_subtask_seconds=0.5)
    assert shown(found, "memory") == [(1, HOLD), (2, PLACED)]
    assert [(gap.step, gap.call) for gap in found.gaps] == [("plan.milestones", CALL)] * 3


def test_a_vocabulary_without_milestones_leaves_no_memory_to_write_and_nothing_is_asked() -> None:
    found, ask = run(view(vocabulary(LABELS)), script(), min_subtask_seconds=0.5)
    assert shown(found, "memory") == []
    assert not {"plan.memory", "plan.milestones"} & set(ask.steps)


def test_without_a_vocabulary_memory_is_worded_freely() -> None:
    told: Script = {**script(), "plan.memory": lambda q: Memory(f"Did {q.inputs['completed']}")}
    found, ask = run(view(None), told, min_subtask_seconds=0.5)
    assert shown(found, "memory")[0] == (1, "Did pick up a cube")
    assert not ask.to("plan.milestones")


INPUTS = {"task": "t", "completed": "a", "upcoming": "b", "milestones": HOLD}


def test_the_prompt_offers_an_empty_list_only_until_something_is_reached_and_says_how_long_it_may_be() -> None:
    prompt = load_prompts()["plan.milestones"]
    assert "the list is empty" in prompt.text(INPUTS | {"memory": ""})
    assert "the list is empty" not in prompt.text(INPUTS | {"memory": HOLD})
    assert f"At most {MOST_MILESTONES} milestones" in prompt.text(INPUTS | {"memory": ""})


@pytest.mark.parametrize(("count", "fits"), [(0, True), (MOST_MILESTONES, True), (MOST_MILESTONES + 1, False)])
def test_an_answer_may_be_empty_and_is_bounded(count: int, fits: bool) -> None:
    reply = msgspec.json.encode({"memories": [PLACED] * count})
    if fits:
        assert msgspec.json.decode(reply, type=Milestones).memories == [PLACED] * count
    else:
        with pytest.raises(msgspec.ValidationError, match="length <= 12"):
            msgspec.json.decode(reply, type=Milestones)
