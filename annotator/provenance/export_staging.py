"""Export the log's rows as files: `episode_{N:06d}/<module>.jsonl`, one row a line, the same bytes for the same log.

The files of an episode together hold its rows as they were merged for its shard. Persistent ones are in `plan.jsonl`,
also the plan that an interjection refreshed: LeRobot's `StagingValidator` accepts none from another module.

A line is a JSON object with sorted keys: `camera`, `content`, `role`, `style`, `timestamp` (seconds, the float32 of a
frame), `tool_calls` (a list of objects, or null). A module without rows has an empty file.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from annotator.dataset.metadata import Dataset
from annotator.errors import UsageError
from annotator.modules.merge_rows import merge_rows
from annotator.provenance.lock import pinned_shards
from annotator_store.atomic_files import write_hint
from annotator_store.digests import Digest
from annotator_store.errors import JournalDamaged, StoreError
from annotator_store.log.dataset_names import alike_at, name_in_log
from annotator_store.log.events import EpisodeAnnotated, EpisodeSeen, ShardWritten, decode_event, event_type
from annotator_store.log.folds import LatestAnnotation, annotation_of, as_utc, fold_current
from annotator_store.log.lines import Entry
from annotator_store.log.segments import JOURNAL, read_journal
from annotator_store.log.shard_history import WrittenShard, fold_shards
from annotator_store.parquet.files import opened_shard
from annotator_store.parquet.frame_times import read_frame_times
from annotator_store.parquet.rewrite import language_digest_or_none
from annotator_store.rows import Row, is_persistent, order_key

MARK = ".annotator-export"
"""The file that marks a folder as an export's own, so that it may be replaced."""
_MARK_TEXT = "Written by `annotator export`, which replaces this whole folder.\n"
_PERSISTENT_FILE = "plan"
"""The file that LeRobot reads rows of persistent styles from, whichever module wrote them."""
_EPISODES_AT_ONCE = 1024
"""Episodes whose rows are in memory at the same time; for each part the journal is read once."""
_encoder = msgspec.json.Encoder(order="sorted")


class StagedEpisode(msgspec.Struct, frozen=True):
    """One episode of an export. `index`: in the dataset. `annotations`: module → the event that its rows come from."""

    index: int
    annotations: dict[str, Digest]


def export_staging(dataset: Dataset, store: Path, staging: Path) -> int:
    """Write an export into `staging`, which is new, empty or an earlier export; return its number of files.

    The folder is written beside it and then renamed, so a failure leaves what was there.

    Raises:
        UsageError: the folder holds other things, or the log does not know the dataset.
        StoreError: the log or a shard cannot be read, or the folder cannot be written.
    """
    staging = staging.absolute()
    _refuse_foreign(staging)
    episodes, files = _list_episodes(dataset, store), 0
    beside = staging.with_name(f".{staging.name}.{os.getpid()}.annotator-partial")
    try:
        beside.mkdir(parents=True)
        for start in range(0, len(episodes), _EPISODES_AT_ONCE):
            files += _write_files(beside, episodes[start : start + _EPISODES_AT_ONCE], store / JOURNAL)
        (beside / MARK).write_bytes(_MARK_TEXT.encode())
        _put_in_place(beside, staging)
    except OSError as cause:
        hint = write_hint(cause)
        raise StoreError("an export cannot be written", where=str(staging), got=str(cause), hint=hint) from cause
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return files


def render_rows(rows: Iterable[Row]) -> bytes:
    """Return rows in their order, one JSON object a line."""
    lines: list[bytes] = []
    for row in sorted(rows, key=order_key):
        calls = None if row.tool_calls is None else [msgspec.json.decode(call) for call in row.tool_calls]
        lines.append(_encoder.encode(msgspec.to_builtins(row) | {"tool_calls": calls}) + b"\n")
    return b"".join(lines)


def _refuse_foreign(staging: Path) -> None:
    """Replacing a folder deletes what is in it, so it must hold nothing but an export."""
    hint = "name a new folder, an empty one, or one that an earlier export made"
    if staging.is_dir():
        names = sorted(path.name for path in staging.iterdir())
        foreign = [name for name in names if not name.startswith("episode_") and name != MARK]
        if names and (MARK not in names or foreign):
            got = f"it holds {(foreign or names)[0]}"
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


def _list_episodes(dataset: Dataset, store: Path) -> list[StagedEpisode]:
    """List the episodes by index: as the shards were written, or, in an older log, with their latest annotations."""
    written: list[tuple[Digest, ShardWritten]] = []
    seen: list[EpisodeSeen] = []
    candidates: list[LatestAnnotation] = []
    for entry in _read_entries(store / JOURNAL, "shard_written.v1", "episode_seen.v1", "episode_annotated.v1"):
        event = decode_event(entry.body, where=f"event {entry.id}")
        if isinstance(event, ShardWritten):
            written.append((entry.id, event))
        elif isinstance(event, EpisodeSeen):
            seen.append(event)
        elif isinstance(event, EpisodeAnnotated):
            candidates.append(annotation_of(entry.id, event))
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
        episodes = [episode for record in records for episode in _of_shard(dataset.root, record)]
    else:
        episodes = list(_of_latest(dataset, [event for event in seen if event.dataset == name], candidates))
    return sorted(episodes, key=lambda episode: episode.index)


def _of_shard(root: Path, record: WrittenShard) -> Iterator[StagedEpisode]:
    with opened_shard(root / record.path) as file:
        indices = read_frame_times(file, str(root / record.path)).episode_index
    total = 0 if indices is None else len(indices)
    for written in record.episodes:
        # Its rows may have moved since: then the annotations cannot be assigned to an index of the dataset.
        frames = slice(written.start, written.stop)
        if indices is None or written.stop > total or not bool((indices[frames] == indices[written.start]).all()):
            hint = "annotator sync writes it again"
            where = f"{root / record.path}, rows {written.start}–{written.stop}"
            raise StoreError("a shard is laid out otherwise than when it was written", where=where, hint=hint)
        yield StagedEpisode(int(indices[written.start]), written.annotations)


def _of_latest(
    dataset: Dataset, seen: Sequence[EpisodeSeen], candidates: Sequence[LatestAnnotation]
) -> Iterator[StagedEpisode]:
    present = {episode.index for episode in dataset.episodes}
    digests = {event.episode_index: event.episode for event in sorted(seen, key=lambda e: as_utc(e.recorded_at))}
    annotations: dict[Digest, dict[str, Digest]] = {}
    for latest in fold_current(candidates).values():
        annotations.setdefault(latest.episode, {})[latest.module] = latest.event_id
    for index, episode in digests.items():
        if episode in annotations and index in present:
            yield StagedEpisode(index, annotations[episode])


def _write_files(folder: Path, episodes: Sequence[StagedEpisode], journal: Path) -> int:
    """Write the files of some episodes; return their number."""
    needed = {event_id for episode in episodes for event_id in episode.annotations.values()}
    events: dict[Digest, EpisodeAnnotated] = {}
    for entry in _read_entries(journal, "episode_annotated.v1"):
        if entry.id in needed:
            event = decode_event(entry.body, where=f"event {entry.id}")
            assert isinstance(event, EpisodeAnnotated)
            events[entry.id] = event
    if missing := needed - events.keys():
        hint = "annotator verify says what is missing from the log"
        raise StoreError("an annotation is not in the log", where=f"event {min(missing)}", hint=hint)
    files = 0
    for episode in episodes:
        home = folder / f"episode_{episode.index:06d}"
        for module, rows in _by_file({name: events[id_] for name, id_ in episode.annotations.items()}).items():
            home.mkdir(exist_ok=True)
            (home / f"{module}.jsonl").write_bytes(render_rows(rows))
            files += 1
    return files


def _by_file(annotations: Mapping[str, EpisodeAnnotated]) -> dict[str, list[Row]]:
    """Merge an episode's rows as for its shard, and split them by the files that LeRobot expects them in."""
    files: dict[str, list[Row]] = {module: [] for module in sorted(annotations)}
    for one in merge_rows((), {module: annotation.rows for module, annotation in annotations.items()}):
        file = _PERSISTENT_FILE if is_persistent(one.row.style) else one.module
        assert file is not None, "rows that are written anew are some module's"
        files.setdefault(file, []).append(one.row)
    return files


def _read_entries(journal: Path, *types: str) -> Iterator[Entry]:
    try:
        for _, entries in read_journal(journal):
            yield from (entry for entry in entries if event_type(entry.body) in types)
    except JournalDamaged as error:
        hint = "annotator verify lists everything that is damaged"
        raise JournalDamaged(error.what, where=error.where, got=error.got, hint=hint) from error
