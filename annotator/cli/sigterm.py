"""SIGTERM ends a run as Ctrl-C does: in order, with a message, with a record of the run."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Termination:
    """While entered, turns SIGTERM into what Ctrl-C does; `asked` says whether it came."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        # Only the main thread may say what a signal does; elsewhere nothing changes.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        # An event loop puts its own handler there, which cancels in order; where Ctrl-C is ignored (a job in the
        # background of a script), there is none to call.
        interrupt = signal.getsignal(signal.SIGINT)
        if callable(interrupt):
            interrupt(signal.SIGINT, frame)
        else:
            raise KeyboardInterrupt
