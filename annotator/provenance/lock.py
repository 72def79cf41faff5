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
from annotator.provenance.setups import AskedCall, DominantSetup, SetupCounts, discovery_setups, dominant_setup
from annotator_store.atomic_files import replace_content, write_hint
from annotator_store.digests import Digest, canonical, digest_parts
from annotator_store.errors import StoreError
from annotator_store.log.events import EpisodeAnnotated, VocabularyDiscovered
from annotator_store.log.folds import rows_digest
from annotator_store.log.log import Log
from annotator_store.log.shard_history import WrittenShard, fold_shards
from annotator_store.verify.events import reply_digest

FILE = Path("meta") / "annotations.lock.json"
"""Its path in a dataset."""

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


class CallReply(msgspec.Struct, frozen=True):
    """An answered call: what was asked, and the digest of its reply's text."""

    asked: AskedCall
    reply: Digest


class LockRecords(Protocol):
    """What a lock is built from, beside annotations: an open log, or what `annotator verify` read of the journal."""

    def replies(self, keys: Sequence[Digest]) -> Iterable[tuple[Digest, CallReply]]:
        """Yield the calls among these that have a valid answer, each with its key."""
        ...

    def models(self, digests: Collection[Digest]) -> Mapping[Digest, str]:
        """Return the descriptions of models, as canonical JSON."""
        ...

    def discoveries(self) -> Iterable[tuple[Digest, VocabularyDiscovered]]:
        """Return the vocabularies that were discovered for the dataset, each with its event's id."""
        ...


class LogRecords:
    """The records of an open log, for one dataset."""

    def __init__(self, log: Log, dataset: str) -> None:
        self._log = log
        self._dataset = dataset

    def replies(self, keys: Sequence[Digest]) -> Iterator[tuple[Digest, CallReply]]:
        """Yield the calls among these that have a valid answer, each with its key."""
        for event in self._log.answers(keys):
            yield event.key, CallReply(AskedCall(event.step, event.seed, event.model), reply_digest(event.reply))

    def models(self, digests: Collection[Digest]) -> Mapping[Digest, str]:
        """Return the descriptions of models, as canonical JSON."""
        return self._log.models(digests)

    def discoveries(self) -> list[tuple[Digest, VocabularyDiscovered]]:
        """Return the vocabularies that were discovered for the dataset, each with its event's id."""
        return self._log.discoveries(self._dataset)


def lock_digest(lock: Lock) -> Digest:
    """Digest all fields of a lock but its digest."""
    return digest_parts("lock.v1", [canonical(msgspec.structs.replace(lock, digest=Digest("")))])


def prompt_digests(prompts: Prompts) -> dict[str, Digest]:
    """Return the digest of every prompt's body, by id."""
    return {file.head.id: file.digest for file in prompts}


def compute_lock(log: Log, dataset: str, shards: Collection[str]) -> tuple[Lock, dict[str, int]]:
    """Compute the lock of a dataset's rows, and their counts by style; nothing is written.

    `dataset` is its name in the log, `shards` are all its shards.

    Raises:
        StoreError: an annotation that a shard was written from is not in the log.
    """
    builder = LockBuilder()
    for path, record in fold_shards(log.shards_written(), dataset).items():
        if path in shards:
            ids = record.annotations
            builder.add(record, dict(zip(ids, log.annotations(ids), strict=True)))
    return builder.build(LogRecords(log, dataset)), builder.rows


class LockBuilder:
    """Collects what a lock pins, shard by shard; of the annotations' rows only digests and counts stay in memory."""

    def __init__(self) -> None:
        self._shards: dict[str, Digest] = {}
        self._annotations: set[str] = set()
        self._calls: set[Digest] = set()
        self._setups = SetupCounts()
        self._rows: Counter[str] = Counter()

    @property
    def rows(self) -> dict[str, int]:
        """The number of rows in use by style, sorted; speech has no style and is `speech`."""
        return dict(sorted(self._rows.items()))

    def add(self, record: WrittenShard, annotations: Mapping[Digest, EpisodeAnnotated]) -> None:
        """Add one shard and the annotations that it was written from, by event id; missing ones are left out."""
        self._shards[record.path] = record.language
        used = {event_id: annotations[event_id] for event_id in record.annotations if event_id in annotations}
        for event in used.values():
            self._annotations.add(f"{event.episode} {event.module} {event.recipe} {rows_digest(event)}")
            self._calls.update(event.calls, (item.call for item in event.rows if item.call))
        for episode in record.episodes:
            by_module = {module: used[event_id] for module, event_id in episode.annotations.items() if event_id in used}
            for event in by_module.values():
                self._setups.add(event)
            rows = {module: event.rows for module, event in by_module.items()}
            self._rows.update(item.row.style or "speech" for item in merge_rows((), rows))

    def build(self, records: LockRecords) -> Lock:
        """Return the lock of what was added. Replies are read a bounded number at once."""
        keys = sorted(self._calls)
        parts = (keys[start : start + _READ_AT_ONCE] for start in range(0, len(keys), _READ_AT_ONCE))
        answers = {key: answer for part in parts for key, answer in records.replies(part)}
        # A call without an answer is part of the digest too: its answer may have been in the log once.
        calls = [f"{key} {answers[key].reply if key in answers else '-'}" for key in keys]
        lock = Lock(
            **msgspec.structs.asdict(self._dominant({key: answer.asked for key, answer in answers.items()}, records)),
            shards=self._shards,
            log=digest_parts("log.v1", ["\n".join(sorted(self._annotations)).encode(), "\n".join(calls).encode()]),
        )
        return msgspec.structs.replace(lock, digest=lock_digest(lock))

    def _dominant(self, asked: Mapping[Digest, AskedCall], records: LockRecords) -> DominantSetup:
        """The setups in use, and what discovered the vocabularies in use, as far as the log says it."""
        setups = self._setups.list_setups(asked, records.models(self._setups.models(asked)))
        used = {setup.made.vocabulary for setup in setups if setup.made.vocabulary is not None}
        discoveries = [item for item in records.discoveries() if item[1].vocabulary in used] if used else []
        models = records.models({event.setup.model for _, event in discoveries if event.setup is not None})
        return dominant_setup([*setups, *discovery_setups(discoveries, used, models)])


def render_lock(lock: Lock) -> bytes:
    """Return the bytes of a lock's file: sorted keys, two spaces, one newline at the end."""
    return msgspec.json.format(canonical(lock), indent=2) + b"\n"


def read_lock(path: Path) -> Lock | None:
    """Read a lock; None where there is none. Its digest is not checked, see `read_sound_lock`.

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


def read_sound_lock(path: Path) -> Lock | None:
    """Read a lock that matches its own digest; None where there is none, or it was damaged or edited."""
    try:
        lock = read_lock(path)
    except StoreError:
        return None
    return lock if lock is not None and lock_digest(lock) == lock.digest else None


def pinned_shards(root: Path) -> dict[str, Digest]:
    """Return what the lock of the dataset at `root` says of its shards; nothing where it cannot be read."""
    try:
        lock = read_lock(root / FILE)
    except StoreError:
        return {}
    return lock.shards if lock else {}


def write_lock(path: Path, lock: Lock) -> bool:
    """Write a lock atomically unless it is written already; return whether it was written.

    Raises:
        StoreError: it cannot be written.
    """
    return write_if_changed(path, render_lock(lock))


def write_if_changed(path: Path, content: bytes) -> bool:
    """Replace a file atomically unless it has this content; return whether it was written.

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


def other_prompts(lock: Lock, prompts: Prompts) -> dict[str, Digest]:
    """Return the prompts that differ from every pinned version, as step → digest."""
    digests = prompt_digests(prompts)
    pinned = {step: {digest} for step, digest in lock.prompts.items()}
    for other in lock.others:
        for step, digest in other.made.prompts.items():
            pinned.setdefault(step, set()).add(digest)
    return {step: digests[step] for step in lock.prompts if step in digests and digests[step] not in pinned[step]}
