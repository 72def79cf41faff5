"""Whatever a model answers, an episode has rows that keep the format's rules, or is rejected; nothing else is raised.

Answers come straight from a script, past the bounds that their schema sets.
"""

import asyncio
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotator.config.settings import PlanSettings, TaskAugAxesSettings
from annotator.errors import Rejected
from annotator.modules.base import ModuleInput, ModuleOutput
from annotator.modules.plan.module import STYLES, annotate
from annotator.modules.plan.task_paraphrases import AXES
from annotator.modules.plan.timeline import LEAST_SECONDS
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.prompting.answers import (
    AxisRephrasings,
    Description,
    Memory,
    Milestones,
    Observation,
    RelabelledSpan,
    Rephrasings,
    Segmentation,
    Span,
)
from tests.modules.planned import episode
from tests.modules.scripted_ask import Question, Script, ScriptedAsk

WORDS = Vocabulary(
    subtasks=("reach for the cup", "grasp it", "Place it on the tray.", "wait"),
    memories=("I hold the cup.", "I placed it on the tray."),
)
SAID = st.sampled_from(
    [*WORDS.subtasks, *WORDS.memories, "reach for a cup", "GRASP IT", "nothing yet", "", " . ", "\x00", "juggle"]
) | st.text(max_size=8)
TIMES = st.floats(-5, 25) | st.floats(allow_nan=True, allow_infinity=True) | st.integers(0, 20).map(float)
SPANS = st.lists(st.builds(Span, TIMES, TIMES, SAID), max_size=12)
LISTS = st.lists(SAID, max_size=6)


def check_rows(view: ModuleInput, found: ModuleOutput, plan: PlanSettings) -> None:
    rows = [one.row for one in found.rows]
    frames = set(view.timestamps.tolist())
    assert {row.style for row in rows} <= STYLES
    assert all(row.content and row.content.strip() and row.timestamp in frames for row in rows)
    assert all(row.camera is None and row.tool_calls is None for row in rows)
    assert all(row.role == ("user" if row.style == "task_aug" else "assistant") for row in rows)
    assert [row.timestamp for row in rows] == sorted(row.timestamp for row in rows)
    at = {style: [row.timestamp for row in rows if row.style == style] for style in STYLES}
    assert all(len(set(at[style])) == len(at[style]) for style in STYLES - {"task_aug"})
    assert at["subtask"][0] == float(view.timestamps[0])
    assert all(b - a >= max(LEAST_SECONDS, plan.min_subtask_seconds) for a, b in pairwise(at["subtask"]))
    assert at["plan"] == at["subtask"]
    assert set(at["memory"]) <= set(at["subtask"][1:])
    assert set(at["task_aug"]) <= {float(view.timestamps[0])}
    check_texts(view, {style: [str(row.content) for row in rows if row.style == style] for style in STYLES})


def check_texts(view: ModuleInput, texts: dict[str | None, list[str]]) -> None:
    assert all(a.casefold() != b.casefold() for a, b in pairwise(texts["subtask"]))
    assert all(a.splitlines()[1:] for a in texts["plan"][:-1])
    assert len({text.casefold() for text in texts["task_aug"]}) == len(texts["task_aug"])
    assert texts["task_aug"][:1] in ([], [view.task])
    if view.vocabulary is not None:
        assert set(texts["subtask"]) <= set(view.vocabulary.subtasks)
        assert all(a != b for a, b in pairwise(texts["memory"]))
        left = [re.sub("|".join(map(re.escape, view.vocabulary.memories)), "", text) for text in texts["memory"]]
        assert not "".join(left).strip()


@settings(max_examples=150, deadline=None)
@given(
    told=st.lists(SPANS, min_size=1, max_size=3),
    said=LISTS.filter(bool),
    frames=st.integers(1, 200),
    words=st.sampled_from([None, WORDS]),
    least=st.sampled_from([0.0, 0.05, 1.5, 1e9]),
    relabel=st.booleans(),
    axes=st.booleans(),
    window=st.sampled_from([1, 5, 60]),
)
def test_any_answers_become_rows_that_keep_the_rules_or_a_rejection(
    told: list[list[Span]], said: list[str], frames: int, words: Vocabulary | None, least: float, relabel: bool,
    axes: bool, window: int,
) -> None:  # fmt: skip
    def in_turn(question: Question) -> str:
        return said[len(question.inputs.get("completed", "") + question.inputs.get("start_s", "")) % len(said)]

    script: Script = {
        "plan.describe": Description([Observation(0, text) for text in said]),
        "plan.segment": lambda q: Segmentation(told[len(q.inputs["start_s"]) % len(told)]),
        "plan.relabel": lambda q: RelabelledSpan(in_turn(q)),
        "plan.memory": lambda q: Memory(in_turn(q)),
        "plan.milestones": lambda q: Milestones(said[len(q.inputs["completed"]) % len(said) :]),
        "plan.task_rephrasings": Rephrasings(said),
        "plan.task_aug_axes": AxisRephrasings(*[said] * len(AXES)),
    }
    view = episode(frames, vocabulary=words)
    plan = PlanSettings(
        min_subtask_seconds=least,
        subtask_seeded_relabel=relabel,
        task_aug_axes=TaskAugAxesSettings(enabled=axes),
        max_frames_per_prompt=window,
        n_task_rephrasings=3,
    )
    try:
        found = asyncio.run(annotate(view, ScriptedAsk(script), plan))
    except Rejected as error:
        assert error.call
        assert "no usable subtask" in str(error)
    else:
        check_rows(view, found, plan)
        assert all(gap.call and gap.detail for gap in found.gaps)


@pytest.mark.parametrize("words", [None, WORDS])
def test_a_thousand_spans_become_rows(words: Vocabulary | None) -> None:
    random = np.random.default_rng(0)
    texts = [*WORDS.subtasks, "juggle", ""]
    told = [Span(a, b, texts[i % len(texts)]) for i, (a, b) in enumerate(random.uniform(-3, 23, (1000, 2)).tolist())]
    view, plan = episode(200, vocabulary=words), PlanSettings(min_subtask_seconds=0)
    found = asyncio.run(annotate(view, ScriptedAsk({"plan.segment": Segmentation(told)}), plan))
    check_rows(view, found, plan)
    assert len([one for one in found.rows if one.row.style == "subtask"]) > 20
