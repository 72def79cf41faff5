"""The processes that an engine starts for itself: none outlives the run, and loading can be broken off."""

import contextlib
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import TypeVar

from annotator.vlm import watchdog

_POLL_S = 0.2
_WATCHDOG_ENDS_S = 5.0

T = TypeVar("T")


class EngineProcesses:
    """What `multiprocessing` starts in this process while an engine is loaded, each reported to a watchdog at once."""

    def __init__(self) -> None:
        self._before = set(multiprocessing.active_children())
        self._reported: set[int] = set()
        self._abandoned = threading.Event()
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", watchdog.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # a Ctrl-C at the terminal is the run's to deal with
        )

    def load(self, boot: Callable[[Callable[[], bool]], T]) -> T:
        """Call `boot`, which starts the processes and blocks until the engine is loaded, and return its result.

        `boot` is given a function that tells whether `abandon` was called.
        """
        loaded = threading.Event()
        reporter = threading.Thread(target=self._report_until, args=(loaded,), name="engine-processes", daemon=True)
        reporter.start()
        try:
            return boot(self._abandoned.is_set)
        finally:
            loaded.set()
            reporter.join()

    def abandon(self) -> None:
        """Kill what loading starts, so that it ends with an error; from any thread."""
        self._abandoned.set()

    def close(self) -> None:
        """End the watchdog, which kills what is left of the processes. Safe to call twice."""
        assert self._watchdog.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._watchdog.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._watchdog.wait(_WATCHDOG_ENDS_S)

    def _report_until(self, loaded: threading.Event) -> None:
        while not loaded.wait(_POLL_S):
            self._report()
            if self._abandoned.is_set():
                self.close()  # with their descendants
                for process in self._started():
                    process.kill()
        self._report()

    def _started(self) -> list[BaseProcess]:
        return [process for process in multiprocessing.active_children() if process not in self._before]

    def _report(self) -> None:
        assert self._watchdog.stdin is not None
        if self._watchdog.stdin.closed:
            return
        for pid in {process.pid for process in self._started() if process.pid is not None} - self._reported:
            self._reported.add(pid)
            with contextlib.suppress(BrokenPipeError):
                self._watchdog.stdin.write(f"{pid}\n".encode())
                self._watchdog.stdin.flush()
