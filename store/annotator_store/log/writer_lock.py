"""The lock of a store's one writer, and the recovery of what crashed writers left behind."""

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from annotator_store.errors import StoreError
from annotator_store.log.segments import recover, sync_path

LOCK = "lock"


def writer_lock(folder: Path) -> IO[str]:
    """Take the store's writer lock; closing the file, or the end of the process, releases it.

    Raises:
        StoreError: another process has it, or the folder cannot be used.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as cause:
        raise _unusable(folder, cause) from cause
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as cause:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise StoreError(
            "another process is writing this store",
            where=str(folder),
            got=owner or "a process that has just started",
            hint="wait until it is done; `annotator query` reads the store meanwhile",
        ) from cause
    file.truncate(0)
    file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def recovered(journal: Path) -> list[str]:
    """Make the journal's folder, or seal what crashed writers left in it; return the names of their active files.

    Raises:
        StoreError: the folder cannot be used.
    """
    try:
        if not journal.exists():
            journal.mkdir()
            sync_path(journal.parent)
        return list(recover(journal))
    except OSError as cause:
        raise _unusable(journal, cause) from cause


def _unusable(folder: Path, cause: OSError) -> StoreError:
    return StoreError(
        "the store cannot be used",
        where=str(folder),
        got=str(cause),
        hint="keep it in a folder of your own with --store",
    )
