"""A log of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from annotator_store.log.log import Log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """An empty log, open to record."""
    with Log.open(tmp_path / "log") as opened:
        yield opened
