"""The language row, and which column, role and camera each style takes (FORMAT: LeRobot's language columns)."""

from typing import Literal

import msgspec

PERSISTENT = "language_persistent"
EVENTS = "language_events"
Column = Literal["language_persistent", "language_events"]

PERSISTENT_STYLES = frozenset({"subtask", "plan", "memory", "motion", "task_aug"})
EVENT_STYLES = frozenset({"interjection", "vqa", "trace"})
VIEW_DEPENDENT_STYLES = frozenset({"vqa", "trace"})


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One language row of one episode.

    `timestamp` is seconds from the episode's first frame and exactly the float32 `timestamp` of one of its frames.
    `tool_calls` holds one canonical JSON object per call; a speech atom has them, and neither style nor content.
    """

    role: str
    content: str | None
    style: str | None
    timestamp: float
    camera: str | None = None
    tool_calls: tuple[str, ...] | None = None


def column_for_style(style: str | None) -> Column:
    """The column a row of this style lives in; speech (`None`) is an event.

    Raises:
        ValueError: the style is not one LeRobot knows.
    """
    if style in PERSISTENT_STYLES:
        return PERSISTENT
    if style is None or style in EVENT_STYLES:
        return EVENTS
    raise ValueError(f"unknown style {style!r}; known: {sorted(PERSISTENT_STYLES | EVENT_STYLES)}")


def order_key(row: Row) -> tuple[float, str, str, str, str, tuple[str, ...]]:
    """A total order over an episode's rows of one column.

    Persistent: (timestamp, style, role); events on one frame: (style, role, camera); then content and tool calls.
    """
    return (
        row.timestamp,
        row.style or "",
        row.role,
        row.camera or "",
        row.content or "",
        row.tool_calls or (),
    )
