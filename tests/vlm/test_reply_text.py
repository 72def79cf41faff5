"""What a parser may look past in a raw reply."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.vlm.reply_text import json_part, well_formed

JSON = '{"task":"lift the lid"}'


@pytest.mark.parametrize(
    "reply",
    [
        JSON,
        f"\n  {JSON}\n",
        f"<think>\nFirst {{so}}, then [so].\n</think>\n\n{JSON}",
        f"a chat template opened the block itself</think>{JSON}",
        f"<think></think>{JSON}",
        f"```json\n{JSON}\n```",
        f"```\n{JSON}\n```\n",
        f"<think>hm</think>\n```json\n{JSON}\n```",
        f"Here you are:\n```JSON\n{JSON}\n```\nAnything else?",
        f"```json\n{JSON}",
    ],
)
def test_the_json_is_found(reply: str) -> None:
    assert json_part(reply) == JSON


@given(st.dictionaries(st.text(), st.text() | st.sampled_from(["</think>", "<think>", "```json\n{}\n```"])))
def test_bare_json_is_left_alone_whatever_its_strings_hold(value: dict[str, str]) -> None:
    assert json_part(json.dumps(value, ensure_ascii=False)) == json.dumps(value, ensure_ascii=False)


def test_a_reply_cut_while_thinking_holds_no_json() -> None:
    assert json_part('<think>\nmaybe {"task": "no"}') == ""


def test_text_without_json_comes_back_as_it_is() -> None:
    assert json_part(" I cannot tell. ") == "I cannot tell."


@given(st.text())
def test_text_that_a_file_can_hold_stays_as_it_is(text: str) -> None:
    assert well_formed(text) == text


@pytest.mark.parametrize(
    ("text", "kept"), [("a\ud83ddb", "a\ufffddb"), ("\udc00", "\ufffd"), ("\ud83e\udd16", "\U0001f916")]
)
def test_half_a_letter_is_replaced_and_two_halves_are_one(text: str, kept: str) -> None:
    assert well_formed(text) == kept
