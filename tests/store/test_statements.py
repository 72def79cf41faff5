"""The project's own SQL: every statement is used, says what it gives, binds, and orders what it gives."""

import re
from pathlib import Path

import pytest

from annotator_store.log import cache as cache_module
from annotator_store.log.cache import Cache
from annotator_store.log.query import VIEWS
from annotator_store.sql import read_statements

STORE = Path(cache_module.__file__).parents[1]
FILES = sorted(path for path in STORE.rglob("*.sql") if path.parent.name == "sql")
STATEMENTS = {name: sql for path in FILES for name, sql in read_statements(path).items()}
CACHE = read_statements(STORE / "log" / "sql" / "cache.sql")
LISTS = {"files", "ids", "keys", "models", "names", "recipes"}
"""Parameters that are lists; all others are texts."""


def test_a_statement_has_one_name_and_every_name_is_used() -> None:
    assert [path.relative_to(STORE).as_posix() for path in FILES] == [
        "log/sql/cache.sql",
        "log/sql/query.sql",
        "validation/sql/tables.sql",
    ]
    assert len(STATEMENTS) == sum(path.read_text().count("-- name: ") for path in FILES)
    code = "".join(path.read_text() for path in STORE.rglob("*.py"))
    assert not [name for name in STATEMENTS if f'"{name}"' not in code]


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_says_what_it_does_and_what_it_gives(name: str) -> None:
    meaning, columns, *_ = STATEMENTS[name].splitlines()
    assert re.fullmatch(r"-- [A-Z].+\.", meaning)
    assert columns.startswith("-- Columns: ")


def test_every_view_is_a_file() -> None:
    assert {path.stem for path in (STORE / "log" / "sql" / "views").glob("*.sql")} == set(VIEWS)


@pytest.mark.parametrize("name", [name for name in CACHE if name.startswith("select_")])
def test_a_question_to_the_cache_binds_and_has_a_total_order(name: str) -> None:
    sql = CACHE[name]
    given = {name: [] if name in LISTS else "0" * 32 for name in re.findall(r"\$(\w+)", sql)}
    cache = Cache.in_memory()
    try:
        assert cache.select(name, given) == []
    finally:
        cache.discard()
    assert "ORDER BY" in sql.rpartition("FROM")[2]
