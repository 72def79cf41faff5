"""Export the log's rows as files: `episode_{N:06d}/<module>.jsonl`, one row a line, the same bytes for the same log.

The files of an episode together hold its rows as they were composed for its shard. Persistent ones stand in
`plan.jsonl`, also the plan that an interjection refreshed: LeRobot's `StagingValidator` takes none from another module.

A line is a JSON object with sorted keys: `camera`, `content`, `role`, `style`, `timestamp` (seconds, the float32 of a
frame), `tool_calls` (a list of objects, or null). A module that found nothing to say has an empty file.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from annotator.dataset.metadata import Dataset
from annotator.errors import UsageError
from annotator.modules.merge_rows import merge_rows
from annotator.modules.registry import PLAN
from annotator.provenance.lock import pinned_shards
from annotator_store.atomic_files import write_hint
from annotator_store.digests import Digest
from annotator_store.errors import JournalDamaged, StoreError
from annotator_store.log.dataset_names import alike_at, name_in_log
from annotator_store.log.events import EpisodeAnnotated, EpisodeSeen, ShardWritten, decode_event, event_type
from annotator_store.log.folds import LatestAnnotation, as_utc, current_of, fold_current
from annotator_store.log.lines import Entry
from annotator_store.log.query import JOURNAL
from annotator_store.log.segments import read_journal
from annotator_store.log.shard_history import ShardRecord, fold_shards
from annotator_store.parquet.files import opened_shard
from annotator_store.parquet.frame_times import read_frame_times
from annotator_store.parquet.rewrite import language_digest_or_none
from annotator_store.rows import Row, is_persistent, order_key

MARK = ".annotator-export"
"""The file by which a folder is known to hold an export and nothing else."""
_MARK_TEXT = "Written by `annotator export`, which replaces this whole folder.\n"
_EPISODES_AT_ONCE = 1024
_encoder = msgspec.json.Encoder(order="sorted")


class Staged(msgspec.Struct, frozen=True):
    """One episode of an export: its index in the dataset, and the annotation of each module that its rows come from."""

    episode: int
    annotations: dict[str, Digest]


def export_staging(dataset: Dataset, store: Path, staging: Path) -> int:
    """Write an export into `staging`, which is new, empty or an earlier export; return how many files it has.

    The folder is made anew beside it and then put in its place, so a failure leaves what was there.

    Raises:
        UsageError: the folder holds other things, or the log does not know the dataset.
        StoreError: the log or a shard cannot be read, or the folder cannot be written.
    """
    staging = staging.absolute()
    _refuse_others(staging)
    staged, files = list(_staged(dataset, store)), 0
    beside = staging.with_name(f".{staging.name}.{os.getpid()}.annotator-partial")
    try:
        beside.mkdir(parents=True)
        for start in range(0, len(staged), _EPISODES_AT_ONCE):
            files += _write_files(beside, staged[start : start + _EPISODES_AT_ONCE], store / JOURNAL)
        (beside / MARK).write_bytes(_MARK_TEXT.encode())
        _put_in_place(beside, staging)
    except OSError as cause:
        hint = write_hint(cause)
        raise StoreError("an export cannot be written", where=str(staging), got=str(cause), hint=hint) from cause
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return files


def render_rows(rows: Iterable[Row]) -> bytes:
    """Render rows in their order, one JSON object a line."""
    return b"".join(_encoder.encode(_line(row)) + b"\n" for row in sorted(rows, key=order_key))


def _line(row: Row) -> dict[str, object]:
    calls = None if row.tool_calls is None else [msgspec.json.decode(call) for call in row.tool_calls]
    return msgspec.to_builtins(row) | {"tool_calls": calls}


def _refuse_others(staging: Path) -> None:
    hint = "name a new folder, an empty one, or one that an earlier export made"
    if staging.is_dir():
        names = sorted(path.name for path in staging.iterdir())
        other = [name for name in names if not name.startswith("episode_") and name != MARK]
        if names and (MARK not in names or other):
            got = f"it holds {(other or names)[0]}"
            raise UsageError("the folder is not an export's own", where=f"--staging {staging}", got=got, hint=hint)
    elif staging.exists() or staging.is_symlink():
        raise UsageError("no folder", where=f"--staging {staging}", got="a file", hint=hint)


def _put_in_place(beside: Path, staging: Path) -> None:
    if not staging.exists():
        beside.rename(staging)
        return
    old = beside.with_name(f"{beside.name}-old")
    staging.rename(old)
    try:
        beside.rename(staging)
    except OSError:
        old.rename(staging)
        raise
    shutil.rmtree(old)


def _staged(dataset: Dataset, store: Path) -> Iterator[Staged]:
    """Name every episode, in order: what the shards were written from, else, in an older log, what counts."""
    written: list[tuple[Digest, ShardWritten]] = []
    seen: list[EpisodeSeen] = []
    candidates: list[LatestAnnotation] = []
    for entry in _events(store / JOURNAL, "shard_written.v1", "episode_seen.v1", "episode_annotated.v1"):
        event = decode_event(entry.body, where=f"event {entry.id}")
        if isinstance(event, ShardWritten):
            written.append((entry.id, event))
        elif isinstance(event, EpisodeSeen):
            seen.append(event)
        elif isinstance(event, EpisodeAnnotated):
            candidates.append(current_of(entry.id, event))
    names = {event.dataset for _, event in written} | {event.dataset for event in seen}
    alike = alike_at(
        dataset.root, dataset.shards, written, lambda: pinned_shards(dataset.root), language_digest_or_none
    )
    name = name_in_log(names, dataset.root, store, alike=alike)
    if name is None:
        got = f"it knows {', '.join(sorted(names)) or 'none'}"
        raise UsageError("the log does not know this dataset", where=str(store), got=got, hint="annotator sync DATASET")
    records = [record for path, record in fold_shards(written, name).items() if path in dataset.shards]
    if any(record.episodes for record in records):
        staged = [one for record in records for one in _of_shard(dataset.root, record)]
    else:
        staged = list(_of_current(dataset, [one for one in seen if one.dataset == name], candidates))
    yield from sorted(staged, key=lambda one: one.episode)


def _of_shard(root: Path, record: ShardRecord) -> Iterator[Staged]:
    with opened_shard(root / record.path) as file:
        index = read_frame_times(file, str(root / record.path)).episode_index
    total = 0 if index is None else len(index)
    for one in record.episodes:
        if index is None or not one.stop <= total or not bool((index[one.start : one.stop] == index[one.start]).all()):
            hint = "annotator sync writes it again"
            where = f"{root / record.path}, rows {one.start}–{one.stop}"
            raise StoreError("a shard is laid out otherwise than when it was written", where=where, hint=hint)
        yield Staged(int(index[one.start]), one.annotations)


def _of_current(
    dataset: Dataset, seen: Sequence[EpisodeSeen], candidates: Sequence[LatestAnnotation]
) -> Iterator[Staged]:
    there = {episode.index for episode in dataset.episodes}
    latest = {one.episode_index: one.episode for one in sorted(seen, key=lambda one: as_utc(one.recorded_at))}
    annotations: dict[Digest, dict[str, Digest]] = {}
    for current in fold_current(candidates).values():
        annotations.setdefault(current.episode, {})[current.module] = current.event_id
    for index, episode in latest.items():
        if episode in annotations and index in there:
            yield Staged(index, annotations[episode])


def _write_files(folder: Path, staged: Sequence[Staged], journal: Path) -> int:
    """Write the files of some episodes, and return how many there are."""
    wanted = {event for one in staged for event in one.annotations.values()}
    found = _annotations(wanted, journal)
    files = 0
    for one in staged:
        missing = set(one.annotations.values()) - found.keys()
        if missing:
            hint = "annotator verify says what is missing from the log"
            raise StoreError("an annotation is not in the log", where=f"event {min(missing)}", hint=hint)
        home = folder / f"episode_{one.episode:06d}"
        for module, rows in _by_file({name: found[event] for name, event in one.annotations.items()}).items():
            home.mkdir(exist_ok=True)
            (home / f"{module}.jsonl").write_bytes(render_rows(rows))
            files += 1
    return files


def _annotations(wanted: set[Digest], journal: Path) -> dict[Digest, EpisodeAnnotated]:
    found: dict[Digest, EpisodeAnnotated] = {}
    for entry in _events(journal, "episode_annotated.v1"):
        if entry.id in wanted:
            event = decode_event(entry.body, where=f"event {entry.id}")
            assert isinstance(event, EpisodeAnnotated)
            found[entry.id] = event
    return found


def _by_file(annotations: Mapping[str, EpisodeAnnotated]) -> dict[str, list[Row]]:
    """Compose an episode's rows as its shard has them, and deal them out to the files that LeRobot expects them in."""
    files: dict[str, list[Row]] = {module: [] for module in sorted(annotations)}
    for one in merge_rows((), {module: annotation.rows for module, annotation in annotations.items()}):
        file = PLAN.name if is_persistent(one.row.style) else one.module
        assert file is not None, "rows that are written anew are some module's"
        files.setdefault(file, []).append(one.row)
    return files


def _events(journal: Path, *types: str) -> Iterator[Entry]:
    try:
        for _, entries in read_journal(journal):
            yield from (entry for entry in entries if event_type(entry.body) in types)
    except JournalDamaged as error:
        hint = "annotator verify lists everything that is damaged"
        raise JournalDamaged(error.what, where=error.where, got=error.got, hint=hint) from error
