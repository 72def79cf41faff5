"""One server as a process: started through its keeper, looked at, and stopped."""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

from annotator.vlm.vllm_server.command import ServerPlan
from annotator.vlm.vllm_server.watchdog import GRACE_S

KEEPER = Path(__file__).with_name("watchdog.py")
_TAIL_LINES, _READ_BYTES, _LINE_CHARACTERS = 15, 65_536, 300
_ERROR = re.compile(r"\b\w*(Error|Exception): \S")


class ServerProcess:
    """A server that can be started again and again, each time on a free port of this machine alone."""

    def __init__(self, plan: ServerPlan) -> None:
        self.plan = plan
        self.api_base = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._begin = 0

    def start(self) -> None:
        """Start it; the log of an earlier run makes room for this one's.

        Raises:
            OSError: its log cannot be written, or no process can be started.
        """
        port = free_port()
        command, fresh = self.plan.with_port(port), self._process is None
        self.plan.log.parent.mkdir(parents=True, exist_ok=True)
        with self.plan.log.open("wb" if fresh else "ab") as log, contextlib.ExitStack() as undo:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            self._begin = log.tell()
            ours, theirs = socket.socketpair()
            undo.enter_context(ours)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", str(KEEPER), *command],
                    stdin=theirs.fileno(),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.plan.environment,
                    start_new_session=True,  # a Ctrl-C at the terminal is the run's to deal with
                )
            undo.pop_all()
        self._line = ours
        self.api_base = f"http://127.0.0.1:{port}/v1"

    def status(self) -> int | None:
        """Its exit status, 128 and more after a signal; None while it runs."""
        return None if self._process is None else self._process.poll()

    async def stop(self) -> None:
        """Stop it and all it started, and wait for that. Safe to call twice."""
        process, line = self._process, self._line
        if process is None or line is None:
            return
        with contextlib.suppress(OSError):  # the keeper is gone already
            line.shutdown(socket.SHUT_WR)
        try:
            await asyncio.to_thread(process.wait, GRACE_S + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
        self._end_group(process.returncode)

    def _end_group(self, keepers_status: int) -> None:
        """End what a keeper left behind that was killed itself; any other has seen to it."""
        line, self._line = self._line, None
        if line is None:
            return
        with line:
            group = line.recv(64)  # waits for nothing: the other end is closed
        if keepers_status < 0 and group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(int(group), signal.SIGKILL)

    def tail(self) -> str:
        """The last lines of what it said since it was last started, after the cause if that stands further above."""
        last, cause = self._said()[-_TAIL_LINES:], self.cause()
        return "\n".join(f"  {line}" for line in ([cause, "…"] if cause and cause not in last else []) + last)

    def cause(self) -> str:
        """The last error it named since it was last started; vLLM's server itself only points at its engine's."""
        named = (line for line in reversed(self._said()) if _ERROR.search(line) and "root cause above" not in line)
        return next(named, "")

    def _said(self) -> list[str]:
        try:
            with self.plan.log.open("rb") as log:
                size = log.seek(0, 2)
                log.seek(max(self._begin, size - _READ_BYTES))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError as cause:  # somebody tidied up
            lines = [f"its log cannot be read: {cause.strerror}"]
        return ["".join(c for c in line if c.isprintable())[:_LINE_CHARACTERS] for line in lines]


def free_port() -> int:
    """Find a port that nobody uses at the moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
