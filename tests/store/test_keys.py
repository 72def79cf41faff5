"""Keys: every field participates, every digest is pinned."""

from typing import Any

import msgspec
import pytest

from annotator_store.digests import Digest, Keyed, digest_struct
from annotator_store.keys import (
    Call,
    Evidence,
    Frames,
    Media,
    MediaItem,
    Message,
    Model,
    Prompt,
    Render,
    Slot,
    Text,
    call_key,
)

A, B = Digest("a" * 32), Digest("b" * 32)
RENDER = Render(kind="frame")
ITEM = MediaItem(footage=A, timestamps=(0.0, 0.5), render=RENDER)
SIGNALS = Evidence(kind="signals", digest=A)
MESSAGE = Message(role="user", parts=(Text("look"), Slot(0)))

KEYED: list[Keyed] = [
    Call(episode=A, prompt=A, model=A, seed=1, frames=A),
    Prompt(messages=(MESSAGE,), schema={"type": "object"}),
    Model(model_id="some/model"),
    Frames(media=(ITEM,), evidence=(SIGNALS,)),
    Media(item=ITEM),
]

# Another value for every field of every struct that a key is made of. A field that is missing here fails the tests.
OTHER: dict[type[msgspec.Struct], dict[str, Any]] = {
    Call: {"episode": B, "prompt": B, "model": B, "seed": 2, "frames": B},
    Prompt: {"messages": (MESSAGE, MESSAGE), "schema": {"type": "array"}},
    Model: {
        "model_id": "other/model",
        "revision": "main",
        "chat_template_kwargs": {"enable_thinking": False},
        "mm_processor_kwargs": {"fps": 2},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_new_tokens": 512,
        "reasoning_effort": "low",
    },
    Frames: {"media": (), "evidence": ()},
    Media: {"item": MediaItem(footage=B, timestamps=(0.0, 0.5), render=RENDER)},
    MediaItem: {"footage": B, "timestamps": (0.0, 0.6), "render": Render(kind="video")},
    Render: {"kind": "sheet", "width_px": 320, "columns": 4, "quality": 90, "badge": True, "renderer": "2"},
    Evidence: {"kind": "inputs", "digest": B},
    Message: {"role": "system", "parts": (Text("listen"),)},
    Text: {"text": "listen"},
    Slot: {"index": 1},
}


def one_change_each(value: msgspec.Struct) -> list[msgspec.Struct]:
    return [msgspec.structs.replace(value, **{name: OTHER[type(value)][name]}) for name in value.__struct_fields__]


def digests_differ(base: Keyed, changed: list[Keyed]) -> bool:
    digests = [digest_struct(value) for value in (base, *changed)]
    return len(set(digests)) == len(digests)


@pytest.mark.parametrize("base", KEYED, ids=lambda value: type(value).__name__)
def test_every_field_of_a_keyed_struct_participates(base: Keyed) -> None:
    changed = one_change_each(base)
    assert digests_differ(base, [value for value in changed if isinstance(value, Keyed)])
    assert len(changed) == len(base.__struct_fields__)


@pytest.mark.parametrize(
    "inner", [ITEM, RENDER, SIGNALS, MESSAGE, Text("look"), Slot(0)], ids=lambda v: type(v).__name__
)
def test_every_field_inside_a_keyed_struct_participates(inner: msgspec.Struct) -> None:
    def carrier(value: Any) -> Keyed:
        match value:
            case Text() | Slot():
                return Prompt(messages=(Message(role="user", parts=(value,)),), schema={})
            case Message():
                return Prompt(messages=(value,), schema={})
            case Evidence():
                return Frames(evidence=(value,))
            case Render():
                return Media(item=MediaItem(footage=A, timestamps=(0.0,), render=value))
            case _:
                return Media(item=value)

    assert digests_differ(carrier(inner), [carrier(value) for value in one_change_each(inner)])


def test_no_struct_of_a_key_takes_fields_it_does_not_know() -> None:
    for struct in OTHER:
        assert struct.__struct_config__.forbid_unknown_fields, struct.__name__
        assert not struct.__struct_config__.omit_defaults, struct.__name__


def test_golden_keys() -> None:
    assert {type(value).__name__: digest_struct(value) for value in KEYED} == {
        "Call": "1301e6c9764b11b31a7ab63c4768eb8e",
        "Prompt": "3958a35b91caaaf6a61019e919810467",
        "Model": "f8520f0865424fc7e7cd0d0d07886d0a",
        "Frames": "e90d2bc967e62e62b2a8428555a35216",
        "Media": "c726543e0ff1705fb5f57c15e3f9dd17",
    }
    assert call_key(Call(episode=A, prompt=A, model=A, seed=1, frames=A)) == digest_struct(KEYED[0])


def test_where_the_media_go_in_a_message_participates() -> None:
    first = Prompt(messages=(Message(role="user", parts=(Slot(0), Text("look"))),), schema={})
    last = Prompt(messages=(Message(role="user", parts=(Text("look"), Slot(0))),), schema={})
    assert digest_struct(first) != digest_struct(last)


def test_the_order_of_media_and_of_timestamps_participates() -> None:
    other = MediaItem(footage=B, timestamps=(0.5, 0.0), render=RENDER)
    assert digest_struct(Frames(media=(ITEM, other))) != digest_struct(Frames(media=(other, ITEM)))
    swapped = msgspec.structs.replace(ITEM, timestamps=(0.5, 0.0))
    assert digest_struct(Media(item=ITEM)) != digest_struct(Media(item=swapped))
