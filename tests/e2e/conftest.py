"""Scenarios that several tests look at are run once, whichever worker comes first."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import sameness

Outcome = Callable[[str], sameness.Found]


@pytest.fixture(scope="session")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Run a scenario by its name, or give what a worker beside this one found."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def run(name: str) -> sameness.Found:
        place: Path = shared / name.replace("/", "_").replace(" ", "_")
        result = place.with_suffix(".found")
        with place.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not result.exists():
                result.write_text(json.dumps(sameness.SCENARIOS[name](place)), encoding="utf-8")
        return json.loads(result.read_text(encoding="utf-8"))

    return run
