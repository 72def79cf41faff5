"""The functions of the Python API, which do what the commands of the same names do.

    import annotator

    settings = annotator.SyncSettings(root=Path("demo"), vlm=annotator.VlmSettings(backend="signals"))
    outcome = annotator.sync(settings)
    table = annotator.query("demo", "SELECT style, count(*) AS n FROM rows GROUP BY ALL ORDER BY ALL")

Libraries such as DuckDB and pyarrow are imported when a function is called.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from annotator.config.load import validated
from annotator.config.settings import SyncSettings
from annotator.config.store_path import store_path
from annotator.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from annotator.pipeline.progress import Progress
    from annotator.pipeline.run import Outcome
    from annotator.pipeline.work_plan import RunPlan
    from annotator_store.log.read_only import ReadingLog


def sync(settings: SyncSettings, progress: "Progress | None" = None) -> "Outcome":
    """Annotate new and changed episodes and update the shards, like `annotator sync`.

    `annotator.toml` is not read. `progress` is notified of the run; by default it is silent. If third-party modules are
    installed, `annotator.sync_settings()` returns the type of settings that includes theirs.

    Example:
        >>> outcome = annotator.sync(annotator.SyncSettings(root=Path("demo")))

    Returns:
        "done"; or "incomplete" if calls failed that a rerun would repeat.

    Raises:
        UsageError: a setting is out of range, or settings contradict each other.
        DatasetError: the dataset is not what LeRobot v3 says it is.
        Problem: any other error; `annotator.errors` and `annotator_store.errors` show the tree.
    """
    from annotator.hub.sync import run_at_hub
    from annotator.pipeline.progress import SilentProgress

    return run_at_hub(validated(settings), progress or SilentProgress())


def plan_run(settings: SyncSettings) -> "RunPlan":
    """Return what `sync` would do with these settings, and why, without doing it.

    No model is called and no event is recorded. The log is locked meanwhile, and created if there is none.

    Example:
        >>> plan = annotator.plan_run(annotator.SyncSettings(root=Path("demo")))
        >>> plan.episodes_to_ask, plan.count_by_reason(), plan.estimated_calls

    Raises:
        UsageError: a setting is out of range, or settings contradict each other.
        DatasetError: the dataset is not what LeRobot v3 says it is.
        StoreError: the log cannot be read.
    """
    from annotator.pipeline.plan_run import plan_run as plan

    return plan(validated(settings))


def open_log(root: str | Path, *, store: str | Path | None = None) -> "ReadingLog":
    """Open the log of the dataset at `root` read-only; another process may be writing it. A context manager.

    `store` is the folder of the log if it is not `.annotator` in the dataset.

    Example:
        >>> with annotator.open_log("demo") as log:
        ...     episodes = log.seen_episodes()

    Raises:
        UsageError: there is no log.
        StoreError: the log cannot be read.
    """
    from annotator_store.log.read_only import ReadingLog

    folder = store_path(Path(root), Path(store) if store else None)
    if not folder.is_dir():
        raise UsageError("no log", where=str(folder), hint="annotator sync makes one")
    return ReadingLog(folder)


def query(root: str | Path, sql: str, *, store: str | Path | None = None) -> "pa.Table":
    """Return the result of one SELECT over the views of the log, also while a run is writing it.

    The views are rows, calls, episodes, runs, failures, prompts and vocabulary (see docs/query.md). If the
    dataset has no log, or no shard was written from it yet, `rows` reads the language columns.

    Example:
        >>> annotator.query("demo", "SELECT content FROM rows WHERE style = 'subtask'").to_pylist()

    Raises:
        UsageError: there is neither a log nor a dataset at `root`.
        QueryRefused: the SQL is invalid, or does more than read the views.
    """
    from annotator.dataset.language_columns import has_language_columns, read_language_columns
    from annotator_store.log.query import columns_query, run_query

    root = Path(root)
    folder = store_path(root, Path(store) if store else None)
    is_dataset = store is None and (root / "meta" / "info.json").is_file()
    if folder.is_dir():
        # Opening every shard for its schema is slow; it is needed only if the query can read the columns.
        readable = is_dataset and "rows" in sql.lower()
        return run_query(
            folder, sql,
            columns=lambda: read_language_columns(root) if readable and has_language_columns(root) else None,
        )  # fmt: skip
    if is_dataset:
        return columns_query(read_language_columns(root), sql)
    raise UsageError(
        "no log and no dataset",
        where=str(folder),
        hint="annotator sync makes one; --root names a dataset, --store a log",
    )
