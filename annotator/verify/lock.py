"""Hold a lock against the one that log and shards give.

A lock that matches its own digest is a witness: what differs from it has changed since. One that does not is itself at
fault.
"""

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from annotator.provenance.lock import FILE, Lock, digest_of, render_lock
from annotator.provenance.setups import PinnedModel, pinned
from annotator_store.keys import Model
from annotator_store.verify.findings import Audit


def check_lock(content: bytes, found: Lock | str, derived: Lock, audit: Audit) -> Lock | None:
    """Report where a lock and what it pins part; give what is pinned, None where that cannot be told.

    `found` is the lock that `content` is, or why it is none.
    """
    damaged = bool(audit.findings) or audit.gone
    if isinstance(found, str):
        where = next((place for place, _, _ in _unequal_lines(content, derived)), FILE.as_posix())
        audit.report("lock", where, "a lock that can be read", found)
        return None if damaged else derived
    if damaged:
        if (found.log, found.shards) != (derived.log, derived.shards):
            audit.withheld += 1
        derived = _as_far_as_told(found)
    if digest_of(found) == found.digest and render_lock(found) == content:
        for field, expected, got in _unequal_fields(found, derived):
            audit.report("lock", _place(content, field), expected, got)
        return derived
    derived = msgspec.structs.replace(derived, digest=digest_of(derived))
    for where, expected, got in _unequal_lines(content, derived):
        audit.report("lock", where, expected, got)
    return None if damaged else derived


def as_model(model: PinnedModel) -> Model | None:
    """Give the model that a lock describes; None where it describes none."""
    fields = {"model_id": model.model_id, "revision": model.revision} | model.settings
    try:
        return msgspec.convert(fields, Model)
    except msgspec.ValidationError:
        return None


def _as_far_as_told(found: Lock) -> Lock:
    """Beside other findings, what is in use cannot be told: only that the lock's own model has its digest."""
    own = as_model(found.model) if found.model and found.model.settings else None
    return msgspec.structs.replace(found, model=found.model if own is None else pinned(own))


def _place(content: bytes, field: str) -> str:
    paths = _paths(content.decode(errors="replace").splitlines())
    number = f", line {paths.index(field) + 1}" if field in paths else ""
    return f"{FILE.as_posix()}{number}, {field}"


def _unequal_fields(found: Lock, derived: Lock) -> Iterator[tuple[str, Any, Any]]:
    """Compare two locks leaf by leaf, but for their digests: (dotted field, what it should be, what it is)."""
    should, does = (dict(_leaves(msgspec.to_builtins(lock))) for lock in (derived, found))
    for field in sorted(should.keys() | does.keys()):
        if should.get(field) != does.get(field) and field != "digest":
            yield field, should.get(field), does.get(field)


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(cast("dict[str, Any]", value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _unequal_lines(content: bytes, derived: Lock) -> Iterator[tuple[str, str, str]]:
    """Compare a file with the lock it should be, line by line; where lines are gone or new, only up to there.

    Its own digest covers all else, so it is named only where nothing else differs.
    """
    lines = content.decode(errors="replace").split("\n")
    meant = render_lock(derived).decode().split("\n")
    paths = _paths(meant)
    unequal = [i for i, (line, other) in enumerate(zip(lines, meant, strict=False)) if line != other]
    if len(lines) != len(meant):
        unequal = (unequal or [min(len(lines), len(meant)) - 1])[:1]
    for i in [i for i in unequal if paths[i] != "digest"] or unequal:
        yield f"{FILE.as_posix()}, line {i + 1}, {paths[i] or 'its form'}", meant[i].strip(), lines[i].strip()


def _paths(lines: list[str]) -> list[str]:
    """Name the dotted field that each line of a rendered lock holds; "" where it holds none."""
    open_groups: list[str] = []
    paths: list[str] = []
    for line in lines:
        text = line.strip()
        name, quoted, _ = text.removeprefix('"').partition('": ')
        if text.startswith(("}", "]")):
            open_groups = open_groups[:-1]
        paths.append(".".join([*filter(None, open_groups), name]) if quoted else "")
        if text.endswith(("{", "[")):
            open_groups.append(name if quoted else "")
    return paths
