"""Bring the cache up to date with the journal: ingest what is new, or rebuild it."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from annotator_store.log.cache import CACHE, NO_EXTENSIONS, Cache, CacheBusy, CacheDamaged, Config
from annotator_store.log.segments import JOURNAL, list_actives, list_segments, read_journal, read_segment


def open_or_rebuild(path: Path, journal: Path, recovered: Sequence[str] = ()) -> Cache:
    """Open the cache and ingest new segments; rebuild it where that is impossible.

    `recovered`: names of active files of dead processes that are segments now.
    """
    try:
        cache = Cache.open(path)
    except (CacheDamaged, CacheBusy):
        # A reader that has the file open keeps reading it: the file is unlinked, not overwritten.
        return rebuild(path, journal)
    with ExitStack() as undo, suppress(CacheDamaged):
        undo.callback(cache.discard)
        if catch_up(cache, journal, recovered):
            undo.pop_all()
            return cache
    return rebuild(path, journal)


def open_up_to_date(folder: Path, config: Config = NO_EXTENSIONS) -> Cache | None:
    """Open a store's cache to read; None where it is missing, in use, damaged or behind the journal."""
    path = folder / CACHE
    if not path.exists():
        return None
    try:
        cache = Cache.open_read_only(path, config)
    except (CacheBusy, CacheDamaged):
        return None
    with suppress(CacheDamaged):
        if is_up_to_date(cache, folder / JOURNAL):
            return cache
    cache.discard()
    return None


def is_up_to_date(cache: Cache, journal: Path) -> bool:
    """Whether a cache holds just what a journal holds that nobody is writing.

    Raises:
        CacheDamaged: DuckDB cannot tell.
    """
    return not list_actives(journal) and cache.ingested() == set(list_segments(journal))


def rebuild(path: Path, journal: Path) -> Cache:
    """Delete the cache and build it from the journal, active files included. Memos are lost."""
    remove(path)
    cache = Cache.open(path)
    with ExitStack() as undo:
        undo.callback(cache.discard)
        fill(cache, journal)
        undo.pop_all()
    return cache


def fill(cache: Cache, journal: Path) -> None:
    """Ingest every event of a journal that may grow meanwhile."""
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
