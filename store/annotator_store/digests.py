"""Digests: XXH3-128 over canonical, tagged pre-images.

A pre-image starts with its tag (`call.v1`), so two kinds of value never share a digest.
Structs go through decode∘encode first, so `0` in a float field and `0.0` agree; NaN and infinities are refused,
because JSON has no name for them. XXH3 is no defence against an adversary; see docs/keys.md.
"""

import math
from collections.abc import Iterable
from typing import Any, ClassVar, NewType, cast
from uuid import UUID

import msgspec
import xxhash
from typing_extensions import Buffer

Digest = NewType("Digest", str)
"""32 lower-case hexadecimal digits."""

_encoder = msgspec.json.Encoder(order="sorted")


class Keyed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A struct that is hashed. `tag_v` names the pre-image and its version."""

    tag_v: ClassVar[str]


def canonical(value: msgspec.Struct) -> bytes:
    """Encode a struct to its one canonical JSON form: keys sorted, numbers as their field's type.

    Raises:
        ValueError: a float is NaN or infinite.
    """
    _refuse_unnameable(msgspec.to_builtins(value))
    once = _encoder.encode(value)
    return _encoder.encode(msgspec.json.decode(once, type=type(value)))


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


def as_uuid(digest: Digest) -> UUID:
    """Reinterpret the 16 digest bytes as a UUID, the type DuckDB keys on."""
    return UUID(hex=digest)


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
