"""Sealed segments: immutable parquet files named by the digest of the event ids in them.

A segment is written beside, fsynced, renamed, and only then is the active file it came from removed.
A crash anywhere between leaves the same events twice, never lost: readers take the union by id.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from annotator_store.digests import Digest, digest_parts
from annotator_store.errors import JournalDamaged, StoreError
from annotator_store.log.events import event_id
from annotator_store.log.lines import Entry, parse_lines

if TYPE_CHECKING:
    import pyarrow as pa

JOURNAL = "journal"
"""The folder of the journal inside a store."""

BATCH_ROWS = 2048


class Stamp(msgspec.Struct):
    """The columns of a segment beside id and body, in their order."""

    type: str
    recorded_at: datetime
    run_id: str


def list_segments(journal: Path) -> list[str]:
    """Return the file names of the sealed segments, sorted."""
    return sorted(path.name for path in journal.glob("*.parquet") if len(path.stem) == 32)


def list_actives(journal: Path) -> list[Path]:
    """Return the files that are being appended to, or were when their process died; sorted."""
    return sorted(journal.glob("active-*.jsonl"))


def segment_name(ids: Iterable[Digest]) -> str:
    """Return the file name of a segment: the digest of its sorted event ids."""
    return digest_parts("segment.v1", [b"".join(bytes.fromhex(i) for i in sorted(set(ids)))]) + ".parquet"


def write_segment(journal: Path, entries: Sequence[Entry]) -> str:
    """Write a segment durably and return its file name; one that exists is left as it is.

    Columns: id uuid, type, recorded_at (UTC, microseconds), run_id, body (the wire form); ordered by (recorded_at, id).

    Raises:
        StoreError: the disk refused.
    """
    import pyarrow.parquet as pq

    unique = {entry.id: entry for entry in entries}
    path = journal / segment_name(unique)
    if path.exists():
        return path.name
    temporary = path.with_suffix(".tmp")
    try:
        pq.write_table(_table(unique.values()), temporary, compression="zstd")
        sync_path(temporary)
        temporary.rename(path)
        sync_path(journal)
    except OSError as cause:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            "a segment could not be written",
            where=str(path),
            got=str(cause),
            hint="nothing is lost: the events are in the active file; free some space and open the store again",
        ) from cause
    return path.name


def read_segment(path: Path) -> Iterator[list[Entry]]:
    """Read a segment in batches, checking every event against its id and the whole against its name.

    Raises:
        FileNotFoundError: it is gone.
        JournalDamaged: it is not what its name says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids: list[Digest] = []
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=["id", "body"]):
                named = batch.column("id").storage.to_pylist()
                entries = [Entry(event_id(body), body) for body in batch.column("body").cast("binary").to_pylist()]
                for recorded, entry in zip(named, entries, strict=True):
                    if recorded is None or recorded.hex() != entry.id:
                        raise _damaged(path, f"an event that is not {recorded.hex() if recorded else 'named'}")
                ids += [entry.id for entry in entries]
                yield entries
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError) as cause:
        raise _damaged(path, str(cause)) from cause
    if segment_name(ids) != path.name:
        raise _damaged(path, f"{len(ids)} events of another segment")


def seal(active: Path) -> str | None:
    """Turn an active file into a segment, then remove it; None when no whole line was in it.

    Raises:
        JournalDamaged: a line in its middle is damaged; the file is left as it is.
        StoreError: the disk refused; the file is left as it is.
    """
    entries, _ = parse_lines(active.read_bytes(), where=str(active))
    name = write_segment(active.parent, entries) if entries else None
    active.unlink()
    sync_path(active.parent)
    return name


def recover(journal: Path) -> dict[str, str | None]:
    """Seal every active file that no living process has locked; return active file name → segment name.

    Only the store's writer may call this. Left-over temporary files are removed.
    """
    for leftover in journal.glob("*.tmp"):
        leftover.unlink()
    return {path.name: seal(path) for path in list_actives(journal) if not _is_locked(path)}


def read_journal(journal: Path) -> Iterator[tuple[str, list[Entry]]]:
    """Yield every event of a journal that another process may be appending to: (file name, events), in batches.

    An event may come twice. A file that is sealed meanwhile is read again as a segment. A file without events gives an
    empty batch, so that every file is named.

    Raises:
        JournalDamaged: a file is not what it was.
    """
    done: set[str] = set()
    vanished = True
    while vanished:  # and not while there is more: a fast writer would keep this going for ever
        vanished = False
        # Active files first: one that is sealed between the two listings then shows as its segment. The other way
        # round it could be missed by both.
        actives = list_actives(journal)
        for path in [*(journal / name for name in list_segments(journal)), *actives]:
            if path.name in done:
                continue
            try:
                if path.suffix == ".parquet":
                    for entries in read_segment(path):
                        yield path.name, entries
                else:
                    yield path.name, parse_lines(path.read_bytes(), where=str(path))[0]
            except FileNotFoundError:
                vanished = True
            else:
                done.add(path.name)


def sync_path(path: Path) -> None:
    """Fsync a file, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _table(entries: Iterable[Entry]) -> "pa.Table":
    import pyarrow as pa

    pairs = [(stamp_of(entry), entry) for entry in entries]
    stamped = sorted(pairs, key=lambda pair: (pair[0].recorded_at, pair[1].id))
    ids = pa.array([bytes.fromhex(entry.id) for _, entry in stamped], pa.binary(16))
    return pa.table(
        {
            "id": pa.ExtensionArray.from_storage(pa.uuid(), ids),
            "type": pa.array([stamp.type for stamp, _ in stamped], pa.string()),
            "recorded_at": pa.array([stamp.recorded_at for stamp, _ in stamped], pa.timestamp("us", tz="UTC")),
            "run_id": pa.array([stamp.run_id for stamp, _ in stamped], pa.string()),
            "body": pa.array([entry.body.decode() for _, entry in stamped], pa.string()),
        }
    )


def stamp_of(entry: Entry) -> Stamp:
    """Return the columns that an event's segment has beside id and body.

    Raises:
        JournalDamaged: it lacks one of them.
    """
    try:
        stamp = msgspec.json.decode(entry.body, type=Stamp)
    except msgspec.DecodeError as cause:
        raise JournalDamaged("an event has no type, time or run", where=entry.id, got=str(cause)) from cause
    if stamp.recorded_at.tzinfo is None:
        stamp.recorded_at = stamp.recorded_at.replace(tzinfo=UTC)
    return stamp


def _damaged(path: Path, got: str) -> JournalDamaged:
    return JournalDamaged(
        "a segment is not what its name says",
        where=str(path),
        got=got,
        hint="copy the file again from where it was shared; to go on without its events, move it out of the journal",
    )
