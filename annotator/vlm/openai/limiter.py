"""How many requests one endpoint gets at once: up to a limit, fewer while it says that it is too busy."""

import asyncio
import math
from collections import deque


class ConcurrencyLimiter:
    """Lets requests in, first come first served. `limit` is the most at once; 0 sets none.

    A refusal (429, 503) halves the size, each later answer lets it grow again, by one for every round of answers.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit or math.inf
        self.size = self._limit
        self.inside = 0
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._closed_until = self._shrunk_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self) -> bool:
        """Wait for a place; False where the waiting are sent elsewhere. Who is let in must `leave`."""
        if not self._waiting and self._has_room():
            self.inside += 1
            return True
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._wait_until_open()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back."""
        self.inside -= 1
        self._admit()

    def shrink(self, sent_at: float) -> None:
        """Halve the size, once for all requests that were sent before it was last halved (the loop's clock)."""
        if sent_at >= self._shrunk_at:
            self._shrunk_at = asyncio.get_running_loop().time()
            self.size = max(1.0, min(self.size, self.inside) / 2)

    def grow(self) -> None:
        """Take note of an answer."""
        self.size = min(self._limit, self.size + 1 / self.size)

    def close_for(self, seconds: float) -> None:
        """Let nobody in for a while."""
        self._closed_until = max(self._closed_until, asyncio.get_running_loop().time() + seconds)
        self._wait_until_open()

    def send_away(self) -> None:
        """Send those who wait elsewhere."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(False)

    def _has_room(self) -> bool:
        return self.inside < int(min(self.size, 2**31)) and asyncio.get_running_loop().time() >= self._closed_until

    def _admit(self) -> None:
        while self._waiting and self._has_room():
            turn = self._waiting.popleft()
            if not turn.done():
                self.inside += 1
                turn.set_result(True)

    def _wait_until_open(self) -> None:
        loop = asyncio.get_running_loop()
        if self._waiting and self._timer is None and loop.time() < self._closed_until:
            self._timer = loop.call_at(self._closed_until, self._open)

    def _open(self) -> None:
        self._timer = None
        self._wait_until_open()
        self._admit()
