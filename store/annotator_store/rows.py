"""The language row, and the styles: which column, roles and camera the rows of each take."""

from typing import Literal

import msgspec

PERSISTENT = "language_persistent"
EVENTS = "language_events"
Column = Literal["language_persistent", "language_events"]


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """What is true of every row of one style, whichever module writes it.

    `name`: None for speech. `roles`: those that may have it; any role where it is empty. `has_camera`: its rows name
    a camera of the dataset; rows of other styles name none. `one_at_a_time`: readers expect at most one row of it at
    one timestamp of an episode.
    """

    name: str | None
    column: Column
    roles: tuple[str, ...] = ()
    has_camera: bool = False
    one_at_a_time: bool = False


# The only list of styles. Source: FORMAT (LeRobot's language columns).
_styles: dict[str | None, Style] = {
    style.name: style
    for style in (
        Style(name="subtask", column=PERSISTENT, roles=("assistant",), one_at_a_time=True),
        Style(name="plan", column=PERSISTENT, roles=("assistant",), one_at_a_time=True),
        Style(name="memory", column=PERSISTENT, roles=("assistant",), one_at_a_time=True),
        Style(name="motion", column=PERSISTENT, roles=("assistant",), one_at_a_time=True),
        Style(name="task_aug", column=PERSISTENT, roles=("user",)),
        Style(name="interjection", column=EVENTS, roles=("user",), one_at_a_time=True),
        Style(name="vqa", column=EVENTS, roles=("user", "assistant"), has_camera=True),
        Style(name="trace", column=EVENTS, has_camera=True),
        Style(name=None, column=EVENTS, roles=("assistant",)),
    )
}


def styles() -> tuple[Style, ...]:
    """Return every known style by name, speech first."""
    return tuple(_styles[name] for name in sorted(_styles, key=lambda name: name or ""))


def register_style(style: Style) -> None:
    """Make a style of another package known to columns, rules and digests of rules. Registering it again is no harm.

    Raises:
        ValueError: the name is empty or taken by another style, or a persistent style names a camera.
    """
    if not style.name or _styles.get(style.name, style) != style:
        raise ValueError(f"a style needs a name of its own, got {style.name!r}")
    if style.has_camera and style.column == PERSISTENT:
        raise ValueError(f"style {style.name!r} is persistent, and persistent rows name no camera")
    _styles[style.name] = style


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
    """Return the column that rows of a style stand in; speech (`None`) is an event.

    Raises:
        ValueError: nobody registered the style.
    """
    if style not in _styles:
        raise ValueError(f"unknown style {style!r}; known: {sorted(name for name in _styles if name)}")
    return _styles[style].column


def is_persistent(style: str | None) -> bool:
    """Whether a style is known, and its rows stand on every frame of their episode."""
    return style in _styles and _styles[style].column == PERSISTENT


def names_camera(style: str | None) -> bool:
    """Whether rows of a style name a camera."""
    return style in _styles and _styles[style].has_camera


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
