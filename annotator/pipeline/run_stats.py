"""Count what a run does. Every figure of the closing table and of `RunFinished` comes from here."""

from collections import Counter
from collections.abc import Callable
from typing import Literal

from annotator_store.digests import Digest

CallOutcome = Literal["answered", "hit", "failed", "declined", "asked again", "rejected", "missing"]


class RunStats:
    """Counts of one run. Changed on the event loop only; `changed` is called after every change."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.calls: Counter[CallOutcome] = Counter()
        self.failures: Counter[str] = Counter()
        self.answered_by_step: Counter[str] = Counter()
        self.missing_by_step: Counter[str] = Counter()
        self.declined_steps: dict[str, str] = {}
        self.tokens_in = 0
        self.tokens_out = 0
        self.episodes_total = 0
        self.episodes_done = 0
        self.episodes_skipped = 0
        self.episodes_failed = 0
        self.frames_decoded = 0
        self.shards_written = 0
        self.broken_rules: dict[str, int] = {}
        self.quarantined: dict[Digest, tuple[str, ...]] = {}
        self._changed = changed

    def count(self, outcome: CallOutcome) -> None:
        """Count one call's outcome."""
        self.calls[outcome] += 1
        self._changed()

    def answered(self, step: str, tokens_in: int, tokens_out: int) -> None:
        """Count a call that an engine answered."""
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        self.answered_by_step[step] += 1
        self.count("answered")

    def failed(self, kind: str) -> None:
        """Count a call that got no reply."""
        self.failures[kind] += 1
        self.count("failed")

    def miss(self, step: str) -> None:
        """Count a call that is not in the log, where only the log may answer."""
        self.missing_by_step[step] += 1
        self.count("missing")

    def declined(self, step: str, reason: str) -> bool:
        """Count a declined call; True the first time this step declines in this run."""
        first = step not in self.declined_steps
        self.declined_steps.setdefault(step, reason)
        self.count("declined")
        return first

    def episode(self, outcome: Literal["done", "failed"], copies: int = 1) -> None:
        """Count an episode, and those that share its recipe, as finished or as not to be finished in this run."""
        if outcome == "done":
            self.episodes_done += copies
        else:
            self.episodes_failed += copies
        self._changed()

    def incomplete(self) -> bool:
        """Say whether anything asked for is missing: failed episodes or calls, rejected answers, refused rows."""
        return bool(self.episodes_failed or self.calls["failed"] or self.calls["rejected"] or self.broken_rules)
