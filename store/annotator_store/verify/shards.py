"""Compare a shard with the rows that the log gives it, and name the row and the field that differ."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from annotator_store.digests import Digest
from annotator_store.errors import ShardError
from annotator_store.log.events import AnnotatedRow, EpisodeAnnotated
from annotator_store.log.shard_history import WrittenEpisode, WrittenShard
from annotator_store.parquet.episode_language import EpisodeLanguage, RowRun, arrange, shard_digest
from annotator_store.parquet.files import opened_shard
from annotator_store.parquet.frame_times import FrameTimes, read_frame_times
from annotator_store.parquet.read import Boundary, Scan, has_language, scan_language
from annotator_store.rows import Row
from annotator_store.verify.findings import VerifyReport

MergeRows = Callable[[Sequence[Row], Mapping[str, Sequence[AnnotatedRow]]], Sequence[AnnotatedRow]]
"""Puts new rows, by module, in the place of that module's rows among those that a shard holds."""
Annotations = Mapping[Digest, EpisodeAnnotated]

_LEAST_ALIKE = 3
"""Fields in which two rows must agree for one to be reported as the other, changed."""


def check_shard(
    root: Path,
    record: WrittenShard,
    pinned: Digest | None,
    annotations: Annotations,
    merge: MergeRows,
    report: VerifyReport,
) -> Digest | None:
    """Compare one shard with the log; return the digest of its language columns, None where they cannot be read.

    `pinned` is that digest as the lock has it. A shard that matches the lock and has all rows of the log is right, even
    where another tool has added rows of its own since it was written.
    """
    read = _read(root / record.path, record.path, report)
    if read is None:
        return None
    times, bounds, scan = read
    report.counts["shards"] += 1
    digest = shard_digest(scan.episodes, exact=scan.exact)
    if record.episodes and [(episode.start, episode.stop) for episode in record.episodes] != bounds:
        expected, got = f"{len(record.episodes)} episodes, placed as when it was written", f"{len(bounds)} episodes"
        report.add("shard", f"{record.path}, column episode_index", expected, got)
        return digest
    intact = digest == record.language
    if report.events_missing and not intact and digest == pinned:
        report.withheld += 1  # the event of its last writing may be among those that are lost
        return digest
    findings_before = len(report.findings)
    for episode, language in zip(record.episodes, scan.episodes, strict=False):
        _check_episode(
            times.where(episode.start, episode.stop), episode, language, annotations, merge, report, intact=intact
        )
    if len(report.findings) == findings_before and not intact and digest != pinned:
        what = "the language columns" if scan.exact else "the Arrow types of the language columns"
        where = f"{record.path}, {what}; every row that the log has is in its place"
        report.add("shard", where, record.language, digest)
    return digest


def _read(path: Path, name: str, report: VerifyReport) -> tuple[FrameTimes, list[Boundary], Scan] | None:
    try:
        with opened_shard(path) as file:
            if not has_language(file.schema_arrow):
                report.add("shard", name, "language columns", "neither of the two columns")
                return None
            times = read_frame_times(file, name)
            bounds = _bounds(times)
            return times, bounds, scan_language(file, path, times, bounds)
    except ShardError as error:
        report.add("shard", name, "a shard that can be read", error.got or error.what)
        return None


def _bounds(times: FrameTimes) -> list[Boundary]:
    """Return the row offsets [start, stop) of each episode, in order."""
    total = len(times.timestamps)
    index = times.episode_index
    cuts = [] if index is None else (np.flatnonzero(index[1:] != index[:-1]) + 1).tolist()
    return list(zip([0, *cuts], [*cuts, total], strict=True)) if total else []


def _check_episode(
    where: str,
    record: WrittenEpisode,
    language: EpisodeLanguage,
    annotations: Annotations,
    merge: MergeRows,
    report: VerifyReport,
    *,
    intact: bool,
) -> None:
    report.counts["episodes"] += 1
    missing = [f"{module}: {event}" for module, event in record.sources.items() if event not in annotations]
    if missing:
        report.add_missing("annotation", where, f"the annotation {missing[0]}")
    newest, all_of_them = _new_rows(record.sources, annotations), _new_rows(record.annotations, annotations)
    longest = _longest_run(language)
    rows = [*longest.rows, *_events(language)]
    # A shard that is as it was last written may hold rows of earlier writings that were edited since: only those of
    # the last writing must then be the log's.
    for new in (all_of_them, newest) if intact else (all_of_them,):
        if _holds(language, merge(rows, new)):
            own = _rows_of(merge((), new))
            report.counts["rows"] += len(own)
            report.counts["rows of others"] += (Counter(rows) - Counter(own)).total()
            return
    if missing and report.events_missing:
        report.withheld += 1
        return
    _report_differences(where, language, newest if intact else all_of_them, merge, report)


def _new_rows(sources: Mapping[str, Digest], annotations: Annotations) -> dict[str, Sequence[AnnotatedRow]]:
    return {module: annotations[event].rows for module, event in sources.items() if event in annotations}


def _longest_run(language: EpisodeLanguage) -> RowRun:
    """Return the persistent rows that most frames carry."""
    return max(language.runs, key=lambda run: run.frames, default=RowRun(0, ()))


def _events(language: EpisodeLanguage) -> list[Row]:
    return [row for event in language.events for row in event.rows]


def _rows_of(annotated: Sequence[AnnotatedRow]) -> list[Row]:
    return [item.row for item in annotated]


def _holds(language: EpisodeLanguage, expected: Sequence[AnnotatedRow]) -> bool:
    try:
        return arrange(_rows_of(expected), sum(run.frames for run in language.runs)) == language
    except ShardError:
        return False


def _report_differences(
    where: str,
    language: EpisodeLanguage,
    new: Mapping[str, Sequence[AnnotatedRow]],
    merge: MergeRows,
    report: VerifyReport,
) -> None:
    """Report each row that is not as the log has it; a list that only some frames carry, once for those frames."""
    events, longest, own = _events(language), _longest_run(language), _rows_of(merge((), new))
    merged = _rows_of(merge([*longest.rows, *events], new))
    findings_before, start = len(report.findings), 0
    for run in language.runs:
        place = f"{where}, frames {start}–{start + run.frames}" if len(language.runs) > 1 else where
        if run is longest or run.rows != longest.rows:
            expected = merged if run is longest else [*longest.rows, *events]
            for row, left, right in _differences(expected, [*run.rows, *events], own):
                report.add("row", f"{place}, {row}", left, right)
        start += run.frames
    if len(report.findings) == findings_before:
        report.add("row", where, "the rows in their order, each once", "the same rows, otherwise")


def _differences(
    expected: Sequence[Row], actual: Sequence[Row], own: Sequence[Row]
) -> Iterator[tuple[str, object, object]]:
    """Pair each missing row with the row that it seems to have become: (row and field, expected, actual)."""
    missing, extra = Counter(expected) - Counter(actual), Counter(actual) - Counter(expected)
    of_others = Counter(actual) - Counter(own) - extra
    for row in missing.elements():
        candidates = [*extra.elements(), *of_others.elements()]
        became = max(candidates, key=lambda candidate: _equal_fields(row, candidate), default=None)
        if became is None or _equal_fields(row, became) < _LEAST_ALIKE:
            yield _name(row), msgspec.json.encode(row).decode(), "no such row"
            continue
        (extra if extra[became] else of_others)[became] -= 1
        for field in Row.__struct_fields__:
            left, right = getattr(row, field), getattr(became, field)
            if left != right:
                yield f"{_name(row)}, field {field}", repr(left), repr(right)
    for row in extra.elements():
        yield _name(row), "no such row", msgspec.json.encode(row).decode()


def _equal_fields(left: Row, right: Row) -> int:
    return sum(getattr(left, field) == getattr(right, field) for field in Row.__struct_fields__)


def _name(row: Row) -> str:
    return f"{row.style or 'speech'} at {row.timestamp:g} s"
