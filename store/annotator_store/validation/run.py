"""Run the rules over rows and frames, and say what is wrong: which rule, which episode, when, what, from which call.

    rows about to be written, or shards as they are -> tables -> rules -> Verdict

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
    merged,
    split_preexisting,
)
from annotator_store.validation.rules import REQUIRED, TABLES, Rule
from annotator_store.validation.tables import RuleTables, evidence_of_rows, evidence_of_shard, joined, kept_alone

FRAMES_AT_ONCE = 2_000_000
ALL = 1 << 62
"""A limit that keeps every finding."""
THREADS = 2

T = TypeVar("T")


class CameraSize(msgspec.Struct, frozen=True, kw_only=True):
    """A camera of the dataset, by feature key, and the size of its stored frames."""

    camera: str
    width_px: int
    height_px: int


class RuleContext(msgspec.Struct, frozen=True, kw_only=True):
    """What rows are held to beside frames. An empty list of subtasks or memories holds them to nothing.

    `tools` are the names of those that may be called.
    """

    cameras: tuple[CameraSize, ...] = ()
    subtasks: tuple[str, ...] = ()
    memories: tuple[str, ...] = ()
    tools: tuple[str, ...] = ("say",)


def check_rows(
    shards: Iterable[tuple[Path, Mapping[int, Sequence[AnnotatedRow]]]],
    rules: Sequence[Rule],
    known: RuleContext,
    *,
    limit: int = FINDINGS,
) -> ValidationReport:
    """Judge rows before they are written: of each shard the rows that its episodes, by episode index, are to have.

    An error that is found just so in the kept rows alone is no breach: it was there `before`. Episodes that are not
    named are not judged. `shards` is read as it is needed, so it may make the rows of one shard after the other;
    `limit` is how many findings of each rule are kept, of all of them together.

    Raises:
        ShardError: a shard cannot be read, or lacks a column.
        RuleError: a rule fails.
    """

    def read(one: tuple[Path, Mapping[int, Sequence[AnnotatedRow]]]) -> RuleTables:
        return evidence_of_rows(*one)

    verdicts = [_judge_new(part, rules, known, limit) for part in _evidence(shards, read)]
    return msgspec.structs.replace(merged(verdicts, limit=limit), rules=len(rules))


def check_shards(
    shards: Iterable[Path],
    rules: Sequence[Rule],
    known: RuleContext,
    *,
    only: Collection[int] | None = None,
    calls: pa.Table | None = None,
    limit: int = FINDINGS,
) -> ValidationReport:
    """Judge the language columns of shards as they are, whoever wrote them; `only` picks episodes by index.

    `calls` says which call a row came from: episode_index, call, and the row's own timestamp, style, role, camera,
    content and tool_calls, as the view `rows` of a log has them.

    Raises:
        ShardError: a shard cannot be read, has no language columns, or they hold no rows.
        RuleError: a rule fails.
    """
    parts = _evidence(shards, lambda shard: evidence_of_shard(shard, only))
    verdict = merged([_judge(part, rules, known, limit, calls) for part in parts], limit=limit)
    return msgspec.structs.replace(verdict, rules=len(rules))


def try_rules(rules: Sequence[Rule]) -> None:
    """Run rules over empty tables, so that one that cannot run is refused before anything else is done.

    Raises:
        RuleError: a rule names what no table has, or fails.
    """
    _judge(joined([]), rules, RuleContext(), 1)


def _evidence(items: Iterable[T], read: Callable[[T], RuleTables]) -> Iterator[RuleTables]:
    """Read a few items at a time, and give what was read once it is enough for the rules to be run."""
    waiting = iter(items)
    parts: list[RuleTables] = []
    with ThreadPoolExecutor(THREADS, "rules") as pool:
        while some := list(islice(waiting, THREADS)):
            parts += pool.map(read, some)
            if sum(len(part.frames) for part in parts) >= FRAMES_AT_ONCE:
                yield joined(parts)
                parts = []
    if parts:
        yield joined(parts)


def _judge_new(evidence: RuleTables, rules: Sequence[Rule], known: RuleContext, limit: int) -> ValidationReport:
    """Judge rows of which some are kept. Only where there is an error does it matter which."""
    verdict = _judge(evidence, rules, known, limit)
    broken = [breach.rule for breach in verdict.breaches if breach.rule.severity == "error"]
    kept = kept_alone(evidence)
    if not broken or not len(kept.rows):
        return verdict
    alone = {one.rule.name: one.findings for one in _judge(kept, broken, known, ALL).breaches}
    whole = _judge(evidence, broken, known, ALL).breaches
    apart = [split_preexisting(breach, alone.get(breach.rule.name, ()), limit) for breach in whole]
    warnings = [breach for breach in verdict.breaches if breach.rule.severity == "warning"]
    new = [breach for breach, _ in apart if breach is not None]
    before = tuple(breach for _, breach in apart if breach is not None)
    return msgspec.structs.replace(verdict, breaches=(*new, *warnings), before=before)


def _judge(
    evidence: RuleTables, rules: Sequence[Rule], known: RuleContext, limit: int, calls: pa.Table | None = None
) -> ValidationReport:
    with _tables(evidence, known, calls) as connection:
        (episodes,) = connection.execute("SELECT count(*) FROM episodes").fetchall()[0]
        found = [_run(connection, rule, limit) for rule in rules]
    return merged(
        [
            ValidationReport(
                breaches=tuple(breach for breach in found if breach is not None),
                rules=len(rules),
                episodes=episodes,
                frames=len(evidence.frames),
                rows=len(evidence.rows),
            )
        ],
        limit=limit,
    )


@contextmanager
def _tables(
    evidence: RuleTables, known: RuleContext, calls: pa.Table | None = None
) -> Generator[duckdb.DuckDBPyConnection]:
    entries = [("subtask", entry) for entry in known.subtasks] + [("memory", entry) for entry in known.memories]
    given = {
        "frames": evidence.frames,
        "rows": evidence.rows,
        "persistent_changes": evidence.changes,
        "cameras": _texts(("camera", "width_px", "height_px"), [msgspec.structs.astuple(one) for one in known.cameras]),
        "styles": _style_table(),
        "vocabulary": _texts(("kind", "entry"), entries),
        "tools": _texts(("name",), [(name,) for name in known.tools]),
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
    columns = {name: pa.array([str(line[at]) for line in lines], pa.string()) for at, name in enumerate(names)}
    return pa.table(columns)


def _run(connection: duckdb.DuckDBPyConnection, rule: Rule, limit: int) -> RuleViolations | None:
    try:
        columns = connection.sql(rule.select).columns
        missing = [name for name in REQUIRED if name not in columns]
        if missing:
            got, hint = f"no {', '.join(missing)}", f"it returns {', '.join(REQUIRED)} and may return call"
            raise RuleError("a rule lacks a column", where=rule.where, got=got, hint=hint)
        findings = _first(connection, rule, limit, with_call="call" in columns)
        return _breach(connection, rule, findings) if findings else None
    except duckdb.Error as cause:
        hint = "docs/validation.md lists the tables and their columns"
        raise RuleError("a rule fails", where=rule.where, got=str(cause).strip(), hint=hint) from cause


def _first(connection: duckdb.DuckDBPyConnection, rule: Rule, limit: int, *, with_call: bool) -> list[Finding]:
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


def _breach(connection: duckdb.DuckDBPyConnection, rule: Rule, findings: Sequence[Finding]) -> RuleViolations:
    sql = f"""
        SELECT count(*), list(DISTINCT episode_index::BIGINT), bool_or(episode_index IS NULL)
        FROM (\n{rule.select}\n)
    """
    found, episodes, nameless = connection.execute(sql).fetchall()[0]
    if nameless:
        episodes = [index for (index,) in connection.execute("SELECT episode_index FROM episodes").fetchall()]
    return RuleViolations(rule=rule, found=found, episodes=frozenset(episodes), findings=tuple(findings))
