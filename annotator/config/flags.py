"""Format settings as flags that the command line parses back."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import msgspec

from annotator.config.options import options_of
from annotator.config.settings import Settings


def values_of(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the JSON value of every setting, such as ("plan.view", "video")."""
    for option in options_of(type(settings)):
        value: Any = settings
        for part in option.name.split("."):
            value = getattr(value, part)
        # Through JSON, so that a tuple equals the list that a lock or an event has, and a path its text.
        yield option.name, msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))


def changed(settings: Settings, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Return the settings that differ from their defaults, by dotted name, among those for which `wanted` is true."""
    defaults = dict(values_of(type(settings)()))
    return {name: value for name, value in values_of(settings) if wanted(name) and value != defaults[name]}


def spell_flags(values: Mapping[str, Any]) -> str:
    """Format settings for a shell, in their order: `--seed 7 --plan.view video`."""
    return " ".join(f"--{name} {shlex.quote(spell_value(value))}" for name, value in values.items())


def spell_value(value: Any) -> str:
    """Format a JSON value as the command line parses it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return msgspec.json.encode(value, order="sorted").decode()
    if isinstance(value, list):
        return ",".join(str(part) for part in cast("list[object]", value))
    return str(value)
