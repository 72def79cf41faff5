"""What is said to a model whose reply cannot be used is part of the next call's key: every text of it, word by word.

A text that is reworded here asks again whatever was ever asked twice. The texts are read off the log of a run against a
server whose first replies do not fit (`scripts/fake_server.py`). Numbers that only say where are written N and S.
"""

import re

import pytest

from scripts import sameness
from tests.e2e.conftest import Outcome

pytestmark = pytest.mark.timeout(1200)  # many processes one after the other, also on a machine that has other work

OURS = {
    "attribute is blank",
    "detections[N].bbox: its height is less than one pixel; the corners are [left, top, right, bottom]",
    "detections[N].bbox: its width is less than one pixel; the corners are [left, top, right, bottom]",
    "detections[N].bbox: x is 1200, outside 0 to 1000",
    "detections[N].bbox: y is 1200, outside 0 to 1000",
    "detections[N].label is blank",
    "label is blank",
    "no entry of memories says anything",
    "no entry of subtasks and of memories says anything",
    "no entry of subtasks says anything",
    'no usable subtask: " . " is not in the vocabulary; the nearest is "lift the box beside the plate" (overlap 0.00)',
    'no usable subtask: " . " is not in the vocabulary;'
    ' the nearest is "open the left drawer beside the plate" (overlap 0.00)',
    'no usable subtask: "lift the box beside the plate left" is not in the vocabulary;'
    ' the nearest is "lift the box beside the plate" (overlap 0.83, told apart by "left")',
    'no usable subtask: "never lift the box beside the plate" is not in the vocabulary;'
    ' the nearest is "lift the box beside the plate" (overlap 0.83, told apart by a negation)',
    'no usable subtask: "never open the left drawer beside the plate" is not in the vocabulary;'
    ' the nearest is "open the left drawer beside the plate" (overlap 0.86, told apart by a negation)',
    'no usable subtask: "sing a song" is not in the vocabulary;'
    ' the nearest is "lift the box beside the plate" (overlap 0.00)',
    'no usable subtask: "sing a song" is not in the vocabulary;'
    ' the nearest is "open the left drawer beside the plate" (overlap 0.00)',
    "no usable subtask: a blank text",
    "no usable subtask: no subtask lies between S s and S s",
    "no words in `$.interjection`",
    "no words in `$.reply`",
    "no words in `$.speech`",
    "object is blank",
    "point: x is 1001, outside 0 to 1000",
    "point: y is 1000.5, outside 0 to 1000",
    "question is blank",
    "relation is blank",
    "subject is blank",
    "subtasks: 11 where at most 8 were asked for",
    "the reply is no JSON object",
    "the reply was cut off at max_new_tokens",
    "value is blank",
}
"""What this package says."""

DECODING = {
    "Expected `array` of length <= 12 - at `$.memories`",
    "Expected `array` of length <= 16 - at `$.omit_arm`",
    "Expected `array` of length <= 40 - at `$.observations`",
    "Expected `array` of length <= 64 - at `$.rephrasings`",
    "Expected `array` of length >= 1 - at `$.observations`",
    "Expected `array` of length >= 1 - at `$.rephrasings`",
    "Expected `array` of length >= 1 - at `$.subtasks`",
    "Expected `array` of length >= 4 - at `$.detections[N].bbox`",
    "Expected `array`, got `bool` - at `$.omit_arm`",
    "Expected `array`, got `str` - at `$.memories`",
    "Expected `float` <= 100000.0 - at `$.detections[N].bbox[N]`",
    "Expected `float` <= 86400.0 - at `$.observations[N].time`",
    "Expected `float` >= 0.0 - at `$.observations[N].time`",
    "Expected `float`, got `null` - at `$.subtasks[N].start`",
    "Expected `float`, got `str` - at `$.observations[N].time`",
    "Expected `int` <= 1000 - at `$.count`",
    "Expected `int` >= 0 - at `$.count`",
    "Expected `int`, got `float` - at `$.count`",
    "Expected `str` of length <= 200 - at `$.reply`",
    "Expected `str` of length <= 400 - at `$.memory`",
    "Expected `str` of length >= 1 - at `$.memories[N]`",
    "Expected `str` of length >= 1 - at `$.memory`",
    "Expected `str` of length >= 1 - at `$.observations[N].event`",
    "Expected `str` of length >= 1 - at `$.question`",
    "Expected `str` of length >= 1 - at `$.speech`",
    "Expected `str` of length >= 1 - at `$.subtask`",
    "Expected `str`, got `array` - at `$.subtask`",
    "Expected `str`, got `int` - at `$.question`",
    "Expected `str`, got `object` - at `$.memory`",
    "Input data was truncated",
    "Invalid enum value 'a joke' - at `$.scenario`",
    "JSON is malformed: expected ':' (byte N)",
    "JSON is malformed: trailing characters (byte N)",
    "Object contains unknown field `extra` - at `$.subtasks[N]`",
    "Object contains unknown field `surprise`",
    "Object missing required field `memories`",
    "Object missing required field `memory`",
    "Object missing required field `observations`",
    "Object missing required field `omit_grasp_method`",
    "Object missing required field `reply`",
    "Object missing required field `subtask`",
    "Object missing required field `task`",
}
"""What msgspec says of a reply's JSON, handed on as it is."""

ROUND = (
    "That reply cannot be used: {error}\n"
    "Answer the same request again, as one complete JSON object in the form that was asked for."
)


def test_every_text_that_a_second_ask_says_is_one_of_these(outcome: Outcome) -> None:
    before, after = ROUND.split("{error}")
    said: set[str] = set()
    for line in outcome(sameness.SECOND_ASKS)["errors said in second asks"]:
        text = line.partition(": ")[2]
        assert text.startswith(before), text
        assert text.endswith(after), text
        said.add(_placeless(text.removeprefix(before).removesuffix(after)))
    assert said == OURS | DECODING


def _placeless(error: str) -> str:
    """Write N and S for numbers that only say where."""
    error = re.sub(r"\(byte \d+\)", "(byte N)", error)
    error = re.sub(r"\[\d+\]", "[N]", error)
    return re.sub(r"between [\d.]+ s and [\d.]+ s", "between S s and S s", error)
