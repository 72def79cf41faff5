"""SQL as files: `<verb>_<noun>.sql`, each with a two-line header and named parameters."""

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@cache
def read_sql(name: str) -> str:
    """Read one SQL file, e.g. `select_known` or `views/rows`."""
    return (FOLDER / f"{name}.sql").read_text(encoding="utf-8")
