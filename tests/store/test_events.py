"""Events: what was once written can be read for ever, and is written the same way."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotator_store.digests import Digest
from annotator_store.errors import JournalDamaged, NewerEvent
from annotator_store.log.events import (
    KNOWN_TYPES,
    AnyEvent,
    CallAnswered,
    CallDeclined,
    EpisodeAnnotated,
    EpisodeSeen,
    EpisodeSources,
    RunFinished,
    ShardWritten,
    VocabularyDiscovered,
    VocabularyEdited,
    decode_event,
    encode_event,
    event_id,
    event_type,
)
from annotator_store.log.lines import entry_of, parse_lines, render_line
from tests.store.facts import answered

WIRE = Path(__file__).parents[1] / "wire"
RELEASED = sorted(WIRE.glob("*.json"))
EARLIER = sorted((WIRE / "earlier").glob("*.json"))
"""Forms from before a field with a default was added."""

GOLDEN_IDS: dict[str, str] = {
    "answer_rejected.v1": "75adf800308a93820197d776c3423cfd",
    "call_answered.v1": "47cfb5e46d617307210cb50bd4a53f07",
    "call_declined.v1": "68f53edd5c564449b99fb66fe4dc48c4",
    "call_failed.v1": "cb0e6b68d9437552ad0656958377c263",
    "episode_annotated.v1": "77a74922e519db41e1b862c2e614d5cb",
    "episode_seen.v1": "cf668dfc1e128d2dbeb50d627c1e9feb",
    "frames_chosen.v1": "5aee994f81ca7c706463936c246c5eb0",
    "model_described.v1": "16482f64e73a1835bd497e01f3e335ba",
    "prompt_rendered.v1": "346821b23c50a100b3da481202298c1a",
    "run_finished.v1": "e7a6181e7ba63f5ea5ffb9a8d7da015a",
    "shard_written.v1": "a2ca6b85d6f8d89ab366857bc2afbc4a",
    "vocabulary_discovered.v1": "f9b4ce23c5f7485678dbca884b79ae8a",
    "vocabulary_edited.v1": "ac19bcfc312092482dbe21815d0f3345",
}
GOLDEN_EARLIER: dict[str, str] = {
    "call_answered.v1": "3c4a44e582fa1706014a9e10e5535af8",
    "episode_annotated.v1": "2ef7413605c1e496132f49a4918e169a",
    "episode_seen.v1": "4ed753c4da89d34e5926c192d72ef7c6",
    "run_finished.v1": "c417120f7e6871a85ecf8743734e1cfb",
    "shard_written.v1": "326219dacd5991703636bdb679be0272",
    "vocabulary_discovered.v1": "8ae37b0746c9a5738b0a6978dc821eb4",
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
st.register_type_strategy(
    cast("type[str]", Digest), st.binary(min_size=16, max_size=16).map(lambda raw: Digest(raw.hex()))
)
st.register_type_strategy(datetime, times)
st.register_type_strategy(str, texts)
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_a_released_wire_form_is_read_and_written_back_the_same(path: Path) -> None:
    body = path.read_bytes().rstrip(b"\n")
    event = decode_event(body, where=path.name)
    assert event_type(body) == path.stem
    assert encode_event(event) == body
    assert event_id(body) == GOLDEN_IDS[path.stem]


def test_every_event_has_its_wire_form_kept() -> None:
    assert {path.stem for path in RELEASED} == KNOWN_TYPES == set(GOLDEN_IDS)


@pytest.mark.parametrize("path", EARLIER, ids=lambda path: path.stem)
def test_a_form_from_before_a_field_was_added_is_read_with_its_default(path: Path) -> None:
    body = path.read_bytes().rstrip(b"\n")
    event, now = decode_event(body, where=path.name), decode_event((WIRE / path.name).read_bytes().rstrip(b"\n"))
    assert type(event) is type(now)
    assert event_id(body) == GOLDEN_EARLIER[path.stem]
    told = set(msgspec.json.decode(body)) - {"type"}
    fields = {field.name: field for field in msgspec.structs.fields(type(event))}
    assert told < set(fields)
    for name, field in fields.items():
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        assert getattr(event, name) == (getattr(now, name) if name in told else default)


def test_every_form_that_was_ever_released_is_kept() -> None:
    assert {path.stem for path in EARLIER} == set(GOLDEN_EARLIER)


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_an_older_reader_would_skip_a_new_field(path: Path) -> None:
    body = path.read_bytes().rstrip(b"\n")
    event = decode_event(body)
    assert decode_event(body[:-1] + b',"mood":"sunny"}') == event


@settings(max_examples=40, deadline=None)
@given(
    st.builds(CallAnswered, answer=json_values)
    | st.builds(CallDeclined)
    | st.builds(EpisodeSeen)
    | st.builds(EpisodeAnnotated)
    | st.builds(VocabularyDiscovered)
    | st.builds(VocabularyEdited)
    | st.builds(ShardWritten, made_of=st.lists(st.builds(EpisodeSources), max_size=2).map(tuple))
    | st.builds(RunFinished, arguments=st.dictionaries(texts, json_values, max_size=3))
)
def test_decoding_undoes_encoding_and_a_line_holds_it(event: AnyEvent) -> None:
    body = encode_event(event)
    assert decode_event(body) == event
    assert encode_event(decode_event(body)) == body
    line = render_line(entry_of(event))
    assert parse_lines(line, where="") == ([entry_of(event)], len(line))


def test_a_model_s_own_json_is_kept_in_one_form_on_one_line() -> None:
    raw = msgspec.Raw(b'{\n  "b": 1.50,\n  "a": [1, 2]\n}')
    body = encode_event(answered(1, 1, answer=raw))
    assert b"\n" not in body
    assert body == encode_event(answered(1, 1, answer={"a": [1, 2], "b": 1.5}))
    assert encode_event(decode_event(body)) == body


@pytest.mark.parametrize("kind", ["call_answered.v2", "row_praised.v1"])
def test_an_event_of_a_newer_release_is_told_from_damage(kind: str) -> None:
    body = b'{"type":"%b","recorded_at":"2026-01-01T00:00:00Z","run_id":"r"}' % kind.encode()
    with pytest.raises(NewerEvent, match=kind) as caught:
        decode_event(body, where="segment x")
    assert "segment x" in str(caught.value)
    assert "hint: pip install --upgrade" in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"type":"call_failed.v1"}', b'{"type":7}'])
def test_what_is_no_event_is_damage(body: bytes) -> None:
    with pytest.raises(JournalDamaged):
        decode_event(body)


def test_the_id_is_the_digest_of_the_bytes() -> None:
    body = encode_event(answered(1, 1))
    assert event_id(body) == event_id(bytes(body))
    assert event_id(body) != event_id(body + b" ")
