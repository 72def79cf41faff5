"""`annotator export`: write the rows of the shards as files."""

import sys
from collections.abc import Sequence
from pathlib import Path

from annotator.cli.parsing import DatasetArguments, parse
from annotator.cli.store.verify import find_journal
from annotator.errors import UsageError


class ExportArguments(DatasetArguments, frozen=True, kw_only=True):
    """Write the rows of the shards as files: episode_{N:06d}/<module>.jsonl, one row per line.

    A line has camera, content, role, style, timestamp (seconds) and tool_calls, keys sorted. Reads the log only.
    """

    store: Path | None = None
    """Folder of the log; if unset, .annotator in the dataset."""
    staging: Path | None = None
    """The folder to write: new, empty, or that of an earlier export, which is replaced."""


def run(args: Sequence[str]) -> int:
    """Write the export and report the number of files on stderr."""
    arguments = parse("export", ExportArguments, args)
    from annotator.dataset.metadata import open_dataset
    from annotator.provenance.export_staging import export_staging

    if arguments.staging is None:
        raise UsageError(
            "no folder to write to", where="annotator export", hint="annotator export DATASET --staging DIR"
        )
    dataset = open_dataset(arguments.folder)
    files = export_staging(dataset, find_journal(arguments.folder, arguments.store), arguments.staging)
    sys.stderr.write(f"wrote {files} files to {arguments.staging}\n")
    return 0
