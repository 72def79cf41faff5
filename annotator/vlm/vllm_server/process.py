"""One server as a process: started through a watchdog, observed, and stopped."""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys

from annotator.vlm import watchdog
from annotator.vlm.vllm_server.command import ServerPlan

_TAIL_LINES, _READ_BYTES, _LINE_CHARACTERS = 15, 65_536, 300
_ERROR = re.compile(r"\b\w*(Error|Exception): \S")


class ServerProcess:
    """A server that can be started again and again, each time on a free port of the loopback interface."""

    def __init__(self, plan: ServerPlan) -> None:
        self.plan = plan
        self.api_base = ""
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._log_begin = 0

    def start(self) -> None:
        """Start the server. The first start truncates the log, later ones append to it.

        Raises:
            OSError: its log cannot be written, or no process can be started.
        """
        port = free_port()
        command, first = self.plan.with_port(port), self._watchdog is None
        self.plan.log.parent.mkdir(parents=True, exist_ok=True)
        with self.plan.log.open("wb" if first else "ab") as log, contextlib.ExitStack() as undo:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            self._log_begin = log.tell()
            ours, theirs = socket.socketpair()
            undo.enter_context(ours)
            with theirs:
                self._watchdog = subprocess.Popen(
                    [sys.executable, "-I", watchdog.__file__, *command],
                    stdin=theirs.fileno(),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.plan.environment,
                    start_new_session=True,  # a Ctrl-C at the terminal is the run's to deal with
                )
            undo.pop_all()
        self._socket = ours
        self.api_base = f"http://127.0.0.1:{port}/v1"

    def status(self) -> int | None:
        """Return the exit status, 128 and more after a signal; None while the server runs."""
        return None if self._watchdog is None else self._watchdog.poll()

    async def stop(self) -> None:
        """Stop the server with all it started, and wait for that. Safe to call twice."""
        process, connection = self._watchdog, self._socket
        if process is None or connection is None:
            return
        with contextlib.suppress(OSError):  # the watchdog is gone already
            connection.shutdown(socket.SHUT_WR)
        try:
            await asyncio.to_thread(process.wait, watchdog.GRACE_S + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
        self._socket = None
        with connection:
            group = connection.recv(64)  # returns at once: the other end is closed
        # A watchdog that was killed itself could not end the group.
        if process.returncode < 0 and group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(int(group), signal.SIGKILL)

    def tail(self) -> str:
        """Return the last lines of the log since the last start, after the cause if that stands further above."""
        last, cause = self._log_lines()[-_TAIL_LINES:], self.cause()
        return "\n".join(f"  {line}" for line in ([cause, "…"] if cause and cause not in last else []) + last)

    def cause(self) -> str:
        """Return the last line of the log since the last start that names an error; "" where none does.

        Lines in which vLLM's server only points at its engine's error do not count.
        """
        lines = (line for line in reversed(self._log_lines()) if _ERROR.search(line))
        return next((line for line in lines if "root cause above" not in line), "")

    def _log_lines(self) -> list[str]:
        try:
            with self.plan.log.open("rb") as log:
                size = log.seek(0, 2)
                log.seek(max(self._log_begin, size - _READ_BYTES))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError as cause:  # the log was deleted meanwhile
            lines = [f"its log cannot be read: {cause.strerror}"]
        return ["".join(c for c in line if c.isprintable())[:_LINE_CHARACTERS] for line in lines]


def free_port() -> int:
    """Return a port of the loopback interface that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
