"""How many requests one endpoint gets at once: up to a limit, fewer while it refuses some for being too busy."""

import asyncio
import math
from collections import deque


class ConcurrencyLimiter:
    """Lets requests through, first come first served. `limit` is the most at once; 0 sets none.

    A refusal (429, 503) halves the size, each later answer lets it grow again, by one for every round of answers.
    On the event loop only.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit or math.inf
        self.size = self._limit
        self.active = 0
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._paused_until = self._shrunk_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self) -> bool:
        """Wait for a slot, which the caller must `release`; False where the waiting were dismissed."""
        if not self._waiting and self._has_room():
            self.active += 1
            return True
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._schedule_resume()
        try:
            return await turn
        except asyncio.CancelledError:
            # The slot may have been given in the very moment of the cancellation.
            if turn.done() and not turn.cancelled() and turn.result():
                self.release()
            raise

    def release(self) -> None:
        """Return a slot."""
        self.active -= 1
        self._admit()

    def shrink(self, sent_at: float) -> None:
        """Halve the size, once for all requests that were sent before it was last halved (the loop's clock)."""
        if sent_at >= self._shrunk_at:
            self._shrunk_at = asyncio.get_running_loop().time()
            # By what was really in flight: without a limit the size is infinite.
            self.size = max(1.0, min(self.size, self.active) / 2)

    def grow(self) -> None:
        """Count an answer towards a larger size."""
        self.size = min(self._limit, self.size + 1 / self.size)

    def pause_for(self, seconds: float) -> None:
        """Let nothing through for so long."""
        self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + seconds)
        self._schedule_resume()

    def dismiss_waiting(self) -> None:
        """Have every waiting `acquire` return False."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(False)

    def _has_room(self) -> bool:
        # `int` of infinity is an error.
        return self.active < int(min(self.size, 2**31)) and asyncio.get_running_loop().time() >= self._paused_until

    def _admit(self) -> None:
        while self._waiting and self._has_room():
            turn = self._waiting.popleft()
            if not turn.done():
                self.active += 1
                turn.set_result(True)

    def _schedule_resume(self) -> None:
        loop = asyncio.get_running_loop()
        if self._waiting and self._timer is None and loop.time() < self._paused_until:
            self._timer = loop.call_at(self._paused_until, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._schedule_resume()  # the pause may have been extended meanwhile
        self._admit()
