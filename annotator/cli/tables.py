"""Tables on stdout: one look for everything that is a list, and a query's result in the format that was asked for."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import rich.table
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    import pyarrow as pa

PIPE_COLUMNS = 200
"""Columns of a table that goes to a file or a pipe, where no terminal says how many there are."""


def rows_table(
    rows: Iterable[Sequence[object]], *, header: Sequence[str] = (), widths: Sequence[int] = ()
) -> rich.table.Table:
    """Lay rows out in columns, without frames. `widths` are least widths, for rows that are printed one by one."""
    table = rich.table.Table(box=None, pad_edge=False, show_header=bool(header), header_style="bold")
    # As Text, a value is shown as it is: rich's markup, emoji codes and links mean nothing in it.
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
    """Print rows in columns on stdout."""
    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    Console(width=width, highlight=False, markup=False, emoji=False).print(
        rows_table(rows, header=header, widths=widths)
    )


def write_table(table: "pa.Table", form: str) -> None:
    """Write a query's result to stdout. JSON is one object a line; parquet is bytes."""
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

        sink: Any = pa.BufferOutputStream()  # parquet needs to seek, stdout cannot
        pq.write_table(table, sink)
        sys.stdout.buffer.write(memoryview(sink.getvalue()))
    sys.stdout.flush()


def _printable(table: "pa.Table") -> "pa.Table":
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
    """Turn nested columns into JSON text, since CSV has no lists."""
    import msgspec
    import pyarrow as pa

    for index, column in enumerate(table.schema):
        if pa.types.is_nested(column.type):
            values = table[index].to_pylist()
            texts = [None if value is None else msgspec.json.encode(value, enc_hook=str).decode() for value in values]
            table = table.set_column(index, column.name, pa.array(texts, pa.string()))
    return table
