"""The options of a struct of settings: dotted names, types, ranges, defaults, texts.

The command line, `annotator.toml`, the validation of values and docs/cli.md all use this description.
"""

import ast
import sys
import types
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from annotator.config.settings import Settings

POSITIONAL = msgspec.Meta(extra={"positional": True})
"""Annotation of a field that is a positional argument."""
_NAMES: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """An option of a command.

    `type` is the field's annotation; `base` is the same without ranges (`metas`) and without None: a class, or a
    Literal, tuple or dict type. `default` is `msgspec.NODEFAULT` if a value is required.
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
        """Whether it is a positional argument instead of a flag."""
        return POSITIONAL in self.metas

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values; for a setting to which other packages can add values, the known ones."""
        if self.origin is Literal:
            return get_args(self.base)
        return tuple(str(value) for meta in self.metas for value in meta.examples or ())

    @property
    def takes(self) -> str:
        """What it takes, in words, such as "integer" or "`table`, `json`"."""
        return ", ".join(f"`{value}`" for value in self.choices) or _describe(self.base)

    @property
    def range(self) -> str:
        """Its range, in words, such as "1 to 95"; "" if it has none."""
        ranges: list[str] = []
        for meta in self.metas:
            # The largest float stands for "finite", see `annotator.config.settings`: it is no limit to speak of.
            most = None if meta.le == sys.float_info.max else meta.le
            if meta.ge is not None and most is not None:
                ranges.append(f"{meta.ge} to {most}")
            else:
                limits = {"above {}": meta.gt, "{} or more": meta.ge, "below {}": meta.lt, "at most {}": most}
                ranges += [words.format(limit) for words, limit in limits.items() if limit is not None]
        return ", ".join(ranges)


@cache
def options_of(kind: type[Settings], prefix: str = "") -> tuple[Option, ...]:
    """Return the options of a struct and its groups, in the order of their fields."""
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
    """Yield the dotted name and type of each group in a struct, parents first."""
    for field in msgspec.structs.fields(kind):
        if is_group(field.type):
            yield f"{prefix}{field.name}", field.type
            yield from groups_of(field.type, f"{prefix}{field.name}.")


def is_group(hint: Any) -> bool:
    """Whether a field's type is a group of settings."""
    return isinstance(hint, type) and issubclass(hint, Settings)


def texts_of(kind: type[Settings]) -> dict[str, str]:
    """Return the docstring below each field, by field name. Python discards these, so they are read from the source."""
    texts: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if issubclass(owner, Settings) and owner is not Settings:
            # A struct made at run time, as by `msgspec.defstruct`, has no source and so no texts.
            nodes = (node for node in _parsed(owner.__module__).body if isinstance(node, ast.ClassDef))
            body = next((node.body for node in nodes if node.name == owner.__name__), [])
            # The docstring of a field is the expression that follows it.
            for field, text in pairwise(body):
                match field, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                        texts[name] = " ".join(words.split())
                    case _:
                        pass
    return texts


@cache
def _parsed(module: str) -> ast.Module:
    # Parsing the file once is ten times as fast as `inspect.getsource`, which tokenizes it for every class.
    file = getattr(sys.modules.get(module), "__file__", None)
    # In an interactive session, or a zip file, there is no file to read: options have no texts then.
    return ast.parse(Path(file).read_text(encoding="utf-8") if file and Path(file).is_file() else "")


def _unwrap(hint: Any) -> tuple[Any, tuple[msgspec.Meta, ...]]:
    """Split an annotation into its type without None, and its `msgspec.Meta` annotations."""
    if get_origin(hint) is Annotated:
        inner, *found = get_args(hint)
        base, metas = _unwrap(inner)
        return base, (*metas, *(meta for meta in found if isinstance(meta, msgspec.Meta)))
    if get_origin(hint) in (types.UnionType, Union):
        parts = [part for part in get_args(hint) if part is not types.NoneType]
        # Of several types, none is the base: such an option takes JSON.
        return _unwrap(parts[0]) if len(parts) == 1 else (hint, ())
    return hint, ()


def _describe(base: Any) -> str:
    if get_origin(base) is Literal:  # the parts of a tuple
        return ", ".join(f"`{value}`" for value in get_args(base))
    if get_origin(base) is tuple:
        return f"{_describe(get_args(base)[0])}, joined by commas"
    return "JSON object" if get_origin(base) is dict else _NAMES.get(base, "JSON")
