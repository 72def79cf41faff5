"""Arguments: from the command line and `annotator.toml` to settings, by the names in `annotator.config.settings`."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

from annotator.config.flags import join_repeats, part_flags, take_config
from annotator.config.load import read_toml
from annotator.config.settings import Settings, SyncSettings
from annotator.errors import UsageError
from annotator.modules.third_party import sync_settings

T = TypeVar("T")
Format = Literal["table", "json", "csv", "parquet"]
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

registry = ConstructorRegistry()


@registry.primitive_rule
def _bool(info: tyro.constructors.PrimitiveTypeInfo) -> PrimitiveConstructorSpec[bool] | None:
    """Take `true`, `True`, `false`, `no`, … as a value; a bare flag was given `true` before tyro sees it."""
    if info.type is not bool:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{true,false}",
        instance_from_str=lambda args: _read_bool(args[0]),
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value).lower()],
    )


def _read_bool(text: str) -> bool:
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


@registry.primitive_rule
def _list(info: tyro.constructors.PrimitiveTypeInfo) -> PrimitiveConstructorSpec[tuple[str, ...]] | None:
    """Take several texts as one value, joined by commas, so that every flag takes one value."""
    if get_origin(info.type) is not tuple:
        return None
    texts = get_args(get_args(info.type)[0])
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(texts) + "}" if texts else "NAME,NAME,…",
        instance_from_str=lambda args: _read_list(args[0], texts),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(value)],
    )


def _read_list(text: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    parts = tuple(part.strip(" '\"") for part in text.strip("[]() ").split(",") if part.strip(" '\""))
    strange = [part for part in parts if allowed and part not in allowed]
    if strange:
        raise ValueError(f"{strange[0]!r} is none of {', '.join(allowed)}")
    return parts


@registry.primitive_rule
def _json_object(info: tyro.constructors.PrimitiveTypeInfo) -> PrimitiveConstructorSpec[dict[str, Any]] | None:
    if info.type != dict[str, Any]:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda args: msgspec.json.decode(args[0], type=dict[str, Any]),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [msgspec.json.encode(value).decode()],
    )


SYNC_TEXT = """Annotate what is not annotated yet, and bring the shards up to date: annotator sync DATASET [OPTIONS]

A rerun asks only what is new: an edited prompt, another model, other settings, new episodes.
The same names may stand in annotator.toml, in the working folder or named with --config FILE.
"""


@dataclass(frozen=True)
class QueryArguments:
    """Ask the log in SQL, read-only; also while a sync runs. Views: rows, calls, episodes, runs, failures, prompts,
    vocabulary.

    Where a dataset has no log, `rows` reads its language columns.
    """

    sql: Annotated[str, tyro.conf.Positional]
    """One SELECT, in DuckDB's SQL."""
    root: Path = Path()
    """The dataset's folder."""
    store: Path | None = None
    """Where the log lives; unset takes .annotator in the dataset."""
    format: Format = "table"
    """How to print the result; parquet goes to stdout as bytes."""


@dataclass(frozen=True)
class LogArguments:
    """List the runs, newest last."""

    dataset: Annotated[Path | None, tyro.conf.Positional] = None
    """The dataset's folder; the same as --root."""
    root: Path = Path()
    """The dataset's folder."""
    store: Path | None = None
    """Where the log lives; unset takes .annotator in the dataset."""
    format: Format = "table"
    """How to print the result."""


@dataclass(frozen=True)
class ValidateArguments:
    """Hold the language columns of a dataset to the rules, whoever wrote them. docs/validation.md lists the rules.

    Exit status 0 where there is no error, 1 where there is one, 2 usage.
    """

    dataset: Annotated[Path | None, tyro.conf.Positional] = None
    """The dataset's folder; the same as --root."""
    root: Path = Path()
    """The dataset's folder."""
    rules: Path | None = None
    """A folder of own rules, one SQL file each, beside the shipped ones."""
    only_episodes: str | None = None
    """Episodes to look at, such as 0,5-9."""
    vocabulary: bool = True
    """Hold subtasks and memory to meta/canonical_vocabulary.json, where there is one."""
    store: Path | None = None
    """Where the log lives that knows the call of a row; unset takes .annotator in the dataset, if it is there."""
    limit: int = 20
    """Findings of each rule to print; all are counted."""
    format: Literal["table", "json", "csv"] = "table"
    """How to print what is wrong."""


@dataclass(frozen=True)
class VerifyArguments:
    """Derive every digest of the log again, fold and project again, and compare with shards, lock and prompts.

    Reads only. What differs is listed with its place, what was expected there and what was found; exit status 1 then.
    """

    dataset: Annotated[Path | None, tyro.conf.Positional] = None
    """The dataset's folder; the same as --root."""
    root: Path = Path()
    """The dataset's folder."""
    store: Path | None = None
    """Where the log lives; unset takes .annotator in the dataset."""
    prompts: Path | None = None
    """The folder of own prompts; unset takes those that the dataset's runs were given."""
    rebuild: bool = False
    """Make the cache anew in a temporary folder as well, and compare that."""
    format: Format = "table"
    """How to print what is wrong."""


@dataclass(frozen=True)
class ExportArguments:
    """Write the rows that the shards were made of as files: episode_{N:06d}/<module>.jsonl, one row a line.

    A line has camera, content, role, style, timestamp (seconds) and tool_calls, keys sorted. Reads the log only.
    """

    dataset: Annotated[Path | None, tyro.conf.Positional] = None
    """The dataset's folder; the same as --root."""
    root: Path = Path()
    """The dataset's folder."""
    store: Path | None = None
    """Where the log lives; unset takes .annotator in the dataset."""
    staging: Path | None = None
    """Where to write: a new or empty folder, or that of an earlier export, which is replaced."""


@dataclass(frozen=True)
class PromptsArguments:
    """List the prompts, check a folder of own ones, or copy the shipped ones out for editing."""

    action: Annotated[Literal["list", "eject"], tyro.conf.Positional] = "list"
    """list, or eject."""
    folder: Annotated[Path | None, tyro.conf.Positional] = None
    """list: a folder whose prompts replace shipped ones. eject: where to copy to."""


def parse_sync(args: Sequence[str]) -> SyncSettings:
    """Read `annotator sync`'s arguments over those of `annotator.toml`.

    Raises:
        UsageError: the settings file cannot be read, or more than one dataset is named.
        SystemExit: status 2 for arguments that cannot be read, 0 after --help.
    """
    flags, loose = part_flags(with_flag_values(args))
    config = take_config(flags)
    kind = sync_settings()
    defaults = read_toml(config, kind) if config else kind()
    if len(loose) > 1:
        raise UsageError("one dataset at a time", got=" ".join(loose), hint="annotator sync DATASET [OPTIONS]")
    return parse_as("sync", kind, [*flags, *(("--root", loose[0]) if loose else ())], defaults, SYNC_TEXT)


def parse_query(args: Sequence[str]) -> QueryArguments:
    """Read `annotator query`'s arguments."""
    return parse_as("query", QueryArguments, args)


def parse_log(args: Sequence[str]) -> LogArguments:
    """Read `annotator log`'s arguments."""
    parsed = parse_as("log", LogArguments, args)
    return LogArguments(root=parsed.dataset or parsed.root, store=parsed.store, format=parsed.format)


def parse_validate(args: Sequence[str]) -> ValidateArguments:
    """Read `annotator validate`'s arguments."""
    parsed = parse_as("validate", ValidateArguments, args)
    return replace(parsed, root=parsed.dataset or parsed.root)


def parse_verify(args: Sequence[str]) -> VerifyArguments:
    """Read `annotator verify`'s arguments."""
    parsed = parse_as("verify", VerifyArguments, list(with_flag_values(args, {"--rebuild"})))
    return replace(parsed, root=parsed.dataset or parsed.root)


def parse_export(args: Sequence[str]) -> ExportArguments:
    """Read `annotator export`'s arguments."""
    parsed = parse_as("export", ExportArguments, args)
    return replace(parsed, root=parsed.dataset or parsed.root)


def parse_prompts(args: Sequence[str]) -> PromptsArguments:
    """Read `annotator prompts`' arguments."""
    return parse_as("prompts", PromptsArguments, args)


def parse_as(command: str, kind: type[T], args: Sequence[str], default: T | None = None, text: str | None = None) -> T:
    """Read a command's arguments as a struct or dataclass; every flag takes one value, and the last one counts."""
    options: dict[str, Any] = {} if default is None else {"default": default}
    with registry:
        return tyro.cli(
            kind,
            prog=f"annotator {command}",
            description=text,
            args=join_repeats(args),
            use_underscores=True,
            config=(tyro.conf.FlagConversionOff,),
            **options,
        )


def with_flag_values(args: Sequence[str], named: Collection[str] = ()) -> Iterator[str]:
    """Give a bare boolean flag its value: `--offline` means `--offline true`. `named` are those of other commands."""
    flags = set(named) or set(_bool_names(sync_settings(), "--"))
    for index, arg in enumerate(args):
        yield arg
        following = args[index + 1].lower() if index + 1 < len(args) else ""
        if arg.replace("-", "_").replace("__", "--", 1) in flags and following not in TRUE + FALSE:
            yield "true"


def _bool_names(kind: type[Settings], prefix: str) -> Iterator[str]:
    for one in msgspec.structs.fields(kind):
        if one.type in (bool, bool | None):
            yield f"{prefix}{one.name}"
        elif isinstance(one.type, type) and issubclass(one.type, Settings):
            yield from _bool_names(one.type, f"{prefix}{one.name}.")
