"""Keys: every field participates, every digest is pinned."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from annotator_store.digests import Digest, Keyed, digest_struct
from annotator_store.keys import (
    AnnotationRows,
    AnnotationSetup,
    Call,
    DiscoveryFingerprint,
    Evidence,
    Fingerprint,
    Frames,
    Inputs,
    Media,
    MediaItem,
    Message,
    Model,
    Projection,
    Prompt,
    Render,
    Slot,
    Text,
    Vocabulary,
    WatchedEpisode,
    call_key,
)
from annotator_store.parquet.episode_language import EpisodeLanguage
from annotator_store.rows import Row

ROOT = Path(__file__).parents[2]
FILES = [path for folder in ("annotator", "store/annotator_store") for path in (ROOT / folder).rglob("*.py")]

A, B = Digest("a" * 32), Digest("b" * 32)
RENDER = Render(kind="frame")
ITEM = MediaItem(footage=A, timestamps=(0.0, 0.5), render=RENDER)
SIGNALS = Evidence(kind="signals", digest=A)
MESSAGE = Message(role="user", parts=(Text("look"), Slot(0)))
ROW = Row(role="assistant", content="reach", style="subtask", timestamp=0.5)
WATCHED = WatchedEpisode(episode=A, task="stack", footage=(("top", A),))

KEYED: list[Keyed] = [
    Call(episode=A, prompt=A, model=A, seed=1, frames=A),
    Prompt(messages=(MESSAGE,), schema={"type": "object"}),
    Model(model_id="some/model"),
    Frames(media=(ITEM,), evidence=(SIGNALS,)),
    Media(item=ITEM),
    Inputs(values={"task": "stack"}),
    AnnotationSetup(
        module="plan",
        module_version=1,
        settings={"seed": 1, "plan": {"view": "video"}},
        prompts={"plan.segment": A},
        model=A,
        seed=1,
        vocabulary=None,
    ),
    Fingerprint(setup=A, episode=A, footage=(("top", A, 640, 480),), evidence=None, task="stack", upstream=None),
    AnnotationRows(rows=(ROW,), task=None),
    Projection(rules=A, episodes=((0, 10, {"plan": A}), (10, 20, None))),
    DiscoveryFingerprint(
        watched=(WATCHED,),
        evidence=None,
        version=1,
        settings={"view": "video", "frames_per_second": 2.0},
        prompts={"vocabulary.discover": A},
        model=A,
        seed=1,
    ),
    Vocabulary(subtasks=("pick up the cup",), memories=()),
]

DISCOVERY = next(value for value in KEYED if isinstance(value, DiscoveryFingerprint))

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
    Inputs: {"values": {"task": "sort"}},
    AnnotationSetup: {
        "module": "vqa",
        "module_version": 2,
        "settings": {"seed": 1, "plan": {"view": "frames"}},
        "prompts": {"plan.segment": B},
        "model": B,
        "seed": 2,
        "vocabulary": A,
    },
    Fingerprint: {
        "setup": B,
        "episode": B,
        "footage": (("top", A, 640, 360),),
        "evidence": A,
        "task": "sort",
        "upstream": A,
    },
    AnnotationRows: {"rows": (), "task": "sort"},
    Projection: {"rules": B, "episodes": ((0, 10, {"plan": B}), (10, 20, None))},
    DiscoveryFingerprint: {
        "watched": (WATCHED, WATCHED),
        "evidence": A,
        "version": 2,
        "settings": {"view": "video", "frames_per_second": 1.0},
        "prompts": {},
        "model": B,
        "seed": 2,
    },
    WatchedEpisode: {"episode": B, "task": "sort", "footage": (("top", B),)},
    Vocabulary: {"subtasks": ("pick up the box",), "memories": ("I picked up the cup",)},
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
    "inner", [ITEM, RENDER, SIGNALS, MESSAGE, Text("look"), Slot(0), WATCHED], ids=lambda v: type(v).__name__
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
            case WatchedEpisode():
                return msgspec.structs.replace(DISCOVERY, watched=(value,))
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
        "Inputs": "e61044102beeced5dd2c964886d71a22",
        "AnnotationSetup": "d7c22d1f42226bcb2eb7a5877395d99e",
        "Fingerprint": "c9d5c954d5f73bbf07376ded39f4c3b1",
        "AnnotationRows": "22d1c53e9f06e91622c5fe5c9a16dcef",
        "Projection": "9463a8c0398960b5075e333b625ca448",
        "DiscoveryFingerprint": "6def198dc6633825a492d15f85ea7bc1",
        "Vocabulary": "7872a91d416c3fe2a195a93b7d6603c0",
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


@pytest.mark.parametrize("place", range(4))
def test_every_part_of_what_a_camera_shows_participates_in_a_fingerprint(place: int) -> None:
    base = next(value for value in KEYED if isinstance(value, Fingerprint))
    other = list(base.footage[0])
    other[place] = ("wrist", B, 320, 240)[place]
    assert digests_differ(base, [msgspec.structs.replace(base, footage=(tuple(other),))])


def test_every_keyed_struct_stands_in_keys() -> None:
    assert {type(value) for value in KEYED} | {EpisodeLanguage} == {
        struct for struct in Keyed.__subclasses__() if struct.__module__.startswith("annotator")
    }
    assert not [
        path
        for path in FILES
        if re.search(r"\(Keyed\b", path.read_text()) and path.stem not in ("keys", "episode_language", "digests")
    ]


def test_every_tag_stands_in_the_page_about_keys() -> None:
    """Tags of keyed structs, and those that are written where buffers are digested."""
    written = {tag for path in FILES for tag in re.findall(r'digest_parts\(\s*f?"([\w.-]+)', path.read_text())}
    tags = {value.tag_v for value in KEYED} | {EpisodeLanguage.tag_v} | written
    assert {"call.v1", "recipe.v2", "event.v1", "footage.v1"} <= tags
    page = (ROOT / "docs" / "keys.md").read_text()
    assert not sorted(tag for tag in tags if f"`{tag}" not in page)
