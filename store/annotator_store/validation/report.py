"""What rules found: findings, rule by rule, and those that were there before told from those that a run would add."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import msgspec

from annotator_store.validation.rules import Rule, Severity

FINDINGS = 20
"""Findings of each rule that are kept; all are counted."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong. `timestamp` is in seconds; `call` is the key of the call the row came from."""

    rule: str
    severity: Severity
    episode_index: int | None
    timestamp: float | None
    detail: str
    call: str | None


class RuleViolations(msgspec.Struct, frozen=True, kw_only=True):
    """All that one rule found: how often, in which episodes, and the first of it.

    A finding that names no episode is held against all episodes that it was found with.
    """

    rule: Rule
    found: int
    episodes: frozenset[int]
    findings: tuple[Finding, ...]


class ValidationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules found, errors first, and over how much.

    `before` are errors that rows which a run leaves as they are make by themselves; nothing of it is in `breaches`.
    """

    breaches: tuple[RuleViolations, ...]
    rules: int
    episodes: int
    frames: int
    rows: int
    before: tuple[RuleViolations, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The first findings of every rule."""
        return tuple(finding for breach in self.breaches for finding in breach.findings)

    @property
    def bad_episodes(self) -> frozenset[int]:
        """Every episode with an error."""
        return frozenset[int]().union(*(one.episodes for one in self.breaches if one.rule.severity == "error"))

    def count(self, severity: Severity) -> int:
        """Count all findings of a severity, also those that are not among `findings`."""
        return sum(one.found for one in self.breaches if one.rule.severity == severity)


CALL_DIGITS = 12
"""Digits of a call's key that are printed; `annotator query` finds the call by them."""


def merged(verdicts: Iterable[ValidationReport], *, limit: int = FINDINGS) -> ValidationReport:
    """Put verdicts over different episodes together."""
    all_of = list(verdicts)
    return ValidationReport(
        breaches=_merged_breaches((breach for verdict in all_of for breach in verdict.breaches), limit),
        before=_merged_breaches((breach for verdict in all_of for breach in verdict.before), limit),
        rules=max((verdict.rules for verdict in all_of), default=0),
        episodes=sum(verdict.episodes for verdict in all_of),
        frames=sum(verdict.frames for verdict in all_of),
        rows=sum(verdict.rows for verdict in all_of),
    )


def _merged_breaches(breaches: Iterable[RuleViolations], limit: int) -> tuple[RuleViolations, ...]:
    by_rule: dict[str, list[RuleViolations]] = {}
    for breach in breaches:
        by_rule.setdefault(breach.rule.name, []).append(breach)
    together = [
        RuleViolations(
            rule=same[0].rule,
            found=sum(one.found for one in same),
            episodes=frozenset[int]().union(*(one.episodes for one in same)),
            findings=tuple(finding for one in same for finding in one.findings)[:limit],
        )
        for same in by_rule.values()
    ]
    return tuple(sorted(together, key=lambda one: (one.rule.severity, one.rule.name)))


def split_preexisting(
    found: RuleViolations, alone: Sequence[Finding], limit: int
) -> tuple[RuleViolations | None, RuleViolations | None]:
    """Split all that a rule found into what is new, and what it finds just so in the kept rows alone.

    `found` holds its findings without a limit. One that is there twice and was there once is new once.
    """
    left = Counter(_said(finding) for finding in alone)
    new: list[Finding] = []
    before: list[Finding] = []
    for finding in found.findings:
        left[_said(finding)] -= 1
        (before if left[_said(finding)] >= 0 else new).append(finding)
    return _breach(found.rule, new, found.episodes, limit), _breach(found.rule, before, found.episodes, limit)


def _said(finding: Finding) -> tuple[int | None, str, str]:
    return finding.episode_index, repr(finding.timestamp), finding.detail  # a timestamp that is NaN equals itself so


def _breach(rule: Rule, findings: Sequence[Finding], everywhere: Collection[int], limit: int) -> RuleViolations | None:
    if not findings:
        return None
    named = {finding.episode_index for finding in findings}
    episodes = frozenset(everywhere) if None in named else frozenset(one for one in named if one is not None)
    return RuleViolations(rule=rule, found=len(findings), episodes=episodes, findings=tuple(findings[:limit]))


def render_report(verdict: ValidationReport) -> str:
    """Render a verdict as plain text: each broken rule with its first findings, then the sum; no newline at the end."""
    return "\n".join([*(_render_violations(one) for one in verdict.breaches), summary_line(verdict)])


def summary_line(verdict: ValidationReport) -> str:
    """Sum a verdict up in one line."""
    over = (
        f"{_many(verdict.rules, 'rule')} over {_many(verdict.episodes, 'episode')}, {_many(verdict.frames, 'frame')}, "
        f"{_many(verdict.rows, 'row')}"
    )
    if not verdict.breaches:
        return f"clean: {over}"
    errors, warnings = verdict.count("error"), verdict.count("warning")
    where = frozenset[int]().union(*(one.episodes for one in verdict.breaches))
    inside = f" in {_many(len(where), 'episode')}" if where else ""
    return f"{_many(errors, 'error')} and {_many(warnings, 'warning')}{inside}: {over}"


def _render_violations(breach: RuleViolations) -> str:
    rule = breach.rule
    lines = [f"{rule.severity}: {rule.name} – {rule.meaning}"]
    cells = [_cells(finding) for finding in breach.findings]
    widths = [max(len(line[at]) for line in cells) for at in range(len(cells[0]))]
    for line in cells:
        lines.append("  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    more = breach.found - len(breach.findings)
    if more:
        lines.append(f"  and {more:,} more; in {_many(len(breach.episodes), 'episode')} in all")
    return "\n".join([*lines, ""])


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _cells(finding: Finding) -> tuple[str, ...]:
    episode = "" if finding.episode_index is None else f"episode {finding.episode_index}"
    time = "" if finding.timestamp is None else f"{finding.timestamp:.3f} s"
    call = f"call {finding.call[:CALL_DIGITS]}" if finding.call else ""
    return episode, time, " ".join(finding.detail.split()), call
