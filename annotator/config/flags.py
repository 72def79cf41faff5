"""Flags: settings by the names they have on the command line, a command line that gives them, and one taken apart."""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from annotator.config.settings import Settings, SyncSettings


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
    defaults = dict(flags_of(type(settings)()))
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


def part_flags(args: Iterable[str]) -> tuple[list[str], list[str]]:
    """Part flags with their values from loose words: every flag takes exactly one value."""
    flags: list[str] = []
    loose: list[str] = []
    waiting = False
    for arg in args:
        if waiting or arg.startswith("-"):
            flags.append(arg)
            waiting = not waiting and "=" not in arg and arg not in ("-h", "--help")
        else:
            loose.append(arg)
    return flags, loose


def take_config(flags: list[str]) -> Path | None:
    """Take `--config FILE` out of the flags; without it, annotator.toml counts if the working folder has one."""
    for index, flag in enumerate(flags):
        if flag == "--config" and index + 1 < len(flags):
            path = Path(flags[index + 1])
            del flags[index : index + 2]
            return path
        if flag.startswith("--config="):
            del flags[index]
            return Path(flag.removeprefix("--config="))
    local = Path("annotator.toml")
    return local if local.is_file() else None


_JOINED = "--vlm.api_base"


def join_repeats(args: Iterable[str]) -> list[str]:
    """Join the endpoints that are named one by one into one value; of any other repeated option the last one counts."""
    kept: list[str] = []
    bases: list[str] = []
    words = iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if name.replace("-", "_").replace("__", "--", 1) != _JOINED:
            kept.append(word)
        elif equals:
            bases.append(value)
        else:
            following = next(words, "--")
            if following.startswith("-"):  # its value is missing, which the parser says
                return [*kept, word]
            bases.append(following)
    return [*kept, f"{_JOINED}={','.join(bases)}"] if bases else kept
