"""Publish what a dataset's language was made from: its lock, and the section of its card."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from annotator import __version__
from annotator.dataset.footage import file_stamp
from annotator.modules.registry import prompt_folders
from annotator.prompting.loader import load_prompts
from annotator.provenance.card import update_card
from annotator.provenance.lock import FILE, Lock, digest_of, lock_of, prompt_digests, read_lock, take_stock, write_lock
from annotator_store.digests import digest_parts
from annotator_store.errors import StoreError
from annotator_store.log.log import Log
from annotator_store.log.shard_history import fold_shards

CARD = Path("README.md")
_PUBLISHED = "published.v2"


class PublishedFrom(msgspec.Struct, frozen=True, kw_only=True):
    """What is published: `dataset` is its name in the log, `shards` are all its shards, relative to its root."""

    dataset: str
    shards: tuple[str, ...]


def publish(root: Path, log: Log, basis: PublishedFrom, note: Callable[[str], None] | None = None) -> bool:
    """Bring the lock and the card of the dataset written at `root` up to date; say whether one had to be written.

    Call it when every `ShardWritten` of the run is recorded. What was published from the same before is remembered:
    then no annotation is read, and neither file is opened. Where this log knows none of the rows that a sound lock
    pins, both stay as they are. `note` is told of that, and where the card had to be left alone.

    Raises:
        StoreError: a file cannot be written, or the log has lost an annotation.
    """
    name, made_from = str(root.absolute()), _made_from(log, basis)
    if log.memo_get(_PUBLISHED, [name]).get(name) == (_stamp(root), made_from):
        return False
    lock, rows = lock_now(log, basis)
    if _tells_more(root / FILE, lock):
        if note is not None:
            note(f"{FILE} and the card stay as they are: this log has none of the rows that they tell of")
        return False
    wrote_lock = write_lock(root / FILE, lock)
    wrote_card = update_card(root / CARD, lock, rows, note)
    log.memo_put(_PUBLISHED, {name: (_stamp(root), made_from)})
    return wrote_lock or wrote_card


def _tells_more(path: Path, lock: Lock) -> bool:
    """Say whether a sound lock pins rows that still stand, of which the log behind a new lock knows none.

    So it is where the log was left behind, or another one was named.
    """
    try:
        held = read_lock(path)
    except StoreError:
        return False
    if held is None or digest_of(held) != held.digest or lock.modules or not held.modules:
        return False
    return all(held.shards.get(shard) == language for shard, language in lock.shards.items())


def lock_now(log: Log, basis: PublishedFrom) -> tuple[Lock, dict[str, int]]:
    """Make the lock as `publish` would write it, and count the rows by style; nothing is written.

    Raises:
        StoreError: the log has lost an annotation.
    """
    stock = take_stock(log, basis.dataset, basis.shards)
    return lock_of(stock), stock.rows


def _made_from(log: Log, basis: PublishedFrom) -> str:
    """Digest what lock and card are made from: the shards' records, and what this release would say of them."""
    records = [r for path, r in fold_shards(log.shards_written(), basis.dataset).items() if path in basis.shards]
    found = [event_id for event_id, _ in log.discoveries(basis.dataset)]
    values = [records, found, sorted(prompt_digests(load_prompts(None, prompt_folders())).items()), __version__]
    return digest_parts(_PUBLISHED, [msgspec.json.encode(values, order="deterministic")])


def _stamp(root: Path) -> str:
    return f"{file_stamp(root / FILE)} {file_stamp(root / CARD)}"
