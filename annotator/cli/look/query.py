"""`annotator query`: ask the log in SQL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from annotator.api import query
from annotator.cli.parsing import Format, parse
from annotator.cli.tables import write_table
from annotator.config.options import POSITIONAL
from annotator.config.settings import Settings


class QueryArguments(Settings, frozen=True, kw_only=True):
    """Ask the log in SQL, read-only; also while a sync runs. Views: rows, calls, episodes, runs, failures, prompts,
    vocabulary.

    Where a dataset has no log, `rows` reads its language columns.
    """

    sql: Annotated[str, POSITIONAL]
    """One SELECT, in DuckDB's SQL."""
    root: Path = Path()
    """The dataset's folder."""
    store: Path | None = None
    """Where the log lives; unset takes .annotator in the dataset."""
    format: Format = "table"
    """How to print the result; parquet goes to stdout as bytes."""


def run(args: Sequence[str]) -> int:
    """Answer one query."""
    arguments = parse("query", QueryArguments, args)
    write_table(query(arguments.root, arguments.sql, store=arguments.store), arguments.format)
    return 0
