"""Render docs/events.md from the event structs: `python scripts/generate_event_docs.py > docs/events.md`."""

import inspect
import sys
from datetime import datetime
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from annotator_store.digests import Digest
from annotator_store.log.events import AnnotatedRow, AnyEvent, CameraSeen, EpisodeSources, Event, Gap, SetupUsed
from annotator_store.rows import Row

_HEAD = """\
# Events

Generated from `annotator_store/log/events.py` by `python scripts/generate_event_docs.py > docs/events.md`;
a test compares the two.

An event is one JSON object. On disk a journal line is its id, a space, the object, a newline; in a sealed segment it is
a row (`id, type, recorded_at, run_id, body`). The id is the digest of the object's bytes. Every event carries
`type` (in brackets below), `recorded_at` (UTC, microseconds) and `run_id`.
A field with a default may be missing in what an earlier release wrote.
"""


def describe_events() -> str:
    """Render every event and the structs inside them as one Markdown page."""
    events: tuple[type[Event], ...] = get_args(AnyEvent)
    parts = [_section(event, f"{event.__name__} (`{event.__struct_config__.tag}`)") for event in events]
    structs = (CameraSeen, AnnotatedRow, Row, Gap, SetupUsed, EpisodeSources)
    inner = [_section(struct, struct.__name__) for struct in structs]
    return "\n".join([_HEAD, *parts, "# Inside them\n", *inner]).rstrip() + "\n"


def _section(struct: type[msgspec.Struct], title: str) -> str:
    lines = [
        f"## {title}\n",
        f"{inspect.cleandoc(struct.__doc__ or '')}\n",
        "| field | type | default |",
        "| --- | --- | --- |",
    ]
    common = set(Event.__struct_fields__) if issubclass(struct, Event) else set[str]()
    hints = get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        if field.name not in common:
            lines.append(f"| `{field.name}` | {_type(hints[field.name])} | {_default(field)} |")
    return "\n".join(lines) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return ""
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return f"`{msgspec.json.encode(default).decode()}`"


_PLAIN: dict[Any, str] = {
    Digest: "digest",
    Any: "any JSON",
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    datetime: "time",
    NoneType: "null",
}


def _type(hint: Any) -> str:
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):  # a new type or none is the older kind of union
        return " or ".join(_type(member) for member in inner)
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in inner)
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"object of {_type(inner[1])}"
    return str(hint.__name__)


if __name__ == "__main__":
    sys.stdout.write(describe_events())
