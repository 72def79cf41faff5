"""The scripted engine, and the sampler behind it."""

import asyncio
import itertools
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.errors import CallError
from annotator.prompting.answers import Description, Memory, Rephrasings, Segmentation, Task, schema_of
from annotator.vlm.base import Engine, Request
from annotator.vlm.scripted.engine import ScriptedEngine
from annotator.vlm.scripted.schema_sampler import sample, sample_text
from tests.contracts.engine_contract import AnsweringContract, make_picture, make_request


def text_of(engine: ScriptedEngine, request: Request) -> str:
    return asyncio.run(engine.generate(request)).text


class TestScripted(AnsweringContract):
    def make_engine(self) -> Engine:
        return ScriptedEngine()


def test_a_step_answers_with_what_the_script_holds_for_it() -> None:
    script: Any = {
        "as.struct": Task(task="lift"),
        "as.object": {"task": "push"},
        "as.text": "not even JSON",
        "as.function": lambda request: Task(task=request.inputs["task"]),
    }
    engine = ScriptedEngine(script)
    replies = [text_of(engine, make_request(step=step)) for step in script]
    assert replies == ['{"task":"lift"}', '{"task":"push"}', "not even JSON", '{"task":"pick up the banana"}']


def test_one_function_can_answer_all_steps_and_leave_some_to_the_sampler() -> None:
    engine = ScriptedEngine(lambda request: Task(task="wipe") if request.step == "plan.task" else None)
    assert text_of(engine, make_request()) == '{"task":"wipe"}'
    sampled = text_of(engine, make_request(Memory, step="plan.memory"))
    assert msgspec.json.decode(sampled, type=Memory).memory


def test_a_scripted_error_is_raised_as_it_is() -> None:
    error = CallError("down", kind="http_503", retryable=True)
    with pytest.raises(CallError) as caught:
        text_of(ScriptedEngine({"plan.task": error}), make_request())
    assert caught.value is error


def test_it_keeps_the_requests_it_saw_in_order_unless_told_not_to() -> None:
    requests = [make_request(text="one", pictures=(make_picture(),)), make_request(text="two")]
    recording, forgetful = ScriptedEngine(), ScriptedEngine(record=False)
    for request in requests:
        text_of(recording, request)
        text_of(forgetful, request)
    assert recording.requests == requests
    assert forgetful.requests == []


def test_another_key_gets_another_sample() -> None:
    engine = ScriptedEngine()
    texts = {text_of(engine, make_request(Segmentation, seed=seed)) for seed in range(10)}
    assert len(texts) == 10


def test_sampled_subtasks_ascend_without_gaps_within_the_horizon() -> None:
    for seed in range(20):
        text = sample_text(schema_of(Segmentation), seed=str(seed), horizon_s=6.0)
        spans = msgspec.json.decode(text, type=Segmentation).subtasks
        assert spans[0].start == 0
        assert spans[-1].end == 6
        assert all(span.start < span.end for span in spans)
        assert all(before.end == after.start for before, after in itertools.pairwise(spans))


def test_sampled_observations_ascend() -> None:
    for seed in range(20):
        seen = msgspec.json.decode(sample_text(schema_of(Description), seed=str(seed)), type=Description).observations
        assert [o.time for o in seen] == sorted(o.time for o in seen)


def test_sampled_items_differ_from_each_other() -> None:
    two_of_three = {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 2, "maxItems": 2}
    for seed in range(20):
        assert len(set(sample(two_of_three, seed=str(seed)))) == 2
        said = msgspec.json.decode(sample_text(schema_of(Rephrasings), seed=str(seed)), type=Rephrasings).rephrasings
        assert len(set(said)) == len(said)


@given(
    st.integers(0, 12).flatmap(lambda low: st.tuples(st.just(low), st.integers(low, 20))),
    st.integers(0, 60).flatmap(lambda low: st.tuples(st.just(low), st.integers(low, 90))),
    st.integers(-50, 50).flatmap(lambda low: st.tuples(st.just(low), st.integers(low, 5000))),
    st.text(max_size=5),
)
def test_bounds_hold_for_any_schema(
    items: tuple[int, int], length: tuple[int, int], number: tuple[int, int], seed: str
) -> None:
    string = {"type": "string", "minLength": length[0], "maxLength": length[1]}
    value = {"type": "number", "minimum": number[0], "maximum": number[1]}
    fields: Any = {"text": string, "whole": {**value, "type": "integer"}, "start": value, "score": value}
    one = {"type": "object", "properties": fields, "required": list(fields)}
    sampled = sample({"type": "array", "items": one, "minItems": items[0], "maxItems": items[1]}, seed=seed)
    assert items[0] <= len(sampled) <= items[1]
    for item in sampled:
        assert length[0] <= len(item["text"]) <= length[1]
        assert isinstance(item["whole"], int)
        assert all(number[0] <= item[name] <= number[1] for name in ("whole", "start", "score"))


def test_unions_enums_constants_tuples_and_references_are_followed() -> None:
    schema: Any = {
        "$defs": {"Colour": {"enum": ["red", "green"]}},
        "type": "object",
        "properties": {
            "kind": {"const": "bbox"},
            "colour": {"$ref": "#/$defs/Colour"},
            "note": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
            "bbox": {"type": "array", "minItems": 4, "maxItems": 4, "items": {"type": "integer", "minimum": 0}},
            "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": False},
        },
    }
    for seed in range(20):
        value = sample(schema, seed=str(seed))
        left, top, right, bottom = value["bbox"]
        assert value["kind"] == "bbox"
        assert value["colour"] in ("red", "green")
        assert value["note"] in (None, True, False)
        assert left <= right
        assert top <= bottom
        assert isinstance(value["pair"][0], int)
        assert value["pair"][1] is None


def test_multiples_are_kept_to() -> None:
    schema: Any = {
        "type": "object",
        "properties": {
            "end": {"type": "number", "minimum": 0, "multipleOf": 0.1},
            "whole": {"type": "integer", "minimum": 3, "maximum": 40, "multipleOf": 5},
        },
    }
    for seed in range(20):
        value = sample(schema, seed=str(seed), horizon_s=seed / 3)
        assert value["end"] == round(value["end"], 1)
        assert value["whole"] in range(5, 41, 5)


def test_a_keyword_the_sampler_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="pattern"):
        sample({"type": "string", "pattern": "^a$"}, seed="x")


def test_a_sample_is_the_same_in_any_process() -> None:
    code = (
        "from annotator.prompting.answers import *; from annotator.vlm.scripted.schema_sampler import *;"
        "print(sample_text(schema_of(Segmentation), seed='pinned'))"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout.strip()
        for env in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"})
    }
    assert said == {sample_text(schema_of(Segmentation), seed="pinned")}


def test_the_sampler_is_pinned_because_scripted_v1_names_what_it_says() -> None:
    assert sample_text(schema_of(Task), seed="pinned") == '{"task":"rotate the towel above the sink"}'
