"""Keep one server: start it in a process group of its own, and end that whole group when told, or when left alone.

    python serve_keeper.py COMMAND [ARGUMENT …]

Runs as a process of its own, between a run and a server, so that no server is left over however the run ends:
stdin is a socket that the run holds open, and it closes even when the run is killed with SIGKILL. The server's group is
told there, so that the run can end it should the keeper be killed. What the server says goes where the keeper's own
words go. Exits with the server's status, or with 128 and the number of the signal that
ended it. Needs the standard library only.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

GRACE_S = 10.0
"""How long a server may take to stop when asked to, seconds."""
_PR_SET_PDEATHSIG = 1
"""Source: prctl(2)."""


def main(command: list[str]) -> int:
    """Start a server and stay until it has ended."""
    try:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            # Safe: no thread has been started yet.
            preexec_fn=_die_with_the_keeper if sys.platform == "linux" else None,  # noqa: PLW1509
        )
    except OSError as error:
        sys.stderr.write(f"cannot start: {error}\n")
        return 127
    with contextlib.suppress(OSError):  # the run is gone, as is seen below
        os.write(0, str(server.pid).encode())
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: _in_background(_end, server.pid, ended))
    _in_background(_end_when_left_alone, server.pid, ended)
    status = server.wait()
    ended.set()
    # What the server started goes with it: engine processes hold the GPU's memory.
    _signal_group(server.pid, signal.SIGKILL)
    return status if status >= 0 else 128 - status


def _die_with_the_keeper() -> None:
    """Ask the kernel for a SIGKILL when the keeper is gone; runs in the child before it becomes the server."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_when_left_alone(group: int, ended: threading.Event) -> None:
    with contextlib.suppress(ConnectionResetError):  # the run was killed before it had read which group this is
        while os.read(0, 1024):
            pass
    _end(group, ended)


def _end(group: int, ended: threading.Event) -> None:
    _signal_group(group, signal.SIGTERM)
    _signal_group(group, signal.SIGCONT)  # one that was halted could not act on it
    if not ended.wait(GRACE_S):
        _signal_group(group, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _in_background(work: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()


if __name__ == "__main__":
    # At once: a thread that still reads stdin must not hold up the end.
    os._exit(main(sys.argv[1:]))
