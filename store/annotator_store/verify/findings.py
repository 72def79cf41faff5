"""What verifying has found so far. Nothing here raises: one damaged thing must not hide the next.

A finding names a cause. What only follows from damage that was found is counted as withheld: with a reply gone from the
log, that a row cites a call the log has not is no news.
"""

from collections import Counter

import msgspec

from annotator_store.digests import Digest

_LONGEST = 300


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as its digest, or its source, says: of which kind, where, what was expected, what found."""

    kind: str
    where: str
    expected: str
    found: str


class Audit:
    """Collects findings, what damage has taken away, and how much was checked.

    `lost` are the ids of events that no longer match them, `lost_unnamed` says that there may be more;
    `broken` has for each damaged event its finding's place in `findings`, its id, and what is left of it.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self.lost: set[Digest] = set()
        self.broken: list[tuple[int, Digest, bytes]] = []
        self.lost_unnamed = False
        self.withheld = 0

    @property
    def gone(self) -> bool:
        """Say whether events are missing that were once there."""
        return bool(self.lost) or self.lost_unnamed

    def report(self, kind: str, where: str, expected: object, found: object) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind=kind, where=where, expected=shortened(expected), found=shortened(found)))

    def report_broken(self, where: str, named: Digest, digest: Digest, body: bytes) -> None:
        """Add the finding that an event is not the one its id names; it then counts as lost."""
        self.lost.add(named)
        self.broken.append((len(self.findings), named, body))
        self.report("event", where, f"the event {named}", f"one that digests to {digest}")

    def report_absent(self, kind: str, where: str, expected: object, found: object = "nothing") -> None:
        """Add the finding that something is not in the log, unless damage that was found already may be why."""
        if self.gone:
            self.withheld += 1
        else:
            self.report(kind, where, expected, found)

    def note(self, line: str) -> None:
        """Say something that is neither right nor wrong, once."""
        if line not in self.notes:
            self.notes.append(line)


def shortened(value: object) -> str:
    """Render a value in one line that a table can show."""
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
