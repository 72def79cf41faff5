"""The lock: `meta/annotations.lock.json` pins what a dataset's language columns were made from, and what they say.

It has no times, no run ids and no paths of a machine, so one log and one dataset give the same bytes everywhere. Its
own digest tells a lock that was changed from a dataset, a log or a prompt that was.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from annotator.compose import compose
from annotator.prompts import Prompts
from annotator.registry import MODULES
from store.digest import Digest, canonical, digest_parts, digest_struct
from store.errors import StoreError
from store.events import EpisodeAnnotated
from store.fold import rows_digest
from store.keys import Model
from store.ledger import ShardRecord, fold_shards
from store.log import Log
from store.replace import drop, replace_durably, temporary_beside, write_hint
from store.verify_events import reply_digest

FILE = Path("meta") / "annotations.lock.json"
"""Where it lies in a dataset."""

_READ_AT_ONCE = 512


class PinnedModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model that was asked: its digest, as keys have it, and what the digest covers."""

    digest: Digest
    model_id: str
    revision: str | None
    settings: dict[str, Any]


class Lock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the language columns were made from, and what they say.

    `prompts`: step → digest of the prompt's body, of the steps whose answers the rows come from, with `system` and
    `retry`. `modules`: name → version. `shards`: path → digest of the language columns. `log` covers the rows of every
    annotation in use, and the reply of every call behind them. `digest` covers all other fields.
    """

    format: Literal[1] = 1
    seed: int
    model: PinnedModel
    prompts: dict[str, Digest]
    vocabulary: Digest | None
    modules: dict[str, int]
    shards: dict[str, Digest]
    log: Digest
    digest: Digest = Digest("")


class Stock(msgspec.Struct, frozen=True, kw_only=True):
    """What the log has of one dataset's rows. `rows` counts those in use by style; speech has none and is `speech`."""

    shards: dict[str, Digest]
    modules: tuple[str, ...]
    steps: tuple[str, ...]
    log: Digest
    rows: dict[str, int]


class ReplyNote(msgspec.Struct, frozen=True):
    """Which step a reply answered, and the digest of its text."""

    step: str
    reply: Digest


def lock_of(stock: Stock, *, seed: int, model: Model, prompts: Mapping[str, Digest], vocabulary: Digest | None) -> Lock:
    """Pin what is in stock, of which `prompts`, by step, are those on disk."""
    steps = ("retry", "system", *stock.steps) if stock.steps else ()
    lock = Lock(
        seed=seed,
        model=pinned(model),
        prompts={step: prompts[step] for step in sorted(steps) if step in prompts},
        vocabulary=vocabulary,
        modules={module.name: module.version for module in MODULES if module.name in stock.modules},
        shards=stock.shards,
        log=stock.log,
    )
    return msgspec.structs.replace(lock, digest=digest_of(lock))


def pinned(model: Model) -> PinnedModel:
    """Describe a model as the lock does."""
    fields: dict[str, Any] = msgspec.json.decode(canonical(model))
    model_id, revision = fields.pop("model_id"), fields.pop("revision")
    return PinnedModel(digest=digest_struct(model), model_id=model_id, revision=revision, settings=fields)


def digest_of(lock: Lock) -> Digest:
    """Digest everything in a lock but its digest."""
    return digest_parts("lock.v1", [canonical(msgspec.structs.replace(lock, digest=Digest("")))])


def prompt_digests(prompts: Prompts) -> dict[str, Digest]:
    """Digest the body of every prompt, by id."""
    return {file.head.id: file.digest for file in prompts}


def take_stock(log: Log, dataset: str, shards: Collection[str]) -> Stock:
    """Gather what the log has of the rows in these shards; `dataset` is its name in the log.

    Raises:
        StoreError: an annotation that a shard was made of is not in the log.
    """
    counting = Stocktaking()
    for path, record in fold_shards(log.shards_written(), dataset).items():
        if path in shards:
            ids = record.annotations
            counting.add(record, dict(zip(ids, log.annotations(ids), strict=True)))

    def replies(keys: Sequence[Digest]) -> Iterator[tuple[Digest, ReplyNote]]:
        for event in log.answers(keys):
            yield event.key, ReplyNote(event.step, reply_digest(event.reply))

    return counting.stock(replies)


class Stocktaking:
    """Gathers what is in use, shard by shard; of the annotations' rows only digests and counts stay in memory."""

    def __init__(self) -> None:
        self._shards: dict[str, Digest] = {}
        self._lines: set[str] = set()
        self._cited: set[Digest] = set()
        self._modules: set[str] = set()
        self._rows: Counter[str] = Counter()

    def add(self, record: ShardRecord, annotations: Mapping[Digest, EpisodeAnnotated]) -> None:
        """Take in one shard and the annotations that it was made of; those that are missing count for nothing."""
        self._shards[record.path] = record.language
        found = {event_id: annotations[event_id] for event_id in record.annotations if event_id in annotations}
        for one in found.values():
            self._lines.add(f"{one.episode} {one.module} {one.recipe} {rows_digest(one)}")
            self._cited.update(one.calls, (item.call for item in one.rows if item.call))
            self._modules.add(one.module)
        for episode in record.episodes:
            new = {module: found[event].rows for module, event in episode.annotations.items() if event in found}
            self._rows.update(item.row.style or "speech" for item in compose((), new))

    def stock(self, replies: Callable[[Sequence[Digest]], Iterable[tuple[Digest, ReplyNote]]]) -> Stock:
        """Sum up; the replies of the calls behind the rows are asked for a bounded number at once."""
        cited = sorted(self._cited)
        parts = (cited[start : start + _READ_AT_ONCE] for start in range(0, len(cited), _READ_AT_ONCE))
        answers = {key: answer for part in parts for key, answer in replies(part)}
        calls = [f"{key} {answers[key].reply if key in answers else '-'}" for key in cited]
        return Stock(
            shards=self._shards,
            modules=tuple(sorted(self._modules)),
            steps=tuple(sorted({answer.step for answer in answers.values()})),
            log=digest_parts("log.v1", ["\n".join(sorted(self._lines)).encode(), "\n".join(calls).encode()]),
            rows=dict(sorted(self._rows.items())),
        )


def render_lock(lock: Lock) -> bytes:
    """Render a lock to the one form it is written in: sorted keys, two spaces, one newline at the end."""
    return msgspec.json.format(canonical(lock), indent=2) + b"\n"


def read_lock(path: Path) -> Lock | None:
    """Read a lock; None where there is none. Whether its digest is right is for `annotator verify` to say.

    Raises:
        StoreError: it cannot be read, or is no lock.
    """
    hint = "delete it; the next annotator sync writes it again"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Lock)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as cause:
        raise StoreError("the lock cannot be read", where=str(path), got=str(cause), hint=hint) from cause


def write_lock(path: Path, lock: Lock) -> bool:
    """Write a lock, whole or not at all; say whether it had to be written.

    Raises:
        StoreError: it cannot be written.
    """
    return replace_if_other(path, render_lock(lock))


def replace_if_other(path: Path, content: bytes) -> bool:
    """Give a file this content, whole or not at all; say whether it had another.

    Raises:
        StoreError: it cannot be read or written.
    """
    temporary = temporary_beside(path)
    try:
        if path.exists() and path.read_bytes() == content:
            return False
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        replace_durably(temporary, path)
    except OSError as cause:
        raise StoreError("a file cannot be written", where=str(path), got=str(cause), hint=write_hint(cause)) from cause
    finally:
        drop(temporary)
    return True
