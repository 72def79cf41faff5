"""One journal line: `<event id> <event json>\\n`. The id is the digest of the JSON, so it is also the checksum."""

import msgspec

from annotator_store.digests import Digest
from annotator_store.errors import JournalDamaged
from annotator_store.log.events import AnyEvent, encode_event, event_id

_ID_CHARS = 32
_SPACE = 0x20


class Entry(msgspec.Struct, frozen=True):
    """An event as it is stored: its id and its wire form."""

    id: Digest
    body: bytes


def entry_of(event: AnyEvent) -> Entry:
    """Encode an event and compute its id."""
    body = encode_event(event)
    return Entry(event_id(body), body)


def render_line(entry: Entry) -> bytes:
    """Render the journal line of an entry, newline included."""
    return b"%b %b\n" % (entry.id.encode(), entry.body)


def parse_lines(data: bytes, *, where: str) -> tuple[list[Entry], int]:
    """Parse whole lines; return their entries and the length in bytes of the part that is valid.

    What a crash leaves at the end (a line without its newline, garbage, zeros) is not part of it. A bad line that good
    lines follow is not from a crash: it is damage.

    Raises:
        JournalDamaged: a line does not match its id, and a later one does.
    """
    entries: list[Entry] = []
    good = start = number = 0
    first_bad: tuple[int, int] | None = None
    while (end := data.find(b"\n", start)) >= 0:
        number += 1
        named, body = data[start : start + _ID_CHARS], data[start + _ID_CHARS + 1 : end]
        separated = start + _ID_CHARS < end and data[start + _ID_CHARS] == _SPACE
        entry = Entry(event_id(body), body) if separated else None
        if entry is not None and entry.id.encode() != named:
            entry = None
        if entry is None:
            first_bad = first_bad or (number, start)
        elif first_bad is not None:
            number, offset = first_bad
            raise JournalDamaged(
                "a journal line does not match its id, and good lines follow it",
                where=f"{where}, line {number}, byte {offset}",
                got="a file that was changed after it was written",
                hint=f"take the file from a copy, or delete line {number} alone: "
                "the lines before and after it are whole",
            )
        else:
            entries.append(entry)
            good = end + 1
        start = end + 1
    return entries, good
