"""Hold DuckDB's folds against the same folds made in Python from the journal; name what damage changed, from the copy.

The cache may be behind, of another release, or in use: then there is nothing to compare, and nothing wrong.
"""

import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import msgspec

from annotator_store.digests import Digest
from annotator_store.log.cache import CACHE, NO_EXTENSIONS, Cache, CacheBusy, CacheDamaged, CacheOutdated
from annotator_store.log.events import event_id
from annotator_store.log.folds import LatestAnnotation, as_utc
from annotator_store.log.rebuild import is_up_to_date, rebuild
from annotator_store.verify.events import Counted, Index
from annotator_store.verify.findings import Audit, shortened

_SHOWN = 5
"""Differences that are listed of one table; the others are counted."""


def check_cache(path: Path, journal: Path, index: Index, audit: Audit) -> None:
    """Compare the cache at `path`, where there is one that is free and up to date."""
    cache = _free(path, audit)
    if cache is None:
        return
    try:
        _name_fields(cache, audit)
        if not is_up_to_date(cache, journal):
            audit.note("the cache is behind the journal; the next command that opens the store brings it up")
        else:
            _compare(cache, index, audit, path.name)
    except CacheDamaged as error:
        audit.report("cache", path.name, "a database that can be read", error.got)
    finally:
        cache.discard()


def check_rebuilt(journal: Path, index: Index, audit: Audit) -> None:
    """Make a cache anew, away from the store, and compare that."""
    if audit.gone:
        audit.note("no cache was rebuilt: it cannot be, from a journal that is damaged")
        return
    with tempfile.TemporaryDirectory(prefix="annotator-verify-") as folder:
        cache = rebuild(Path(folder) / CACHE, journal)
        try:
            _compare(cache, index, audit, "a cache made anew")
        finally:
            cache.discard()


def _free(path: Path, audit: Audit) -> Cache | None:
    if not path.exists():
        audit.note("there is no cache to compare the folds with; --rebuild makes one for that")
        return None
    try:
        return Cache.open_read_only(path, NO_EXTENSIONS)
    except CacheBusy:
        audit.note("the cache is in use; its folds were not compared")
    except CacheOutdated:
        audit.note("another release made the cache; its folds were not compared")
    except CacheDamaged as error:
        audit.report("cache", path.name, "a database that opens", error.got)
    return None


def _compare(cache: Cache, index: Index, audit: Audit, name: str) -> None:
    _listed(audit, f"{name}, table events", _wrong_events(cache, index, audit))
    outcomes = {
        key: Counted(declined, as_utc(recorded_at), event, episode)
        for key, episode, declined, recorded_at, event in cache.stream("select_outcomes")
    }
    _listed(audit, f"{name}, table outcomes", _unequal(index.outcomes, outcomes, audit))
    annotations = {
        event: LatestAnnotation(episode, module, recipe, event, as_utc(recorded_at), rows)
        for event, episode, module, recipe, recorded_at, rows in cache.stream("select_annotations")
    }
    _listed(audit, f"{name}, table annotations", _unequal(index.annotations, annotations, audit))


def _wrong_events(cache: Cache, index: Index, audit: Audit) -> Iterator[tuple[Digest, object, object]]:
    left = set(index.ids)
    for named, body in cache.stream("select_all_bodies"):
        if event_id(body.encode()) != named:
            yield named, named, f"a body that digests to {event_id(body.encode())}"
        elif named in left:
            left.discard(named)
        elif named not in audit.lost and not audit.lost_unnamed:
            yield named, "no such event: the journal has none", named
    yield from ((named, named, "nothing") for named in sorted(left))


def _unequal(
    folded: dict[Digest, Any], held: dict[Digest, Any], audit: Audit
) -> Iterator[tuple[Digest, object, object]]:
    """Compare two folds by key, but for what damaged events would have said."""
    for key in sorted(folded.keys() | held.keys()):
        expected, found = folded.get(key), held.get(key)
        if expected == found or audit.lost_unnamed or (found is not None and found.event_id in audit.lost):
            continue
        yield key, expected or "nothing", found or "nothing"


def _listed(audit: Audit, where: str, differences: Iterable[tuple[Digest, object, object]]) -> None:
    remaining = iter(differences)
    for key, expected, found in islice(remaining, _SHOWN):
        audit.report("cache", f"{where}, {key}", expected, found)
    more = sum(1 for _ in remaining)
    if more:
        audit.report("cache", where, "no further difference", f"{more} more")


def _name_fields(cache: Cache, audit: Audit) -> None:
    """Say of each damaged event which field differs from the whole copy that the cache has of it."""
    for place, named, body in audit.broken:
        whole = _copy(cache, named)
        finding = audit.findings[place]
        if whole is not None:
            field, expected, found = _difference(whole, body)
        elif _copy(cache, event_id(body)) == body:
            field, expected, found = "its id", event_id(body), named
        else:
            continue
        where = f"{finding.where}, {field}"
        audit.findings[place] = msgspec.structs.replace(
            finding, where=where, expected=shortened(expected), found=shortened(found)
        )


def _copy(cache: Cache, named: Digest) -> bytes | None:
    if len(named) != 32 or not set(named) <= set("0123456789abcdef"):
        return None
    found = cache.select("select_bodies", {"ids": [named]})
    return found[0][1].encode() if found else None


def _difference(whole: bytes, body: bytes) -> tuple[str, object, object]:
    """Name the field that differs, and both its values; where one is no JSON, the byte, and what stands around it."""
    try:
        meant, seems = msgspec.json.decode(whole), msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        at = next((i for i, (a, b) in enumerate(zip(whole, body, strict=False)) if a != b), len(body))
        low, high = max(0, at - 20), at + 20
        return f"byte {at} of the event", whole[low:high].decode(errors="replace"), ascii(body[low:high])
    fields, others = cast("dict[str, Any]", meant), cast("dict[str, Any]", seems if isinstance(seems, dict) else {})
    names = [name for name in fields.keys() | others.keys() if fields.get(name) != others.get(name)]
    if not names:
        return "how it is written", whole.decode(), body.decode(errors="replace")
    name = min(names, key=list(fields | others).index)
    return f"field {name}", *_around(fields.get(name), others.get(name))


def _around(expected: object, found: object) -> tuple[object, object]:
    """Of two long texts, what stands around the first difference."""
    one, other = str(expected), str(found)
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    low = max(0, at - 40)
    return (expected, found) if low == 0 else (f"… {one[low : at + 60]}", f"… {other[low : at + 60]}")
