"""Counts of one run: the source of every figure of the closing table and of `RunFinished`."""

from collections.abc import Callable
from typing import Literal

from annotator.vlm.call_stats import CallStats
from annotator_store.digests import Digest


class RunStats:
    """Counts of one run. Changed on the event loop only; `changed` is called after every change.

    `violations`: rule → how often rows broke it. `quarantined`: episodes that were not written → the rules they broke.
    """

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.calls = CallStats(changed)
        self.episodes_total = 0
        self.episodes_done = 0
        self.episodes_skipped = 0
        self.episodes_failed = 0
        self.shards_written = 0
        self.violations: dict[str, int] = {}
        self.quarantined: dict[Digest, tuple[str, ...]] = {}
        self._changed = changed

    @property
    def episodes_finished(self) -> int:
        """Episodes that need nothing more in this run, the failed ones included."""
        return self.episodes_done + self.episodes_skipped + self.episodes_failed

    def episode(self, outcome: Literal["done", "failed"], copies: int = 1) -> None:
        """Count an episode, and those that share its fingerprint, as finished or as failed."""
        if outcome == "done":
            self.episodes_done += copies
        else:
            self.episodes_failed += copies
        self._changed()

    def incomplete(self) -> bool:
        """Whether anything asked for is missing: failed episodes or calls, rejected answers, refused rows."""
        outcomes = self.calls.outcomes
        return bool(self.episodes_failed or outcomes["failed"] or outcomes["rejected"] or self.violations)
