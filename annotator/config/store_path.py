"""Where the log of a dataset is kept."""

from pathlib import Path

STORE = ".annotator"
"""The folder of a dataset that holds its log, unless `--store` names another one."""


def store_path(root: Path, store: Path | None) -> Path:
    """Return the folder of the log: `store` where it is given, else the dataset's own. `root` is where rows go."""
    return store or root / STORE
