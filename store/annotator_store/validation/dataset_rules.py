"""Rules about a dataset as a whole: what `meta/info.json` declares, and that all shards have the same schema.

Source: FORMAT (LeRobot's language columns): with one undeclared column, or one shard that lacks the columns or has
other types, the whole dataset does not load.
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
"""Their findings name no episode."""


def tool_names(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the tools that an `info.json` declares."""
    tools = info.get("tools")
    declared = cast("list[Any]", tools) if isinstance(tools, list) else []
    functions = [cast("dict[str, Any]", tool).get("function") for tool in declared if isinstance(tool, dict)]
    names = [cast("dict[str, Any]", function).get("name") for function in functions if isinstance(function, dict)]
    return tuple(name for name in names if isinstance(name, str))


def language_types(shards: Mapping[str, Path]) -> dict[str, dict[str, pa.DataType]]:
    """Return the Arrow types of the language columns that each shard has, by shard and column.

    Raises:
        ShardError: a shard cannot be read.
    """
    types: dict[str, dict[str, pa.DataType]] = {}
    for name, path in shards.items():
        with opened_shard(path) as file:
            schema = file.schema_arrow
        types[name] = {column: schema.field(column).type for column in LANGUAGE_COLUMNS if column in schema.names}
    return types


def check_declarations(
    info: Mapping[str, Any], types: Mapping[str, Mapping[str, pa.DataType]], *, limit: int = FINDINGS
) -> tuple[RuleViolations, ...]:
    """Check an `info.json`, and the types from `language_types`, against the rules about a dataset as a whole."""
    details = {DECLARED: [*_undeclared(info)], EVERYWHERE: [*_missing(types), *_differing(types)]}
    return tuple(_violations(rule, faults, limit) for rule, faults in details.items() if faults)


def _undeclared(info: Mapping[str, Any]) -> Iterator[str]:
    features = cast("dict[str, Any]", info.get("features") or {})
    for column in LANGUAGE_COLUMNS:
        declared = features.get(column)
        if not isinstance(declared, dict):
            yield f"meta/info.json has no feature {column}"
            continue
        feature = cast("dict[str, Any]", declared)
        wrong = [f"{key} {feature.get(key)!r}" for key, value in LANGUAGE_FEATURE.items() if feature.get(key) != value]
        if wrong:
            yield f"meta/info.json, feature {column}: {', '.join(wrong)}"
    if not isinstance(info.get("tools"), list | None):
        yield "meta/info.json, tools: no list"


def _missing(types: Mapping[str, Mapping[str, pa.DataType]]) -> Iterator[str]:
    for shard, columns in types.items():
        absent = [column for column in LANGUAGE_COLUMNS if column not in columns]
        if absent:
            yield f"{shard} has no {', '.join(absent)}"


def _differing(types: Mapping[str, Mapping[str, pa.DataType]]) -> Iterator[str]:
    for column in LANGUAGE_COLUMNS:
        spelled = {shard: _spelled(columns[column]) for shard, columns in types.items() if column in columns}
        first = next(iter(spelled), None)
        for shard, kind in spelled.items():
            if first is not None and kind != spelled[first]:
                yield f"{shard}: {column} is {_short(kind)}, and {_short(spelled[first])} in {first}"


def _spelled(kind: pa.DataType) -> str:
    """Spell a type without what readers ignore: the name of a list's element, and whether a field may be null."""
    return re.sub(r"list<\w+: ", "list<", str(kind)).replace(" not null", "")


def _short(kind: str) -> str:
    return kind if len(kind) <= 60 else f"{kind[:57]}..."


def _violations(rule: Rule, details: list[str], limit: int) -> RuleViolations:
    findings = [
        Finding(rule=rule.name, severity=rule.severity, episode_index=None, timestamp=None, detail=detail, call=None)
        for detail in details[:limit]
    ]
    return RuleViolations(rule=rule, count=len(details), episodes=frozenset(), findings=tuple(findings))
