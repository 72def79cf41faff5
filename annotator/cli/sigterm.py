"""Handle SIGTERM like Ctrl-C, so that a run closes its log and records its end."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Termination:
    """Context manager that handles SIGTERM like SIGINT. `asked` is whether SIGTERM was received."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        # Python allows only the main thread to set signal handlers.
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
        # asyncio installs its own SIGINT handler, which cancels the main task. There is none to call where SIGINT is
        # ignored, as in the background job of a script.
        interrupt = signal.getsignal(signal.SIGINT)
        if callable(interrupt):
            interrupt(signal.SIGINT, frame)
        else:
            raise KeyboardInterrupt
