"""SQL in files beside their users: a file of named statements for each user, views and rules one a file.

-- name: select_known
-- Find the outcome that counts of every call made for one episode.
-- Columns: id (hex), body; one row per key.
SELECT …
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def read_statements(path: Path) -> Mapping[str, str]:
    """Read a file of named statements; return name → SQL, with the comment lines that describe it."""
    _, *parts = _NAME.split(path.read_text(encoding="utf-8"))
    return {name: sql.strip() for name, sql in zip(parts[::2], parts[1::2], strict=True)}
