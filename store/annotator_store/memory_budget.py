"""Bytes of memory that threads may use together."""

from collections.abc import Generator
from contextlib import contextmanager
from threading import Condition


class MemoryBudget:
    """Lets threads wait until the memory they need is free."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._used_bytes = 0
        self._changed = Condition()

    @contextmanager
    def reserve(self, needed_bytes: int) -> Generator[None]:
        """Wait for this much memory to be free; what needs more than there is gets all of it to itself.

        A thread may hold one reservation at a time, so waiting cannot deadlock.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._used_bytes or self._used_bytes + needed_bytes <= self._total_bytes)
            self._used_bytes += needed_bytes
        try:
            yield
        finally:
            with self._changed:
                self._used_bytes -= needed_bytes
                self._changed.notify_all()
