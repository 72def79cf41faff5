"""Verify a dataset: its log and shards (`annotator_store.verify`), and lock, vocabulary and prompts against them."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from annotator.dataset.metadata import Dataset
from annotator.modules.merge_rows import merge_rows
from annotator.provenance.lock import FILE, CallReply, Lock, LockBuilder
from annotator.provenance.setups import AskedCall
from annotator.verify.lock import check_lock
from annotator.verify.recordings import check_recordings
from annotator.verify.sources import check_sources
from annotator_store.digests import Digest
from annotator_store.log.events import VocabularyDiscovered
from annotator_store.verify.events import Index
from annotator_store.verify.findings import VerifyReport
from annotator_store.verify.store import Verified, verify_store


def verify_dataset(
    dataset: Dataset, store: Path, *, prompts: Path | None = None, rebuild: bool = False
) -> VerifyReport:
    """Verify everything that a dataset's rows came from, without writing anything and without a model.

    `prompts`: the folder of own prompts; by default those that the dataset's runs were given. `rebuild`: compare the
    log's cache with one that is built from the journal.
    """
    path, builder = dataset.root / FILE, LockBuilder()
    lock: Lock | str | None
    try:
        lock = msgspec.json.decode(path.read_bytes(), type=Lock)
    except FileNotFoundError:
        lock = None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as cause:
        lock = str(cause)
    verified = verify_store(
        dataset.root,
        store,
        shards=dataset.shards,
        pinned=lock.shards if isinstance(lock, Lock) else {},
        merge=merge_rows,
        visit=builder.add,
        rebuild_cache=rebuild,
    )
    report, index = verified.report, verified.index
    if verified.dataset is None and (index.shards_written or index.seen):
        return report  # the log is another dataset's
    if not verified.records and isinstance(lock, Lock) and lock.shards and not report.events_missing:
        shards = f"{len(lock.shards)} shard{'s' * (len(lock.shards) > 1)}"
        report.add("log", str(store), f"the log of the {shards} that {FILE.as_posix()} pins", "none of them")
        return report
    derived = _derive_lock(verified, builder, lock)
    if lock is None:
        report.note(f"there is no {FILE.as_posix()}; annotator sync writes it")
        pinned: Lock | None = None if report.findings or report.events_missing else derived
    else:
        pinned = check_lock(path.read_bytes(), lock, derived, report)
    if pinned is not None:
        folders = [prompts] if prompts is not None else _prompt_folders(index, verified.dataset)
        check_sources(dataset.root, pinned, folders, report)
    check_recordings(dataset, verified, report)  # last: what differs here is no fault of log, lock or rows
    return report


def _prompt_folders(index: Index, dataset: str | None) -> list[Path | None]:
    """Return the folders of own prompts of the dataset's runs, newest first; None stands for the shipped prompts."""
    runs = sorted((run for run in index.runs if run.dataset == dataset), key=lambda run: run.recorded_at, reverse=True)
    values = [run.arguments.get("prompts") for run in runs]
    folders = [Path(folder) if isinstance(folder, str) else None for folder in values]
    return list(dict.fromkeys(folders)) or [None]


class _IndexRecords:
    """The records of a journal that was read, for one dataset; see `LockRecords`."""

    def __init__(self, index: Index, dataset: str | None) -> None:
        self._index = index
        self._dataset = dataset

    def replies(self, keys: Sequence[Digest]) -> Iterator[tuple[Digest, CallReply]]:
        """Yield the calls among these that have a valid answer, each with its key."""
        for key in keys:
            reply = self._index.replies.get(key)
            if reply is not None:
                yield key, CallReply(AskedCall(reply.step, reply.seed, reply.model), reply.reply)

    def models(self, digests: Collection[Digest]) -> Mapping[Digest, str]:
        """Return the descriptions of models, as canonical JSON."""
        return {digest: self._index.models[digest] for digest in digests if digest in self._index.models}

    def discoveries(self) -> Iterable[tuple[Digest, VocabularyDiscovered]]:
        """Return the vocabularies that were discovered for the dataset, each with its event's id."""
        return [(event_id, event) for event_id, event in self._index.discoveries if event.dataset == self._dataset]


def _derive_lock(verified: Verified, builder: LockBuilder, lock: Lock | str | None) -> Lock:
    """Compute the lock again from the log and the shards.

    A shard's language columns are pinned as they were written, or as they are where `lock` accepted a change.
    """
    derived = builder.build(_IndexRecords(verified.index, verified.dataset))
    accepted = lock.shards if isinstance(lock, Lock) else {}
    shards: dict[str, Digest] = {}
    for path, record in verified.records.items():
        present = verified.languages.get(path)
        shards[path] = present if present is not None and accepted.get(path) == present else record.language
    return msgspec.structs.replace(derived, shards=shards)
