"""Run rules over rows and frames, in DuckDB.

    rows about to be written, or shards as they are -> RuleTables -> rules -> ValidationReport

Rules see whole episodes, those of a few shards at a time, so memory does not grow with the dataset. A rule may read the
tables and nothing else: no files, no network, no extensions, no settings.
"""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import duckdb
import msgspec
import pyarrow as pa

from annotator_store.errors import RuleError
from annotator_store.log.cache import SANDBOXED
from annotator_store.log.events import AnnotatedRow
from annotator_store.rows import styles
from annotator_store.validation.report import (
    FINDINGS,
    Finding,
    RuleViolations,
    ValidationReport,
    merge_reports,
    split_preexisting,
)
from annotator_store.validation.rules import REQUIRED, TABLES, Rule
from annotator_store.validation.tables import (
    RuleTables,
    concat_rule_tables,
    kept_rows_only,
    tables_of_rows,
    tables_of_shard,
)

FRAMES_AT_ONCE = 2_000_000
"""Frames of the shards that are validated together, about: starting DuckDB costs more than a small shard does."""
ALL = 1 << 62
"""A limit that keeps every finding."""
THREADS = 2
"""Shards that are read at the same time."""

T = TypeVar("T")


class CameraSize(msgspec.Struct, frozen=True, kw_only=True):
    """A camera of the dataset, by feature key, and the size of its stored frames."""

    camera: str
    width_px: int
    height_px: int


class RuleContext(msgspec.Struct, frozen=True, kw_only=True):
    """What rules need to know beside rows and frames.

    Subtasks and memories are worded freely where their list is empty. `tools`: names of the tools that may be called.
    """

    cameras: tuple[CameraSize, ...] = ()
    subtasks: tuple[str, ...] = ()
    memories: tuple[str, ...] = ()
    tools: tuple[str, ...] = ("say",)


def check_rows(
    shards: Iterable[tuple[Path, Mapping[int, Sequence[AnnotatedRow]]]],
    rules: Sequence[Rule],
    context: RuleContext,
    *,
    limit: int = FINDINGS,
) -> ValidationReport:
    """Validate rows before they are written.

    An error that the kept rows make by themselves is reported as `preexisting`.

    Args:
        shards: the file that has the frames, and the rows of each of its episodes by episode index; episodes that are
            not named are not validated. Read lazily, so the rows of one shard may be made after those of another.
        limit: findings of each rule that are kept, over all shards together.

    Raises:
        ShardError: a shard cannot be read, or lacks a column.
        RuleError: a rule fails.
    """
    reports = [_check_new(part, rules, context, limit) for part in _read_tables(shards, lambda s: tables_of_rows(*s))]
    return msgspec.structs.replace(merge_reports(reports, limit=limit), rules=len(rules))


def check_shards(
    shards: Iterable[Path],
    rules: Sequence[Rule],
    context: RuleContext,
    *,
    only: Collection[int] | None = None,
    calls: pa.Table | None = None,
    limit: int = FINDINGS,
) -> ValidationReport:
    """Validate the language columns of shards as they are, whoever wrote them.

    Args:
        only: the episodes to validate, by index; None for all.
        calls: which call a row came from: episode_index, call, and the row's own timestamp, style, role, camera,
            content and tool_calls, as the view `rows` of a log has them.
        limit: findings of each rule that are kept.

    Raises:
        ShardError: a shard cannot be read, has no language columns, or they hold no rows.
        RuleError: a rule fails.
    """
    parts = _read_tables(shards, lambda shard: tables_of_shard(shard, only))
    report = merge_reports([_check(part, rules, context, limit, calls) for part in parts], limit=limit)
    return msgspec.structs.replace(report, rules=len(rules))


def try_rules(rules: Sequence[Rule]) -> None:
    """Run rules over empty tables, so that one that cannot run is refused before anything else is done.

    Raises:
        RuleError: a rule names an unknown table or column, or fails.
    """
    _check(concat_rule_tables([]), rules, RuleContext(), 1)


def _read_tables(items: Iterable[T], read: Callable[[T], RuleTables]) -> Iterator[RuleTables]:
    """Read `THREADS` items at a time; yield their tables once they have `FRAMES_AT_ONCE` frames together."""
    remaining = iter(items)
    parts: list[RuleTables] = []
    with ThreadPoolExecutor(THREADS, "rules") as pool:
        while some := list(islice(remaining, THREADS)):
            parts += pool.map(read, some)
            if sum(len(part.frames) for part in parts) >= FRAMES_AT_ONCE:
                yield concat_rule_tables(parts)
                parts = []
    if parts:
        yield concat_rule_tables(parts)


def _check_new(tables: RuleTables, rules: Sequence[Rule], context: RuleContext, limit: int) -> ValidationReport:
    """Validate rows of which some are kept; what these break by themselves is found only where there is an error."""
    report = _check(tables, rules, context, limit)
    broken = [violations.rule for violations in report.violations if violations.rule.severity == "error"]
    kept = kept_rows_only(tables)
    if not broken or not len(kept.rows):
        return report
    of_kept_rows = {v.rule.name: v.findings for v in _check(kept, broken, context, ALL).violations}
    splits = [
        split_preexisting(violations, of_kept_rows.get(violations.rule.name, ()), limit)
        for violations in _check(tables, broken, context, ALL).violations
    ]
    warnings = [violations for violations in report.violations if violations.rule.severity == "warning"]
    new = [violations for violations, _ in splits if violations is not None]
    preexisting = tuple(violations for _, violations in splits if violations is not None)
    return msgspec.structs.replace(report, violations=(*new, *warnings), preexisting=preexisting)


def _check(
    tables: RuleTables, rules: Sequence[Rule], context: RuleContext, limit: int, calls: pa.Table | None = None
) -> ValidationReport:
    with _connect(tables, context, calls) as connection:
        (episodes,) = connection.execute("SELECT count(*) FROM episodes").fetchall()[0]
        of_rules = [_run(connection, rule, limit) for rule in rules]
    report = ValidationReport(
        violations=tuple(violations for violations in of_rules if violations is not None),
        rules=len(rules),
        episodes=episodes,
        frames=len(tables.frames),
        rows=len(tables.rows),
    )
    return merge_reports([report], limit=limit)  # puts errors first


@contextmanager
def _connect(tables: RuleTables, context: RuleContext, calls: pa.Table | None) -> Generator[duckdb.DuckDBPyConnection]:
    entries = [("subtask", entry) for entry in context.subtasks] + [("memory", entry) for entry in context.memories]
    given = {
        "frames": tables.frames,
        "rows": tables.rows,
        "persistent_changes": tables.changes,
        "cameras": _texts(
            ("camera", "width_px", "height_px"), [msgspec.structs.astuple(camera) for camera in context.cameras]
        ),
        "styles": _style_table(),
        "vocabulary": _texts(("kind", "entry"), entries),
        "tools": _texts(("name",), [(name,) for name in context.tools]),
    }
    connection = duckdb.connect(":memory:", config=SANDBOXED)
    try:
        for name, table in given.items():
            connection.register(f"given_{name}", table)
        connection.execute(TABLES["create_rule_tables"])
        if calls is not None:
            connection.register("given_calls", calls)
            connection.execute(TABLES["update_rule_calls"])
            connection.unregister("given_calls")
        connection.execute(TABLES["create_rule_answers"])
        for name in given:
            connection.unregister(f"given_{name}")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET lock_configuration = true")
        yield connection
    finally:
        connection.close()


def _style_table() -> pa.Table:
    known = styles()
    return pa.table(
        {
            "style": pa.array([style.name for style in known], pa.string()),
            "column": pa.array([style.column for style in known], pa.string()),
            "roles": pa.array([style.roles for style in known], pa.list_(pa.string())),
            "has_camera": pa.array([style.has_camera for style in known], pa.bool_()),
            "one_at_a_time": pa.array([style.one_at_a_time for style in known], pa.bool_()),
        }
    )


def _texts(names: Sequence[str], lines: Sequence[tuple[object, ...]]) -> pa.Table:
    columns = {name: pa.array([str(line[index]) for line in lines], pa.string()) for index, name in enumerate(names)}
    return pa.table(columns)


def _run(connection: duckdb.DuckDBPyConnection, rule: Rule, limit: int) -> RuleViolations | None:
    try:
        columns = connection.sql(rule.select).columns
        missing = [name for name in REQUIRED if name not in columns]
        if missing:
            got, hint = f"no {', '.join(missing)}", f"it returns {', '.join(REQUIRED)} and may return call"
            raise RuleError("a rule lacks a column", where=rule.where, got=got, hint=hint)
        findings = _first_findings(connection, rule, limit, with_call="call" in columns)
        return _count(connection, rule, findings) if findings else None
    except duckdb.Error as cause:
        hint = "docs/validation.md lists the tables and their columns"
        raise RuleError("a rule fails", where=rule.where, got=str(cause).strip(), hint=hint) from cause


def _first_findings(connection: duckdb.DuckDBPyConnection, rule: Rule, limit: int, *, with_call: bool) -> list[Finding]:
    call = "call::VARCHAR" if with_call else "NULL"
    sql = f"""
        SELECT episode_index::BIGINT AS e, "timestamp"::DOUBLE AS t, detail::VARCHAR AS d, {call} AS c
        FROM (\n{rule.select}\n) ORDER BY e, t, d, c LIMIT {limit}
    """
    return [
        Finding(
            rule=rule.name, severity=rule.severity, episode_index=episode, timestamp=time, detail=detail or "", call=key
        )
        for episode, time, detail, key in connection.execute(sql).fetchall()
    ]


def _count(connection: duckdb.DuckDBPyConnection, rule: Rule, findings: Sequence[Finding]) -> RuleViolations:
    sql = f"""
        SELECT count(*), list(DISTINCT episode_index::BIGINT), bool_or(episode_index IS NULL)
        FROM (\n{rule.select}\n)
    """
    count, episodes, nameless = connection.execute(sql).fetchall()[0]
    if nameless:
        episodes = [index for (index,) in connection.execute("SELECT episode_index FROM episodes").fetchall()]
    return RuleViolations(rule=rule, count=count, episodes=frozenset(episodes), findings=tuple(findings))
