"""Language annotations for LeRobot v3 datasets. This module is the Python API.

The functions are documented in `annotator.api`, the settings in `annotator.config.settings`. Names are imported on
first use, so that importing the package is fast.
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
    from annotator.modules.third_party import sync_settings
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
    "sync_settings",
]

_HOMES = {
    "open_log": "annotator.api",
    "plan_run": "annotator.api",
    "query": "annotator.api",
    "sync": "annotator.api",
    "sync_settings": "annotator.modules.third_party",
    "AnnotatorError": "annotator.errors",
    "UsageError": "annotator.errors",
    "Outcome": "annotator.pipeline.run",
    "RunPlan": "annotator.pipeline.work_plan",
}
"""Modules of the public names; the others are in `annotator.config.settings`."""


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "annotator.config.settings")), name)
    globals()[name] = value  # the next access finds it there
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
