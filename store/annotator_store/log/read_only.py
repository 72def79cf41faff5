"""A log that only reads: the store stays as it is, to the byte, and may lie on a read-only disk.

Memos stay in this process. A cache that is missing, in use or behind the journal is rebuilt in a temporary folder.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from annotator_store.errors import StoreError
from annotator_store.log.cache import CACHE
from annotator_store.log.events import AnyEvent
from annotator_store.log.log import Log
from annotator_store.log.pending import PendingEvents
from annotator_store.log.rebuild import open_up_to_date, rebuild
from annotator_store.log.segments import JOURNAL


class ReadingLog(Log):
    """One store, open to read; another process may be writing it."""

    def __init__(self, folder: Path) -> None:
        self._memos: dict[tuple[str, str], tuple[str, str]] = {}
        self._folder, self._pending, self._closed = folder / JOURNAL, PendingEvents(), False
        with ExitStack() as undo:
            self._path = Path(undo.enter_context(TemporaryDirectory(prefix="annotator-"))) / CACHE
            self._ingesting = undo.enter_context(ThreadPoolExecutor(1, "store-ingest"))
            self._cache = open_up_to_date(folder) or rebuild(self._path, self._folder)
            self._resources = undo.pop_all()

    def record(self, *events: AnyEvent) -> "Future[None]":
        """Refuse.

        Raises:
            StoreError: always.
        """
        got = ", ".join(type(event).__name__ for event in events)
        raise StoreError("the log is open to read only", where=str(self._folder.parent), got=got)

    def seal(self) -> "Future[None]":
        """Return a future that is done: nothing is recorded, so there is nothing to seal."""
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def memo_get(self, namespace: str, names: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Look up memos: name → (stamp, value)."""
        own = {name: self._memos[namespace, name] for name in names if (namespace, name) in self._memos}
        return super().memo_get(namespace, names) | own

    def memo_put(self, namespace: str, items: Mapping[str, tuple[str, str]]) -> None:
        """Keep memos for as long as the log is open."""
        self._memos |= {(namespace, name): memo for name, memo in items.items()}

    def close(self) -> None:
        """Close the cache and remove a temporary one."""
        if not self._closed:
            self._closed = True
            self._cache.discard()
            self._resources.close()
