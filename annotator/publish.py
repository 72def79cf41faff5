"""Publish what a dataset's language was made from: its lock, and the section of its card."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from annotator.card import update_card
from annotator.lock import FILE, Lock, Stock, lock_of, pinned, prompt_digests, take_stock, write_lock
from annotator.prompts import Prompts
from annotator.reels import file_stamp
from store.digest import Digest, digest_parts
from store.keys import Model
from store.ledger import fold_shards
from store.log import Log

CARD = Path("README.md")
_PUBLISHED = "published.v1"


class Basis(msgspec.Struct, frozen=True, kw_only=True):
    """What a run works with. `dataset` is its name in the log, `shards` are all its shards, relative to its root."""

    dataset: str
    shards: tuple[str, ...]
    seed: int
    model: Model
    prompts: Prompts
    vocabulary: Digest | None

    def lock(self, stock: Stock) -> Lock:
        """Pin what is in stock."""
        digests = prompt_digests(self.prompts)
        return lock_of(stock, seed=self.seed, model=self.model, prompts=digests, vocabulary=self.vocabulary)


def publish(root: Path, log: Log, basis: Basis, note: Callable[[str], None] | None = None) -> bool:
    """Bring the lock and the card of the dataset written at `root` up to date; say whether one had to be written.

    Call it when every `ShardWritten` of the run is recorded. What was published from the same before is remembered:
    then no annotation is read, and neither file is opened. `note` is told where the card had to be left alone.

    Raises:
        StoreError: a file cannot be written, or the log has lost an annotation.
    """
    name, made_from = str(root.absolute()), _made_from(log, basis)
    if log.memo_get(_PUBLISHED, [name]).get(name) == (_stamp(root), made_from):
        return False
    lock, rows = lock_now(log, basis)
    wrote_lock = write_lock(root / FILE, lock)
    wrote_card = update_card(root / CARD, lock, rows, note)
    log.memo_put(_PUBLISHED, {name: (_stamp(root), made_from)})
    return wrote_lock or wrote_card


def lock_now(log: Log, basis: Basis) -> tuple[Lock, dict[str, int]]:
    """Make the lock as `publish` would write it, and count the rows by style; nothing is written.

    Raises:
        StoreError: the log has lost an annotation.
    """
    stock = take_stock(log, basis.dataset, basis.shards)
    return basis.lock(stock), stock.rows


def _made_from(log: Log, basis: Basis) -> str:
    records = [r for path, r in fold_shards(log.shards_written(), basis.dataset).items() if path in basis.shards]
    prompts = sorted(prompt_digests(basis.prompts).items())
    values = [basis.seed, pinned(basis.model), prompts, basis.vocabulary, records]
    return digest_parts("published.v1", [msgspec.json.encode(values, order="deterministic")])


def _stamp(root: Path) -> str:
    return f"{file_stamp(root / FILE)} {file_stamp(root / CARD)}"
