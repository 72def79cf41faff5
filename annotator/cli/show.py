"""Show what is known: query results, runs, prompts. Results go to stdout, in the format that was asked for."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.cli.parsing import LogArguments, PromptsArguments, QueryArguments
from annotator.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

RUNS = """
SELECT started_at, run_id[:8] AS run, outcome, engine, episodes, calls_answered AS answered, calls_hit AS hits,
       calls_failed AS failed, calls_declined AS declined, answers_rejected AS rejected, tokens_in, tokens_out,
       shards_written AS shards, elapsed_s
FROM runs ORDER BY started_at, run_id
"""


def show_query(arguments: QueryArguments) -> int:
    """Run one query over the log; over the language columns where the dataset has no log."""
    from annotator_store.log.query import run_query

    folder = arguments.store or arguments.root / ".annotator"
    beside = arguments.store is None and (arguments.root / "meta" / "info.json").is_file()
    if folder.is_dir():
        table = run_query(folder, arguments.sql, columns=lambda: _other_columns(arguments) if beside else None)
    elif beside:
        from annotator_store.log.query import columns_query

        table = columns_query(read_columns(arguments.root), arguments.sql)
    else:
        hint = "annotator sync makes one; --root names a dataset, --store a log"
        raise UsageError("no log and no dataset", where=str(folder), hint=hint)
    write_table(table, arguments.format)
    return 0


def _other_columns(arguments: QueryArguments) -> "Iterator[pa.Table] | None":
    """Read the language columns that something else wrote, where there are any and a query may ask for them."""
    from annotator.dataset.metadata import open_dataset
    from annotator.dataset.shard_scan import open_shard
    from annotator_store.rows import EVENTS, PERSISTENT

    root = arguments.root
    if "rows" not in arguments.sql.lower():
        return None
    names = [set(open_shard(root / shard).schema_arrow.names) for shard in open_dataset(root).shards]
    return read_columns(root) if all({EVENTS, PERSISTENT} <= one for one in names) else None


def read_columns(root: Path) -> "Iterator[pa.Table]":
    """Read a dataset's language columns with episode_index and timestamp, row group after row group.

    Raises:
        UsageError: a shard has none.
    """
    from annotator.dataset.metadata import open_dataset
    from annotator.dataset.shard_scan import open_shard

    dataset = open_dataset(root)
    columns = ["episode_index", "timestamp", "language_persistent", "language_events"]
    for shard in dataset.shards:
        missing = set(columns) - set(open_shard(root / shard).schema_arrow.names)
        if missing:
            got, hint = f"no {', '.join(sorted(missing))}", "annotator sync writes them"
            raise UsageError("a data shard has no language columns", where=str(root / shard), got=got, hint=hint)
    for shard in dataset.shards:
        with open_shard(root / shard) as file:
            for group in range(file.metadata.num_row_groups):
                yield _typed(file.read_row_group(group, columns=columns))


def _typed(table: "pa.Table") -> "pa.Table":
    """Give a column in which nothing was ever said the type it would have: some tools write `list<null>` then."""
    import pyarrow as pa

    from annotator_store.parquet.columns import language_field
    from annotator_store.rows import EVENTS, PERSISTENT

    for name in (PERSISTENT, EVENTS):
        if pa.types.is_null(getattr(table.schema.field(name).type, "value_type", pa.string())):
            index = table.schema.get_field_index(name)
            table = table.set_column(index, name, pa.nulls(len(table), language_field(name).type))
    return table


def show_runs(arguments: LogArguments) -> int:
    """List the runs."""
    from annotator_store.log.query import run_query

    folder = arguments.store or arguments.root / ".annotator"
    if not folder.is_dir():
        raise UsageError("no log", where=str(folder), hint="annotator sync makes one")
    write_table(run_query(folder, RUNS), arguments.format)
    return 0


def show_prompts(arguments: PromptsArguments) -> int:
    """List the prompts with their digests, or copy the shipped ones out."""
    from annotator.modules.registry import prompt_files
    from annotator.prompting.loader import eject, load_prompts

    if arguments.action == "eject":
        if arguments.folder is None:
            raise UsageError("where to?", where="annotator prompts eject", hint="annotator prompts eject DIR")
        for path in eject(arguments.folder, prompt_files()):
            print(path)
        return 0
    for file in load_prompts(arguments.folder, prompt_files()):
        print(f"{file.head.id:24} {file.digest}  {file.where}")
    return 0


def write_table(table: "pa.Table", form: str) -> None:
    """Write a result to stdout. JSON is one object a line; parquet is bytes."""
    table = _plain(table)
    if form == "table":
        _write_rich(table)
    elif form == "json":
        import msgspec

        for row in table.to_pylist():
            sys.stdout.buffer.write(msgspec.json.encode(row, enc_hook=str) + b"\n")
    elif form == "csv":
        import pyarrow.csv

        pyarrow.csv.write_csv(_flat(table), sys.stdout.buffer)
    else:
        import pyarrow.parquet as pq

        sink = pa_buffer()
        pq.write_table(table, sink)
        sys.stdout.buffer.write(memoryview(sink.getvalue()))
    sys.stdout.flush()


def pa_buffer() -> Any:
    """Make an in-memory sink; parquet needs to seek, stdout cannot."""
    import pyarrow as pa

    return pa.BufferOutputStream()


def _plain(table: "pa.Table") -> "pa.Table":
    """Tell columns of one name apart, and write intervals as text, which no output format has."""
    import pyarrow as pa

    seen: Counter[str] = Counter()
    names: list[str] = []
    for name in table.column_names:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name] - 1}")
    table = table.rename_columns(names)
    for index, column in enumerate(table.schema):
        if column.type == pa.month_day_nano_interval():
            texts = [None if v is None else _interval(*v) for v in table[index].to_pylist()]
            table = table.set_column(index, column.name, pa.array(texts, pa.string()))
    return table


def _interval(months: int, days: int, nanoseconds: int) -> str:
    parts = [f"{months} months"] * bool(months) + [f"{days} days"] * bool(days)
    return " ".join([*parts, f"{nanoseconds / 1e9:g} s"])


def _flat(table: "pa.Table") -> "pa.Table":
    """Turn nested columns into JSON text, since CSV has no lists."""
    import msgspec
    import pyarrow as pa

    for index, column in enumerate(table.schema):
        if pa.types.is_nested(column.type):
            texts = [
                None if v is None else msgspec.json.encode(v, enc_hook=str).decode() for v in table[index].to_pylist()
            ]
            table = table.set_column(index, column.name, pa.array(texts, pa.string()))
    return table


def _write_rich(table: "pa.Table") -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in table.column_names:
        shown.add_column(name, overflow="fold")
    for row in table.to_pylist():
        shown.add_row(*(_cell(value) for value in row.values()))
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False, markup=False, emoji=False).print(shown)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
