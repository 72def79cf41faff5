"""The validation gate: run the rules over rows that are about to be written, and decide which may be."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from annotator.config.load import spell_episodes
from annotator.config.settings import SyncSettings
from annotator.dataset.metadata import Dataset
from annotator.errors import RulesBroken, UsageError
from annotator.modules.registry import all_modules
from annotator.modules.vocabulary.entries import Vocabulary
from annotator_store.digests import Digest, canonical, digest_parts
from annotator_store.errors import RuleError
from annotator_store.parquet.info_json import declare_language
from annotator_store.validation.dataset_rules import tool_names
from annotator_store.validation.report import (
    RuleViolations,
    ValidationReport,
    merge_reports,
    render_report,
    summary_line,
)
from annotator_store.validation.rules import Rule, digest_rules, load_rules
from annotator_store.validation.run import CameraSize, RuleContext, check_rows, try_rules
from annotator_store.validation.tables import CandidateRow


class ValidationGate:
    """Validates one run's rows, some shards at a time.

    `quarantined` are the indices of episodes whose new rows are not to be written, `shards` the shards they lie in.
    `aborts`: a rule is broken and no shard may be written.
    """

    def __init__(self, rules: Sequence[Rule], context: RuleContext, settings: SyncSettings) -> None:
        self.quarantined: set[int] = set()
        self.shards: set[str] = set()
        self.aborts = False
        self._rules = rules
        self._context = context
        self._skips = settings.skip_validation
        self._quarantines = settings.validation.on_error == "quarantine"
        self._reports: list[ValidationReport] = []

    @property
    def digest(self) -> Digest:
        """Digest everything that the outcome depends on beside the rows."""
        how = f"{self._skips} {self._quarantines}".encode()
        return digest_parts("judge.v1", [digest_rules(self._rules).encode(), canonical(self._context), how])

    @property
    def report(self) -> ValidationReport:
        """All that was found so far."""
        return merge_reports(self._reports)

    def check(self, shards: Mapping[str, tuple[Path, Mapping[int, Sequence[CandidateRow]]]]) -> None:
        """Validate the rows of a few shards: of each the file that has its frames, and the rows by episode index.

        What is wrong with kept rows alone is reported, and stops nothing: this run did not write them.

        Raises:
            ShardError, RuleError: the frames cannot be read, or a rule fails.
        """
        changed = {shard: draft for shard, draft in shards.items() if draft[1]}
        if self._skips or not changed:
            return
        report = check_rows(changed.values(), self._rules, self._context)
        self._reports.append(report)
        bad = report.bad_episodes
        if bad and not self._quarantines:
            self.aborts = True
        elif bad:
            self.quarantined |= bad
            self.shards |= {shard for shard, (_, rows) in changed.items() if not bad.isdisjoint(rows)}

    def _errors(self) -> tuple[RuleViolations, ...]:
        return tuple(violations for violations in self.report.violations if violations.rule.severity == "error")

    def violations(self) -> dict[str, int]:
        """Count what was found against the rules that are errors, by rule."""
        return {violations.rule.name: violations.count for violations in self._errors()}

    def violations_by_episode(self) -> dict[int, tuple[str, ...]]:
        """Return the rules that each episode broke which must not be written, by episode index."""
        errors = self._errors()
        return {
            index: tuple(violations.rule.name for violations in errors if index in violations.episodes)
            for index in sorted(self.report.bad_episodes)
        }

    def describe(self, note: Callable[[str], None]) -> None:
        """Note what is wrong, where anything is: a table of errors, or one line for warnings."""
        report, errors = self.report, self._errors()
        if errors:
            note(render_report(msgspec.structs.replace(report, violations=errors)))
        elif report.violations:
            note(f"{summary_line(report)}\nhint: annotator validate shows them")
        if report.preexisting:
            counts = ", ".join(f"{violations.rule.name} {violations.count:,}" for violations in report.preexisting)
            note(f"rows that were there before break rules: {counts}\nhint: annotator validate shows them")
        if self.quarantined:
            had = "keeps the rows it had" if len(self.quarantined) == 1 else "keep the rows they had"
            note(f"not written: {spell_episodes(sorted(self.quarantined))} {had}")

    def raise_if_broken(self, where: Path) -> None:
        """End the run where rows broke a rule and nothing may be written then.

        Raises:
            RulesBroken: naming the rules; `describe` shows the rows.
        """
        if self.aborts:
            got = ", ".join(f"{rule} {count}" for rule, count in self.violations().items())
            hint = "--validation.on_error=quarantine writes the other episodes, --skip_validation=true writes all"
            raise RulesBroken("rows break rules, so no shard was written", where=str(where), got=got, hint=hint)


def load_usable_rules(folder: Path | None) -> tuple[Rule, ...]:
    """Load the shipped rules and those in `folder`, and try these out before anything depends on them.

    Raises:
        UsageError: a rule cannot be read or cannot run, or a third-party module cannot be used.
    """
    all_modules()  # rules know the styles of third-party modules from then on
    try:
        rules = load_rules(folder)
        if folder is not None:
            try_rules(rules)
    except RuleError as cause:
        raise UsageError(cause.what, where=cause.where, got=cause.got, hint=cause.hint) from cause
    return rules


def future_rule_context(dataset: Dataset, vocabulary: Vocabulary | None) -> RuleContext:
    """Return what rows to be written are held to; without a vocabulary, subtasks and memory are worded freely.

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
            CameraSize(camera=camera.key, width_px=camera.width_px, height_px=camera.height_px)
            for camera in dataset.cameras
        ),
        subtasks=vocabulary.subtasks if vocabulary else (),
        memories=vocabulary.memories if vocabulary else (),
        tools=tools,
    )
