"""The processes that an engine starts for itself: none outlives the run, and loading can be broken off."""

import contextlib
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

KEEPER = Path(__file__).with_name("watchdog.py")
_LOOK_EVERY_S = 0.2
_KEEPER_ENDS_S = 5.0

T = TypeVar("T")


class EngineProcesses:
    """What `multiprocessing` starts in this process while an engine is loaded, each told to a keeper at once.

    Where there is no /proc there is no keeper either: a run that is killed with SIGKILL may then leave them behind.
    """

    def __init__(self) -> None:
        self._others = set(multiprocessing.active_children())
        self._told: set[int] = set()
        self._abandoned = threading.Event()
        self._keeper = _start_keeper() if Path("/proc/self/stat").exists() else None

    def load(self, boot: Callable[[Callable[[], bool]], T]) -> T:
        """Run what starts them, which blocks. It is given a way to ask whether anybody still waits for it."""
        loaded = threading.Event()
        looking = threading.Thread(target=self._look, args=(loaded,), name="engine-processes", daemon=True)
        looking.start()
        try:
            return boot(self._abandoned.is_set)
        finally:
            loaded.set()
            looking.join()

    def abandon(self) -> None:
        """Kill what loading starts, so that it ends with an error; from any thread."""
        self._abandoned.set()

    def close(self) -> None:
        """Let the keeper end, and with it what is left of them. Safe to call twice."""
        if self._keeper is None or self._keeper.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(_KEEPER_ENDS_S)

    def _look(self, loaded: threading.Event) -> None:
        while not loaded.wait(_LOOK_EVERY_S):
            self._tell()
            if self._abandoned.is_set():
                self.close()  # it kills what they started, too
                for process in self._started():
                    process.kill()
        self._tell()

    def _started(self) -> list[BaseProcess]:
        return [process for process in multiprocessing.active_children() if process not in self._others]

    def _tell(self) -> None:
        if self._keeper is None or self._keeper.stdin is None or self._keeper.stdin.closed:
            return
        for pid in {process.pid for process in self._started() if process.pid is not None} - self._told:
            self._told.add(pid)
            with contextlib.suppress(BrokenPipeError):
                self._keeper.stdin.write(f"{pid}\n".encode())
                self._keeper.stdin.flush()


def _start_keeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-I", str(KEEPER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # a Ctrl-C at the terminal is the run's to deal with
    )
