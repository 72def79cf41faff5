"""Read-only SQL over the log: the views in `sql/views/`, from the cache when it is free, else from the journal.

A user's SQL may read the views and nothing else: one SELECT, no files, no network, no extensions, no settings.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import duckdb

from annotator_store.errors import QueryRefused
from annotator_store.log.cache import SANDBOXED, Cache
from annotator_store.log.rebuild import fill, open_up_to_date
from annotator_store.log.segments import JOURNAL
from annotator_store.sql import read_statements

if TYPE_CHECKING:
    import pyarrow as pa

VIEWS = ("episodes", "rows", "calls", "failures", "prompts", "runs", "vocabulary")
"""In the order in which they are made: a view may read those before it."""

_FRAMES_AT_ONCE = 65_536
_FOLDER = Path(__file__).with_name("sql")
_SQL = read_statements(_FOLDER / "query.sql")

Parameters = Sequence[object] | Mapping[str, object]
Frames = Union["pa.Table", Iterable[Union["pa.Table", "pa.RecordBatch"]]]
Columns = Callable[[], Frames | None]

# Errors of the query. All others may come from the file: damage raises even a bare `duckdb.Error`.
_WRONG_QUERY = (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError, duckdb.PermissionException)
_UNKNOWN_NAME = (duckdb.CatalogException, duckdb.BinderException)


def run_query(
    folder: Path | None, sql: str, parameters: Parameters | None = None, *, columns: Columns | None = None
) -> "pa.Table":
    """Answer one SELECT over the views of the store in `folder`, also while another process is writing it.

    Args:
        folder: the store; None, or a folder without a store, gives empty views.
        parameters: values for `?` or `$name`.
        columns: called while no shard has rows of the store; the frames it returns become `rows`, as in
            `columns_query`.

    Raises:
        QueryRefused: the SQL is wrong, or asks for more than reading the views.
        JournalDamaged, NewerEvent: the journal cannot be read.
    """
    _refuse_all_but_select(sql)
    cache = open_up_to_date(folder, SANDBOXED) if folder is not None else None
    if cache is not None:
        try:
            return _answer(cache, sql, parameters, columns)
        except _WRONG_QUERY as cause:
            raise _refused(cause, VIEWS) from cause
        except duckdb.Error:
            pass  # a damaged cache: the journal has everything
        finally:
            cache.discard()
    with _in_memory(folder) as cache, _refusals_named(VIEWS):
        return _answer(cache, sql, parameters, columns)


def columns_query(
    frames: Frames,
    sql: str,
    parameters: Parameters | None = None,
    *,
    dataset: str = "",
) -> "pa.Table":
    """Answer one SELECT over `rows` as a dataset's own language columns have them, without a store.

    `frames`, whole or in parts, has a row per frame: episode_index, timestamp, language_persistent, language_events.
    Persistent rows count once per episode; engine and model are 'unknown', and what only a store knows is null.

    Raises:
        QueryRefused: the SQL is wrong or asks for more than reading, or a column is missing.
    """
    _refuse_all_but_select(sql)
    connection = duckdb.connect(":memory:", config=SANDBOXED)
    try:
        _add_rows(connection, frames, dataset)
        with _refusals_named(("rows",)):
            return _select(connection, sql, parameters)
    finally:
        connection.close()


@contextmanager
def _in_memory(folder: Path | None) -> Generator[Cache]:
    cache = Cache.in_memory(SANDBOXED)
    try:
        if folder is not None:
            fill(cache, folder / JOURNAL)
        yield cache
    finally:
        cache.discard()


def _answer(cache: Cache, sql: str, parameters: Parameters | None, columns: Columns | None) -> "pa.Table":
    views = VIEWS
    shown = columns is None or cache.connection.sql(_SQL["select_annotated_shard"]).fetchall()
    frames = None if columns is None or shown else columns()
    if frames is not None:
        _add_rows(cache.connection, frames, "")
        views = tuple(view for view in VIEWS if view != "rows")
    for view in views:
        select = (_FOLDER / "views" / f"{view}.sql").read_text(encoding="utf-8")
        cache.connection.execute(f"CREATE TEMP VIEW {view} AS {select}")
    return _select(cache.connection, sql, parameters)


def _select(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Parameters | None) -> "pa.Table":
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET lock_configuration = true")
    return connection.sql(sql, params=parameters).to_arrow_table()


@contextmanager
def _refusals_named(views: Iterable[str]) -> Generator[None]:
    try:
        yield
    except duckdb.Error as cause:
        raise _refused(cause, views) from cause


def _refused(cause: duckdb.Error, views: Iterable[str]) -> QueryRefused:
    if isinstance(cause, duckdb.PermissionException):
        hint = "a query reads the store's own views; no files, no network"
    elif isinstance(cause, _UNKNOWN_NAME):
        hint = f"the views are {', '.join(sorted(views))}; `DESCRIBE <view>` lists a view's columns"
    else:
        hint = "the message is DuckDB's own; its SQL is described at https://duckdb.org/docs/sql/introduction"
    return QueryRefused("the query was refused", got=str(cause).strip(), hint=hint)


def _refuse_all_but_select(sql: str) -> None:
    with _refusals_named(VIEWS):
        statements = duckdb.extract_statements(sql)  # parses, and runs nothing
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        raise QueryRefused(
            "a query is one SELECT",
            got=", ".join(kinds) or "no statement",
            hint="SELECT, WITH, FROM, VALUES, DESCRIBE and SUMMARIZE read; nothing else is run. "
            "To keep a result, write it from the command line: `annotator query ... > FILE`",
        )


def _add_rows(connection: duckdb.DuckDBPyConnection, frames: Frames, dataset: str) -> None:
    """Make the table `rows` from language columns."""
    import pyarrow as pa

    parts: Iterable[Any] = [frames] if isinstance(frames, pa.Table) else frames
    connection.execute(_SQL["create_column_rows"])
    for part in parts:
        for batch in part.to_batches(_FRAMES_AT_ONCE) if isinstance(part, pa.Table) else (part,):
            try:
                connection.register("batch", pa.Table.from_batches([batch]))
                connection.execute(_SQL["insert_column_rows"])
                connection.unregister("batch")
            except duckdb.Error as cause:
                raise QueryRefused(
                    "the language columns are not as LeRobot has them",
                    got=str(cause).strip(),
                    hint="needed: episode_index, timestamp, language_persistent, language_events, one row per frame",
                ) from cause
    connection.execute(_SQL["finish_column_rows"], {"dataset": dataset})
