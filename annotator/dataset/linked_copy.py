"""A separate output: everything that annotating leaves unchanged is linked, not copied."""

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from annotator.config.store_path import STORE
from annotator.errors import UsageError
from annotator_store.atomic_files import LEFTOVER_SUFFIX

OWN = frozenset({STORE, ".git", ".cache"})
OURS = frozenset({"meta/info.json", "meta/canonical_vocabulary.json", "meta/annotations.lock.json", "README.md"})
"""Files beside the shards that a run may write: the output has its own, begun as a copy."""


def refuse_overlap(root: Path, output: Path) -> None:
    """Refuse an output inside the dataset, or the other way round.

    Raises:
        UsageError: they overlap.
    """
    inner, outer = output.resolve(), root.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        hint = "name a folder beside the dataset"
        raise UsageError("the output overlaps the dataset", where="--output", got=str(output), hint=hint)


def link_dataset(root: Path, output: Path, shards: Collection[str]) -> None:
    """Link every file of the dataset into `output`; data shards will be written there, and what a run writes is copied.

    Hard links where the file system allows them, else symbolic links. A link that is there already stays; one to a
    file that the dataset has replaced since is made anew.

    Raises:
        UsageError: the output cannot be written.
    """
    _refuse_strays(root, output, shards)
    try:
        for relative in _files(root):
            target = output / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            if relative.as_posix() in OURS:
                _copy(root / relative, target)
            elif relative.as_posix() not in shards:
                _link((root / relative).resolve(), target)
    except OSError as cause:
        raise UsageError("the output cannot be written", where=str(output), got=str(cause)) from cause


def _refuse_strays(root: Path, output: Path, shards: Collection[str]) -> None:
    """Readers take every parquet file under data/ and meta/episodes/ for part of the dataset."""
    for folder in ("data", "meta/episodes"):
        for path in sorted((output / folder).rglob("*.parquet")):
            relative = path.relative_to(output)
            if relative.as_posix() not in shards and not (root / relative).is_file():
                hint = f"the dataset was laid out anew since: remove {output / 'data'} and {output / 'meta/episodes'}"
                raise UsageError("the output holds a file that the dataset has not", where=str(path), hint=hint)


def is_newer(target: Path, source: Path) -> bool:
    """Whether `target` was written after `source`, or is the same file."""
    return target.is_file() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns


def _files(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root, followlinks=True):
        # A link to a folder above would be walked for ever.
        resolved = Path(folder).resolve()
        loops = {name for name in names if resolved.is_relative_to((resolved / name).resolve())}
        names[:] = sorted(set(names) - OWN - loops)
        for name in sorted(files):
            yield (Path(folder) / name).relative_to(root)


def _copy(source: Path, target: Path) -> None:
    if not is_newer(target, source):
        beside = target.with_name(f".{target.name}{LEFTOVER_SUFFIX}")
        shutil.copy2(source, beside)
        beside.replace(target)


def _link(source: Path, target: Path) -> None:
    if target.exists() and target.samefile(source):
        return
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source)
