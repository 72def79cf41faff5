"""Read a journal that may be damaged: return every event that is whole, report every place that is not."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from annotator_store.digests import Digest
from annotator_store.errors import JournalDamaged
from annotator_store.log.events import event_id
from annotator_store.log.lines import Entry
from annotator_store.log.segments import BATCH_ROWS, list_actives, list_segments, segment_name, stamp_of
from annotator_store.verify.findings import VerifyReport

if TYPE_CHECKING:
    import pyarrow as pa

STAMP_COLUMNS = ("type", "recorded_at", "run_id")
"""The columns of a segment that repeat what the body says."""

_ID_CHARS = 32


class Place(msgspec.Struct, frozen=True):
    """Where an event stands: a file of the journal and the number of its line or row, from 1."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"journal/{self.file}, {'row' if self.file.endswith('.parquet') else 'line'} {self.number}"


def read_whole_events(journal: Path, report: VerifyReport) -> Iterator[tuple[Place, Entry]]:
    """Yield every event that matches its id, file by file, and report the others. An event may come twice.

    Another process may be appending: a file that it seals meanwhile is read again as a segment.
    """
    done: set[str] = set()
    vanished = True
    while vanished:
        vanished = False
        actives = list_actives(journal)
        for path in [*(journal / name for name in list_segments(journal)), *actives]:
            if path.name in done:
                continue
            try:
                yield from _read_segment(path, report) if path.suffix == ".parquet" else _read_lines(path, report)
            except FileNotFoundError:
                vanished = True
            else:
                done.add(path.name)
    report.counts["files"] = len(done)


def _read_lines(path: Path, report: VerifyReport) -> Iterator[tuple[Place, Entry]]:
    """Read an active file line by line. What a crash left after the last newline is not damage."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = Place(path.name, number)
            named, body = line[:_ID_CHARS], line[_ID_CHARS + 1 :].removesuffix(b"\n")
            digest = event_id(body)
            if line.endswith(b"\n") and digest.encode() == named and line[_ID_CHARS : _ID_CHARS + 1] == b" ":
                yield place, Entry(digest, body)
            elif (line.endswith(b"\n") and line.strip(b"\0\n")) or event_id(body[:-1]).encode() == named:
                name = Digest(named.decode("ascii", "replace"))
                report.add_broken(f"{place}, byte {offset}{_described(body)}", name, digest, body)
            offset += len(line)


def _read_segment(path: Path, report: VerifyReport) -> Iterator[tuple[Place, Entry]]:
    """Read a segment row by row, and compare the digest of its ids with its name."""
    import pyarrow as pa

    ids: list[Digest] = []
    number, findings_before = 0, len(report.findings)
    try:
        for batch in _batches(path, ["id", "body", *STAMP_COLUMNS]):
            for named, entry, columns in _read_rows(batch):
                number += 1
                place = Place(path.name, number)
                ids.append(named)
                if named == entry.id:
                    _compare_columns(report, place, entry, columns)
                    yield place, entry
                else:
                    report.add_broken(f"{place}{_described(entry.body)}", named, entry.id, entry.body)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as cause:
        _report_unreadable(report, path, number, cause)
        return
    if len(report.findings) == findings_before and segment_name(ids) != path.name:
        report.lost_unnamed = True
        report.add("segment", f"journal/{path.name}", f"events whose ids digest to {path.stem}", segment_name(ids)[:32])


def _batches(path: Path, columns: list[str]) -> "Iterator[pa.RecordBatch]":
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(BATCH_ROWS, columns=columns)


def _read_rows(batch: "pa.RecordBatch") -> Iterator[tuple[Digest, Entry, tuple[Any, ...]]]:
    ids = batch.column("id").storage.to_pylist()
    bodies = batch.column("body").cast("binary").to_pylist()
    columns = zip(*(batch.column(name).to_pylist() for name in STAMP_COLUMNS), strict=True)
    for named, body, stamp in zip(ids, bodies, columns, strict=True):
        whole = body or b""
        yield Digest((named or b"").hex()), Entry(event_id(whole), whole), stamp


def _compare_columns(report: VerifyReport, place: Place, entry: Entry, columns: tuple[Any, ...]) -> None:
    """Compare the columns beside an event with the event."""
    try:
        stamp = stamp_of(entry)
    except JournalDamaged:
        return  # reported when the event is decoded
    for name, expected, actual in zip(STAMP_COLUMNS, msgspec.structs.astuple(stamp), columns, strict=True):
        if expected != actual:
            report.add("segment", f"{place}, column {name}", expected, actual)


def _described(body: bytes) -> str:
    """Describe what a damaged event seems to be, as far as it can be read."""
    try:
        event = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ", no longer JSON"
    if not isinstance(event, dict):
        return ", no longer an event"
    parts = [str(event[name]) for name in ("type", "step", "module", "key") if name in event]
    return f", {' '.join(parts)}" if parts else ""


def _report_unreadable(report: VerifyReport, path: Path, read: int, cause: Exception) -> None:
    """Report that the rest of a segment cannot be read; its column of ids may tell which events are lost."""
    import pyarrow as pa

    try:
        batches = _batches(path, ["id"])
        ids = [Digest(named.hex()) for batch in batches for named in batch.column("id").storage.to_pylist()]
        report.lost.update(islice(ids, read, None))
    except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError):
        report.lost_unnamed = True
    report.add("segment", f"journal/{path.name}, from row {read + 1} on", "a parquet file that can be read", cause)
