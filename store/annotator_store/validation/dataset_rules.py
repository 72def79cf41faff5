"""What a dataset must declare for its language columns to load at all: its `meta/info.json`, and every shard's schema.

Source: FORMAT (LeRobot's language columns): one undeclared column, one shard without the columns or with others, and
the whole dataset does not load.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from annotator_store.parquet.columns import LANGUAGE_COLUMNS
from annotator_store.parquet.files import opened_shard
from annotator_store.parquet.info_json import LANGUAGE_FEATURE
from annotator_store.validation.report import FINDINGS, Finding, RuleViolations
from annotator_store.validation.rules import Rule

DECLARED = Rule(
    name="language_declared",
    severity="error",
    meaning="meta/info.json declares both language columns, and its tools are a list",
    select="",
    where="store/annotator_store/validation/dataset_rules.py",
)
EVERYWHERE = Rule(
    name="language_everywhere",
    severity="error",
    meaning="both language columns are in every shard, with one type",
    select="",
    where="store/annotator_store/validation/dataset_rules.py",
)
DATASET_RULES = (DECLARED, EVERYWHERE)
"""Held against a dataset as a whole; each finding is without an episode."""


def tool_names(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the tools that an `info.json` declares."""
    tools = info.get("tools")
    declared = cast("list[Any]", tools) if isinstance(tools, list) else []
    functions = [cast("dict[str, Any]", tool).get("function") for tool in declared if isinstance(tool, dict)]
    names = [cast("dict[str, Any]", one).get("name") for one in functions if isinstance(one, dict)]
    return tuple(name for name in names if isinstance(name, str))


def language_types(shards: Mapping[str, Path]) -> dict[str, dict[str, pa.DataType]]:
    """Read which language columns each shard has, and their types, by shard and column.

    Raises:
        ShardError: a shard cannot be read.
    """
    found: dict[str, dict[str, pa.DataType]] = {}
    for name, path in shards.items():
        with opened_shard(path) as file:
            schema = file.schema_arrow
        found[name] = {column: schema.field(column).type for column in LANGUAGE_COLUMNS if column in schema.names}
    return found


def judge_declared(
    info: Mapping[str, Any], types: Mapping[str, Mapping[str, pa.DataType]], *, limit: int = FINDINGS
) -> tuple[RuleViolations, ...]:
    """Hold an `info.json`, and what `language_types` read, to the rules of a dataset as a whole."""
    details = {DECLARED: [*_undeclared(info)], EVERYWHERE: [*_missing(types), *_differing(types)]}
    return tuple(_breach(rule, found, limit) for rule, found in details.items() if found)


def _undeclared(info: Mapping[str, Any]) -> Iterator[str]:
    features = cast("dict[str, Any]", info.get("features") or {})
    for column in LANGUAGE_COLUMNS:
        found = features.get(column)
        if not isinstance(found, dict):
            yield f"meta/info.json has no feature {column}"
            continue
        feature = cast("dict[str, Any]", found)
        wrong = [f"{key} {feature.get(key)!r}" for key, value in LANGUAGE_FEATURE.items() if feature.get(key) != value]
        if wrong:
            yield f"meta/info.json, feature {column}: {', '.join(wrong)}"
    if not isinstance(info.get("tools"), list | None):
        yield "meta/info.json, tools: no list"


def _missing(types: Mapping[str, Mapping[str, pa.DataType]]) -> Iterator[str]:
    for shard, found in types.items():
        absent = [column for column in LANGUAGE_COLUMNS if column not in found]
        if absent:
            yield f"{shard} has no {', '.join(absent)}"


def _differing(types: Mapping[str, Mapping[str, pa.DataType]]) -> Iterator[str]:
    for column in LANGUAGE_COLUMNS:
        spelled = {shard: _spelled(found[column]) for shard, found in types.items() if column in found}
        first = next(iter(spelled), None)
        for shard, kind in spelled.items():
            if first is not None and kind != spelled[first]:
                yield f"{shard}: {column} is {_short(kind)}, and {_short(spelled[first])} in {first}"


def _spelled(kind: pa.DataType) -> str:
    """Spell a type without what readers do not look at: the name of a list's element, and what may be null."""
    return re.sub(r"list<\w+: ", "list<", str(kind)).replace(" not null", "")


def _short(kind: str) -> str:
    return kind if len(kind) <= 60 else f"{kind[:57]}..."


def _breach(rule: Rule, details: list[str], limit: int) -> RuleViolations:
    findings = [
        Finding(rule=rule.name, severity=rule.severity, episode_index=None, timestamp=None, detail=detail, call=None)
        for detail in details[:limit]
    ]
    return RuleViolations(rule=rule, found=len(details), episodes=frozenset(), findings=tuple(findings))
