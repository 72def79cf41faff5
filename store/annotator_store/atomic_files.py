"""Replace a file whole or not at all: write beside it, fsync, rename.

A temporary file never ends in `.parquet`: readers of a dataset take every such name under `data/` for a shard.
"""

import errno
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

LEFTOVER_SUFFIX = ".annotator-partial"
"""How every temporary file of this package ends."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def temporary_beside(target: Path) -> Path:
    """Name a new temporary file in the folder of `target`, so that a rename stays within one file system."""
    return target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{LEFTOVER_SUFFIX}")


def fsync_file(path: Path) -> None:
    """Wait until the bytes of a file are on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def replace_durably(temporary: Path, target: Path) -> None:
    """Rename over `target`, then fsync the folder. The file itself must be fsynced before."""
    temporary.replace(target)
    if os.name == "nt":  # a folder cannot be opened there; NTFS journals the rename
        return
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace_content(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; an existing file keeps its permissions.

    Raises:
        OSError: it cannot be written; it is as it was, and nothing is left beside it.
    """
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        replace_durably(temporary, path)
    finally:
        drop(temporary)


def drop(temporary: Path) -> None:
    """Remove a temporary file; where that is refused, the next sweep removes it."""
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def sweep_leftovers(data_dir: Path, *, deep: bool = True) -> tuple[Path, ...]:
    """Remove the temporary files that crashed writers left in a folder, `deep` below it too; return their paths.

    Call it under the dataset's lock: it cannot tell a crashed writer from one that is running.
    """
    find = data_dir.rglob if deep else data_dir.glob
    leftovers = tuple(sorted(find(f"*{LEFTOVER_SUFFIX}")))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return leftovers


def write_hint(cause: BaseException) -> str:
    """Return the hint for an error of the file system while writing."""
    number = getattr(cause, "errno", None)
    if number in _FULL:
        return "free space on that disk (a rewritten shard needs its own size once more), then run again"
    if number in _FORBIDDEN:
        return "make the folder writable, or work on a copy of the dataset"
    return "nothing was changed; run the same command again"
