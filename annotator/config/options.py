"""The options that a struct of settings stands for: dotted names, types, ranges, texts.

The command line, `annotator.toml`, the check of values and docs/cli.md all read them from here.
"""

import ast
import sys
import types
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import msgspec

from annotator.config.settings import Settings

POSITIONAL = msgspec.Meta(extra={"positional": True})
"""Marks a field that is a word of its own on the command line, without a flag."""
_NAMES: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One option of a command.

    `type` is the field's annotation, with its range; `base` the same without the range and without None: a class,
    or a Literal, tuple or dict type. `default` is `msgspec.NODEFAULT` where a value must be given.
    """

    name: str
    type: Any
    base: Any
    metas: tuple[msgspec.Meta, ...]
    default: Any

    @property
    def origin(self) -> Any:
        """The class of its values: `tuple` for `tuple[str, ...]`; `Literal` for choices."""
        return get_origin(self.base) or self.base

    @property
    def positional(self) -> bool:
        """Whether it is a word of its own instead of a flag."""
        return POSITIONAL in self.metas

    @property
    def choices(self) -> tuple[str, ...]:
        """The values there are; or, of a setting that others may add values to, those that come with this package."""
        if self.origin is Literal:
            return get_args(self.base)
        return tuple(str(value) for meta in self.metas for value in meta.examples or ())

    @property
    def takes(self) -> str:
        """What it takes, in words: `integer`, `number`, "`table`, `json`"."""
        return ", ".join(f"`{value}`" for value in self.choices) or _describe(self.base)

    @property
    def range(self) -> str:
        """The range of its values, in words: `1 to 95`; "" where any will do."""
        for meta in self.metas:
            low = meta.ge if meta.gt is None else meta.gt
            if low is not None and meta.le is not None and meta.le < sys.float_info.max:
                return f"{low} to {meta.le}"
            if low is not None:
                return f"above {low}" if meta.gt is not None else f"{low} or more"
        return ""


@cache
def options_of(kind: type[Settings], prefix: str = "") -> tuple[Option, ...]:
    """Return the options of a struct in the order of its fields, those of a group where the group stands."""
    options: list[Option] = []
    for field in msgspec.structs.fields(kind):
        name = f"{prefix}{field.name}"
        if is_group(field.type):
            options += options_of(field.type, f"{name}.")
        else:
            default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
            base, metas = _unwrap(field.type)
            options.append(Option(name=name, type=field.type, base=base, metas=metas, default=default))
    return tuple(options)


def groups_of(kind: type[Settings], prefix: str = "") -> Iterator[tuple[str, type[Settings]]]:
    """Yield each group of settings in a struct by its dotted name, a group before those inside it."""
    for field in msgspec.structs.fields(kind):
        if is_group(field.type):
            yield f"{prefix}{field.name}", field.type
            yield from groups_of(field.type, f"{prefix}{field.name}.")


def is_group(hint: Any) -> bool:
    """Whether a field's type is a group of settings."""
    return isinstance(hint, type) and issubclass(hint, Settings)


def texts_of(kind: type[Settings]) -> dict[str, str]:
    """Return the text below each field, by the field's name, read off the source: Python does not keep it."""
    texts: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if issubclass(owner, Settings) and owner is not Settings:
            # One made while running, such as by `msgspec.defstruct`, has no source, and so no texts.
            nodes = (node for node in _parsed(owner.__module__).body if isinstance(node, ast.ClassDef))
            body = next((node.body for node in nodes if node.name == owner.__name__), [])
            for field, text in pairwise(body):
                match field, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                        texts[name] = " ".join(words.split())
                    case _:
                        pass
    return texts


@cache
def _parsed(module: str) -> ast.Module:
    # One parse of the file: `inspect.getsource` would tokenize it once for each class, ten times as slow.
    return ast.parse(Path(cast("str", sys.modules[module].__file__)).read_text(encoding="utf-8"))


def _unwrap(hint: Any) -> tuple[Any, tuple[msgspec.Meta, ...]]:
    """Split an annotation into its bare type and its ranges, None left aside."""
    if get_origin(hint) is Annotated:
        inner, *found = get_args(hint)
        base, metas = _unwrap(inner)
        return base, (*metas, *(meta for meta in found if isinstance(meta, msgspec.Meta)))
    if get_origin(hint) in (types.UnionType, Union):
        (inner,) = (part for part in get_args(hint) if part is not types.NoneType)
        return _unwrap(inner)
    return hint, ()


def _describe(base: Any) -> str:
    if get_origin(base) is Literal:  # of the parts of a tuple
        return ", ".join(f"`{value}`" for value in get_args(base))
    if get_origin(base) is tuple:
        return f"{_describe(get_args(base)[0])}, joined by commas"
    return "JSON object" if get_origin(base) is dict else _NAMES[base]
