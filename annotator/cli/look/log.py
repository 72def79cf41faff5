"""`annotator log`: list the runs."""

from collections.abc import Sequence
from pathlib import Path

from annotator.cli.parsing import DatasetArguments, Format, parse
from annotator.cli.tables import write_table
from annotator.config.store_path import store_path
from annotator.errors import UsageError

RUNS = """
SELECT started_at, run_id[:8] AS run, outcome, engine, episodes, calls_answered AS answered, calls_hit AS hits,
       calls_failed AS failed, calls_declined AS declined, answers_rejected AS rejected, tokens_in, tokens_out,
       shards_written AS shards, elapsed_s
FROM runs ORDER BY started_at, run_id
"""


class LogArguments(DatasetArguments, frozen=True, kw_only=True):
    """List the runs, newest last."""

    store: Path | None = None
    """Folder of the log; if unset, .annotator in the dataset."""
    format: Format = "table"
    """Output format."""


def run(args: Sequence[str]) -> int:
    """List the runs."""
    arguments = parse("log", LogArguments, args)
    from annotator_store.log.query import run_query

    folder = store_path(arguments.folder, arguments.store)
    if not folder.is_dir():
        raise UsageError("no log", where=str(folder), hint="annotator sync makes one")
    write_table(run_query(folder, RUNS), arguments.format)
    return 0
