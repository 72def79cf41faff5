"""Publish what a dataset's language was made from: its lock, and the section of its card."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from annotator import __version__
from annotator.dataset.footage import file_stamp
from annotator.modules.registry import prompt_folders
from annotator.prompting.loader import load_prompts
from annotator.provenance.card import update_card
from annotator.provenance.lock import FILE, Lock, compute_lock, prompt_digests, read_sound_lock, write_lock
from annotator_store.digests import digest_parts
from annotator_store.log.log import Log
from annotator_store.log.shard_history import fold_shards

CARD = Path("README.md")
_PUBLISHED = "published.v2"


class PublishedFrom(msgspec.Struct, frozen=True, kw_only=True):
    """What is published: `dataset` is its name in the log, `shards` are all its shards, relative to its root."""

    dataset: str
    shards: tuple[str, ...]


def publish(root: Path, log: Log, basis: PublishedFrom, note: Callable[[str], None] | None = None) -> bool:
    """Update the lock and the card of the dataset written at `root`; return whether one of them was written.

    Call it once every `ShardWritten` of the run is recorded. What was published last is remembered in the log's cache:
    when nothing changed since, no annotation is read and neither file is opened. Where this log knows none of the rows
    that a sound lock pins, both stay as they are. `note` is called then, and where the card had to be left alone.

    Raises:
        StoreError: a file cannot be written, or an annotation is missing from the log.
    """
    name, digest = str(root.absolute()), _input_digest(log, basis)
    if log.memo_get(_PUBLISHED, [name]).get(name) == (_stamp(root), digest):
        return False
    lock, rows = compute_lock(log, basis.dataset, basis.shards)
    if _knows_less(lock, root / FILE):
        if note is not None:
            note(f"{FILE} and the card stay as they are: this log has none of the rows that they tell of")
        return False
    wrote_lock = write_lock(root / FILE, lock)
    wrote_card = update_card(root / CARD, lock, rows, note)
    log.memo_put(_PUBLISHED, {name: (_stamp(root), digest)})
    return wrote_lock or wrote_card


def _knows_less(lock: Lock, path: Path) -> bool:
    """Whether a sound lock at `path` pins rows that are still there, of which the log behind `lock` knows none.

    That is so where the log was left behind, or another one was named.
    """
    current = read_sound_lock(path)
    if current is None or lock.modules or not current.modules:
        return False
    return all(current.shards.get(shard) == language for shard, language in lock.shards.items())


def _input_digest(log: Log, basis: PublishedFrom) -> str:
    """Digest what lock and card are made from: the shards' records, and what this release would say of them."""
    records = [r for path, r in fold_shards(log.shards_written(), basis.dataset).items() if path in basis.shards]
    found = [event_id for event_id, _ in log.discoveries(basis.dataset)]
    values = [records, found, sorted(prompt_digests(load_prompts(None, prompt_folders())).items()), __version__]
    return digest_parts(_PUBLISHED, [msgspec.json.encode(values, order="deterministic")])


def _stamp(root: Path) -> str:
    return f"{file_stamp(root / FILE)} {file_stamp(root / CARD)}"
