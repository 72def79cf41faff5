"""The shape of every step's answer, written once: the JSON schema sent to the engine is derived from these structs.

Strings, lists and numbers are bounded, so that guided decoding always ends in valid JSON.
"""

from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

Line = Annotated[str, Meta(min_length=1, max_length=200)]
Sentence = Annotated[str, Meta(min_length=1, max_length=400)]
Seconds = Annotated[float, Meta(ge=0, le=86400, extra_json_schema={"multipleOf": 0.01})]
"""Guided decoding holds a number to two decimals, else it may write digits without end; any number is read back."""


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


class Rephrasings(Answer, frozen=True):
    """`plan.task_rephrasings`: other ways to ask for the same task."""

    rephrasings: Annotated[list[Line], Meta(min_length=1, max_length=64)]


def schema_of(answer: type[Answer]) -> dict[str, Any]:
    """Derive the JSON schema of an answer.

    Every definition is inlined, since some guided decoders refuse `$ref`; titles and docstrings are left out,
    since the schema is part of the key and rewording a docstring must not cost a call.
    """
    (schema,), components = msgspec.json.schema_components([answer], ref_template="{name}")
    return _inline(schema, components)


_PROSE = frozenset({"title", "description"})


def _inline(node: Any, components: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inline(item, components) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    values = cast("dict[str, Any]", node)
    if "$ref" in values:
        return _inline(components[values["$ref"]], components)
    inlined: dict[str, Any] = {}
    for key, value in values.items():
        if key == "properties":  # keys are names of fields, which may well be called `title`
            inlined[key] = {name: _inline(one, components) for name, one in value.items()}
        elif key not in _PROSE:
            inlined[key] = _inline(value, components)
    return inlined | _required(values)


def _required(node: dict[str, Any]) -> dict[str, Any]:
    return {"additionalProperties": False} if node.get("type") == "object" else {}
