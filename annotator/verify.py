"""Verify a dataset: its log and shards (`store.verify`), and its lock, vocabulary and prompts against them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from annotator.compose import compose
from annotator.dataset import Dataset
from annotator.errors import PromptError, VocabularyError
from annotator.lock import FILE, Lock, PinnedModel, ReplyNote, Stocktaking, lock_of, pinned, prompt_digests
from annotator.prompts import Prompts, load_prompts
from annotator.verify_lock import as_model, check_lock
from annotator.vocabulary import Vocabulary
from annotator.vocabulary_file import FILE as VOCABULARY
from annotator.vocabulary_file import read_vocabulary
from store.audit import Audit
from store.digest import Digest
from store.keys import Model
from store.ledger import ShardRecord
from store.verify import Verified, verify_store
from store.verify_events import Index

_FINISHED = ("done", "incomplete")


def verify_dataset(dataset: Dataset, store: Path, *, prompts: Path | None = None, rebuild: bool = False) -> Audit:
    """Verify everything that one dataset's rows came from. Nothing is written, and no model is needed.

    `prompts` is the folder of own prompts; unset takes the one that the last run was given, where it is still there.
    """
    found, counting = _read(dataset.root / FILE), Stocktaking()
    verified = verify_store(
        dataset.root,
        store,
        shards=dataset.shards,
        pinned=found.shards if isinstance(found, Lock) else {},
        compose=compose,
        vocabulary_digest=lambda subtasks, memories: Vocabulary(subtasks=subtasks, memories=memories).digest,
        visit=counting.add,
        rebuild_cache=rebuild,
    )
    audit, index = verified.audit, verified.index
    loaded = _load(prompts or _last_folder(index), audit)
    vocabulary = _vocabulary(dataset.root, found, audit)
    if found is None:
        audit.note(f"there is no {FILE.as_posix()}; annotator sync writes it")
    elif loaded is not None and not isinstance(vocabulary, VocabularyError):
        derived = _derived(verified, counting, found, loaded, vocabulary)
        check_lock((dataset.root / FILE).read_bytes(), found, derived, loaded, audit)
    return audit


def _read(path: Path) -> Lock | str | None:
    """Read the lock; a message says why it is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Lock)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as cause:
        return str(cause)


def _last_folder(index: Index) -> Path | None:
    runs = sorted(index.runs, key=lambda run: run.recorded_at)
    folder = runs[-1].arguments.get("prompts") if runs else None
    return Path(folder) if isinstance(folder, str) and Path(folder).is_dir() else None


def _load(folder: Path | None, audit: Audit) -> Prompts | None:
    try:
        return load_prompts(folder)
    except PromptError as error:
        audit.report("prompt", error.where, "a prompt that can be read", f"{error.what}: {error.got}")
        return None


def _vocabulary(root: Path, lock: Lock | str | None, audit: Audit) -> Digest | VocabularyError | None:
    """Digest the vocabulary on disk, where the rows were held to one."""
    if isinstance(lock, Lock) and lock.vocabulary is None:
        return None  # worded freely: whatever file there is was not used
    try:
        found = read_vocabulary(root / VOCABULARY)
    except VocabularyError as error:
        audit.report("vocabulary", error.where, "a vocabulary that can be read", f"{error.what}: {error.got}")
        return error
    return found.digest if found else None


def _derived(
    verified: Verified, counting: Stocktaking, found: Lock | str, prompts: Prompts, vocabulary: Digest | None
) -> Lock:
    """Make the lock again from the log, the shards and what is on disk."""
    index = verified.index

    def replies(keys: Iterable[Digest]) -> Iterator[tuple[Digest, ReplyNote]]:
        yield from ((k, ReplyNote(index.replies[k].step, index.replies[k].reply)) for k in keys if k in index.replies)

    lock = lock_of(
        counting.stock(replies),
        seed=_seed(index, found),
        model=_model(index, found),
        prompts=prompt_digests(prompts),
        vocabulary=vocabulary,
    )
    accepted = found.shards if isinstance(found, Lock) else {}
    shards = {path: _language(record, verified, accepted) for path, record in verified.records.items()}
    return msgspec.structs.replace(lock, shards=shards)


def _language(record: ShardRecord, verified: Verified, accepted: Mapping[str, Digest]) -> Digest:
    """What the lock should say of a shard: as it was written, or as it is where the lock has taken that in."""
    found = verified.languages.get(record.path)
    return found if found is not None and accepted.get(record.path) == found else record.language


def _seed(index: Index, found: Lock | str) -> int:
    """The lock's own seed where a run or an answer had it, else the last run's."""
    runs = sorted((run for run in index.runs if run.outcome in _FINISHED), key=lambda run: run.recorded_at)
    seeds = [run.arguments.get("seed") for run in runs] or [reply.seed for reply in index.replies.values()]
    if isinstance(found, Lock) and found.seed in {*seeds, *(reply.seed for reply in index.replies.values())}:
        return found.seed
    return seeds[-1] if seeds and isinstance(seeds[-1], int) else 0


def _model(index: Index, found: Lock | str) -> Model:
    """The lock's own model where the log describes it, or where a run that asked nothing had one of its name."""
    described = {digest: msgspec.json.decode(text, type=Model) for digest, text in index.models.items()}
    if isinstance(found, Lock):
        own = as_model(found.model)
        if own is not None and pinned(own) == found.model and _had(index, found.model):
            return own
        if found.model.digest in described:
            return described[found.model.digest]
    last = max(index.runs, key=lambda run: run.recorded_at, default=None)
    named = [model for model in described.values() if last is not None and model.model_id == last.model_id]
    return named[-1] if named else Model(model_id=last.model_id if last else "")


def _had(index: Index, model: PinnedModel) -> bool:
    return model.digest in index.models or (
        not index.replies and any(run.model_id == model.model_id for run in index.runs)
    )
