"""Verify a dataset: its log and shards (`annotator_store.verify`), and lock, vocabulary and prompts against them."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from annotator.dataset.metadata import Dataset
from annotator.modules.merge_rows import merge_rows
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.provenance.lock import FILE, Lock, LockBuilder, ReplyNote, lock_of
from annotator.provenance.setups import AskedCall
from annotator.verify.lock import check_lock
from annotator.verify.recordings import check_recordings
from annotator.verify.sources import check_sources
from annotator_store.digests import Digest
from annotator_store.log.events import VocabularyDiscovered
from annotator_store.log.shard_history import ShardRecord
from annotator_store.verify.events import Index
from annotator_store.verify.findings import Audit
from annotator_store.verify.store import Verified, verify_store


def verify_dataset(dataset: Dataset, store: Path, *, prompts: Path | None = None, rebuild: bool = False) -> Audit:
    """Verify everything that one dataset's rows came from. Nothing is written, and no model is needed.

    `prompts` is the folder of own prompts; unset takes those that the dataset's runs were given.
    """
    found, counting = _read(dataset.root / FILE), LockBuilder()
    verified = verify_store(
        dataset.root,
        store,
        shards=dataset.shards,
        pinned=found.shards if isinstance(found, Lock) else {},
        compose=merge_rows,
        vocabulary_digest=lambda subtasks, memories: Vocabulary(subtasks=subtasks, memories=memories).digest,
        visit=counting.add,
        rebuild_cache=rebuild,
    )
    audit, index = verified.audit, verified.index
    if verified.dataset is None and (index.shards_written or index.seen):
        return audit  # the log is another dataset's
    if not verified.records and isinstance(found, Lock) and found.shards and not audit.gone:
        shards = f"{len(found.shards)} shard{'s' * (len(found.shards) > 1)}"
        audit.report("log", str(store), f"the log of the {shards} that {FILE.as_posix()} pins", "none of them")
        return audit
    derived = _derived(verified, counting, found)
    if found is None:
        audit.note(f"there is no {FILE.as_posix()}; annotator sync writes it")
        told: Lock | None = None if audit.findings or audit.gone else derived
    else:
        told = check_lock((dataset.root / FILE).read_bytes(), found, derived, audit)
    if told is not None:
        folders = [prompts] if prompts is not None else _folders(index, verified.dataset)
        check_sources(dataset.root, told, folders, audit)
    check_recordings(dataset, verified, audit)  # last: what differs here is no fault of log, lock or rows
    return audit


def _read(path: Path) -> Lock | str | None:
    """Read the lock; a message says why it is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Lock)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as cause:
        return str(cause)


def _folders(index: Index, dataset: str | None) -> list[Path | None]:
    """The folders of own prompts that the dataset's runs were given, newest first; None is the shipped ones alone."""
    runs = sorted((run for run in index.runs if run.dataset == dataset), key=lambda run: run.recorded_at, reverse=True)
    named = [run.arguments.get("prompts") for run in runs]
    folders = [Path(folder) if isinstance(folder, str) else None for folder in named]
    return list(dict.fromkeys(folders)) or [None]


class _Read:
    """The records of a journal that was read, for one dataset."""

    def __init__(self, index: Index, dataset: str | None) -> None:
        self._index = index
        self._dataset = dataset

    def replies(self, keys: Sequence[Digest]) -> Iterator[tuple[Digest, ReplyNote]]:
        """Give the answers of these calls that count."""
        for key in keys:
            held = self._index.replies.get(key)
            if held is not None:
                yield key, ReplyNote(AskedCall(held.step, held.seed, held.model), held.reply)

    def models(self, digests: Collection[Digest]) -> Mapping[Digest, str]:
        """Give how models were described, as canonical JSON."""
        return {digest: self._index.models[digest] for digest in digests if digest in self._index.models}

    def discoveries(self) -> Iterable[tuple[Digest, VocabularyDiscovered]]:
        """Give the vocabularies that were found for the dataset, each with its event's id."""
        return [(event_id, event) for event_id, event in self._index.discoveries if event.dataset == self._dataset]


def _derived(verified: Verified, counting: LockBuilder, found: Lock | str | None) -> Lock:
    """Make the lock again from the log and the shards."""
    lock = lock_of(counting.stock(_Read(verified.index, verified.dataset)))
    accepted = found.shards if isinstance(found, Lock) else {}
    shards = {path: _language(record, verified, accepted) for path, record in verified.records.items()}
    return msgspec.structs.replace(lock, shards=shards)


def _language(record: ShardRecord, verified: Verified, accepted: Mapping[str, Digest]) -> Digest:
    """What the lock should say of a shard: as it was written, or as it is where the lock has taken that in."""
    found = verified.languages.get(record.path)
    return found if found is not None and accepted.get(record.path) == found else record.language
