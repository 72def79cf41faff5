"""Compare DuckDB's folds with the same folds made in Python from the journal; name the field that damage changed.

A cache that is behind the journal, of another release or in use is not compared, and that is no finding.
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
from annotator_store.verify.events import CallOutcome, Index
from annotator_store.verify.findings import VerifyReport, shortened

_SHOWN = 5
"""Differences of one table that are listed; the others are counted."""


def check_cache(path: Path, journal: Path, index: Index, report: VerifyReport) -> None:
    """Compare the cache at `path` with the journal, if it is there, free and up to date."""
    cache = _open_or_note(path, report)
    if cache is None:
        return
    try:
        _name_fields(cache, report)
        if not is_up_to_date(cache, journal):
            report.note("the cache is behind the journal; the next command that opens the store brings it up")
        else:
            _compare(cache, index, report, path.name)
    except CacheDamaged as error:
        report.add("cache", path.name, "a database that can be read", error.got)
    finally:
        cache.discard()


def check_rebuilt(journal: Path, index: Index, report: VerifyReport) -> None:
    """Rebuild a cache in a temporary folder and compare it with the journal."""
    if report.events_missing:
        report.note("no cache was rebuilt: it cannot be, from a journal that is damaged")
        return
    with tempfile.TemporaryDirectory(prefix="annotator-verify-") as folder:
        cache = rebuild(Path(folder) / CACHE, journal)
        try:
            _compare(cache, index, report, "a cache made anew")
        finally:
            cache.discard()


def _open_or_note(path: Path, report: VerifyReport) -> Cache | None:
    if not path.exists():
        report.note("there is no cache to compare the folds with; --rebuild makes one for that")
        return None
    try:
        return Cache.open_read_only(path, NO_EXTENSIONS)
    except CacheBusy:
        report.note("the cache is in use; its folds were not compared")
    except CacheOutdated:
        report.note("another release made the cache; its folds were not compared")
    except CacheDamaged as error:
        report.add("cache", path.name, "a database that opens", error.got)
    return None


def _compare(cache: Cache, index: Index, report: VerifyReport, name: str) -> None:
    _report_differences(report, f"{name}, table events", _differing_events(cache, index, report))
    outcomes = {
        key: CallOutcome(declined, as_utc(recorded_at), event, episode)
        for key, episode, declined, recorded_at, event in cache.stream("select_outcomes")
    }
    _report_differences(report, f"{name}, table outcomes", _differing_items(index.outcomes, outcomes, report))
    annotations = {
        event: LatestAnnotation(episode, module, recipe, event, as_utc(recorded_at), rows)
        for event, episode, module, recipe, recorded_at, rows in cache.stream("select_annotations")
    }
    _report_differences(report, f"{name}, table annotations", _differing_items(index.annotations, annotations, report))


def _differing_events(cache: Cache, index: Index, report: VerifyReport) -> Iterator[tuple[Digest, object, object]]:
    not_cached = set(index.ids)
    for named, body in cache.stream("select_all_bodies"):
        if event_id(body.encode()) != named:
            yield named, named, f"a body that digests to {event_id(body.encode())}"
        elif named in not_cached:
            not_cached.discard(named)
        elif named not in report.lost and not report.lost_unnamed:
            yield named, "no such event: the journal has none", named
    yield from ((named, named, "nothing") for named in sorted(not_cached))


def _differing_items(
    expected: dict[Digest, Any], cached: dict[Digest, Any], report: VerifyReport
) -> Iterator[tuple[Digest, object, object]]:
    """Compare two folds by key; leave out what the fold in Python lacks because its event is damaged."""
    for key in sorted(expected.keys() | cached.keys()):
        left, right = expected.get(key), cached.get(key)
        if left == right or report.lost_unnamed or (right is not None and right.event_id in report.lost):
            continue
        yield key, left or "nothing", right or "nothing"


def _report_differences(report: VerifyReport, where: str, differences: Iterable[tuple[Digest, object, object]]) -> None:
    remaining = iter(differences)
    for key, expected, actual in islice(remaining, _SHOWN):
        report.add("cache", f"{where}, {key}", expected, actual)
    more = sum(1 for _ in remaining)
    if more:
        report.add("cache", where, "no further difference", f"{more} more")


def _name_fields(cache: Cache, report: VerifyReport) -> None:
    """Add to the finding of each damaged event the field that differs from the cache's copy of the event."""
    for number, named, body in report.broken:
        copy = _cached_body(cache, named)
        finding = report.findings[number]
        if copy is not None:
            field, expected, actual = _difference(copy, body)
        elif _cached_body(cache, event_id(body)) == body:
            field, expected, actual = "its id", event_id(body), named
        else:
            continue
        where = f"{finding.where}, {field}"
        report.findings[number] = msgspec.structs.replace(
            finding, where=where, expected=shortened(expected), found=shortened(actual)
        )


def _cached_body(cache: Cache, named: Digest) -> bytes | None:
    if len(named) != 32 or not set(named) <= set("0123456789abcdef"):  # a damaged id is not a UUID to ask for
        return None
    rows = cache.select("select_bodies", {"ids": [named]})
    return rows[0][1].encode() if rows else None


def _difference(copy: bytes, body: bytes) -> tuple[str, object, object]:
    """Return the field that differs and both its values; where one side is not JSON, the byte and its surroundings."""
    try:
        original, damaged = msgspec.json.decode(copy), msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        offset = _first_difference(copy, body)
        low, high = max(0, offset - 20), offset + 20
        return f"byte {offset} of the event", copy[low:high].decode(errors="replace"), ascii(body[low:high])
    fields = cast("dict[str, Any]", original)
    others = cast("dict[str, Any]", damaged if isinstance(damaged, dict) else {})
    names = [name for name in fields.keys() | others.keys() if fields.get(name) != others.get(name)]
    if not names:
        return "how it is written", copy.decode(), body.decode(errors="replace")
    name = min(names, key=list(fields | others).index)
    # Of two long texts, only the surroundings of the first difference.
    left, right = str(fields.get(name)), str(others.get(name))
    offset = _first_difference(left, right)
    if offset <= 40:
        return f"field {name}", fields.get(name), others.get(name)
    return f"field {name}", f"… {left[offset - 40 : offset + 60]}", f"… {right[offset - 40 : offset + 60]}"


def _first_difference(left: str | bytes, right: str | bytes) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))
