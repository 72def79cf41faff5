"""Print lists as tables, and query results as table, JSON, CSV or parquet."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

PIPE_COLUMNS = 200
"""Width of a table that is written to a file or a pipe, characters."""


def rows_table(rows: Iterable[Sequence[object]], *, header: Sequence[str] = (), widths: Sequence[int] = ()) -> "Table":
    """Return a rich table without borders. `widths` are minimum widths, to align rows that are printed one by one."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=bool(header), header_style="bold")
    # Strings would be parsed as rich markup, with emoji codes and links; a Text is printed as it is.
    lines = [
        [Text("" if value is None else f"{value:g}" if isinstance(value, float) else str(value)) for value in row]
        for row in rows
    ]
    for index in range(max([len(header), *(len(line) for line in lines)])):
        least = widths[index] if index < len(widths) else None
        table.add_column(header[index] if header else "", overflow="fold", min_width=least)
    for line in lines:
        table.add_row(*line)
    return table


def print_table(rows: Iterable[Sequence[object]], *, header: Sequence[str] = (), widths: Sequence[int] = ()) -> None:
    """Print a table to stdout."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    Console(width=width, highlight=False, markup=False, emoji=False).print(
        rows_table(rows, header=header, widths=widths)
    )


def write_table(table: "pa.Table", form: str) -> None:
    """Write a query result to stdout. JSON is one object per line; parquet is bytes."""
    table = _printable(table)
    if form == "table":
        print_table((row.values() for row in table.to_pylist()), header=table.column_names)
    elif form == "json":
        import msgspec

        for row in table.to_pylist():
            sys.stdout.buffer.write(msgspec.json.encode(row, enc_hook=str) + b"\n")
    elif form == "csv":
        import pyarrow.csv

        pyarrow.csv.write_csv(_flat(table), sys.stdout.buffer)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink: Any = pa.BufferOutputStream()  # writing parquet needs a seekable file
        pq.write_table(table, sink)
        sys.stdout.buffer.write(memoryview(sink.getvalue()))
    sys.stdout.flush()


def _printable(table: "pa.Table") -> "pa.Table":
    """Return the table with unique column names, and with intervals, which no output format has, as text."""
    import pyarrow as pa

    # DuckDB allows `SELECT a, a`; JSON objects and CSV readers do not. The second `a` becomes `a_1`.
    seen: Counter[str] = Counter()
    names: list[str] = []
    for name in table.column_names:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name] - 1}")
    table = table.rename_columns(names)
    for index, column in enumerate(table.schema):
        if column.type == pa.month_day_nano_interval():
            texts: list[str | None] = []
            for value in table[index].to_pylist():
                if value is None:
                    texts.append(None)
                    continue
                months, days, nanoseconds = value
                parts = [f"{months} months"] * bool(months) + [f"{days} days"] * bool(days)
                texts.append(" ".join([*parts, f"{nanoseconds / 1e9:g} s"]))
            table = table.set_column(index, column.name, pa.array(texts, pa.string()))
    return table


def _flat(table: "pa.Table") -> "pa.Table":
    """Return the table with nested columns as JSON text, for CSV."""
    import msgspec
    import pyarrow as pa

    for index, column in enumerate(table.schema):
        if pa.types.is_nested(column.type):
            values = table[index].to_pylist()
            texts = [None if value is None else msgspec.json.encode(value, enc_hook=str).decode() for value in values]
            table = table.set_column(index, column.name, pa.array(texts, pa.string()))
    return table
