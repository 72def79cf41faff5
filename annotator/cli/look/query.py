"""`annotator query`: query the log in SQL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from annotator.api import query
from annotator.cli.parsing import Format, parse
from annotator.cli.tables import write_table
from annotator.config.options import POSITIONAL
from annotator.config.settings import Settings


class QueryArguments(Settings, frozen=True, kw_only=True):
    """Query the log in SQL, read-only, also while a sync is running.

    The views are rows, calls, episodes, runs, failures, prompts and vocabulary. If a dataset has no log, `rows` reads
    its language columns.
    """

    sql: Annotated[str, POSITIONAL]
    """One SELECT statement in DuckDB's dialect."""
    root: Path = Path()
    """The dataset's folder."""
    store: Path | None = None
    """Folder of the log; if unset, .annotator in the dataset."""
    format: Format = "table"
    """Output format; parquet is written to stdout as bytes."""


def run(args: Sequence[str]) -> int:
    """Print the result of one query."""
    arguments = parse("query", QueryArguments, args)
    write_table(query(arguments.root, arguments.sql, store=arguments.store), arguments.format)
    return 0
