"""The journal's writing end: append, be durable, rotate, seal.

One thread writes. Events that are appended while it waits for an fsync share the next one (group commit).
"""

import contextlib
import fcntl
import os
import queue
import re
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from annotator_store.errors import StoreError
from annotator_store.log.events import AnyEvent
from annotator_store.log.lines import Entry, entry_of, render_line
from annotator_store.log.segments import seal, sync_path

SEAL_BYTES = 64 << 20


class Recorded(msgspec.Struct, frozen=True):
    """An event that is durable, and its wire form."""

    entry: Entry
    event: AnyEvent


class _Append(msgspec.Struct, frozen=True):
    lines: bytes
    recorded: Sequence[Recorded]
    done: "Future[None]"


class _Seal(msgspec.Struct, frozen=True):
    done: "Future[None]"


class ActiveFile:
    """The file being appended to, under an flock that ends with the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._broken: OSError | None = None
        try:
            self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sync_path(path.parent)
        except OSError as cause:
            raise _refused(path, cause) from cause

    def append(self, lines: bytes) -> None:
        """Write whole lines and fsync them; a failed write leaves nothing behind.

        Raises:
            StoreError: the disk refused. Later appends are refused too if what was half written cannot be cut off.
        """
        if self._broken is not None:
            raise _refused(self.path, self._broken)
        try:
            rest = memoryview(lines)
            while rest:  # a write may be short
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except OSError as cause:
            self._cut_back()
            raise _refused(self.path, cause) from cause
        self.size += len(lines)

    def close(self) -> None:
        """Close the file, which releases its lock."""
        os.close(self._descriptor)

    def _cut_back(self) -> None:
        try:
            os.ftruncate(self._descriptor, self.size)
            os.fsync(self._descriptor)
        except OSError as cause:
            self._broken = cause


class Journal:
    """Appends events durably, from any thread.

    `on_durable(active file name, recorded)` is called before the futures of these events are done;
    `on_sealed(active file name, segment name)` when an active file has become a segment.
    No file is made before the first append.
    """

    def __init__(
        self,
        folder: Path,
        *,
        on_durable: Callable[[str, Sequence[Recorded]], None] = lambda _name, _recorded: None,
        on_sealed: Callable[[str, str | None], None] = lambda _active, _segment: None,
        seal_bytes: int = SEAL_BYTES,
    ) -> None:
        self._folder = folder
        self._on_durable = on_durable
        self._on_sealed = on_sealed
        self._seal_bytes = seal_bytes
        self._active: ActiveFile | None = None
        self._files = 0
        self._queue: queue.SimpleQueue[_Append | _Seal | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._sealer = ThreadPoolExecutor(1, "journal-seal")
        self._sealing: list[Future[None]] = []
        self._writer = threading.Thread(target=self._write, name="journal-write", daemon=True)
        self._writer.start()

    def append(self, events: Sequence[AnyEvent]) -> "Future[None]":
        """Queue events; the future is done when they are fsynced. Cancelling it does not unrecord them.

        Raises:
            StoreError: the journal is closed. A disk error comes through the future.
        """
        recorded = [Recorded(entry_of(event), event) for event in events]
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()
        if not recorded:
            done.set_result(None)
            return done
        lines = b"".join(render_line(item.entry) for item in recorded)
        with self._closing:
            if self._closed:
                raise StoreError("the journal is closed", where=str(self._folder), got="an event to record")
            self._queue.put(_Append(lines, recorded, done))
        return done

    def seal(self) -> "Future[None]":
        """Seal what was appended so far into a segment; the future is done when it is sealed. Appending goes on.

        Where the disk refuses, the events stay in their active file, `close` raises, and the next writer seals them.

        Raises:
            StoreError: the journal is closed.
        """
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()
        with self._closing:
            if self._closed:
                raise StoreError("the journal is closed", where=str(self._folder), got="a request to seal it")
            self._queue.put(_Seal(done))
        return done

    def close(self) -> None:
        """Write what is queued, seal, and stop.

        Raises:
            StoreError: a file could not be sealed; nothing is lost, the next writer seals it.
        """
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._writer.join()
        self._rotate()
        self._sealer.shutdown(wait=True)
        for sealing in self._sealing:
            sealing.result()

    def _write(self) -> None:
        is_open = True
        while is_open:
            items, is_open = self._take()
            appends = [item for item in items if isinstance(item, _Append)]
            if appends:
                self._commit(appends)
            seals = [item.done for item in items if isinstance(item, _Seal)]
            if seals:
                self._rotate()
            for done in seals:
                # One thread seals, in order, so every segment that was requested before is there by then.
                self._sealer.submit(done.set_result, None)

    def _take(self) -> tuple[list[_Append | _Seal], bool]:
        """Wait for an item, then take all that are queued. The second value is False once the journal is closing."""
        items: list[_Append | _Seal] = []
        item = self._queue.get()
        with contextlib.suppress(queue.Empty):
            while item is not None:
                items.append(item)
                item = self._queue.get_nowait()
            return items, False
        return items, True

    def _commit(self, appends: list[_Append]) -> None:
        try:
            active = self._active or self._start()
            active.append(b"".join(item.lines for item in appends))
        except StoreError as refusal:
            for item in appends:
                item.done.set_exception(refusal)
            return
        self._on_durable(active.path.name, [recorded for item in appends for recorded in item.recorded])
        for item in appends:
            item.done.set_result(None)
        if active.size >= self._seal_bytes:
            self._rotate()

    def _start(self) -> ActiveFile:
        host = re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname())
        part = f"-{self._files}" if self._files else ""
        self._active = ActiveFile(self._folder / f"active-{host}-{os.getpid()}{part}.jsonl")
        self._files += 1
        return self._active

    def _rotate(self) -> None:
        if self._active is not None:
            self._sealing.append(self._sealer.submit(self._seal, self._active))
            self._active = None

    def _seal(self, active: ActiveFile) -> None:
        try:
            segment = seal(active.path)
        finally:
            active.close()
        self._on_sealed(active.path.name, segment)


def _refused(path: Path, cause: OSError) -> StoreError:
    return StoreError(
        "events could not be recorded",
        where=str(path),
        got=str(cause),
        hint="free some space on this disk, or keep the store elsewhere with --store; what was recorded before is safe",
    )
