"""Find the name that a log has for a dataset, even after it was moved or renamed."""

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
    """Return the name of the dataset at `root` among the `names` of a log; None where that cannot be told.

    In this order: the name that is `given`; the path; where the log lies inside the dataset, the name that ends with
    its folder's, or the only name, unless the log is `shared` with other datasets; the name whose shards are `alike`.
    """
    folder = root.resolve()
    inside = store.resolve().is_relative_to(folder)
    for name in (given, str(folder)):
        if name in names:
            return name
    if inside:
        of_folder = [name for name in sorted(names) if Path(name).name == folder.name and given is None]
        if of_folder or (len(names) == 1 and not shared):
            return [*of_folder, *names][0]
    # Short recordings can have equal shards: a dataset that still stands at its own path is tried last.
    likely = sorted(names, key=lambda name: (Path(name).is_absolute() and Path(name).exists(), name))
    return next((name for name in likely if alike(name)), None)


def alike_at(
    root: Path,
    shards: Collection[str],
    writings: Iterable[tuple[Digest, ShardWritten]],
    pinned: Callable[[], Mapping[str, Digest]],
    language: Callable[[Path, list[tuple[int, int]]], Digest | None],
) -> Callable[[str], bool]:
    """Return a function that tells of a name whether the shards at `root`, or their lock, are as last written under it.

    `pinned`: the digests in the lock, by path. `language`: digests the two columns of a shard, given its episodes' row
    offsets; None for a shard that cannot be read.
    """
    events = list(writings)

    def alike(name: str) -> bool:
        records = [record for path, record in fold_shards(events, name).items() if path in shards]
        if not records:
            return False
        lock = pinned()
        if all(lock.get(record.path) == record.language for record in records):
            return True
        bounds = {record.path: [(episode.start, episode.stop) for episode in record.episodes] for record in records}
        return all(language(root / record.path, bounds[record.path]) == record.language for record in records)

    return alike
