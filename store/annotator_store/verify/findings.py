"""The report of a verification. Nothing here raises: one damaged thing must not hide the next.

A finding names a cause. What follows from damage that was reported already is only counted, as withheld: once a reply
is gone from the log, it is expected that a row cites a call the log does not have.
"""

from collections import Counter

import msgspec

from annotator_store.digests import Digest

_LONGEST = 300


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One difference from what a digest or a source says: its kind, the place, what was expected and what is there."""

    kind: str
    where: str
    expected: str
    found: str


class VerifyReport:
    """Collects findings, the events that damage took away, and how much was checked.

    `lost`: ids of events that no longer match them; `lost_unnamed`: whether there may be more. `broken`: for each
    damaged event the index of its finding, its id, and the bytes that are left of it. `counts`: what was checked, by
    kind. `withheld`: differences that follow from damage.
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
    def events_missing(self) -> bool:
        """Whether events are missing that were recorded."""
        return bool(self.lost) or self.lost_unnamed

    def add(self, kind: str, where: str, expected: object, found: object) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind=kind, where=where, expected=shortened(expected), found=shortened(found)))

    def add_broken(self, where: str, named: Digest, digest: Digest, body: bytes) -> None:
        """Add the finding that an event does not match its id, and count it as lost."""
        self.lost.add(named)
        self.broken.append((len(self.findings), named, body))
        self.add("event", where, f"the event {named}", f"one that digests to {digest}")

    def add_missing(self, kind: str, where: str, expected: object, found: object = "nothing") -> None:
        """Add the finding that the log lacks something; withhold it where reported damage may be the reason."""
        if self.events_missing:
            self.withheld += 1
        else:
            self.add(kind, where, expected, found)

    def note(self, line: str) -> None:
        """Add a remark that is not a finding; the same remark once."""
        if line not in self.notes:
            self.notes.append(line)


def shortened(value: object) -> str:
    """Render a value in one line of at most 300 characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
