"""The shape of every step's answer, written once: the JSON schema sent to the engine is derived from these structs.

Strings, lists and numbers are bounded, so that guided decoding always ends in valid JSON. Schemas are part of the key:
a field, its name, its place and its bounds are changed only on purpose; docstrings freely.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

Line = Annotated[str, Meta(min_length=1, max_length=200)]
Sentence = Annotated[str, Meta(min_length=1, max_length=400)]
Seconds = Annotated[float, Meta(ge=0, le=86400, extra_json_schema={"multipleOf": 0.01})]
"""Guided decoding limits a number to two decimals, else it may write digits without end; any number is read back."""

MOST_MILESTONES = 12
"""The most milestones of one memory; the prompt says so, too."""


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of every answer: unknown fields are refused, every field is required."""


class Task(Answer, frozen=True):
    """`plan.task`: the task, as an imperative, read off the footage."""

    task: Line


class Observation(Answer, frozen=True):
    """One thing seen to happen. `time` is seconds from the episode's first frame."""

    time: Seconds
    event: Line


class Description(Answer, frozen=True):
    """`plan.describe`: what visibly happens, in order, before any of it is named a subtask."""

    observations: Annotated[list[Observation], Meta(min_length=1, max_length=40)]


class Span(Answer, frozen=True):
    """One subtask, from `start` to `end` seconds from the episode's first frame."""

    start: Seconds
    end: Seconds
    subtask: Line


class Segmentation(Answer, frozen=True):
    """`plan.segment`: the subtasks, in order."""

    subtasks: Annotated[list[Span], Meta(min_length=1, max_length=64)]


class Memory(Answer, frozen=True):
    """`plan.memory`: what must be remembered so far, compressed."""

    memory: Sentence


class Milestones(Answer, frozen=True):
    """`plan.milestones`: the milestones that hold from now on, in the order reached. One that stands twice: again."""

    memories: Annotated[list[Sentence], Meta(min_length=0, max_length=MOST_MILESTONES)]


class Rephrasings(Answer, frozen=True):
    """`plan.task_rephrasings`: other ways to ask for the same task."""

    rephrasings: Annotated[list[Line], Meta(min_length=1, max_length=64)]


class RelabelledSpan(Answer, frozen=True):
    """`plan.relabel`: a subtask's wording, corrected where the footage says otherwise."""

    subtask: Line


class AxisRephrasings(Answer, frozen=True):
    """`plan.task_aug_axes`: other wordings of the task, by what they leave out."""

    synonym_paraphrase: Annotated[list[Line], Meta(min_length=0, max_length=16)]
    omit_arm: Annotated[list[Line], Meta(min_length=0, max_length=16)]
    omit_orientation: Annotated[list[Line], Meta(min_length=0, max_length=16)]
    omit_grasp_method: Annotated[list[Line], Meta(min_length=0, max_length=16)]
    combined_omissions: Annotated[list[Line], Meta(min_length=0, max_length=16)]


class Discovered(Answer, frozen=True):
    """`vocabulary.discover`: the labels and milestones that recur in a dataset; there may be no milestones."""

    subtasks: Annotated[list[Line], Meta(min_length=1, max_length=64)]
    memories: Annotated[list[Line], Meta(min_length=0, max_length=64)]


class InitialSpeech(Answer, frozen=True):
    """`interjections.initial_speech`: what the robot says before it begins."""

    speech: Line


Scenario = Literal["negative_task", "situated_correction", "specific_constraint", "preference"]


class Interjection(Answer, frozen=True):
    """`interjections.interjection`: what the user says at that moment, and the robot's spoken reply."""

    scenario: Scenario
    interjection: Line
    reply: Line


Ordinate = Annotated[float, Meta(ge=0, le=100000, extra_json_schema={"multipleOf": 0.1})]
"""One coordinate, in the units that the prompt asks for."""


class Detection(Answer, frozen=True):
    """One box: its corners, x before y."""

    label: Line
    bbox: Annotated[list[Ordinate], Meta(min_length=4, max_length=4)]


class BboxAnswer(Answer, frozen=True):
    """`vqa.bbox`: a question and the boxes that answer it."""

    question: Line
    detections: Annotated[list[Detection], Meta(min_length=1, max_length=16)]


class KeypointAnswer(Answer, frozen=True):
    """`vqa.keypoint`: a question and the point that answers it, x before y."""

    question: Line
    label: Line
    point: Annotated[list[Ordinate], Meta(min_length=2, max_length=2)]


class CountAnswer(Answer, frozen=True):
    """`vqa.count`: a question and how many there are. `note` may be empty."""

    question: Line
    label: Line
    count: Annotated[int, Meta(ge=0, le=1000)]
    note: Annotated[str, Meta(min_length=0, max_length=200)]


class AttributeAnswer(Answer, frozen=True):
    """`vqa.attribute`: a question about a thing, which property it asks for, and its value."""

    question: Line
    label: Line
    attribute: Line
    value: Line


class SpatialAnswer(Answer, frozen=True):
    """`vqa.spatial`: a question and how two things lie to each other."""

    question: Line
    subject: Line
    relation: Line
    object: Line


def schema_of(
    answer: type[Answer], allowed: Mapping[str, Sequence[str]] | None = None, most: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return the JSON schema of an answer.

    `allowed`: by field name, the values that a text field, or each text of a list, may have, wherever it is nested.
    `most`: by name of a list of the answer itself, how many entries it may have, where that is fewer than the struct
    allows. The schema is shared between callers; do not change it.
    """
    restricted = tuple((name, tuple(values)) for name, values in (allowed or {}).items())
    return _schema(answer, restricted, tuple((most or {}).items()))


def overlong(answer: Answer, most: Mapping[str, int]) -> str:
    """Return which list of an answer has more entries than were asked for, as text for the retry; "" where none has."""
    counts = ((name, len(cast("list[Any]", getattr(answer, name))), asked) for name, asked in most.items())
    wrong = (f"{name}: {count} where at most {asked} were asked for" for name, count, asked in counts if count > asked)
    return next(wrong, "")


@functools.lru_cache(maxsize=256)
def _schema(
    answer: type[Answer], allowed: tuple[tuple[str, tuple[str, ...]], ...], most: tuple[tuple[str, int], ...]
) -> dict[str, Any]:
    (schema,), components = msgspec.json.schema_components([answer], ref_template="{name}")
    inlined: dict[str, Any] = _inline(schema, components, dict(allowed))
    for name, entries in most:
        field = inlined["properties"][name]
        field["maxItems"] = min(entries, field["maxItems"])
    return inlined


# Left out of schemas, which are part of the key: rewording a docstring or renaming a struct must not cost a call.
_PROSE = frozenset({"title", "description"})


def _inline(node: Any, components: dict[str, Any], allowed: Mapping[str, Sequence[str]]) -> Any:
    """Copy a schema with every definition in its place, since some guided decoders refuse `$ref`."""
    if isinstance(node, list):
        return [_inline(item, components, allowed) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    values = cast("dict[str, Any]", node)
    if "$ref" in values:
        return _inline(components[values["$ref"]], components, allowed)
    inlined: dict[str, Any] = {}
    for key, value in values.items():
        if key == "properties":  # keys are names of fields, which may well be called `title`
            fields = {name: _inline(field, components, allowed) for name, field in value.items()}
            inlined[key] = {name: _restrict(field, allowed.get(name)) for name, field in fields.items()}
        elif key not in _PROSE:
            inlined[key] = _inline(value, components, allowed)
    if values.get("type") == "object":
        inlined["additionalProperties"] = False
    return inlined


def _restrict(field: dict[str, Any], values: Sequence[str] | None) -> dict[str, Any]:
    if values is None:
        return field
    choice = {"enum": list(values)}
    return field | {"items": choice} if field.get("type") == "array" else choice
