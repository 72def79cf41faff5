"""Parse a command line and `annotator.toml` into a struct of settings.

The options of a command are the fields of its struct (see `annotator.config.options`); tyro matches the names and
prints the help.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, StructConstructorSpec, StructFieldSpec

from annotator.config.flags import spell_value
from annotator.config.load import checked, read_toml
from annotator.config.options import POSITIONAL, Option, is_group, options_of, texts_of
from annotator.config.settings import Settings, SyncSettings
from annotator.errors import UsageError
from annotator.modules.third_party import sync_settings

S = TypeVar("S", bound=Settings)
Format = Literal["table", "json", "csv", "parquet"]
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
JOINED = frozenset({"vlm.api_base"})
"""Repeatable options, whose values are joined by commas; of any other option the last value counts."""

SYNC_TEXT = """Annotate new and changed episodes and update the shards: annotator sync DATASET [OPTIONS]

A rerun calls the model only for what changed: an edited prompt, another model, other settings, new episodes.
Options can also be set in annotator.toml, in the working folder or given with --config FILE.
"""


class DatasetArguments(Settings, frozen=True, kw_only=True):
    """Arguments of a command that works on one dataset."""

    dataset: Annotated[Path | None, POSITIONAL] = None
    """The dataset's folder; the same as --root."""
    root: Path = Path()
    """The dataset's folder."""

    @property
    def folder(self) -> Path:
        """The dataset's folder, whether given as a word or with --root."""
        return self.dataset or self.root


class Words(msgspec.Struct, frozen=True):
    """A split command line: option values by dotted name (None for a missing value), and all other words."""

    options: dict[str, str | None]
    loose: list[str]


def split_words(args: Sequence[str], *kinds: type[Settings]) -> Words:
    """Split a command line into options and other words, which can be mixed in any order.

    `kinds` are the structs whose boolean options can stand without a value, which means "true". Every other option
    takes the next word as its value. Hyphens in option names become underscores.
    """
    booleans = {option.name for kind in kinds for option in options_of(kind) if option.base is bool}
    words = Words({}, [])
    waiting = list(reversed(args))  # a stack, with the next word at its end
    while waiting:
        word = waiting.pop()
        if not word.startswith("-"):
            words.loose.append(word)
            continue
        flag, equals, value = word.partition("=")
        name = "help" if flag == "-h" else flag.lstrip("-").replace("-", "_")
        if equals:
            given = value
        elif name in booleans and (not waiting or waiting[-1].lower() not in TRUE + FALSE):
            given = "true"
        elif name == "help" or not waiting or waiting[-1].startswith("--"):
            given = None  # a value that begins with dashes must be joined: --name=--value
        else:
            given = waiting.pop()
        before = words.options.get(name)
        words.options[name] = f"{before},{given}" if name in JOINED and before and given else given
    return words


def parse(command: str, kind: type[S], args: Sequence[str]) -> S:
    """Return the arguments of a command that does not read `annotator.toml`.

    Raises:
        UsageError: a value has the wrong type, or is out of range.
        SystemExit: with status 2 for an unknown option or a missing value, 0 after --help.
    """
    return build(command, kind, split_words(args, kind))


def parse_sync(args: Sequence[str]) -> SyncSettings:
    """Return the settings of `annotator sync`: the command line over `annotator.toml` over the defaults.

    Raises:
        UsageError: the settings file cannot be read, a value is invalid, or more than one dataset is named.
        SystemExit: with status 2 for an unknown option or a missing value, 0 after --help.
    """
    return build_sync(split_words(args, sync_settings()))


def build_sync(words: Words) -> SyncSettings:
    """Return the settings of a split command line, see `parse_sync`."""
    defaults = take_config(words)
    if len(words.loose) > 1:
        raise UsageError("more than one dataset", got=" ".join(words.loose), hint="annotator sync DATASET [OPTIONS]")
    options = words.options | ({"root": words.loose[0]} if words.loose else {})
    return build("sync", sync_settings(), Words(options, []), defaults, SYNC_TEXT)


def take_config(words: Words) -> SyncSettings:
    """Remove `--config FILE` from the options and return its settings; without it, those of ./annotator.toml, if any.

    Raises:
        UsageError: --config has no value, or the file cannot be read.
    """
    kind, local = sync_settings(), Path("annotator.toml")
    if "config" not in words.options:
        return read_toml(local, kind) if local.is_file() else kind()
    named = words.options.pop("config")
    if named is None:
        raise UsageError("no settings file is named", where="--config", hint="--config FILE")
    return read_toml(Path(named), kind)


def build(command: str, kind: type[S], words: Words, defaults: S | None = None, text: str | None = None) -> S:
    """Return a command's struct from its split command line, over the defaults.

    Raises:
        UsageError: a value has the wrong type, or is out of range.
        SystemExit: with status 2 for an unknown option or a missing value, 0 after --help.
    """
    known = {option.name for option in options_of(kind)}
    flags: list[str] = []
    for name, value in words.options.items():
        # Joined by "=", a value can begin with a dash. For an unknown option, tyro suggests similar names only if the
        # name is a word of its own.
        flags += [f"--{name}={value}"] if name in known and value is not None else [f"--{name}", *filter(None, [value])]
    with _registry:
        return tyro.cli(
            _proxy(kind, defaults, ""),
            prog=f"annotator {command}",
            description=inspect.cleandoc(text or kind.__doc__ or ""),
            args=[*flags, *words.loose],
            use_underscores=True,
        )


_registry = ConstructorRegistry()


def _proxy(kind: type[Settings], values: Settings | None, prefix: str) -> type[Any]:
    """Return a plain class that represents a struct in tyro, for `_struct` to unpack.

    tyro checks the default of a struct's type with typeguard, whose import, with unittest.mock and asyncio, would take
    half of the time of `annotator sync --help`. Plain classes are checked without it.
    """
    return type(kind.__name__, (), {"__doc__": kind.__doc__, "struct": (kind, values, prefix)})


@_registry.struct_rule
def _struct(info: tyro.constructors.StructTypeInfo) -> StructConstructorSpec | None:
    """Return tyro's specification of a struct: its groups as structs, every other field as an option with one value."""
    if not hasattr(info.type, "struct"):
        return None
    kind, values, prefix = info.type.struct
    options, texts = {option.name: option for option in options_of(kind)}, texts_of(kind)
    fields: list[StructFieldSpec] = []
    for field in msgspec.structs.fields(kind):
        if is_group(field.type):
            inside: Any = _proxy(field.type, getattr(values, field.name, None), f"{prefix}{field.name}.")
            fields.append(StructFieldSpec(field.name, inside, tyro.MISSING, inside.__doc__))
        else:
            option = options[field.name]
            default = getattr(values, field.name, option.default)
            taken: Any = Annotated[object, _word(option, f"{prefix}{field.name}")]
            taken = tyro.conf.Positional[taken] if option.positional else taken
            unset = tyro.MISSING if default is msgspec.NODEFAULT else default
            fields.append(StructFieldSpec(field.name, taken, unset, texts.get(field.name)))
    return StructConstructorSpec(kind, tuple(fields))


METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", bool: "{true,false}", Path: "PATH", tuple: "NAME,NAME,…"}
"""Placeholders of values in the help, by the origin of the type. Options with choices list these instead."""


def _word(option: Option, name: str) -> PrimitiveConstructorSpec[Any]:
    """Return tyro's specification of an option: how to parse its value, and how to show it in the help."""
    where = name.upper() if option.positional else f"--{name}"
    choices = "{" + ",".join(option.choices) + "}" if option.choices else None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=name.upper() if option.positional else choices or METAVARS.get(option.origin, "JSON"),
        instance_from_str=lambda words: checked(option, _read(option, words[0]), where),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [spell_value(msgspec.to_builtins(value, enc_hook=str))],
    )


def _read(option: Option, text: str) -> Any:
    """Parse a word of the command line into builtin types. What does not parse stays text, which `checked` refuses."""
    if text == "None" and option.default is None:
        return None  # as the help shows the default
    if option.origin is tuple:
        # Also in the notation of Python and TOML: ['a', 'b'].
        return [part.strip(" '\"") for part in text.strip("[]() ").split(",") if part.strip(" '\"")]
    if option.origin is bool and text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    if option.origin in (str, Path, Literal):
        return text
    try:
        # Python reads more numbers than JSON has, such as 1e3 for a float, 1_000, nan, which the range refuses.
        return option.origin(text) if option.origin in (int, float) else msgspec.json.decode(text)
    except (ValueError, msgspec.DecodeError):
        return text
