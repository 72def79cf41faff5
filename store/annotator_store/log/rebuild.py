"""Keep the cache up to the journal: ingest what is new, or make the cache again."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from annotator_store.log.cache import Cache, CacheBusy, CacheDamaged
from annotator_store.log.segments import list_segments, read_journal, read_segment


def open_or_rebuild(path: Path, journal: Path, recovered: Sequence[str] = ()) -> Cache:
    """Open the cache, rebuild it if it must be, and bring it up to the journal's segments.

    `recovered` names active files of dead processes that are segments now.
    """
    try:
        cache = Cache.open(path)
    except (CacheDamaged, CacheBusy):
        # What a reader holds open is unlinked beneath it, and stays whole for as long as it looks.
        return rebuild(path, journal)
    with ExitStack() as undo, suppress(CacheDamaged):
        undo.callback(cache.discard)
        if catch_up(cache, journal, recovered):
            undo.pop_all()
            return cache
    return rebuild(path, journal)


def rebuild(path: Path, journal: Path) -> Cache:
    """Delete the cache and make it again from the journal, active files included. Memos are lost."""
    remove(path)
    cache = Cache.open(path)
    with ExitStack() as undo:
        undo.callback(cache.discard)
        fill(cache, journal)
        undo.pop_all()
    return cache


def fill(cache: Cache, journal: Path) -> None:
    """Ingest every event of a journal that may be growing meanwhile."""
    read: set[str] = set()
    for name, entries in read_journal(journal):
        cache.ingest(entries)
        read.add(name)
    # Noted last: a rebuild that is cut short must not claim a file that is half in.
    cache.ingest([], files=sorted(read))


def catch_up(cache: Cache, journal: Path, recovered: Sequence[str] = ()) -> bool:
    """Ingest the segments that are not in the cache yet; False when it holds files that the journal no longer has."""
    listed = set(list_segments(journal))
    ingested = cache.ingested() - set(recovered)
    if not ingested <= listed:
        return False
    for name in sorted(listed - ingested):
        for entries in read_segment(journal / name):
            cache.ingest(entries)
        cache.ingest([], files=[name])
    if recovered:
        cache.ingest([], gone=recovered)
    return True


def remove(path: Path) -> None:
    """Delete the cache's files."""
    for file in (path, path.with_name(path.name + ".wal")):
        file.unlink(missing_ok=True)
