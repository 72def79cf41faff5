"""Differences between a lock and what log and shards give, on plain values."""

from typing import Any

import msgspec
import pytest

from annotator.provenance.lock import Lock, lock_digest, render_lock
from annotator.provenance.setups import PinnedModel
from annotator.verify.lock import as_model, check_lock
from annotator_store.digests import Digest
from annotator_store.keys import Model
from annotator_store.verify.findings import VerifyReport

MODEL = PinnedModel.of(Model(model_id="some/model", revision="main"))


def lock_with(**changes: Any) -> Lock:
    """A lock that matches its own digest."""
    fields: dict[str, Any] = {
        "seed": 1, "model": MODEL, "prompts": {"plan.segment": Digest("a" * 32)}, "vocabulary": None,
        "modules": {"plan": 2}, "settings": {}, "others": (), "shards": {"data/a.parquet": Digest("b" * 32)},
        "log": Digest("c" * 32),
    }  # fmt: skip
    lock = Lock(**(fields | changes))
    return msgspec.structs.replace(lock, digest=lock_digest(lock))


def findings(lock: Lock, derived: Lock, report: VerifyReport | None = None) -> list[tuple[str, str, str]]:
    report = report or VerifyReport()
    check_lock(render_lock(lock), lock, derived, report)
    return [(finding.where, str(finding.expected), str(finding.found)) for finding in report.findings]


def test_a_lock_that_log_and_shards_give_has_no_findings() -> None:
    assert findings(lock_with(), lock_with()) == []


@pytest.mark.parametrize(
    ("changes", "field", "expected", "got"),
    [
        ({"seed": 2}, "seed", "1", "2"),
        ({"modules": {"plan": 3}}, "modules.plan", "2", "3"),
        ({"log": Digest("d" * 32)}, "log", "c" * 32, "d" * 32),
        ({"shards": {"data/a.parquet": Digest("d" * 32)}}, "shards.data/a.parquet", "b" * 32, "d" * 32),
    ],
)
def test_a_sound_lock_that_pins_something_else_is_named_with_line_and_field(
    changes: dict[str, Any], field: str, expected: str, got: str
) -> None:
    lock = lock_with(**changes)
    lines = render_lock(lock).decode().splitlines()
    ((where, *values),) = findings(lock, lock_with())
    assert values == [expected, got]
    number = int(where.partition("line ")[2].partition(",")[0])
    assert where.endswith(f", {field}") and field.rpartition(".")[2] in lines[number - 1]


def test_a_lock_that_does_not_match_its_digest_is_compared_line_by_line() -> None:
    edited = msgspec.structs.replace(lock_with(), seed=2)
    ((where, expected, got),) = findings(edited, lock_with())
    assert where.endswith(", seed")
    assert (expected, got) == ('"seed": 1,', '"seed": 2,')


def test_another_form_of_the_same_lock_is_a_finding() -> None:
    lock, report = lock_with(), VerifyReport()
    check_lock(render_lock(lock).replace(b"  ", b"   ", 1), lock, lock, report)
    (finding,) = report.findings
    assert finding.where.startswith("meta/annotations.lock.json, line 2")


def test_beside_other_findings_a_lock_is_not_blamed_for_what_it_pins() -> None:
    report = VerifyReport()
    report.add("shard", "data/a.parquet", "one content", "another")
    lock = lock_with(seed=2, log=Digest("d" * 32))
    assert check_lock(render_lock(lock), lock, lock_with(), report) is not None
    assert len(report.findings) == 1 and report.withheld == 1
    wrong = lock_with(model=msgspec.structs.replace(MODEL, digest=Digest("e" * 32)))
    check_lock(render_lock(wrong), wrong, lock_with(), report)
    assert [finding.where.rpartition(", ")[2] for finding in report.findings[1:]] == ["model.digest"]


def test_a_file_that_is_no_lock_is_reported_with_the_reason() -> None:
    report = VerifyReport()
    assert check_lock(b"{}", "Object missing required field `seed`", lock_with(), report) == lock_with()
    (finding,) = report.findings
    assert (finding.expected, finding.found) == ("a lock that can be read", "Object missing required field `seed`")


def test_a_description_gives_the_model_again_unless_it_fits_none() -> None:
    assert as_model(MODEL) == Model(model_id="some/model", revision="main")
    assert as_model(msgspec.structs.replace(MODEL, settings={"temperature": "warm"})) is None
