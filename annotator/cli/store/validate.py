"""`annotator validate`: check the language columns of a dataset against the rules."""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from annotator.cli.parsing import DatasetArguments, parse
from annotator.cli.tables import write_table
from annotator.config.load import parse_episodes
from annotator.config.settings import PositiveInt
from annotator.config.store_path import store_path
from annotator.dataset.metadata import Dataset, open_dataset
from annotator.errors import UsageError, VocabularyError
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.modules.vocabulary.file import FILE, read_vocabulary
from annotator.pipeline.validation_gate import load_usable_rules, rule_context
from annotator_store.errors import StoreError
from annotator_store.parquet.columns import LANGUAGE_COLUMNS
from annotator_store.validation.dataset_rules import DATASET_RULES, check_declarations, language_types, tool_names
from annotator_store.validation.report import Finding, ValidationReport, render_report, summary_line
from annotator_store.validation.rules import Rule
from annotator_store.validation.run import check_shards

if TYPE_CHECKING:
    import pyarrow as pa

CALLS = """
SELECT episode_index, "timestamp", style, role, camera, content, tool_calls, min(call) AS call
FROM rows
WHERE call IS NOT NULL AND episode_index IN (SELECT unnest($episodes))
GROUP BY ALL
"""


class ValidateArguments(DatasetArguments, frozen=True, kw_only=True):
    """Check the language columns of a dataset against the rules, whichever tool wrote them.

    docs/validation.md lists the rules. Exit status: 0 without errors, 1 with errors, 2 usage.
    """

    rules: Path | None = None
    """A folder of additional rules, one SQL file per rule."""
    only_episodes: str | None = None
    """Episodes to check, such as 0,5-9."""
    vocabulary: bool = True
    """Check subtasks and memory against meta/canonical_vocabulary.json, if it exists."""
    store: Path | None = None
    """Folder of the log that names the call of a row; if unset, .annotator in the dataset, if it exists."""
    limit: PositiveInt = 20
    """Maximum number of findings printed per rule; all are counted."""
    format: Literal["table", "json", "csv"] = "table"
    """Output format of the findings."""


def run(args: Sequence[str]) -> int:
    """Print what the rules find, and return 1 if there is an error.

    Raises:
        UsageError: the rules, the episodes or an argument are invalid.
        Problem: the dataset cannot be read, or has no language columns.
    """
    arguments = parse("validate", ValidateArguments, args)
    rules = load_usable_rules(arguments.rules)
    report = _check(arguments, open_dataset(arguments.folder), rules)
    if arguments.format == "table":
        print(render_report(report))
    else:
        import pyarrow as pa

        types = (pa.string(), pa.string(), pa.int64(), pa.float64(), pa.string(), pa.string())
        schema = pa.schema(dict(zip(Finding.__struct_fields__, types, strict=True)))
        rows = [msgspec.structs.asdict(finding) for finding in report.findings]
        write_table(pa.Table.from_pylist(rows, schema), arguments.format)
        sys.stderr.write(summary_line(report) + "\n")
    return 1 if report.count("error") else 0


def _check(arguments: ValidateArguments, dataset: Dataset, rules: Sequence[Rule]) -> ValidationReport:
    """Check the dataset as a whole, and the rows of the requested episodes in shards that have the columns."""
    types = language_types({shard: dataset.root / shard for shard in dataset.shards})
    whole = check_declarations(dataset.info, types, limit=arguments.limit)
    judged = {shard for shard, found in types.items() if len(found) == len(LANGUAGE_COLUMNS)}
    report = _check_rows(arguments, dataset, rules, judged or set(types))
    breaches = sorted(
        [*whole, *report.violations], key=lambda violation: (violation.rule.severity, violation.rule.name)
    )
    return msgspec.structs.replace(report, violations=tuple(breaches), rules=report.rules + len(DATASET_RULES))


def _check_rows(
    arguments: ValidateArguments, dataset: Dataset, rules: Sequence[Rule], judged: Collection[str]
) -> ValidationReport:
    context = rule_context(dataset, _vocabulary(arguments, dataset.root), tool_names(dataset.info))
    names, only = list(dataset.shards), None
    if arguments.only_episodes is not None:
        only = parse_episodes(arguments.only_episodes, [episode.index for episode in dataset.episodes])
        names = sorted({episode.shard for episode in dataset.episodes if episode.index in set(only)})
    shards = [dataset.root / name for name in names if name in judged]
    report = check_shards(shards, rules, context, only=only, limit=arguments.limit)
    shown = {finding.episode_index for finding in report.findings if finding.episode_index is not None}
    calls = _calls(arguments, sorted(shown))
    if calls is None:
        return report
    # Joining the log is slow, so it is done only for findings, and only for the episodes that are printed.
    again = check_shards(shards, rules, context, only=shown, calls=calls, limit=arguments.limit)
    traced = {violation.rule.name: violation.findings for violation in again.violations}
    breaches = [
        msgspec.structs.replace(violation, findings=traced.get(violation.rule.name, violation.findings))
        for violation in report.violations
    ]
    return msgspec.structs.replace(report, violations=tuple(breaches))


def _vocabulary(arguments: ValidateArguments, root: Path) -> Vocabulary | None:
    """Return the vocabulary the rows were written with; None, which skips its rules, if it is unknown or off."""
    path, lock = root / FILE, root / "meta" / "annotations.lock.json"
    if not arguments.vocabulary or not path.exists():
        return None
    try:
        pinned = None
        if lock.exists():
            from annotator.provenance.lock import read_lock  # brings the modules and jinja2 along

            pinned = read_lock(lock)
        # The rows were written without the vocabulary if the lock pins none.
        return None if pinned is not None and pinned.vocabulary is None else read_vocabulary(path)
    except (VocabularyError, StoreError) as error:
        sys.stderr.write(f"the vocabulary is not checked – {error}\n      or switch it off: --vocabulary false\n")
        return None


def _calls(arguments: ValidateArguments, episodes: Sequence[int]) -> "pa.Table | None":
    from annotator_store.log.query import run_query

    folder = store_path(arguments.folder, arguments.store)
    if arguments.store is not None and not folder.is_dir():
        hint = "--store names the folder of a log; annotator sync makes one"
        raise UsageError("no log", where=str(folder), hint=hint)
    if not episodes or not folder.is_dir():
        return None
    try:
        return run_query(folder, CALLS, {"episodes": list(episodes)})
    except StoreError as error:
        sys.stderr.write(f"the calls of the rows are not shown – {error}\n")
        return None
