"""What is written down of a reply, whatever it looks like."""

import msgspec
import pytest

from annotator.vlm.client import raw_json


@pytest.mark.parametrize("depth", [10, 900, 996, 997, 998, 999, 1000, 1001, 5000])
def test_a_deeply_nested_reply_is_kept_as_text_and_never_as_json_that_no_event_can_hold(depth: int) -> None:
    kept = raw_json("[" * depth + "]" * depth)
    if kept is not None:
        msgspec.json.decode(msgspec.json.encode({"event": {"answer": kept}}))


def test_what_is_not_json_is_kept_as_text_only() -> None:
    assert raw_json("I think that") is None
    assert raw_json('<think>hm</think>{"task": "wave"}') == msgspec.Raw(b'{"task": "wave"}')


@pytest.mark.parametrize("reply", ["", "<think>hm", " ", "1,2", '{"a":1},{"b":2}', "]]]],[[[[", "```json\n```"])
def test_what_is_no_single_value_is_kept_as_text_only(reply: str) -> None:
    assert raw_json(reply) is None
