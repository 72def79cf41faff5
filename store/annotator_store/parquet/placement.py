"""Determine the language of every episode of a shard, and the rows of the shard that its events are on."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from annotator_store.errors import ShardError
from annotator_store.parquet.columns import PlacedEpisode
from annotator_store.parquet.episode_language import EpisodeLanguage, EpisodeRows, arrange, without_rows
from annotator_store.parquet.frame_times import FrameTimes, Ints, frames_at
from annotator_store.parquet.read import Boundary, has_language, scan_language


def place_episodes(
    file: pq.ParquetFile, path: Path, times: FrameTimes, episodes: Sequence[EpisodeRows]
) -> list[PlacedEpisode]:
    """Check the rows of `episodes` and find their frames; episodes with `rows=None` keep what the shard has.

    Returns: the episodes in order of their rows; they cover the shard if `episodes` do.

    Raises:
        ShardError: a row breaks the format or names no frame, or what is there cannot be kept.
    """
    ordered = sorted(episodes, key=bounds)
    kept = [bounds(rows) for rows in ordered if rows.rows is None]
    if kept and has_language(file.schema_arrow):
        in_shard = iter(scan_language(file, path, times, kept).episodes)
    else:
        in_shard = iter([without_rows(stop - start) for start, stop in kept])
    return [_place(times, rows, target_language(rows, in_shard, times.where(*bounds(rows)))) for rows in ordered]


def target_language(rows: EpisodeRows, kept: Iterator[EpisodeLanguage], where: str) -> EpisodeLanguage:
    """Return the language that an episode is to have: its rows sorted, or the next of the `kept` ones."""
    return next(kept) if rows.rows is None else arrange(rows.rows, rows.stop - rows.start, where)


def gaps_between(episodes: Sequence[EpisodeRows], times: FrameTimes) -> list[EpisodeRows]:
    """Check that episodes do not overlap and lie inside the shard; return the rows between them, which stay as is."""
    gaps: list[EpisodeRows] = []
    done = 0
    for rows in sorted(episodes, key=bounds):
        if not done <= rows.start <= rows.stop <= len(times.timestamps):
            raise _misplaced("an episode lies outside its shard, or overlaps another", times, rows)
        index = times.episode_index
        if index is not None and bool((index[rows.start : rows.stop] != index[rows.start : rows.start + 1]).any()):
            raise _misplaced("rows said to be one episode are of several", times, rows)
        if done < rows.start:
            gaps.append(EpisodeRows(start=done, stop=rows.start, rows=None))
        done = rows.stop
    if done < len(times.timestamps):
        gaps.append(EpisodeRows(start=done, stop=len(times.timestamps), rows=None))
    return gaps


def _place(times: FrameTimes, rows: EpisodeRows, language: EpisodeLanguage) -> PlacedEpisode:
    """Find the frame of every event, and check that new persistent rows have the timestamp of a frame, too."""
    frames = times.timestamps[rows.start : rows.stop]
    if rows.rows is not None:
        stamps = np.array([row.timestamp for run in language.runs for row in run.rows], np.float64)
        _check_frames(frames_at(frames, stamps, np.zeros(len(stamps), np.int64)), stamps, times, rows)
    stamps = np.array([event.rows[0].timestamp for event in language.events], np.float64)
    offsets = frames_at(frames, stamps, np.array([event.repeat for event in language.events], np.int64))
    _check_frames(offsets, stamps, times, rows)
    order = np.argsort(offsets)
    return PlacedEpisode(
        start=rows.start,
        stop=rows.stop,
        language=language,
        event_rows=offsets[order] + rows.start,
        events=tuple(language.events[index].rows for index in order.tolist()),
    )


def _check_frames(offsets: Ints, stamps: npt.NDArray[np.float64], times: FrameTimes, rows: EpisodeRows) -> None:
    missing = stamps[offsets < 0]
    if not len(missing):
        return
    frames = times.timestamps[rows.start : rows.stop].astype(np.float64)
    nearest = float(frames[np.abs(frames - missing[0]).argmin()])
    raise ShardError(
        "a language row's timestamp is no frame's",
        where=f"{times.where(rows.start, rows.stop)}, timestamp {float(missing[0])!r}",
        got=f"the nearest frame is at {nearest!r}; {len(missing)} such rows in this episode",
        hint="timestamps are the exact float32 values of frames: nothing was written",
    )


def bounds(rows: EpisodeRows) -> Boundary:
    """Return the row offsets of an episode, by which episodes are sorted."""
    return rows.start, rows.stop


def _misplaced(what: str, times: FrameTimes, rows: EpisodeRows) -> ShardError:
    hint = "meta/episodes and data/ disagree: repair the dataset first; nothing was written"
    where = f"{times.path}, rows {rows.start}–{rows.stop}"
    return ShardError(what, where=where, got=f"{len(times.timestamps)} rows in the shard", hint=hint)
