"""Compare a lock with the one that log and shards give.

Where a lock matches its own digest, what differs from it has changed since. Where it does not, the lock itself was
damaged or edited.
"""

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from annotator.provenance.lock import FILE, Lock, lock_digest, render_lock
from annotator.provenance.setups import PinnedModel
from annotator_store.keys import Model
from annotator_store.verify.findings import VerifyReport


def check_lock(content: bytes, lock: Lock | str, derived: Lock, report: VerifyReport) -> Lock | None:
    """Report the differences between a lock and what it pins; return what is pinned, None where that is unknown.

    `lock` is what `content` was decoded to, or why it cannot be. `derived` comes from log and shards.
    """
    damaged = bool(report.findings) or report.events_missing
    if isinstance(lock, str):
        where = next((line for line, _, _ in _unequal_lines(content, derived)), FILE.as_posix())
        report.add("lock", where, "a lock that can be read", lock)
        return None if damaged else derived
    if damaged:
        if (lock.log, lock.shards) != (derived.log, derived.shards):
            report.withheld += 1
        # Beside other findings, what is in use is unknown: check only that the lock's own model has its digest.
        model = as_model(lock.model) if lock.model and lock.model.settings else None
        derived = msgspec.structs.replace(lock, model=lock.model if model is None else PinnedModel.of(model))
    if lock_digest(lock) == lock.digest and render_lock(lock) == content:
        paths = _paths(content.decode(errors="replace").splitlines())
        for field, expected, got in _unequal_fields(lock, derived):
            number = f", line {paths.index(field) + 1}" if field in paths else ""
            report.add("lock", f"{FILE.as_posix()}{number}, {field}", expected, got)
        return derived
    derived = msgspec.structs.replace(derived, digest=lock_digest(derived))
    for where, expected, got in _unequal_lines(content, derived):
        report.add("lock", where, expected, got)
    return None if damaged else derived


def as_model(model: PinnedModel) -> Model | None:
    """Return the model that a lock describes; None where the description fits no model."""
    fields = {"model_id": model.model_id, "revision": model.revision} | model.settings
    try:
        return msgspec.convert(fields, Model)
    except msgspec.ValidationError:
        return None


def _unequal_fields(lock: Lock, derived: Lock) -> Iterator[tuple[str, Any, Any]]:
    """Compare two locks leaf by leaf, except for their digests; yield (dotted field, expected value, value)."""
    expected, actual = (dict(_leaves(msgspec.to_builtins(each))) for each in (derived, lock))
    for field in sorted(expected.keys() | actual.keys()):
        if expected.get(field) != actual.get(field) and field != "digest":
            yield field, expected.get(field), actual.get(field)


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(cast("dict[str, Any]", value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _unequal_lines(content: bytes, derived: Lock) -> Iterator[tuple[str, str, str]]:
    """Compare a file with the lock it should be, line by line; yield (place, expected line, line).

    Where lines are missing or added, only the first difference is meaningful. The digest covers all other fields, so it
    is named only where nothing else differs.
    """
    lines = content.decode(errors="replace").split("\n")
    expected = render_lock(derived).decode().split("\n")
    paths = _paths(expected)
    unequal = [i for i, (line, other) in enumerate(zip(lines, expected, strict=False)) if line != other]
    if len(lines) != len(expected):
        unequal = (unequal or [min(len(lines), len(expected)) - 1])[:1]
    for i in [i for i in unequal if paths[i] != "digest"] or unequal:
        yield f"{FILE.as_posix()}, line {i + 1}, {paths[i] or 'its form'}", expected[i].strip(), lines[i].strip()


def _paths(lines: list[str]) -> list[str]:
    """Return the dotted field of each line of a rendered lock; "" for a line without one."""
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
