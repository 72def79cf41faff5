"""Counts of what became of a run's calls."""

from collections import Counter
from collections.abc import Callable
from typing import Literal

CallOutcome = Literal["answered", "hit", "failed", "declined", "asked again", "rejected", "missing"]


class CallStats:
    """What became of the calls so far. Changed on the event loop only; `changed` is called after every change."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.outcomes: Counter[CallOutcome] = Counter()
        self.failures_by_kind: Counter[str] = Counter()
        self.answered_by_step: Counter[str] = Counter()
        self.missing_by_step: Counter[str] = Counter()
        self.declined_steps: dict[str, str] = {}
        self.tokens_in = 0
        self.tokens_out = 0
        self.frames_decoded = 0
        self._changed = changed

    def count(self, outcome: CallOutcome) -> None:
        """Count one call's outcome."""
        self.outcomes[outcome] += 1
        self._changed()

    def answered(self, step: str, tokens_in: int, tokens_out: int) -> None:
        """Count a call that an engine answered."""
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        self.answered_by_step[step] += 1
        self.count("answered")

    def failed(self, kind: str) -> None:
        """Count a call that got no reply."""
        self.failures_by_kind[kind] += 1
        self.count("failed")

    def missing(self, step: str) -> None:
        """Count a call that is not in the log, where only the log may answer."""
        self.missing_by_step[step] += 1
        self.count("missing")

    def declined(self, step: str, reason: str) -> bool:
        """Count a declined call; True the first time this step declines in this run."""
        first = step not in self.declined_steps
        self.declined_steps.setdefault(step, reason)
        self.count("declined")
        return first

    def decoded(self, frames: int) -> None:
        """Count frames that were decoded for a call."""
        self.frames_decoded += frames
