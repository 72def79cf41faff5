"""The cache: DuckDB tables over the journal. Deleting it costs a rebuild and nothing else.

DuckDB's errors are translated here; `annotator_store.log.rebuild` handles `CacheDamaged` and `CacheBusy`.
"""

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from annotator_store.digests import Digest
from annotator_store.errors import StoreError
from annotator_store.log.events import EpisodeAnnotated, decode_event
from annotator_store.log.folds import LatestAnnotation, as_utc, rows_digest
from annotator_store.log.lines import Entry
from annotator_store.sql import read_statements

if TYPE_CHECKING:
    import pyarrow as pa

CACHE = "cache.duckdb"
"""The file of the cache inside a store."""
FORMAT = 2
"""Raise it whenever a table, or how a table is filled, changes: every cache is then rebuilt when it is opened."""

Config = dict[str, str | bool | int | float | list[str]]
NO_EXTENSIONS: Config = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
SANDBOXED: Config = {
    **NO_EXTENSIONS,
    "enable_external_access": False,
    "python_enable_replacements": False,
    "temp_directory": "",
}
"""For SQL that others wrote: no files, no network, no extensions, no Python objects."""

# At the default of 16 MB, checkpoints take more than half of the time of ingesting.
_WRITING: Config = {**NO_EXTENSIONS, "wal_autocheckpoint": "64MB"}
_BUSY_TIMEOUT_S = 5.0
_STREAMED_ROWS = 1024
_SQL = read_statements(Path(__file__).with_name("sql") / "cache.sql")


class CacheDamaged(StoreError):
    """The cache cannot be read; it must be rebuilt."""


class CacheOutdated(CacheDamaged):
    """Another release made the cache."""


class CacheBusy(StoreError):
    """Another process has the cache open."""


class Cache:
    """One DuckDB database with the tables of `sql/cache.sql`. Reading and ingesting may go on at the same time."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self._writer = connection.cursor()
        self._reader = connection.cursor()
        self._reading = threading.Lock()
        self._writing = threading.Lock()

    @classmethod
    def in_memory(cls, config: Config = NO_EXTENSIONS) -> "Cache":
        """Make an empty cache in memory."""
        cache = cls(duckdb.connect(":memory:", config=config))
        cache._create()
        return cache

    @classmethod
    def open(cls, path: Path) -> "Cache":
        """Open the cache to write, or make an empty one.

        Raises:
            CacheDamaged: it cannot be read, or another release made it.
            CacheBusy: another process kept it open for seconds.
        """
        fresh = not path.exists()
        cache = cls(_connect_when_free(path))
        if fresh:
            cache._create()
        else:
            cache._check_format()
        return cache

    @classmethod
    def open_read_only(cls, path: Path, config: Config) -> "Cache":
        """Open the cache to read, without waiting.

        Raises:
            CacheDamaged: it cannot be read, or another release made it.
            CacheBusy: another process is writing it.
        """
        cache = cls(_connect(path, read_only=True, config=config))
        cache._check_format()
        return cache

    def close(self) -> None:
        """Close the connections; DuckDB then merges its write-ahead log into the file.

        Raises:
            CacheDamaged: it could not.
        """
        with self._reading, self._writing, _translate_errors():
            self._reader.close()
            self._writer.close()
            self.connection.close()

    def discard(self) -> None:
        """Close a cache that is no longer needed or about to be deleted, whatever state it is in."""
        with suppress(CacheDamaged):
            self.close()

    def ingest(self, entries: Sequence[Entry], *, files: Sequence[str] = (), gone: Sequence[str] = ()) -> None:
        """Add events; in the same transaction, note that `files` are wholly ingested and `gone` no longer exist.

        Raises:
            CacheDamaged: DuckDB could not.
            NewerEvent, JournalDamaged: an event cannot be read.
        """
        batch = _batch(entries) if entries else None
        with self._writing, _translate_errors():
            self._writer.execute("BEGIN")
            if batch is not None:
                self._insert(batch, "insert_events", "upsert_outcomes", "insert_annotations")
            if gone:
                self._writer.execute(_SQL["delete_ingested"], {"files": list(gone)})
            if files:
                self._writer.execute(_SQL["insert_ingested"], {"files": list(files)})
            self._writer.execute("COMMIT")

    def ingested(self) -> set[str]:
        """Return the names of the journal files that are wholly in the cache."""
        return {name for (name,) in self.select("select_ingested")}

    def select(self, name: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Run a statement of `sql/cache.sql` and fetch all rows.

        Raises:
            CacheDamaged: DuckDB could not.
        """
        with self._reading, _translate_errors():
            return self._reader.execute(_SQL[name], parameters).fetchall()

    def stream(self, name: str) -> Iterator[tuple[Any, ...]]:
        """Run a statement of `sql/cache.sql` and yield its rows, a bounded number in memory.

        Raises:
            CacheDamaged: DuckDB could not.
        """
        with _translate_errors(), self.connection.cursor() as cursor:
            cursor.execute(_SQL[name])
            while batch := cursor.fetchmany(_STREAMED_ROWS):
                yield from batch

    def current(self) -> dict[tuple[Digest, str], LatestAnnotation]:
        """Return the annotation that counts for every (episode, module)."""
        return {
            (episode, module): LatestAnnotation(episode, module, recipe, event_id, as_utc(recorded_at), digest)
            for episode, module, recipe, event_id, recorded_at, digest in self.select("select_current")
        }

    def put_memo(self, namespace: str, items: Mapping[str, tuple[str, str]]) -> None:
        """Keep memos: name → (stamp, value).

        Raises:
            CacheDamaged: DuckDB could not.
        """
        import pyarrow as pa

        columns = {
            "namespace": [namespace] * len(items),
            "name": list(items),
            "stamp": [stamp for stamp, _ in items.values()],
            "value": [value for _, value in items.values()],
        }
        with self._writing, _translate_errors():
            self._insert(
                pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), "upsert_memo"
            )

    def _insert(self, batch: "pa.Table", *statements: str) -> None:
        self._writer.register("batch", batch)
        for name in statements:
            self._writer.execute(_SQL[name])
        self._writer.unregister("batch")

    def _create(self) -> None:
        with _translate_errors():
            self._writer.execute("BEGIN")
            self._writer.execute(_SQL["create_tables"])
            self._writer.execute("INSERT INTO cache_format VALUES (?)", [FORMAT])
            self._writer.execute("COMMIT")

    def _check_format(self) -> None:
        try:
            with self._reading, _translate_errors():
                versions = self._reader.execute("SELECT version FROM cache_format").fetchall()
            if versions != [(FORMAT,)]:
                raise CacheOutdated("the cache is of another format", got=str(versions))
        except CacheDamaged:
            self.discard()
            raise


def _connect_when_free(path: Path) -> duckdb.DuckDBPyConnection:
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            return _connect(path, read_only=False, config=_WRITING)
        except CacheBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _connect(path: Path, *, read_only: bool, config: Config) -> duckdb.DuckDBPyConnection:
    try:
        return duckdb.connect(str(path), read_only=read_only, config=config)
    except duckdb.Error as cause:
        if "lock on file" in str(cause) or "different configuration" in str(cause):
            raise CacheBusy("the cache is open elsewhere", where=str(path), got=_first_line(cause)) from cause
        raise CacheDamaged("the cache cannot be opened", where=str(path), got=_first_line(cause)) from cause


@contextmanager
def _translate_errors() -> Generator[None]:
    try:
        yield
    except duckdb.Error as cause:
        raise CacheDamaged("the cache cannot be used", got=_first_line(cause)) from cause


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _batch(entries: Sequence[Entry]) -> "pa.Table":
    """Build the Arrow table that the insert statements read: a row an event, digests as UUIDs, times in UTC."""
    import pyarrow as pa

    def uuids(values: Iterable[Digest | None]) -> pa.Array:
        raw = pa.array([None if value is None else bytes.fromhex(value) for value in values], pa.binary(16))
        return pa.ExtensionArray.from_storage(pa.uuid(), raw)

    # Unique within the batch: ON CONFLICT looks at what is in the table, not at its own rows.
    unique = list({entry.id: entry for entry in entries}.values())
    events = [decode_event(entry.body, where=f"event {entry.id}") for entry in unique]
    annotated = [event if isinstance(event, EpisodeAnnotated) else None for event in events]
    times = [as_utc(event.recorded_at).replace(tzinfo=None) for event in events]
    return pa.table(
        {
            "id": uuids(entry.id for entry in unique),
            "type": pa.array([str(type(event).__struct_config__.tag) for event in events], pa.string()),
            "recorded_at": pa.array(times, pa.timestamp("us")),
            "run_id": pa.array([event.run_id for event in events], pa.string()),
            "key": uuids(getattr(event, "key", None) for event in events),
            "episode": uuids(getattr(event, "episode", None) for event in events),
            "module": pa.array([event.module if event else None for event in annotated], pa.string()),
            "recipe": uuids(event.recipe if event else None for event in annotated),
            "rows_digest": uuids(rows_digest(event) if event else None for event in annotated),
            "body": pa.array([entry.body.decode() for entry in unique], pa.string()),
        }
    )
