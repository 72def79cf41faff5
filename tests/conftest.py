"""Fixtures that every folder of tests may use."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.datasets import Recording, write_dataset

MakeDataset = Callable[..., Path]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a script: processes under test would inherit that they cannot be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def make_dataset() -> MakeDataset:
    """Write a tiny real dataset: `make_dataset(folder, recordings=..., shards=[[0, 1], [2]], cameras=(...), ...)`."""

    def make(folder: Path, recordings: Sequence[Recording] | None = None, *, name: str = "tiny", **layout: Any) -> Path:
        return write_dataset(folder / name, recordings, **layout)

    return make
