"""Digests: XXH3-128 over canonical, tagged pre-images.

A pre-image starts with its tag (`call.v1`), so two kinds of value never share a digest.
Structs are decoded and encoded again first, so that `0` in a float field and `0.0` agree; NaN and infinities are
refused, because JSON has no name for them. XXH3 is no defence against an adversary; see docs/keys.md.
"""

import math
from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar, NewType, cast, get_args, get_type_hints

import msgspec
import xxhash
from typing_extensions import Buffer

Digest = NewType("Digest", str)
"""32 lower-case hexadecimal digits."""

_encoder = msgspec.json.Encoder(order="sorted")


class _KeyPartMeta(msgspec.StructMeta):
    """Checks `added` once the fields are known: `__init_subclass__` runs before msgspec has collected them."""

    def __init__(cls, *arguments: Any, **_options: Any) -> None:
        super().__init__(*arguments)
        struct = cast("type[KeyPart]", cls)
        optional = {field.name for field in msgspec.structs.fields(struct) if not field.required}
        wrong = struct.added - optional
        if wrong:
            raise TypeError(f"{cls.__name__}.added names {sorted(wrong)}, which is no field with a default")


class KeyPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, metaclass=_KeyPartMeta):
    """A struct that a pre-image is made of.

    `added` names the fields that came after the struct's first digests were recorded. Such a field is left out of the
    pre-image while it has its default, so that those digests stand. Never put a field there that has been digested.
    """

    added: ClassVar[frozenset[str]] = frozenset()


class Keyed(KeyPart, frozen=True, kw_only=True):
    """A struct that is digested by itself. `tag_v` names the pre-image and its version."""

    tag_v: ClassVar[str]


def canonical(value: msgspec.Struct) -> bytes:
    """Encode a struct to its one canonical JSON form: keys sorted, numbers as their field's type.

    Raises:
        ValueError: a float is NaN or infinite.
    """
    _refuse_unnameable(msgspec.to_builtins(value))
    decoded = msgspec.json.decode(_encoder.encode(value), type=type(value))
    return _encoder.encode(_without_defaults(decoded) if _holds_added(type(value)) else decoded)


def digest_struct(value: Keyed) -> Digest:
    """Digest a keyed struct: its tag, then its canonical encoding."""
    return digest_parts(value.tag_v, [canonical(value)])


def digest_parts(tag: str, parts: Iterable[Buffer]) -> Digest:
    """Digest raw buffers under a tag; each is preceded by its length, so boundaries count."""
    hasher = xxhash.xxh3_128(tag.encode() + b"\0")
    for part in parts:
        view = memoryview(part)
        hasher.update(view.nbytes.to_bytes(8, "little"))
        hasher.update(view.cast("B") if view.nbytes else b"")
    return Digest(hasher.hexdigest())


def _refuse_unnameable(value: Any) -> None:
    kind = type(value)
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"a digest cannot cover {value!r}")
    elif kind is dict:
        for item in cast("dict[str, Any]", value).values():
            _refuse_unnameable(item)
    elif kind is list or kind is tuple:
        for item in cast("list[Any]", value):
            _refuse_unnameable(item)


@cache
def _holds_added(kind: Any) -> bool:
    """Whether a type is, or holds, a struct with fields that were added later. Today's keyed structs hold none."""
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return any(_holds_added(argument) for argument in get_args(kind))
    if issubclass(kind, KeyPart) and kind.added:
        return True
    hints = get_type_hints(kind)
    return any(_holds_added(hints[name]) for name in kind.__struct_fields__)


def _without_defaults(value: Any) -> Any:
    """Convert to what JSON encodes alike, without the added fields that have their defaults."""
    match value:
        case KeyPart():
            config, left_out = value.__struct_config__, _encoded_defaults(type(value))
            tag = {} if config.tag is None else {config.tag_field or "type": config.tag}
            fields = {name: getattr(value, name) for name in value.__struct_fields__}
            kept = {k: v for k, v in fields.items() if k not in left_out or _encoder.encode(v) != left_out[k]}
            return tag | {name: _without_defaults(item) for name, item in kept.items()}
        case dict():
            return {key: _without_defaults(item) for key, item in cast("dict[str, Any]", value).items()}
        case tuple() | list():
            return [_without_defaults(item) for item in cast("tuple[Any, ...]", value)]
        case _:
            return value


@cache
def _encoded_defaults(kind: type[KeyPart]) -> dict[str, bytes]:
    """Encode the defaults of the added fields as the fields' types: a float's default may be written `0`."""
    hints = get_type_hints(kind)
    defaults: dict[str, bytes] = {}
    for field in msgspec.structs.fields(kind):
        if field.name in kind.added:
            default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
            defaults[field.name] = _encoder.encode(msgspec.convert(default, hints[field.name], from_attributes=True))
    return defaults
