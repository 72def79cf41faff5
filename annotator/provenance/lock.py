"""The lock: `meta/annotations.lock.json` pins what a dataset's language columns were made from, and what they say.

It has no times, no run ids and no paths of a machine, so one log and one dataset give the same bytes everywhere. Its
own digest tells a lock that was changed from a dataset, a log or a prompt that was.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from annotator.modules.merge_rows import merge_rows
from annotator.prompting.loader import Prompts
from annotator.provenance.setups import AskedCall, DominantSetup, SetupCounts, dominant_setup, found_with
from annotator_store.atomic_files import replace_content, write_hint
from annotator_store.digests import Digest, canonical, digest_parts
from annotator_store.errors import StoreError
from annotator_store.log.events import EpisodeAnnotated, VocabularyDiscovered
from annotator_store.log.folds import rows_digest
from annotator_store.log.log import Log
from annotator_store.log.shard_history import ShardRecord, fold_shards
from annotator_store.verify.events import reply_digest

FILE = Path("meta") / "annotations.lock.json"
"""Where it lies in a dataset."""

_READ_AT_ONCE = 512


class Lock(DominantSetup, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the language columns were made from, and what they say.

    `seed`, `model`, `prompts`, `vocabulary`, `modules` and `settings` are those of most episodes, `others` says which
    episodes of a module have others, by their number. `prompts`: step → digest of the prompt's body, of the steps
    whose answers the rows come from, with `system` and `retry`, and of the one that found the vocabulary.
    `modules`: name → version. `settings`: module → flag → value, where that is not the default.
    `shards`: path → digest of the language columns. `log` covers the rows of every annotation in use, and the reply of
    every call behind them. `digest` covers all other fields.
    """

    format: Literal[1] = 1
    shards: dict[str, Digest]
    log: Digest
    digest: Digest = Digest("")


class LockContent(msgspec.Struct, frozen=True, kw_only=True):
    """What the log has of one dataset's rows. `rows` counts those in use by style; speech has none and is `speech`."""

    shards: dict[str, Digest]
    made: DominantSetup
    log: Digest
    rows: dict[str, int]


class ReplyNote(msgspec.Struct, frozen=True):
    """What was asked in a call, and the digest of its reply's text."""

    asked: AskedCall
    reply: Digest


class Records(Protocol):
    """Where a stock is taken from: an open log, or what verifying read of the journal."""

    def replies(self, keys: Sequence[Digest]) -> Iterable[tuple[Digest, ReplyNote]]:
        """Give the answers of these calls that count."""
        ...

    def models(self, digests: Collection[Digest]) -> Mapping[Digest, str]:
        """Give how models were described, as canonical JSON."""
        ...

    def discoveries(self) -> Iterable[tuple[Digest, VocabularyDiscovered]]:
        """Give the vocabularies that were found for the dataset, each with its event's id."""
        ...


class LogRecords:
    """The records of an open log, for one dataset."""

    def __init__(self, log: Log, dataset: str) -> None:
        self._log = log
        self._dataset = dataset

    def replies(self, keys: Sequence[Digest]) -> Iterator[tuple[Digest, ReplyNote]]:
        """Give the answers of these calls that count."""
        for event in self._log.answers(keys):
            yield event.key, ReplyNote(AskedCall(event.step, event.seed, event.model), reply_digest(event.reply))

    def models(self, digests: Collection[Digest]) -> Mapping[Digest, str]:
        """Give how models were described, as canonical JSON."""
        return self._log.models(digests)

    def discoveries(self) -> list[tuple[Digest, VocabularyDiscovered]]:
        """Give the vocabularies that were found for the dataset, each with its event's id."""
        return self._log.discoveries(self._dataset)


def lock_of(stock: LockContent) -> Lock:
    """Pin what is in stock."""
    lock = Lock(**msgspec.structs.asdict(stock.made), shards=stock.shards, log=stock.log)
    return msgspec.structs.replace(lock, digest=digest_of(lock))


def digest_of(lock: Lock) -> Digest:
    """Digest everything in a lock but its digest."""
    return digest_parts("lock.v1", [canonical(msgspec.structs.replace(lock, digest=Digest("")))])


def prompt_digests(prompts: Prompts) -> dict[str, Digest]:
    """Digest the body of every prompt, by id."""
    return {file.head.id: file.digest for file in prompts}


def take_stock(log: Log, dataset: str, shards: Collection[str]) -> LockContent:
    """Gather what the log has of the rows in these shards; `dataset` is its name in the log.

    Raises:
        StoreError: an annotation that a shard was made of is not in the log.
    """
    counting = LockBuilder()
    for path, record in fold_shards(log.shards_written(), dataset).items():
        if path in shards:
            ids = record.annotations
            counting.add(record, dict(zip(ids, log.annotations(ids), strict=True)))
    return counting.stock(LogRecords(log, dataset))


class LockBuilder:
    """Gathers what is in use, shard by shard; of the annotations' rows only digests and counts stay in memory."""

    def __init__(self) -> None:
        self._shards: dict[str, Digest] = {}
        self._lines: set[str] = set()
        self._cited: set[Digest] = set()
        self._census = SetupCounts()
        self._rows: Counter[str] = Counter()

    def add(self, record: ShardRecord, annotations: Mapping[Digest, EpisodeAnnotated]) -> None:
        """Take in one shard and the annotations that it was made of; those that are missing count for nothing."""
        self._shards[record.path] = record.language
        found = {event_id: annotations[event_id] for event_id in record.annotations if event_id in annotations}
        for one in found.values():
            self._lines.add(f"{one.episode} {one.module} {one.recipe} {rows_digest(one)}")
            self._cited.update(one.calls, (item.call for item in one.rows if item.call))
        for episode in record.episodes:
            here = {module: found[event] for module, event in episode.annotations.items() if event in found}
            for event in here.values():
                self._census.add(event)
            new = {module: event.rows for module, event in here.items()}
            self._rows.update(item.row.style or "speech" for item in merge_rows((), new))

    def stock(self, records: Records) -> LockContent:
        """Sum up; the replies of the calls behind the rows are asked for a bounded number at once."""
        cited = sorted(self._cited)
        parts = (cited[start : start + _READ_AT_ONCE] for start in range(0, len(cited), _READ_AT_ONCE))
        answers = {key: answer for part in parts for key, answer in records.replies(part)}
        calls = [f"{key} {answers[key].reply if key in answers else '-'}" for key in cited]
        return LockContent(
            shards=self._shards,
            made=self._made({key: answer.asked for key, answer in answers.items()}, records),
            log=digest_parts("log.v1", ["\n".join(sorted(self._lines)).encode(), "\n".join(calls).encode()]),
            rows=dict(sorted(self._rows.items())),
        )

    def _made(self, asked: Mapping[Digest, AskedCall], records: Records) -> DominantSetup:
        """Tell the setups apart, and add what the vocabulary was found with where that was found."""
        variants = self._census.variants(asked, records.models(self._census.models(asked)))
        words = {one.made.vocabulary for one in variants if one.made.vocabulary is not None}
        found = [item for item in records.discoveries() if item[1].vocabulary in words] if words else []
        models = records.models({event.setup.model for _, event in found if event.setup is not None})
        return dominant_setup([*variants, *found_with(found, words, models)])


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


def pinned_shards(root: Path) -> dict[str, Digest]:
    """Read what the lock of the dataset at `root` says of its shards; nothing where it cannot be read."""
    try:
        lock = read_lock(root / FILE)
    except StoreError:
        return {}
    return lock.shards if lock else {}


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
    try:
        if path.exists() and path.read_bytes() == content:
            return False
        replace_content(path, content)
    except OSError as cause:
        raise StoreError("a file cannot be written", where=str(path), got=str(cause), hint=write_hint(cause)) from cause
    return True


def other_prompts(lock: Lock, prompts: Prompts) -> Mapping[str, Digest]:
    """Find the prompts that are none of those pinned, by step, with their digests."""
    here = prompt_digests(prompts)
    pinned = {step: {digest} for step, digest in lock.prompts.items()}
    for one in lock.others:
        for step, digest in one.made.prompts.items():
            pinned.setdefault(step, set()).add(digest)
    return {step: here[step] for step in lock.prompts if step in here and here[step] not in pinned[step]}
