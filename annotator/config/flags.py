"""Settings as flags: by the names they have on the command line, and spelled so that it reads them back."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import msgspec

from annotator.config.options import options_of
from annotator.config.settings import Settings


def values_of(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield every setting by its dotted name with its value as JSON has it: ("plan.view", "video")."""
    for option in options_of(type(settings)):
        value: Any = settings
        for part in option.name.split("."):
            value = getattr(value, part)
        yield option.name, msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))


def changed(settings: Settings, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Return those of the wanted settings that are not the defaults, by flag."""
    defaults = dict(values_of(type(settings)()))
    return {name: value for name, value in values_of(settings) if wanted(name) and value != defaults[name]}


def spell_flags(values: Mapping[str, Any]) -> str:
    """Spell settings for a shell, in their order: `--seed 7 --plan.view video`."""
    return " ".join(f"--{name} {shlex.quote(spell_value(value))}" for name, value in values.items())


def spell_value(value: Any) -> str:
    """Spell one JSON value as the command line reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return msgspec.json.encode(value, order="sorted").decode()
    if isinstance(value, list):
        return ",".join(str(part) for part in cast("list[object]", value))
    return str(value)
