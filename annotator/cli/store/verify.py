"""`annotator verify`: derive every digest again, project again, and name what differs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from annotator.cli.parsing import DatasetArguments, Format, parse
from annotator.cli.tables import write_table
from annotator.config.store_path import store_path
from annotator.errors import UsageError
from annotator_store.verify.findings import VerifyReport


class VerifyArguments(DatasetArguments, frozen=True, kw_only=True):
    """Derive every digest of the log again, fold and project again, and compare with shards, lock and prompts.

    Reads only. What differs is listed with its place, what was expected there and what was found; exit status 1 then.
    """

    store: Path | None = None
    """Where the log lives; unset takes .annotator in the dataset."""
    prompts: Path | None = None
    """The folder of own prompts; unset takes those that the dataset's runs were given."""
    rebuild: bool = False
    """Make the cache anew in a temporary folder as well, and compare that."""
    format: Format = "table"
    """How to print what is wrong."""


def run(args: Sequence[str]) -> int:
    """Verify a dataset: findings on stdout, a summary on stderr. 0 where there is something and it is right, else 1."""
    import msgspec
    import pyarrow as pa

    from annotator.dataset.metadata import open_dataset
    from annotator.verify.run import verify_dataset

    arguments = parse("verify", VerifyArguments, args)
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
        UsageError: there is none.
    """
    folder = store_path(root, store)
    if not (folder / "journal").is_dir():
        raise UsageError("no log", where=str(folder), hint="annotator sync makes one; --store names another")
    return folder


def _summary(report: VerifyReport) -> str:
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
