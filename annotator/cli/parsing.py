"""Arguments: a command line, and `annotator.toml`, as a struct of settings.

Options are generated from the struct (see `annotator.config.options`); tyro matches their names and prints the help.
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
"""Options that may be repeated, their values joined by commas; of any other the last one counts."""

SYNC_TEXT = """Annotate what is not annotated yet, and bring the shards up to date: annotator sync DATASET [OPTIONS]

A rerun asks only what is new: an edited prompt, another model, other settings, new episodes.
The same names may stand in annotator.toml, in the working folder or named with --config FILE.
"""


class DatasetArguments(Settings, frozen=True, kw_only=True):
    """The arguments of a command that works on one dataset."""

    dataset: Annotated[Path | None, POSITIONAL] = None
    """The dataset's folder; the same as --root."""
    root: Path = Path()
    """The dataset's folder."""

    @property
    def folder(self) -> Path:
        """The dataset's folder, whichever way it was given."""
        return self.dataset or self.root


class Words(msgspec.Struct, frozen=True):
    """A command line, split: options by dotted name, with None for a value that is missing, and the other words."""

    options: dict[str, str | None]
    loose: list[str]


def split_words(args: Sequence[str], *kinds: type[Settings]) -> Words:
    """Split a command line into options and loose words, in any order.

    Names get underscores, a boolean option without a value gets "true". Every other option takes the next word.
    """
    booleans = {option.name for kind in kinds for option in options_of(kind) if option.base is bool}
    words = Words({}, [])
    waiting = list(reversed(args))
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
            given = None
        else:
            given = waiting.pop()
        before = words.options.get(name)
        words.options[name] = f"{before},{given}" if name in JOINED and before and given else given
    return words


def parse(command: str, kind: type[S], args: Sequence[str]) -> S:
    """Read the arguments of a command that takes nothing from `annotator.toml`.

    Raises:
        UsageError: a value is of another type, or out of range.
        SystemExit: status 2 for an option that there is not, or that lacks its value; 0 after --help.
    """
    return build(command, kind, split_words(args, kind))


def parse_sync(args: Sequence[str]) -> SyncSettings:
    """Read `annotator sync`'s arguments over those of `annotator.toml`.

    Raises:
        UsageError: the settings file cannot be read, a value cannot be meant, or more than one dataset is named.
        SystemExit: status 2 for an option that there is not, or that lacks its value; 0 after --help.
    """
    return build_sync(split_words(args, sync_settings()))


def build_sync(words: Words) -> SyncSettings:
    """Read a split command line as `parse_sync` does."""
    defaults = take_config(words)
    if len(words.loose) > 1:
        raise UsageError("one dataset at a time", got=" ".join(words.loose), hint="annotator sync DATASET [OPTIONS]")
    options = words.options | ({"root": words.loose[0]} if words.loose else {})
    return build("sync", sync_settings(), Words(options, []), defaults, SYNC_TEXT)


def take_config(words: Words) -> SyncSettings:
    """Take `--config FILE` out of the options, and read it; without it, annotator.toml of the working folder.

    Raises:
        UsageError: the settings file is not named, or cannot be read.
    """
    kind, local = sync_settings(), Path("annotator.toml")
    if "config" not in words.options:
        return read_toml(local, kind) if local.is_file() else kind()
    named = words.options.pop("config")
    if named is None:
        raise UsageError("a settings file is not named", where="--config", hint="--config FILE")
    return read_toml(Path(named), kind)


def build(command: str, kind: type[S], words: Words, defaults: S | None = None, text: str | None = None) -> S:
    """Make a command's struct of its options, over the defaults, with tyro: it knows which options there are.

    Raises:
        UsageError: a value is of another type, or out of range.
        SystemExit: status 2 for an option that there is not, or that lacks its value; 0 after --help.
    """
    known = {option.name for option in options_of(kind)}
    flags: list[str] = []
    for name, value in words.options.items():
        # As one word, a value may begin with a dash; of a name that is not known, tyro shows those that are like it.
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
    """Make a plain class that stands for a struct in tyro, whose own rule for it is never asked.

    Before tyro asks for the rules of a struct it compares the type of its default, for which it imports typeguard,
    unittest.mock and asyncio, half of the time that `annotator sync --help` would take.
    """
    return type(kind.__name__, (), {"__doc__": kind.__doc__, "struct": (kind, values, prefix)})


@_registry.struct_rule
def _struct(info: tyro.constructors.StructTypeInfo) -> StructConstructorSpec | None:
    """Tell tyro a struct's fields: groups as structs, every other one as an option that takes one word."""
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
"""What the help shows as an option's value, by the origin of its type; choices show themselves."""


def _word(option: Option, name: str) -> PrimitiveConstructorSpec[Any]:
    """Tell tyro how one word becomes the value of an option, and how the help shows it."""
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
    """Read a word of the command line as JSON would have it; what is no number stays text, which `checked` refuses."""
    if text == "None" and option.default is None:
        return None
    if option.origin is tuple:
        return [part.strip(" '\"") for part in text.strip("[]() ").split(",") if part.strip(" '\"")]
    if option.origin is bool and text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    try:
        if option.origin is dict:
            return msgspec.json.decode(text)
        return option.origin(text) if option.origin in (int, float) else text
    except (ValueError, msgspec.DecodeError):
        return text
