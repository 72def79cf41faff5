"""The validation gate: which rows may be written, by what is wrong with them and what the settings say of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from annotator.config.settings import SyncSettings, ValidationSettings
from annotator.errors import RulesBroken
from annotator.pipeline.validation_gate import ValidationGate
from annotator_store.digests import canonical, digest_parts
from annotator_store.rows import Row
from annotator_store.validation.rules import Rule, digest_rules
from annotator_store.validation.run import CameraSize, RuleContext
from annotator_store.validation.tables import CandidateRow
from tests.store.annotated import write_frames


def rule(name: str, severity: str, word: str) -> Rule:
    """A rule against rows that say `word`."""
    select = f"SELECT episode_index, \"timestamp\", content AS detail FROM rows WHERE content = '{word}'"
    return Rule(name=name, severity=severity, meaning=f"no row says {word}", select=select, where=f"{name}.sql")  # type: ignore[arg-type]


RULES = (rule("no_bad", "error", "bad"), rule("no_odd", "warning", "odd"), rule("no_worse", "error", "worse"))
CONTEXT = RuleContext(cameras=(CameraSize(camera="top", width_px=640, height_px=480),), subtasks=("reach",))
ABORT = SyncSettings()
QUARANTINE = SyncSettings(validation=ValidationSettings(on_error="quarantine"))
SKIP = SyncSettings(skip_validation=True)

Shards = Mapping[str, tuple[Path, Mapping[int, Sequence[CandidateRow]]]]


def says(*texts: str, kept: bool = False) -> list[CandidateRow]:
    return [
        CandidateRow(row=Row(role="assistant", content=text, style="subtask", timestamp=0.0), module="plan", kept=kept)
        for text in texts
    ]


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, tuple[Path, dict[int, list[CandidateRow]]]]:
    """Two shards: episode 0 says something bad, 1 is fine, 2 says something odd, 3 breaks two rules."""
    first, second = write_frames(tmp_path / "a.parquet", [0, 1]), write_frames(tmp_path / "b.parquet", [2, 3])
    return {
        "a": (first, {0: says("reach", "bad", "bad"), 1: says("reach")}),
        "b": (second, {2: says("odd"), 3: says("bad", "worse")}),
    }


def gate(
    settings: SyncSettings = ABORT, rules: Sequence[Rule] = RULES, context: RuleContext = CONTEXT
) -> ValidationGate:
    return ValidationGate(rules, context, settings)


def test_the_digest_is_pinned_by_its_parts() -> None:
    """Each of these moving would have every shard opened again."""
    parts = [digest_rules(RULES).encode(), canonical(CONTEXT)]
    assert gate(ABORT).digest == digest_parts("judge.v1", [*parts, b"False False"])
    assert gate(QUARANTINE).digest == digest_parts("judge.v1", [*parts, b"False True"])
    assert gate(SKIP).digest == digest_parts("judge.v1", [*parts, b"True False"])


def test_all_that_can_change_what_is_written_takes_part_in_the_digest() -> None:
    """Else a shard that was written under other rules would be taken for right, and not even opened."""
    weaker = (msgspec.structs.replace(RULES[0], severity="warning"), *RULES[1:])
    gates = [
        gate(),
        gate(SKIP),
        gate(QUARANTINE),
        gate(msgspec.structs.replace(QUARANTINE, skip_validation=True)),
        gate(rules=RULES[:1]),
        gate(rules=weaker),
        gate(context=msgspec.structs.replace(CONTEXT, cameras=())),
        gate(context=msgspec.structs.replace(CONTEXT, subtasks=("grasp",))),
        gate(context=msgspec.structs.replace(CONTEXT, memories=("I hold it.",))),
        gate(context=msgspec.structs.replace(CONTEXT, tools=("say", "wave"))),
    ]
    assert len({each.digest for each in gates}) == len(gates)


def test_what_a_rule_means_and_where_it_lies_takes_no_part_in_the_digest() -> None:
    reworded = (msgspec.structs.replace(RULES[0], meaning="nothing bad", where="elsewhere.sql"), *RULES[1:])
    assert gate(rules=reworded).digest == gate().digest


def test_one_bad_row_keeps_every_shard_from_being_written(shards: Shards) -> None:
    strict = gate()
    strict.check(shards)
    assert (strict.aborts, strict.quarantined, strict.shards) == (True, set(), set())
    assert strict.violations() == {"no_bad": 3, "no_worse": 1}
    assert strict.violations_by_episode() == {0: ("no_bad",), 3: ("no_bad", "no_worse")}
    with pytest.raises(RulesBroken) as refused:
        strict.raise_if_broken(Path("dataset"))
    assert refused.value.got == "no_bad 3, no_worse 1"


def test_bad_episodes_are_quarantined_and_their_shards_are_named(shards: Shards) -> None:
    lenient = gate(QUARANTINE)
    lenient.check(shards)
    assert (lenient.aborts, lenient.quarantined, lenient.shards) == (False, {0, 3}, {"a", "b"})
    lenient.raise_if_broken(Path("dataset"))


def test_a_shard_without_a_bad_episode_is_not_named(shards: Shards) -> None:
    lenient = gate(QUARANTINE)
    lenient.check({"a": (shards["a"][0], {1: says("reach")}), "b": shards["b"]})
    assert (lenient.quarantined, lenient.shards) == ({3}, {"b"})


def test_what_was_found_in_earlier_shards_still_counts(shards: Shards) -> None:
    lenient = gate(QUARANTINE)
    for name, draft in shards.items():
        lenient.check({name: draft})
    assert (lenient.quarantined, lenient.shards) == ({0, 3}, {"a", "b"})
    assert lenient.violations() == {"no_bad": 3, "no_worse": 1}


def test_nothing_is_looked_at_where_validation_is_skipped(shards: Shards) -> None:
    skipping = gate(SKIP)
    skipping.check(shards)
    assert (skipping.aborts, skipping.quarantined, skipping.violations()) == (False, set(), {})


def test_warnings_keep_nothing_from_being_written(shards: Shards) -> None:
    strict, notes = gate(), list[str]()
    strict.check({"b": (shards["b"][0], {2: says("odd")})})
    assert (strict.aborts, strict.violations(), strict.violations_by_episode()) == (False, {}, {})
    strict.describe(notes.append)
    assert len(notes) == 1 and notes[0].endswith("\nhint: annotator validate shows them")


def test_what_is_wrong_with_kept_rows_alone_is_told_and_stops_nothing(shards: Shards) -> None:
    strict, notes = gate(), list[str]()
    strict.check({"a": (shards["a"][0], {0: [*says("bad", kept=True), *says("reach")]})})
    assert (strict.aborts, strict.violations()) == (False, {})
    strict.describe(notes.append)
    assert notes == ["rows that were there before break rules: no_bad 1\nhint: annotator validate shows them"]


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ((0,), "not written: episode 0 keeps the rows it had"),
        ((0, 1), "not written: episodes 0-1 keep the rows they had"),
    ],
)
def test_quarantined_episodes_are_told_by_their_indices(shards: Shards, bad: tuple[int, ...], line: str) -> None:
    lenient, notes = gate(QUARANTINE), list[str]()
    lenient.check({"a": (shards["a"][0], {index: says("bad") for index in bad})})
    lenient.describe(notes.append)
    assert notes[-1] == line


def test_a_clean_shard_is_not_talked_about(shards: Shards) -> None:
    strict, notes = gate(), list[str]()
    strict.check({"a": (shards["a"][0], {1: says("reach")})})
    strict.describe(notes.append)
    assert (notes, strict.aborts) == ([], False)
