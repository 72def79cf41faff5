"""What the command does to known datasets is what was recorded. The quick half; `make soak` compares all of it."""

import json

import pytest

from scripts import sameness
from tests.e2e.conftest import Outcome

pytestmark = pytest.mark.timeout(1200)  # many processes one after the other, also on a machine that has other work

QUICK = (sameness.CLI, "so101_static/scripted", sameness.SECOND_ASKS)


def test_all_scenarios_are_recorded_and_no_others() -> None:
    assert sameness.load()["scenarios"].keys() == sameness.SCENARIOS.keys()


@pytest.mark.parametrize("name", QUICK)
def test_nothing_differs_from_what_was_recorded(name: str, outcome: Outcome) -> None:
    assert sameness.compare(name, sameness.load(), outcome(name)) == []


def test_what_was_answered_in_two_asks_is_never_asked_again(outcome: Outcome) -> None:
    found = outcome(sameness.SECOND_ASKS)
    requests = {name: found[name]["requests"] for name in found if name.startswith("sync")}
    assert min(requests["sync"].values()) >= 1
    assert {step.split()[1] for step in requests["sync"]} == {"first", "second"}
    assert requests["sync again"] == requests["sync in free words again"] == {}
    assert {step.split()[0] for step in requests["sync with edited rephrasings"]} == {"plan_task_rephrasings"}


def test_a_difference_is_named_with_what_was_recorded_and_what_is() -> None:
    golden = sameness.load()
    name = "so101_static/scripted"
    changed = json.loads(json.dumps(golden["scenarios"][name]))
    changed["exits"]["verify"] = 1
    changed["staging"].pop("episode_000000/plan.jsonl")
    gone = golden["scenarios"][name]["staging"]["episode_000000/plan.jsonl"]
    assert sameness.compare(name, golden, changed) == [
        f"{name} / exits / verify: 0 → 1",
        f"{name} / staging / episode_000000/plan.jsonl: {gone} → None",
    ]


def test_another_pyarrow_is_held_to_the_columns_and_not_to_the_bytes() -> None:
    golden = sameness.load() | {"recorded with": sameness.recorded_with()}
    name = "so101_static/scripted"
    changed = json.loads(json.dumps(golden["scenarios"][name]))
    shard = changed["after sync"]["files"]["data/chunk-000/file-000.parquet"]
    shard["bytes"] = "other"
    where = f"{name} / after sync / files / data/chunk-000/file-000.parquet"
    assert [line.partition(":")[0] for line in sameness.compare(name, golden, changed)] == [f"{where} / bytes"]
    golden["recorded with"]["pyarrow"] = "0.0"
    assert sameness.compare(name, golden, changed) == []
    shard["columns"] = "other"
    assert [line.partition(":")[0] for line in sameness.compare(name, golden, changed)] == [f"{where} / columns"]


def test_a_sample_that_another_encoder_drew_is_not_compared() -> None:
    golden = sameness.load()
    golden["recorded with"] = sameness.recorded_with()
    name = "sample/signals"
    changed = golden["scenarios"][name] | {"source": "other"}
    assert sameness.compare(name, golden, changed) != []
    golden["recorded with"]["av"] = "0.0"
    with pytest.raises(sameness.Incomparable):
        sameness.compare(name, golden, changed)
