"""The shape of every answer is written once, as a struct; the schema that is sent is derived from it."""

import inspect
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from annotator.modules.plan import module as plan
from annotator.prompting import answers
from annotator.prompting.answers import Answer, Milestones, Observation, Segmentation, Span, overlong, schema_of
from annotator.prompting.loader import load_prompts
from annotator_store.digests import digest_parts

ANSWERS: list[type[Answer]] = [
    value
    for _, value in inspect.getmembers(answers, inspect.isclass)
    if issubclass(value, Answer) and value is not Answer
]
each = pytest.mark.parametrize("answer", ANSWERS, ids=lambda a: a.__name__)


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object of a schema that says what a value is; names of properties are not such objects."""
    if isinstance(schema, dict):
        yield schema
        for key, value in schema.items():
            for inner in value.values() if key == "properties" else [value]:
                yield from nodes(inner)
    elif isinstance(schema, list):
        for item in schema:
            yield from nodes(item)


@each
def test_a_schema_stands_alone(answer: type[Answer]) -> None:
    assert all("$ref" not in node and "$defs" not in node for node in nodes(schema_of(answer)))


@each
def test_a_schema_carries_no_prose(answer: type[Answer]) -> None:
    assert all("description" not in node and "title" not in node for node in nodes(schema_of(answer)))


@each
def test_a_schema_bounds_every_text_every_list_and_every_number(answer: type[Answer]) -> None:
    needs = {
        "string": {"minLength", "maxLength"},
        "array": {"minItems", "maxItems"},
        "number": {"minimum", "maximum"},
        "integer": {"minimum", "maximum"},
        "object": {"properties", "required", "additionalProperties"},
    }
    for node in nodes(schema_of(answer)):
        if "type" in node and "enum" not in node:
            assert needs.get(node["type"], set()) <= set(node), node


@each
def test_a_schema_requires_every_field_and_allows_no_other(answer: type[Answer]) -> None:
    for node in nodes(schema_of(answer)):
        if node.get("type") == "object":
            assert set(node["required"]) == set(node["properties"])
            assert node["additionalProperties"] is False


class First(Answer, frozen=True):
    """One wording."""

    text: Annotated[str, Meta(max_length=9)]


def test_rewording_a_docstring_or_renaming_a_struct_changes_no_schema() -> None:
    class Second(Answer, frozen=True):
        """Another wording, at some length."""

        text: Annotated[str, Meta(max_length=9)]

    assert schema_of(First) == schema_of(Second)
    First.__doc__ = "Yet another."
    assert schema_of(First) == schema_of(Second)


def test_a_field_that_is_named_like_prose_is_kept() -> None:
    class Titled(Answer, frozen=True):
        title: Annotated[str, Meta(min_length=1, max_length=9)]
        description: Annotated[str, Meta(min_length=1, max_length=9)]

    assert set(schema_of(Titled)["properties"]) == {"title", "description"}


def test_the_order_of_fields_is_that_of_the_struct_so_that_guided_decoding_writes_them_so() -> None:
    span = schema_of(Segmentation)["properties"]["subtasks"]["items"]
    assert list(span["properties"]) == ["start", "end", "subtask"]


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        ('{"subtasks":[]}', "length >= 1 - at `$.subtasks`"),
        ('{"subtasks":[{"start":0,"end":1}]}', "missing required field `subtask` - at `$.subtasks[0]`"),
        ('{"subtasks":[{"start":0,"end":"x","subtask":"a"}]}', "got `str` - at `$.subtasks[0].end`"),
        ('{"subtasks":[{"start":-1,"end":1,"subtask":"a"}]}', ">= 0.0 - at `$.subtasks[0].start`"),
        ('{"subtasks":[{"start":0,"end":1,"subtask":"a","why":1}]}', "unknown field `why` - at `$.subtasks[0]`"),
    ],
)
def test_a_reply_that_breaks_the_schema_is_told_where(reply: str, complaint: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(reply, type=Segmentation)
    assert complaint in str(caught.value)


def test_text_fields_are_held_to_a_list_of_values_wherever_they_stand() -> None:
    schema = schema_of(Segmentation, {"subtask": ("reach", "grasp")})
    assert schema["properties"]["subtasks"]["items"]["properties"]["subtask"] == {"enum": ["reach", "grasp"]}
    assert schema["properties"]["subtasks"]["items"]["properties"]["start"]["type"] == "number"
    assert schema_of(Segmentation, {}) == schema_of(Segmentation)


def test_a_list_of_texts_is_held_to_values_text_by_text_and_stays_bounded() -> None:
    memories = schema_of(Milestones, {"memories": ("I hold it.",)})["properties"]["memories"]
    assert memories == {"type": "array", "minItems": 0, "maxItems": 12, "items": {"enum": ["I hold it."]}}


def test_a_list_is_held_to_fewer_entries_and_never_to_more() -> None:
    assert schema_of(Segmentation, most={"subtasks": 3})["properties"]["subtasks"]["maxItems"] == 3
    assert schema_of(Segmentation, most={"subtasks": 99}) == schema_of(Segmentation)
    spans = Segmentation([Span(0, 1, "reach"), Span(1, 2, "grasp")])
    assert overlong(spans, {"subtasks": 1}) == "subtasks: 2 where at most 1 were asked for"
    assert overlong(spans, {"subtasks": 2}) == ""


def test_times_may_be_written_as_whole_numbers() -> None:
    assert msgspec.json.decode('{"start":0,"end":3,"subtask":"a"}', type=Span) == Span(0.0, 3.0, "a")
    assert msgspec.json.decode('{"time":2,"event":"a"}', type=Observation) == Observation(2.0, "a")


def test_every_step_of_the_plan_names_an_answer_of_its_own() -> None:
    prompts = load_prompts()
    named = [prompts[step].head.answer for step in plan.STEPS]
    assert None not in named
    assert len(set(named)) == len(plan.STEPS)


SCHEMAS = {
    "AttributeAnswer": "41973c5b7b270b019a7b96382ee551e0",
    "AxisRephrasings": "b429cd15a09cf276a41a8702742fa348",
    "BboxAnswer": "0c969d7004a4ab191988fe96ee047fdc",
    "CountAnswer": "d2df732b1265bbc8a34c27aeef3c5827",
    "Description": "d5e230fb246f8aa52aa3b3f31eac58d6",
    "Detection": "113cf5bf90c9ce6a7db1c4ba634b00c2",
    "Discovered": "5922addd05aea70f6f832fb579a9b5d7",
    "InitialSpeech": "75c5e59bef58010ea69331262a350859",
    "Interjection": "2b4d0f19bc3a56c4b0112754110a1a64",
    "KeypointAnswer": "eb9c5177acebf8473ad75404cfb38ca9",
    "Memory": "a820779ba7a404e3263b932ad843ef46",
    "Milestones": "f6ef01aaeefe8e21d5e429e1e4e3e364",
    "Observation": "e720a279b2d050fc392400412fdbba3a",
    "RelabelledSpan": "e94ace7b4648f72cf5307fbe484491ee",
    "Rephrasings": "30287d646fedf3bbc0ef8bd6952fea95",
    "Segmentation": "15ddefa0f53135a325e3e4b1c6a65c1c",
    "Span": "f8b3aaf148cb20744147aab37ef85681",
    "SpatialAnswer": "5ae4c041bd7a7acedfa2d33a2834ea95",
    "Task": "42e2a8e4806b69ed70cd7a4da8840ab6",
}


def test_the_schemas_are_pinned() -> None:
    """A schema is part of the key: a change here asks that step of every dataset again; say so in the changelog."""
    digests = {a.__name__: digest_parts("schema", [msgspec.json.encode(schema_of(a), order="sorted")]) for a in ANSWERS}
    assert digests == SCHEMAS
