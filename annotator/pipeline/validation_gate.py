"""The judge: runs the rules over rows that are about to be written, some shards at a time, and says which may be."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from annotator.config.load import spell_episodes
from annotator.config.settings import SyncSettings
from annotator.dataset.metadata import Dataset
from annotator.errors import RulesBroken, UsageError
from annotator.modules.vocabulary.entries import Vocabulary
from annotator_store.digests import Digest, canonical, digest_parts
from annotator_store.errors import RuleError
from annotator_store.log.events import AnnotatedRow
from annotator_store.parquet.info_json import declare_language
from annotator_store.validation.dataset_rules import tool_names
from annotator_store.validation.report import ValidationReport, merged, render_report, summary_line
from annotator_store.validation.rules import Rule, digest_rules, load_rules
from annotator_store.validation.run import CameraSize, RuleContext, check_rows, try_rules


class ValidationGate:
    """Judges one run's rows. `quarantined` are the episodes whose new rows are not to be written, `shards` where."""

    def __init__(self, rules: Sequence[Rule], known: RuleContext, settings: SyncSettings) -> None:
        self.quarantined: set[int] = set()
        self.shards: set[str] = set()
        self.aborts = False
        self._rules = rules
        self._known = known
        self._skips = settings.skip_validation
        self._keeps_on = settings.validation.on_error == "quarantine"
        self._verdicts: list[ValidationReport] = []

    @property
    def digest(self) -> Digest:
        """Digest everything that a judgement depends on beside the rows."""
        how = f"{self._skips} {self._keeps_on}".encode()
        return digest_parts("judge.v1", [digest_rules(self._rules).encode(), canonical(self._known), how])

    @property
    def verdict(self) -> ValidationReport:
        """All that was found so far."""
        return merged(self._verdicts)

    def judge(self, shards: Mapping[str, tuple[Path, Mapping[int, Sequence[AnnotatedRow]]]]) -> None:
        """Judge the rows of a few shards: of each the file that has its frames, and the rows by episode index.

        What is wrong with kept rows alone is said, and stops nothing: this run did not write them.

        Raises:
            ShardError, RuleError: the frames cannot be read, or a rule fails.
        """
        new = {shard: one for shard, one in shards.items() if one[1]}
        if self._skips or not new:
            return
        verdict = check_rows(new.values(), self._rules, self._known)
        self._verdicts.append(verdict)
        bad = verdict.bad_episodes
        if bad and not self._keeps_on:
            self.aborts = True
        elif bad:
            self.quarantined |= bad
            self.shards |= {shard for shard, (_, rows) in new.items() if not bad.isdisjoint(rows)}

    def broken_rules(self) -> dict[str, int]:
        """Count what was found against the rules that are errors, by rule."""
        return {one.rule.name: one.found for one in self.verdict.breaches if one.rule.severity == "error"}

    def broken_by(self) -> dict[int, tuple[str, ...]]:
        """Say of every episode that must not be written which rules it broke."""
        errors = [one for one in self.verdict.breaches if one.rule.severity == "error"]
        return {
            index: tuple(one.rule.name for one in errors if index in one.episodes)
            for index in sorted(self.verdict.bad_episodes)
        }

    def say(self, note: Callable[[str], None]) -> None:
        """Say what is wrong, where anything is: a table of errors, and one line for warnings."""
        verdict = self.verdict
        errors = tuple(one for one in verdict.breaches if one.rule.severity == "error")
        if errors:
            note(render_report(msgspec.structs.replace(verdict, breaches=errors)))
        elif verdict.breaches:
            note(f"{summary_line(verdict)}\nhint: annotator validate shows them")
        if verdict.before:
            found = ", ".join(f"{one.rule.name} {one.found:,}" for one in verdict.before)
            note(f"rows that were there before break rules: {found}\nhint: annotator validate shows them")
        if self.quarantined:
            had = "keeps the rows it had" if len(self.quarantined) == 1 else "keep the rows they had"
            note(f"not written: {spell_episodes(sorted(self.quarantined))} {had}")

    def raise_if_broken(self, where: Path) -> None:
        """End the run where rows broke a rule and nothing may be written then.

        Raises:
            RulesBroken: naming the rules; `say` has shown the rows.
        """
        if self.aborts:
            got = ", ".join(f"{rule} {found}" for rule, found in self.broken_rules().items())
            hint = "--validation.on_error=quarantine writes the other episodes, --skip_validation=true writes all"
            raise RulesBroken("rows break rules, so no shard was written", where=str(where), got=got, hint=hint)


def load_usable_rules(folder: Path | None) -> tuple[Rule, ...]:
    """Load the shipped rules and those in `folder`, and try these out before anything depends on them.

    Raises:
        UsageError: a rule cannot be read or cannot run.
    """
    try:
        rules = load_rules(folder)
        if folder is not None:
            try_rules(rules)
    except RuleError as cause:
        raise UsageError(cause.what, where=cause.where, got=cause.got, hint=cause.hint) from cause
    return rules


def future_rule_context(dataset: Dataset, vocabulary: Vocabulary | None) -> RuleContext:
    """Say what rows to be written are held to; without a vocabulary, subtasks and memory are worded freely.

    The tools are those that `meta/info.json` will declare then.

    Raises:
        StoreError: `meta/info.json` is not what LeRobot v3 says it is.
    """
    info = declare_language(dataset.info, str(dataset.root / "meta" / "info.json"))
    return rule_context(dataset, vocabulary, tool_names(info))


def rule_context(dataset: Dataset, vocabulary: Vocabulary | None, tools: tuple[str, ...]) -> RuleContext:
    """Return what a dataset's rows are held to beside their own shard: frame sizes, vocabulary, declared tools."""
    return RuleContext(
        cameras=tuple(
            CameraSize(camera=one.key, width_px=one.width_px, height_px=one.height_px) for one in dataset.cameras
        ),
        subtasks=vocabulary.subtasks if vocabulary else (),
        memories=vocabulary.memories if vocabulary else (),
        tools=tools,
    )
