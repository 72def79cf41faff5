"""Render docs/cli.md from the settings and arguments: `python scripts/generate_cli_docs.py > docs/cli.md`."""

import ast
import dataclasses
import inspect
import sys
import textwrap
import types
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import tyro

from annotator.cli.hub_arguments import JobArguments, PullArguments, PushArguments, SubmitArguments
from annotator.cli.parsing import (
    SYNC_TEXT,
    ExportArguments,
    LogArguments,
    PromptsArguments,
    QueryArguments,
    ValidateArguments,
    VerifyArguments,
)
from annotator.cli.show_doctor import DoctorSettings
from annotator.config.settings import Settings, SyncSettings

COMMANDS: dict[str, tuple[type[Any], str]] = {
    "sync": (SyncSettings, SYNC_TEXT),
    "query": (QueryArguments, ""),
    "log": (LogArguments, ""),
    "prompts": (PromptsArguments, ""),
    "validate": (ValidateArguments, ""),
    "verify": (VerifyArguments, ""),
    "export": (ExportArguments, ""),
    "doctor": (DoctorSettings, ""),
    "pull": (PullArguments, ""),
    "push": (PushArguments, ""),
    "job": (JobArguments, ""),
}
"""Each command, the struct its options are generated from, and its text; "" takes the struct's docstring."""

PARTS: dict[str, dict[str, type[Any]]] = {"job": {"submit": SubmitArguments}}
"""Words that follow a command and bring options of their own."""

_HEAD = """\
# The command line

Generated from `annotator/config/settings.py` and `annotator/cli/parsing.py` by `python scripts/generate_cli_docs.py > docs/cli.md`;
a test compares the two.

Words in names may be joined by `_` or `-`. A flag may stand bare (`--offline`) or take `true` or `false`, in any case.
stdout is data, stderr is talk. Exit status: 0 done, 1 some work failed, 2 usage, 130 interrupted, 143 terminated.
"""


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One option or word of a command. `default` is its value's JSON; "" where it must be given."""

    name: str
    kind: str
    default: str
    text: str
    positional: bool


def describe_commands() -> str:
    """Render every command and all its options as one Markdown page."""
    return "\n".join([_HEAD, *(_command(name, kind, text) for name, (kind, text) in COMMANDS.items())]).rstrip() + "\n"


def _command(name: str, kind: type[Any], text: str) -> str:
    options = list(options_of(kind))
    words = " ".join(f"[{o.name}]" if o.default else o.name for o in options if o.positional)
    words = "DATASET" if kind is SyncSettings else words
    more = "" if all(o.positional for o in options) else "[OPTIONS]"
    title = " ".join(filter(None, ("annotator", name, words, more)))
    parts = [f"## `{title}`\n", f"{inspect.cleandoc(text or kind.__doc__ or '')}\n", _table(options)]
    for group, struct in _groups(kind):
        parts += [f"### `--{group}.…`\n", f"{inspect.cleandoc(struct.__doc__ or '')}\n"]
        parts.append(_table(list(options_of(struct, f"{group}."))))
    for word, struct in PARTS.get(name, {}).items():
        parts += [f"### Options of `annotator {name} {word}`\n", f"{inspect.cleandoc(struct.__doc__ or '')}\n"]
        parts.append(_table(list(options_of(struct))))
    return "\n".join(parts)


def _table(options: list[Option]) -> str:
    lines = ["| option | takes | default | |", "| --- | --- | --- | --- |"]
    for one in options:
        name = one.name if one.positional else f"--{one.name}"
        default = f"`{one.default}`" if one.default else ""
        lines.append(f"| `{name}` | {one.kind} | {default} | {one.text} |")
    return "\n".join(lines) + "\n"


def options_of(kind: type[Any], prefix: str = "") -> Iterator[Option]:
    """List the options of a struct or dataclass in order, without those of the groups inside it."""
    hints, texts = get_type_hints(kind, include_extras=True), _field_texts(kind)
    for name, default in _defaults(kind):
        hint, positional = hints[name], False
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
            positional = tyro.conf.Positional in marks
        if not _is_group(hint):
            shown = name.upper() if positional else f"{prefix}{name}"
            yield Option(name=shown, kind=_kind(hint), default=default, text=texts[name], positional=positional)


def _groups(kind: type[Any], prefix: str = "") -> Iterator[tuple[str, type[Settings]]]:
    """List the groups of settings, each before those inside it, by their dotted names."""
    for name, hint in get_type_hints(kind).items():
        if _is_group(hint):
            yield f"{prefix}{name}", hint
            yield from _groups(hint, f"{prefix}{name}.")


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)


def _defaults(kind: type[Any]) -> Iterator[tuple[str, str]]:
    """Name each field with its default as JSON, "" where it has none."""
    if issubclass(kind, msgspec.Struct):
        for one in msgspec.structs.fields(kind):
            made = one.default_factory() if one.default_factory is not msgspec.NODEFAULT else one.default
            yield one.name, _json(made)
    else:
        for one in dataclasses.fields(kind):
            yield one.name, "" if one.default is dataclasses.MISSING else _json(one.default)


def _json(value: Any) -> str:
    if value is msgspec.NODEFAULT:
        return ""
    if value is None:
        return "unset"
    return str(value) if isinstance(value, str | Path) else msgspec.json.encode(value, enc_hook=str).decode()


_KINDS: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}


def _kind(hint: Any) -> str:
    origin, inner = get_origin(hint), [one for one in get_args(hint) if one is not types.NoneType]
    if origin in (types.UnionType, Union):
        return " or ".join(_kind(one) for one in inner)
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in inner)
    if origin is dict:
        return "JSON object"
    if origin is tuple:
        return f"{_kind(inner[0])}, joined by commas"
    return _KINDS[hint]


def _field_texts(kind: type[Any]) -> dict[str, str]:
    """Read the text below each field off the source: Python itself does not keep it."""
    (struct,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(struct, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split()).replace("|", "\\|")
        for field, text in pairwise(struct.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


if __name__ == "__main__":
    sys.stdout.write(describe_commands())
