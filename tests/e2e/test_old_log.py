"""A log that the code of an earlier commit wrote still answers everything, and gives the same columns."""

import json

import pytest

from scripts import sameness
from tests.e2e.conftest import Outcome

pytestmark = pytest.mark.timeout(1200)  # many processes one after the other, also on a machine that has other work

LOGS = [name for name in sameness.SCENARIOS if name.startswith("log ")]


def test_there_is_a_log() -> None:
    assert LOGS


@pytest.mark.parametrize("name", LOGS)
def test_a_log_of_long_ago_answers_everything(name: str, outcome: Outcome) -> None:
    golden = sameness.load()
    found = outcome(name)
    assert sameness.compare(name, golden, found) == []
    runs = [json.loads(run) for run in found["queries"]["runs"]]
    assert [run["outcome"] for run in runs] == ["done", "done"]
    assert runs[0]["calls_answered"] > 0
    assert (runs[1]["calls_answered"], runs[1]["shards_written"]) == (0, 1)
    assert set(found["exits"].values()) == {0}


@pytest.mark.parametrize("name", LOGS)
def test_its_columns_and_its_lock_are_those_of_a_dataset_annotated_anew(name: str) -> None:
    recorded = sameness.load()["scenarios"]
    _, dataset, engine = name.split("/")
    assert recorded[name]["files"] == recorded[f"{dataset}/{engine}"]["after sync"]["files"]
