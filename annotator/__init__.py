"""MAKES facts: from a dataset's episodes to rows, one recorded call at a time.

`import annotator` is the Python API; the functions are documented in `annotator.api`, the settings in
`annotator.config.settings`. A name is imported when it is first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from annotator.api import open_log, plan_run, query, sync
    from annotator.config.settings import (
        ExecutorSettings,
        InterjectionsSettings,
        PlanSettings,
        SyncSettings,
        TaskAugAxesSettings,
        ValidationSettings,
        VlmSettings,
        VocabularySettings,
        VqaSettings,
    )
    from annotator.errors import AnnotatorError, UsageError
    from annotator.pipeline.run import Outcome
    from annotator.pipeline.work_plan import RunPlan

__version__ = "0.1.0"

__all__ = [
    "AnnotatorError",
    "ExecutorSettings",
    "InterjectionsSettings",
    "Outcome",
    "PlanSettings",
    "RunPlan",
    "SyncSettings",
    "TaskAugAxesSettings",
    "UsageError",
    "ValidationSettings",
    "VlmSettings",
    "VocabularySettings",
    "VqaSettings",
    "__version__",
    "open_log",
    "plan_run",
    "query",
    "sync",
]

_HOMES = {
    "open_log": "annotator.api",
    "plan_run": "annotator.api",
    "query": "annotator.api",
    "sync": "annotator.api",
    "AnnotatorError": "annotator.errors",
    "UsageError": "annotator.errors",
    "Outcome": "annotator.pipeline.run",
    "RunPlan": "annotator.pipeline.work_plan",
}
"""Where a public name is defined, where that is not `annotator.config.settings`."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "annotator.config.settings")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
