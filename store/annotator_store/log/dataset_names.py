"""Naming: which of the datasets that a log knows is the one at a place, also when it was moved or renamed since."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from annotator_store.digests import Digest
from annotator_store.log.events import ShardWritten
from annotator_store.log.shard_history import fold_shards


def name_in_log(
    names: Collection[str],
    root: Path,
    store: Path,
    *,
    alike: Callable[[str], bool] = lambda _name: False,
    given: str | None = None,
    shared: bool = False,
) -> str | None:
    """Choose, among the datasets a log knows, the one at `root`; None where that cannot be told.

    First the name that it is `given`, and its path. Then, where the log lies inside it: its folder's name, or the only
    one there is, unless the log is `shared` and may be others' alone. Last, the one whose shards are `alike`.
    """
    folder = root.resolve()
    inside = store.resolve().is_relative_to(folder)
    for name in (given, str(folder)):
        if name in names:
            return name
    if inside:
        called = [name for name in sorted(names) if Path(name).name == folder.name and given is None]
        if called or (len(names) == 1 and not shared):
            return [*called, *names][0]
    # Short recordings can say the same: one that still stands where it was is not the one that is here.
    likely = sorted(names, key=lambda name: (Path(name).is_absolute() and Path(name).exists(), name))
    return next((name for name in likely if alike(name)), None)


def alike_at(
    root: Path,
    shards: Collection[str],
    writings: Iterable[tuple[Digest, ShardWritten]],
    pinned: Callable[[], Mapping[str, Digest]],
    language: Callable[[Path, list[tuple[int, int]]], Digest | None],
) -> Callable[[str], bool]:
    """Say of a name whether the shards at `root`, or what a lock has `pinned` of them, are as they were last written.

    `language` digests the two columns of a shard between its episodes' bounds; None for one that cannot be read.
    """
    held = list(writings)

    def alike(name: str) -> bool:
        records = [record for path, record in fold_shards(held, name).items() if path in shards]
        if not records:
            return False
        lock = pinned()
        if all(lock.get(record.path) == record.language for record in records):
            return True
        bounds = {record.path: [(one.start, one.stop) for one in record.episodes] for record in records}
        return all(language(root / record.path, bounds[record.path]) == record.language for record in records)

    return alike
