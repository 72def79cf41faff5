"""Project a shard again, into nothing, and hold what it says against that; name the row and field that differ."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from annotator_store.digests import Digest
from annotator_store.errors import ShardError
from annotator_store.log.events import AnnotatedRow, EpisodeAnnotated
from annotator_store.log.shard_history import EpisodeRecord, ShardRecord
from annotator_store.parquet.episode_language import EpisodeLanguage, RowRun, arrange, shard_digest
from annotator_store.parquet.files import opened_shard
from annotator_store.parquet.frame_times import FrameTimes, read_frame_times
from annotator_store.parquet.read import Boundary, Scan, has_language, scan_language
from annotator_store.rows import Row
from annotator_store.verify.findings import Audit

Compose = Callable[[Sequence[Row], Mapping[str, Sequence[AnnotatedRow]]], Sequence[AnnotatedRow]]
"""How new rows, by module, take the place of that module's rows among those that a shard holds."""
Annotations = Mapping[Digest, EpisodeAnnotated]

_LEAST_ALIKE = 3
"""Two rows that agree in fewer of their fields than this are not the same row, changed."""


def check_shard(
    root: Path, record: ShardRecord, pinned: Digest | None, annotations: Annotations, compose: Compose, audit: Audit
) -> Digest | None:
    """Compare one shard with the log; return the digest of its language columns, None where they cannot be read.

    `pinned` is what the lock says that digest is. A shard whose digest is the lock's, and whose rows are the log's, is
    right, even if another tool has added its own rows since it was written.
    """
    read = _read(root / record.path, record.path, audit)
    if read is None:
        return None
    times, bounds, scan = read
    audit.counts["shards"] += 1
    found = shard_digest(scan.episodes, exact=scan.exact)
    if record.episodes and [(one.start, one.stop) for one in record.episodes] != bounds:
        expected, got = f"{len(record.episodes)} episodes, placed as when it was written", f"{len(bounds)} episodes"
        audit.report("shard", f"{record.path}, column episode_index", expected, got)
        return found
    intact = found == record.language
    if audit.gone and not intact and found == pinned:
        audit.withheld += 1  # the note of its last writing may be among what was lost
        return found
    before = len(audit.findings)
    for one, language in zip(record.episodes, scan.episodes, strict=False):
        _check_episode(times.where(one.start, one.stop), one, language, annotations, compose, audit, intact=intact)
    if len(audit.findings) == before and not intact and found != pinned:
        what = "the language columns" if scan.exact else "the Arrow types of the language columns"
        where = f"{record.path}, {what}; every row that the log has is in its place"
        audit.report("shard", where, record.language, found)
    return found


def _read(path: Path, name: str, audit: Audit) -> tuple[FrameTimes, list[Boundary], Scan] | None:
    try:
        with opened_shard(path) as file:
            if not has_language(file.schema_arrow):
                audit.report("shard", name, "language columns", "neither of the two columns")
                return None
            times = read_frame_times(file, name)
            bounds = _bounds(times)
            return times, bounds, scan_language(file, path, times, bounds)
    except ShardError as error:
        audit.report("shard", name, "a shard that can be read", error.got or error.what)
        return None


def _bounds(times: FrameTimes) -> list[Boundary]:
    """The rows of each episode, in order of the rows."""
    total = len(times.timestamps)
    index = times.episode_index
    cuts = [] if index is None else (np.flatnonzero(index[1:] != index[:-1]) + 1).tolist()
    return list(zip([0, *cuts], [*cuts, total], strict=True)) if total else []


def _check_episode(
    where: str,
    record: EpisodeRecord,
    language: EpisodeLanguage,
    annotations: Annotations,
    compose: Compose,
    audit: Audit,
    *,
    intact: bool,
) -> None:
    audit.counts["episodes"] += 1
    missing = [f"{module}: {event}" for module, event in record.sources.items() if event not in annotations]
    if missing:
        audit.report_absent("annotation", where, f"the annotation {missing[0]}")
    last, all_of_them = _new(record.sources, annotations), _new(record.annotations, annotations)
    held = _most_common(language)
    for new in (all_of_them, last) if intact else (all_of_them,):
        if _says(language, compose(held, new)):
            audit.counts["rows"] += len(compose((), new))
            audit.counts["rows of others"] += len(_others(held, new, compose))
            return
    if missing and audit.gone:
        audit.withheld += 1
        return
    _report_differences(where, language, last if intact else all_of_them, compose, audit)


def _new(sources: Mapping[str, Digest], annotations: Annotations) -> dict[str, Sequence[AnnotatedRow]]:
    return {module: annotations[event].rows for module, event in sources.items() if event in annotations}


def _most_common(language: EpisodeLanguage) -> list[Row]:
    """The persistent rows that most frames carry, and the events."""
    longest = max(language.runs, key=lambda run: run.frames, default=RowRun(0, ()))
    return [*longest.rows, *(row for event in language.events for row in event.rows)]


def _says(language: EpisodeLanguage, wanted: Sequence[AnnotatedRow]) -> bool:
    frames = sum(run.frames for run in language.runs)
    try:
        return arrange([one.row for one in wanted], frames) == language
    except ShardError:
        return False


def _others(held: Sequence[Row], new: Mapping[str, Sequence[AnnotatedRow]], compose: Compose) -> Sequence[Row]:
    """The rows that no annotation gave."""
    own = Counter(one.row for one in compose((), new))
    return list((Counter(held) - own).elements())


def _report_differences(
    where: str,
    language: EpisodeLanguage,
    new: Mapping[str, Sequence[AnnotatedRow]],
    compose: Compose,
    audit: Audit,
) -> None:
    """Report each row that is not as the log has it; a list that only some frames carry, once for those frames."""
    events = [row for event in language.events for row in event.rows]
    longest = max(language.runs, key=lambda run: run.frames, default=RowRun(0, ()))
    wanted = [one.row for one in compose([*longest.rows, *events], new)]
    before, start = len(audit.findings), 0
    for run in language.runs:
        own = f"{where}, frames {start}–{start + run.frames}" if len(language.runs) > 1 else where
        if run is longest or run.rows != longest.rows:
            expected = wanted if run is longest else [*longest.rows, *events]
            for row, expects, finds in _differences(expected, [*run.rows, *events], _own(new, compose)):
                audit.report("row", f"{own}, {row}", expects, finds)
        start += run.frames
    if len(audit.findings) == before:
        audit.report("row", where, "the rows in their order, each once", "the same rows, otherwise")


def _own(new: Mapping[str, Sequence[AnnotatedRow]], compose: Compose) -> list[Row]:
    return [one.row for one in compose((), new)]


def _differences(
    wanted: Sequence[Row], found: Sequence[Row], own: Sequence[Row]
) -> Iterator[tuple[str, object, object]]:
    """Pair each row that is missing with the one that it seems to have become: (row and field, expected, found)."""
    missing, extra = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
    strangers = Counter(found) - Counter(own) - extra
    for row in missing.elements():
        became = max([*extra.elements(), *strangers.elements()], key=lambda other: _alike(row, other), default=None)
        if became is None or _alike(row, became) < _LEAST_ALIKE:
            yield _named(row), _plain(row), "no such row"
            continue
        (extra if extra[became] else strangers)[became] -= 1
        for field, expects, finds in _unequal_fields(row, became):
            yield f"{_named(row)}, field {field}", repr(expects), repr(finds)
    for row in extra.elements():
        yield _named(row), "no such row", _plain(row)


def _alike(one: Row, other: Row) -> int:
    return len(Row.__struct_fields__) - sum(1 for _ in _unequal_fields(one, other))


def _unequal_fields(one: Row, other: Row) -> Iterator[tuple[str, Any, Any]]:
    for field in Row.__struct_fields__:
        expects, finds = getattr(one, field), getattr(other, field)
        if expects != finds:
            yield field, expects, finds


def _named(row: Row) -> str:
    return f"{row.style or 'speech'} at {row.timestamp:g} s"


def _plain(row: Row) -> str:
    return msgspec.json.encode(row).decode()
