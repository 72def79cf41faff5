"""Kill what is left of an engine when the run that loaded it is gone, however it went.

    python vllm_keeper.py

Runs as a process of its own. stdin is a pipe that the run holds open, and it closes even when the run is killed with
SIGKILL. A line of it is the pid of a process that the run started for its engine: nothing tells vLLM's own processes
that their run is gone, and they hold the GPU's memory. At the end of stdin those that still run are killed, with all
that they started; after a run that ended in order there are none. Needs /proc and the standard library only.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path


def main() -> None:
    """Stay until the run is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # They are for the run, whose end ends this.
        signal.signal(number, signal.SIG_IGN)
    started: dict[int, int] = {}
    for line in sys.stdin:
        if (known := running().get(int(line))) is not None:
            started[int(line)] = known[1]
    kill(started)


def running() -> dict[int, tuple[int, int]]:
    """List all processes: pid → its parent's pid, and when it was started, in ticks since the machine was.

    Source: proc(5), /proc/PID/stat.
    """
    found: dict[int, tuple[int, int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name before the last parenthesis may hold anything.
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            found[int(stat.parent.name)] = int(fields[1]), int(fields[19])
    return found


def kill(started: Mapping[int, int]) -> None:
    """Kill processes and their descendants. `started`: pid → when it was, since a pid is given to others later."""
    there = running()
    doomed = [pid for pid, when in started.items() if pid in there and there[pid][1] == when]
    for parent in doomed:  # grows meanwhile
        doomed += [pid for pid, (its_parent, _) in there.items() if its_parent == parent and pid not in doomed]
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
