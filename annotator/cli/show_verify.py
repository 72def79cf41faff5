"""Show what `annotator verify` found, and what `annotator export` wrote."""

import sys

from annotator.cli.parsing import ExportArguments, VerifyArguments
from annotator.errors import UsageError
from annotator_store.verify.findings import Audit


def show_verify(arguments: VerifyArguments) -> int:
    """Verify a dataset: findings on stdout, a summary on stderr. 0 where there is something and it is right, else 1."""
    import msgspec
    import pyarrow as pa

    from annotator.cli.show import write_table
    from annotator.dataset.metadata import open_dataset
    from annotator.verify.run import verify_dataset

    dataset = open_dataset(arguments.root)
    store = arguments.store or arguments.root / ".annotator"
    if not (store / "journal").is_dir():
        raise UsageError("no log", where=str(store), hint="annotator sync makes one; --store names another")
    audit = verify_dataset(dataset, store, prompts=arguments.prompts, rebuild=arguments.rebuild)
    if audit.findings or arguments.format != "table":
        rows = [msgspec.to_builtins(finding) for finding in audit.findings]
        columns = ("kind", "where", "expected", "found")
        write_table(
            pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in columns}), arguments.format
        )
    sys.stderr.write(_summary(audit))
    return 1 if audit.findings or not audit.counts["shards"] else 0


def _summary(audit: Audit) -> str:
    counts = audit.counts
    checked = ", ".join(
        f"{counts[name]} {name}" for name in ("files", "events", "calls", "annotations", "shards", "episodes", "rows")
    )
    lines = [f"checked: {checked}"]
    if counts["rows of others"]:
        lines.append(f"skipped: {counts['rows of others']} rows that no module of this log wrote")
    if audit.withheld:
        lines.append(f"not listed: {audit.withheld} differences that follow from these, or cannot be told beside them")
    lines += [f"note: {note}" for note in audit.notes]
    wrong = len(audit.findings)
    if wrong:
        lines.append(f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong")
    elif counts["shards"]:
        lines.append("nothing is wrong")
    else:
        lines.append("no shard of this dataset was written from this log: there is nothing here that the log knows")
    return "\n".join(lines) + "\n"


def show_export(arguments: ExportArguments) -> int:
    """Write an export and say on stderr what it holds."""
    from annotator.dataset.metadata import open_dataset
    from annotator.provenance.export_staging import export_staging

    if arguments.staging is None:
        raise UsageError("where to?", where="annotator export", hint="annotator export DATASET --staging DIR")
    dataset = open_dataset(arguments.root)
    store = arguments.store or arguments.root / ".annotator"
    if not (store / "journal").is_dir():
        raise UsageError("no log", where=str(store), hint="annotator sync makes one; --store names another")
    files = export_staging(dataset, store, arguments.staging)
    sys.stderr.write(f"wrote {files} files to {arguments.staging}\n")
    return 0
