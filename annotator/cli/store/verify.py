"""`annotator verify`: recompute every digest, rebuild the rows, and list what differs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.cli.parsing import DatasetArguments, Format, parse
from annotator.cli.tables import write_table
from annotator.config.store_path import store_path
from annotator.errors import UsageError

if TYPE_CHECKING:
    from annotator_store.verify.findings import VerifyReport


class VerifyArguments(DatasetArguments, frozen=True, kw_only=True):
    """Recompute every digest of the log, rebuild the rows, and compare them with the shards, the lock and the prompts.

    Read-only. Differences are listed with place, expected and found value; exit status 1 if there are any.
    """

    store: Path | None = None
    """Folder of the log; if unset, .annotator in the dataset."""
    prompts: Path | None = None
    """The folder of replaced prompts; if unset, the one that the dataset's runs used."""
    rebuild: bool = False
    """Also rebuild the cache in a temporary folder and compare it."""
    format: Format = "table"
    """Output format of the differences."""


def run(args: Sequence[str]) -> int:
    """Print differences on stdout and a summary on stderr; return 0 if shards were checked and nothing differs."""
    arguments = parse("verify", VerifyArguments, args)
    import msgspec
    import pyarrow as pa

    from annotator.dataset.metadata import open_dataset
    from annotator.verify.run import verify_dataset

    dataset = open_dataset(arguments.folder)
    store = find_journal(arguments.folder, arguments.store)
    report = verify_dataset(dataset, store, prompts=arguments.prompts, rebuild=arguments.rebuild)
    if report.findings or arguments.format != "table":
        rows = [msgspec.to_builtins(finding) for finding in report.findings]
        columns = ("kind", "where", "expected", "found")
        table = pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in columns})
        write_table(table, arguments.format)
    sys.stderr.write(_summary(report))
    return 1 if report.findings or not report.counts["shards"] else 0


def find_journal(root: Path, store: Path | None) -> Path:
    """Return the folder of a dataset's log.

    Raises:
        UsageError: it has no journal.
    """
    folder = store_path(root, store)
    if not (folder / "journal").is_dir():
        raise UsageError("no log", where=str(folder), hint="annotator sync makes one; --store names another")
    return folder


def _summary(report: "VerifyReport") -> str:
    counts = report.counts
    checked = ", ".join(
        f"{counts[name]} {name}" for name in ("files", "events", "calls", "annotations", "shards", "episodes", "rows")
    )
    lines = [f"checked: {checked}"]
    if counts["rows of others"]:
        lines.append(f"skipped: {counts['rows of others']} rows that no module of this log wrote")
    if report.withheld:
        lines.append(f"not listed: {report.withheld} differences that follow from these, or cannot be told beside them")
    lines += [f"note: {note}" for note in report.notes]
    wrong = len(report.findings)
    if wrong:
        lines.append(f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong")
    elif counts["shards"]:
        lines.append("nothing is wrong")
    else:
        lines.append("no shard of this dataset was written from this log: there is nothing here that the log knows")
    return "\n".join(lines) + "\n"
