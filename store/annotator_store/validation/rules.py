"""Rules about language rows: one SQL file each, with its severity and meaning in the two lines at its top.

    -- severity: error
    -- meaning: every interjection is answered by speech on its frame
    SELECT episode_index, "timestamp", … AS detail, call FROM rows …

A rule is one SELECT that returns the offending rows; docs/validation.md says which tables it may read.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, cast

import duckdb
import msgspec

from annotator_store.digests import Digest, digest_parts
from annotator_store.errors import RuleError
from annotator_store.rows import styles
from annotator_store.sql import read_statements

Severity = Literal["error", "warning"]
SHIPPED = Path(__file__).with_name("sql") / "rules"
TABLES = read_statements(Path(__file__).with_name("sql") / "tables.sql")
"""The statements that make the tables which rules read, by name."""
REQUIRED = ("episode_index", "timestamp", "detail")
"""Columns that every rule's SELECT returns; `call` is optional."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_HEADER = re.compile(r"\s*-- severity: *(?P<severity>\S*) *\n-- meaning: *(?P<meaning>\S[^\n]*)\n")
_HEADER_HINT = "its first two lines are `-- severity: error` (or warning) and `-- meaning: <one line>`"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule. `select`: its SELECT without a semicolon; `where`: its file, for messages."""

    name: str
    severity: Severity
    meaning: str
    select: str
    where: str


def load_rules(folder: Path | None = None) -> tuple[Rule, ...]:
    """Read the shipped rules and those in `folder`, sorted by name; a file named like a shipped rule replaces it.

    Raises:
        RuleError: a folder or file cannot be read, or a file is not a rule. Unknown tables and columns are found
            by `annotator_store.validation.run.try_rules`.
    """
    rules = {path.stem: _read(path, shipped=True) for path in _files(SHIPPED)}
    if folder is not None:
        own_files = _files(folder)
        if not own_files:
            hint = "one .sql file a rule; docs/validation.md shows one"
            raise RuleError("no rules there", where=str(folder), got="no .sql file", hint=hint)
        rules |= {path.stem: _read(path, shipped=False) for path in own_files}
    return tuple(rules[name] for name in sorted(rules))


def digest_rules(rules: Iterable[Rule]) -> Digest:
    """Digest the names, severities and SELECTs of rules, the tables that they read, and the known styles.

    Their meanings and the places of their files do not count.
    """
    parts = [part for rule in rules for part in (rule.name, rule.severity, rule.select)]
    parts.append(msgspec.json.encode(styles()).decode())
    tables = [TABLES["create_rule_tables"], TABLES["create_rule_answers"]]
    return digest_parts("rules.v1", [part.encode() for part in (*tables, *parts)])


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".sql")
    except OSError as cause:
        hint = "name a folder with one .sql file a rule; docs/validation.md shows one"
        raise RuleError("the rules cannot be read", where=str(folder), got=str(cause), hint=hint) from cause


def _read(path: Path, *, shipped: bool) -> Rule:
    where = path.name if shipped else str(path)
    if not _NAME.fullmatch(path.stem):
        hint = "small letters, digits and _; the name is how findings are known"
        raise RuleError("a rule's file name is no name", where=where, got=path.stem, hint=hint)
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as cause:
        hint = "it is a text file in UTF-8"
        raise RuleError("a rule cannot be read", where=where, got=str(cause), hint=hint) from cause
    header = _HEADER.match(text)
    if header is None or header["severity"] not in ("error", "warning"):
        got = " / ".join(text.strip().splitlines()[:2])[:200] or "an empty file"
        raise RuleError("a rule's header cannot be read", where=where, got=got, hint=_HEADER_HINT)
    return Rule(
        name=path.stem,
        severity=cast("Severity", header["severity"]),
        meaning=header["meaning"].strip(),
        select=_select(text[header.end() :], where),
        where=where,
    )


def _select(sql: str, where: str) -> str:
    """Return a rule's SQL without the semicolon at its end, if it parses as one SELECT."""
    try:
        kinds = [statement.type.name for statement in duckdb.extract_statements(sql)]  # parses, and runs nothing
    except duckdb.Error as cause:
        raise RuleError("a rule's SQL is refused", where=where, got=str(cause).strip()) from cause
    if kinds != ["SELECT"]:
        got, hint = ", ".join(kinds) or "no statement", "the offending rows, as one SELECT"
        raise RuleError("a rule is one SELECT", where=where, got=got, hint=hint)
    encoded = sql.encode()
    # A comment may follow the semicolon. Offsets count bytes.
    last = [offset for offset, kind in duckdb.tokenize(sql) if kind.name != "comment"][-1]
    return encoded[: last if encoded[last : last + 1] == b";" else len(encoded)].decode().strip()
