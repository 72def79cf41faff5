"""End what a run started for its engine when the run is gone, however it ended.

    python -I watchdog.py [COMMAND [ARGUMENT …]]

Runs as a process of its own, by its path. stdin is a pipe or a socket that the run holds open; it closes even when the
run is killed with SIGKILL. Each line of it is the pid of a process that the run started: nothing tells vLLM's own
processes that their run is gone, and they hold the GPU's memory. At the end of stdin those that still run are killed,
with their descendants; after a run that ended in order there are none.

COMMAND, a server, is started by the watchdog itself, in a process group of its own, whose number is written to stdin so
that the run can end the group should the watchdog be killed. At the end of stdin the group gets SIGTERM, and SIGKILL
after `GRACE_S`. The watchdog exits with the server's status, 128 and more after a signal.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable

import psutil

GRACE_S = 10.0
"""How long a server may take to stop when asked to, seconds."""
_PR_SET_PDEATHSIG = 1
"""Source: prctl(2)."""


def main(command: list[str]) -> int:
    """Watch until the run is gone, or until the server has ended; return the server's status, 0 without one."""
    server, ended = None, threading.Event()
    if command:
        try:
            server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                # Safe: no thread has been started yet.
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )
        except OSError as error:
            sys.stderr.write(f"cannot start: {error}\n")
            return 127
        with contextlib.suppress(OSError):  # the run is gone already, as `_watch_run` will find
            os.write(0, str(server.pid).encode())
    # A terminal or a batch system sends them to every process. They are for the run, whose end ends this. Set only
    # now, since a child inherits signals that are ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if server is None:
        _watch_run(None, ended)
        return 0
    threading.Thread(target=_watch_run, args=(server.pid, ended), daemon=True).start()
    status = server.wait()
    ended.set()
    # Engine processes that a server leaves behind hold the GPU's memory.
    _signal_group(server.pid, signal.SIGKILL)
    return status if status >= 0 else 128 - status


def kill_trees(processes: Iterable[psutil.Process]) -> None:
    """Kill processes and their descendants. A pid that was given to another process since is left alone."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            # Listed before the parent is killed, since an orphan has another parent.
            for member in [*process.children(recursive=True), process]:
                with contextlib.suppress(psutil.Error):
                    member.kill()


def _watch_run(group: int | None, ended: threading.Event) -> None:
    """Read pids until the run is gone, then end the group and the processes."""
    started: list[psutil.Process] = []
    with contextlib.suppress(ConnectionResetError):  # the run was killed before it had read the group's number
        for line in sys.stdin:
            with contextlib.suppress(psutil.NoSuchProcess):
                started.append(psutil.Process(int(line)))
    if group is not None:
        _signal_group(group, signal.SIGTERM)
        _signal_group(group, signal.SIGCONT)  # a stopped process acts on SIGTERM only when it goes on
        if not ended.wait(GRACE_S):
            _signal_group(group, signal.SIGKILL)
    kill_trees(started)


def _die_with_parent() -> None:
    """Have the kernel send SIGKILL when the watchdog is gone; runs in the child before it becomes the server."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    # At once: a thread that still reads stdin must not hold up the end.
    os._exit(main(sys.argv[1:]))
