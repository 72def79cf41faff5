"""Read settings from `annotator.toml`, and refuse values that no run could mean."""

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
    """Read `0,5-9` (also `[0, 5]`) as episode indices of the dataset; None means all of them.

    Raises:
        UsageError: not such a list, or an episode the dataset does not have.
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
    """Write ascending episode indices as `parse_episodes` reads them: `episode 4`, `episodes 0, 5-9`."""
    spans: list[tuple[int, int]] = []
    for index in indices:
        first = spans.pop()[0] if spans and spans[-1][1] == index - 1 else index
        spans.append((first, index))
    spelled = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"episode{'s' * (',' in spelled or '-' in spelled)} {spelled}"


def validated(settings: S) -> S:
    """Return the settings with every value of its declared type, a whole number of a `float` setting as a float.

    Raises:
        UsageError: naming the first setting that is out of its range, of the wrong type, or contradicts another one.
    """
    values: dict[str, Any] = {}
    for option in options_of(type(settings)):
        value: Any = settings
        for part in option.name.split("."):
            value = getattr(value, part)
        values[option.name] = checked(option, value, f"--{option.name}")
    settings = replaced(settings, values)
    if isinstance(settings, SyncSettings):
        for name in ("chat_template_kwargs", "mm_processor_kwargs"):
            _refuse_unnameable(getattr(settings.vlm, name), name)
        if settings.vqa.enabled and not settings.vqa.question_types:
            raise UsageError("no type of question is left", where="--vqa.question_types", hint="--vqa.enabled false")
        if settings.vlm.camera_key is not None and settings.vlm.camera_keys:
            raise UsageError("two settings name cameras", where="--vlm.camera_key, --vlm.camera_keys", hint="give one")
    return settings


def checked(option: Option, value: Any, where: str) -> Any:
    """Return a value as the type of its option.

    Raises:
        UsageError: it is of another type, or out of range.
    """
    try:
        return msgspec.convert(value, option.type, dec_hook=lambda kind, given: kind(given))
    except msgspec.ValidationError as cause:
        numeric = option.range and isinstance(value, int | float) and not isinstance(value, bool)
        what = "setting out of range" if numeric else "setting cannot be read"
        hint = f"expected {option.takes}{option.range and f', {option.range}'}"
        raise UsageError(what, where=where, got=repr(value), hint=hint) from cause


def replaced(settings: S, values: Mapping[str, Any]) -> S:
    """Return the settings with other values, by dotted name: `{"plan.view": "video"}`."""
    own: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        group, dot, rest = name.partition(".")
        if dot:
            groups.setdefault(group, {})[rest] = value
        else:
            own[name] = value
    own |= {group: replaced(getattr(settings, group), inside) for group, inside in groups.items()}
    return msgspec.structs.replace(settings, **own)


def _refuse_unnameable(value: object, name: str) -> None:
    """NaN and infinities have no JSON, so no key could cover them."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError("setting is no number", where=f"--vlm.{name}", got=str(value))
    if isinstance(value, dict | list):
        parts = cast("dict[str, object]", value).values() if isinstance(value, dict) else cast("list[object]", value)
        for part in parts:
            _refuse_unnameable(part, name)


def read_toml(path: Path, kind: type[S] = SyncSettings) -> S:
    """Read defaults from an `annotator.toml`: the same dotted names, as tables.

    Raises:
        UsageError: not TOML, an unknown name, a value of the wrong type or out of range.
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
        # A list of episodes reads better as TOML's own; it is kept as it would be written on the command line.
        given = str(value) if name == "only_episodes" and isinstance(value, int | list) else value
        values[name] = checked(options[name], given, f"--{name} in {path}")
    return replaced(kind(), values)


def _flat(table: Mapping[str, Any], leaves: Mapping[str, Option], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a TOML table's values by dotted name with underscores; a table that is itself a value stays as it is."""
    for key, value in table.items():
        name = prefix + key.replace("-", "_")
        if isinstance(value, dict) and name not in leaves:
            yield from _flat(cast("dict[str, Any]", value), leaves, f"{name}.")
        else:
            yield name, value
