"""What the signals engine lets the robot and the user say."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.errors import Declined
from annotator.prompting.answers import InitialSpeech, Interjection
from annotator.vlm.signals.engine import SignalsEngine
from annotator.vlm.signals.speech import LONGEST, announce, interject
from tests.vlm.signal_shapes import BANANA, answer, request

SPEECH, INTERJECTION = "interjections.initial_speech", "interjections.interjection"
LONG = "put " + "the very heavy " * 20 + "box on the floor"


@pytest.mark.parametrize(
    ("task", "speech"),
    [
        (BANANA, "Okay, I will put the banana on the plate."),
        ("Please lift the lid, then close it!", "Okay, I will lift the lid, then close it."),
        ("Lift_the_lid", "Okay, I will lift the lid."),
        ("pick up the pen with your left arm", "Okay, I will pick up the pen with my left arm."),
        ("banana picking", "Okay, I will start on this: banana picking."),
        ("香蕉", "Okay, I will start on this: 香蕉."),
        (LONG, "Okay, I will start now."),
    ],
)
def test_the_robot_says_in_the_tasks_words_what_it_will_do(task: str, speech: str) -> None:
    assert answer(InitialSpeech, SPEECH, task=task).speech == speech


@pytest.mark.parametrize("preferred", ["negative_task", "situated_correction", "specific_constraint", ""])
def test_the_user_asks_for_what_comes_next_and_the_robot_agrees(preferred: str) -> None:
    exchange = answer(Interjection, INTERJECTION, upcoming="lift the banana", scenario=preferred, task=BANANA)
    assert exchange == Interjection(
        "specific_constraint", "Please lift the banana now.", "Sure, I will lift the banana."
    )


def test_a_preference_is_worded_as_one() -> None:
    exchange = answer(Interjection, INTERJECTION, upcoming="move the arm away", scenario="preference")
    assert exchange.scenario == "preference"
    assert exchange.interjection == "I would like you to move the arm away now."
    assert exchange.reply == "Sure, I will move the arm away."


@pytest.mark.parametrize(
    ("step", "inputs"),
    [
        (SPEECH, {"task": ""}),
        (SPEECH, {"task": " . "}),
        (SPEECH, {}),
        (INTERJECTION, {"upcoming": "", "task": BANANA}),
        (INTERJECTION, {"task": BANANA}),
        (INTERJECTION, {"upcoming": LONG}),
    ],
)
def test_without_words_to_go_by_it_declines_with_a_hint(step: str, inputs: dict[str, str]) -> None:
    with pytest.raises(Declined) as caught:
        asyncio.run(SignalsEngine().generate(request(step, None, **inputs)))
    assert caught.value.where == step
    assert caught.value.hint


@given(st.text(max_size=250))
def test_what_is_said_is_one_line_with_words_or_nothing(text: str) -> None:
    exchanges = [interject(text, kind) for kind in ("preference", "negative_task")]
    lines = [line for exchange in exchanges if exchange for line in (exchange.interjection, exchange.reply)]
    for line in [*lines, *filter(None, [announce(text)])]:
        assert 0 < len(line) <= LONGEST
        assert line == " ".join(line.split())
    assert bool(announce(text)) == any(letter.isalnum() for letter in text.replace("_", " ")) or len(text) > 150
