"""Read settings from `annotator.toml`, and check their types, ranges and contradictions."""

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from annotator.config.options import Option, options_of
from annotator.config.settings import Settings, SyncSettings
from annotator.errors import UsageError

S = TypeVar("S", bound=Settings)


def parse_episodes(text: str | None, known: list[int]) -> list[int]:
    """Parse a list of episodes, `0,5-9` or `[0, 5]`, into ascending indices; None means all of `known`.

    Raises:
        UsageError: the text is not such a list, or the dataset has no such episode.
    """
    if text is None:
        return known
    wanted: set[int] = set()
    have = frozenset(known)
    for part in text.strip().strip("[]()").replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise UsageError("episodes cannot be read", where="--only_episodes", got=repr(text), hint="write 0,5-9")
        for index in range(int(first), int(last or first) + 1):
            if index not in have:
                hint = f"the dataset has episodes {known[0]} to {known[-1]}" if known else "the dataset has no episodes"
                raise UsageError("no such episode", where="--only_episodes", got=str(index), hint=hint)
            wanted.add(index)
    return sorted(wanted)


def spell_episodes(indices: Iterable[int]) -> str:
    """Format ascending episode indices for a message: `episode 4`, `episodes 0, 5-9`."""
    spans: list[tuple[int, int]] = []
    for index in indices:
        first = spans.pop()[0] if spans and spans[-1][1] == index - 1 else index
        spans.append((first, index))
    spelled = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"episode{'s' * (',' in spelled or '-' in spelled)} {spelled}"


def validated(settings: S) -> S:
    """Return the settings with every value converted to its declared type: 2 becomes 2.0 for a float, as keys need it.

    Raises:
        UsageError: a setting has the wrong type, is out of range, or contradicts another one.
    """
    values: dict[str, Any] = {}
    for option in options_of(type(settings)):
        value: Any = settings
        for part in option.name.split("."):
            value = getattr(value, part)
        values[option.name] = checked(option, value, f"--{option.name}")
    settings = replaced(settings, values)
    # What no single type can say: the inside of JSON objects, and settings that exclude each other.
    if isinstance(settings, SyncSettings):
        for name in ("chat_template_kwargs", "mm_processor_kwargs"):
            _refuse_non_finite(getattr(settings.vlm, name), name)
        if settings.vqa.enabled and not settings.vqa.question_types:
            raise UsageError("no question type is selected", where="--vqa.question_types", hint="--vqa.enabled false")
        if settings.vlm.camera_key is not None and settings.vlm.camera_keys:
            raise UsageError("two settings name cameras", where="--vlm.camera_key, --vlm.camera_keys", hint="give one")
    return settings


def checked(option: Option, value: Any, where: str) -> Any:
    """Return a value converted to the type of its option. `where` names the option in the error.

    Raises:
        UsageError: it has another type, or is out of range.
    """
    try:
        return msgspec.convert(value, option.type, dec_hook=lambda kind, given: kind(given))
    except msgspec.ValidationError as cause:
        numeric = option.range and type(value) in (int, float)  # a bool is an int, but in no range
        what = "setting out of range" if numeric else "setting cannot be read"
        hint = f"expected {option.takes}{option.range and f', {option.range}'}"
        raise UsageError(what, where=where, got=repr(value), hint=hint) from cause


def replaced(settings: S, values: Mapping[str, Any]) -> S:
    """Return a copy of the settings with some values replaced, by dotted name: `{"plan.view": "video"}`."""
    own: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}  # by the name of the group; names inside it are relative to it
    for name, value in values.items():
        group, dot, rest = name.partition(".")
        if dot:
            groups.setdefault(group, {})[rest] = value
        else:
            own[name] = value
    own |= {group: replaced(getattr(settings, group), inside) for group, inside in groups.items()}
    return msgspec.structs.replace(settings, **own)


def _refuse_non_finite(value: object, name: str) -> None:
    """Refuse NaN and infinity anywhere in a JSON value: they have no JSON, so no key could contain them."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError("setting is not a finite number", where=f"--vlm.{name}", got=str(value))
    if isinstance(value, dict | list):
        parts = cast("dict[str, object]", value).values() if isinstance(value, dict) else cast("list[object]", value)
        for part in parts:
            _refuse_non_finite(part, name)


def read_toml(path: Path, kind: type[S] = SyncSettings) -> S:
    """Read settings from a TOML file, in which groups are tables and names may have hyphens.

    Raises:
        UsageError: the file is missing or not TOML, a name is unknown, or a value has the wrong type or range.
    """
    hint = "names are those of `annotator sync --help`"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise UsageError("settings cannot be read", where=str(path), got=str(cause)) from cause
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise UsageError("settings cannot be read", where=str(path), got=str(cause), hint=hint) from cause
    options = {option.name: option for option in options_of(kind)}
    values: dict[str, Any] = {}
    for name, value in _flat(tables, options):
        if name not in options:
            raise UsageError("no such setting", where=str(path), got=name, hint=hint)
        # Episodes can be a TOML list; the setting is the text of the command line.
        given = str(value) if name == "only_episodes" and isinstance(value, int | list) else value
        values[name] = checked(options[name], given, f"--{name} in {path}")
    return replaced(kind(), values)


def _flat(table: Mapping[str, Any], leaves: Mapping[str, Option], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a TOML table by dotted name. A table that is the value of an option is not flattened."""
    for key, value in table.items():
        name = prefix + key.replace("-", "_")
        if isinstance(value, dict) and name not in leaves:
            yield from _flat(cast("dict[str, Any]", value), leaves, f"{name}.")
        else:
            yield name, value
