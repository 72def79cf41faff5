"""Reports of a validation: findings by rule, those of rows that a run leaves unchanged kept apart."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import msgspec

from annotator_store.validation.rules import Rule, Severity

FINDINGS = 20
"""Findings of each rule that are kept; all are counted."""
CALL_DIGITS = 12
"""Digits of a call's key that are printed; `annotator query` finds the call by them."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One row, frame or episode that breaks a rule. `timestamp`: seconds; `call`: key of the call the row came from."""

    rule: str
    severity: Severity
    episode_index: int | None
    timestamp: float | None
    detail: str
    call: str | None


class RuleViolations(msgspec.Struct, frozen=True, kw_only=True):
    """All findings of one rule: how many, in which episodes, and the first `findings`.

    A finding that names no episode counts against every episode that was validated together with it.
    """

    rule: Rule
    count: int
    episodes: frozenset[int]
    findings: tuple[Finding, ...]


class ValidationReport(msgspec.Struct, frozen=True, kw_only=True):
    """The findings of all rules, errors first, and how many rules, episodes, frames and rows were validated.

    `preexisting`: errors that the rows which a run leaves unchanged make by themselves; they are not in `violations`.
    """

    violations: tuple[RuleViolations, ...]
    rules: int
    episodes: int
    frames: int
    rows: int
    preexisting: tuple[RuleViolations, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The first findings of every rule."""
        return tuple(finding for violations in self.violations for finding in violations.findings)

    @property
    def bad_episodes(self) -> frozenset[int]:
        """Indices of the episodes with an error."""
        return _union(violations for violations in self.violations if violations.rule.severity == "error")

    def count(self, severity: Severity) -> int:
        """Return how many findings of a severity there are, including those that are not in `findings`."""
        return sum(violations.count for violations in self.violations if violations.rule.severity == severity)


def merge_reports(reports: Iterable[ValidationReport], *, limit: int = FINDINGS) -> ValidationReport:
    """Merge the reports of different episodes; `limit` findings of each rule are kept."""
    parts = list(reports)
    return ValidationReport(
        violations=_merge_violations((v for part in parts for v in part.violations), limit),
        preexisting=_merge_violations((v for part in parts for v in part.preexisting), limit),
        rules=max((part.rules for part in parts), default=0),
        episodes=sum(part.episodes for part in parts),
        frames=sum(part.frames for part in parts),
        rows=sum(part.rows for part in parts),
    )


def _merge_violations(parts: Iterable[RuleViolations], limit: int) -> tuple[RuleViolations, ...]:
    by_rule: dict[str, list[RuleViolations]] = {}
    for violations in parts:
        by_rule.setdefault(violations.rule.name, []).append(violations)
    merged = [
        RuleViolations(
            rule=same_rule[0].rule,
            count=sum(violations.count for violations in same_rule),
            episodes=_union(same_rule),
            findings=tuple(finding for violations in same_rule for finding in violations.findings)[:limit],
        )
        for same_rule in by_rule.values()
    ]
    return tuple(sorted(merged, key=lambda violations: (violations.rule.severity, violations.rule.name)))


def _union(parts: Iterable[RuleViolations]) -> frozenset[int]:
    return frozenset[int]().union(*(violations.episodes for violations in parts))


def split_preexisting(
    violations: RuleViolations, of_kept_rows: Sequence[Finding], limit: int
) -> tuple[RuleViolations | None, RuleViolations | None]:
    """Split the findings of a rule into those that are new, and those that the kept rows make by themselves.

    `violations` holds all its findings. One that is there twice, and once in `of_kept_rows`, is new once.
    """

    def identity(finding: Finding) -> tuple[int | None, str, str]:
        # By its text, since a timestamp that is NaN does not equal itself.
        return finding.episode_index, repr(finding.timestamp), finding.detail

    left = Counter(identity(finding) for finding in of_kept_rows)
    new: list[Finding] = []
    preexisting: list[Finding] = []
    for finding in violations.findings:
        left[identity(finding)] -= 1
        (preexisting if left[identity(finding)] >= 0 else new).append(finding)
    rule, episodes = violations.rule, violations.episodes
    return _violations(rule, new, episodes, limit), _violations(rule, preexisting, episodes, limit)


def _violations(
    rule: Rule, findings: Sequence[Finding], validated: Collection[int], limit: int
) -> RuleViolations | None:
    if not findings:
        return None
    named = {finding.episode_index for finding in findings}
    episodes = frozenset(validated) if None in named else frozenset(index for index in named if index is not None)
    return RuleViolations(rule=rule, count=len(findings), episodes=episodes, findings=tuple(findings[:limit]))


def render_report(report: ValidationReport) -> str:
    """Render a report as plain text: each broken rule with its first findings, then a summary. No final newline."""
    return "\n".join([*(_render_violations(violations) for violations in report.violations), summary_line(report)])


def summary_line(report: ValidationReport) -> str:
    """Summarize a report in one line."""
    validated = (
        f"{_many(report.rules, 'rule')} over {_many(report.episodes, 'episode')}, {_many(report.frames, 'frame')}, "
        f"{_many(report.rows, 'row')}"
    )
    if not report.violations:
        return f"clean: {validated}"
    errors, warnings = report.count("error"), report.count("warning")
    episodes = _union(report.violations)
    inside = f" in {_many(len(episodes), 'episode')}" if episodes else ""
    return f"{_many(errors, 'error')} and {_many(warnings, 'warning')}{inside}: {validated}"


def _render_violations(violations: RuleViolations) -> str:
    rule = violations.rule
    lines = [f"{rule.severity}: {rule.name} – {rule.meaning}"]
    cells = [_cells(finding) for finding in violations.findings]
    widths = [max(len(text) for text in column) for column in zip(*cells, strict=True)]
    for line in cells:
        lines.append("  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    more = violations.count - len(violations.findings)
    if more:
        lines.append(f"  and {more:,} more; in {_many(len(violations.episodes), 'episode')} in all")
    return "\n".join([*lines, ""])


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _cells(finding: Finding) -> tuple[str, ...]:
    episode = "" if finding.episode_index is None else f"episode {finding.episode_index}"
    time = "" if finding.timestamp is None else f"{finding.timestamp:.3f} s"
    call = f"call {finding.call[:CALL_DIGITS]}" if finding.call else ""
    return episode, time, " ".join(finding.detail.split()), call
