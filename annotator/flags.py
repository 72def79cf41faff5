"""Flags: settings by the names they have on the command line, and a command line that gives them."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from annotator.settings import Settings, SyncSettings


def flags_of(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name every setting with its value, as JSON has it: ("plan.view", "video")."""
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from flags_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))


def changed(settings: SyncSettings, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Pick those of the wanted settings that are not the defaults, by flag."""
    defaults = dict(flags_of(SyncSettings()))
    return {name: value for name, value in flags_of(settings) if wanted(name) and value != defaults[name]}


def spell_flags(values: Mapping[str, Any]) -> str:
    """Spell settings for a shell, in their order: `--seed 7 --plan.view video`."""
    return " ".join(f"--{name} {shlex.quote(_spell(value))}" for name, value in values.items())


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return msgspec.json.encode(value, order="sorted").decode()
    if isinstance(value, list):
        return ",".join(str(one) for one in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return str(value)
