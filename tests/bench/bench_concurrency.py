"""Fifty episodes at once, 50 ms an answer: `python tests/bench/bench_concurrency.py [--quick] [--profile]`.

Measured is the annotate phase of `annotator sync`: from the first episode's beginning to the last one's record, with
decoding, asking and recording; without the interpreter's start, imports, survey and projection. It is held against

    bound = max(longest chain × 50 ms, CPU work)

longest chain   the most calls that one episode makes one after the other, read from the log: describe, segment, then a
                memory for every further subtask. Rephrasings go on beside them.
CPU work        user and system time of all of the client's threads in that phase, measured by running the same against
                a server that answers at once. The client has one core, so it cannot be done in less.

The server is a process on another core; its concurrency and the client's are not limited. Each figure is the best of
`ROUNDS`. Others may be using the machine: `waited` is how long the client's main thread stood ready to run beyond what
its own threads took, and the ratio is also given without it. Exits 1 when bound / measured is below `LIMIT`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2]))

from annotator_store.log.query import run_query
from tests.bench.recordings import Size, record

REPO = Path(__file__).parents[2]
ROUNDS = 3
DELAY_MS = 50.0
LIMIT = 0.8
EPISODE_S = 8.0
CHAINS = """
SELECT max(calls) AS longest, sum(calls + rephrasings) AS calls FROM (
    SELECT count(*) FILTER (WHERE step <> 'plan.task_rephrasings') AS calls,
           count(*) FILTER (WHERE step = 'plan.task_rephrasings') AS rephrasings
    FROM calls WHERE outcome = 'answered' GROUP BY episode
)
"""
CLIENT = '''
"""`annotator`, with its annotate phase timed; what it costs is written to a file."""
import cProfile, json, os, pstats, sys, threading, time
core, report, profiled, *arguments = sys.argv[1:]
if core:
    os.sched_setaffinity(0, {int(core)})
import annotator.vlm.openai.engine, annotator.media.render_pool  # imports are no part of the phase
from annotator.cli.main import main
from annotator.pipeline.executor import Workshop

def now():
    """Wall, CPU of all threads, CPU of this thread, time this thread stood ready to run: seconds."""
    with open(f"/proc/self/task/{threading.get_native_id()}/schedstat") as file:
        ready = int(file.read().split()[1]) / 1e9
    return time.perf_counter(), time.process_time(), time.thread_time(), ready

inner = Workshop.run

async def timed(self, jobs):
    profile, before = cProfile.Profile(time.thread_time), now()
    if profiled:
        profile.enable()
    await inner(self, jobs)
    profile.disable()
    wall, cpu, main_cpu, ready = (b - a for a, b in zip(before, now()))
    cost = dict(wall_s=wall, cpu_s=cpu, main_s=main_cpu, waited_s=max(0.0, ready - (cpu - main_cpu)))
    with open(report, "w") as file:
        json.dump(cost, file)
    if profiled:
        for order in ("cumulative", "tottime"):
            pstats.Stats(profile, stream=sys.stdout).sort_stats(order).print_stats(45)

Workshop.run = timed
sys.exit(main(arguments))
'''


class Cost(msgspec.Struct, frozen=True):
    """What the annotate phase took, seconds: wall, CPU of all threads and of the main one, and time lost to others."""

    wall_s: float
    cpu_s: float
    main_s: float
    waited_s: float


class Found(msgspec.Struct, frozen=True):
    """One run: its cost, and how many calls there were, in all and in the longest chain."""

    cost: Cost
    calls: int
    longest: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run against both servers, print the table, say whether the limit holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 episodes, one round")
    parser.add_argument("--profile", action="store_true", help="list where the CPU time of the main thread goes")
    options = parser.parse_args(arguments)
    size = Size(shards=1, episodes=20 if options.quick else 50, frames=80)
    rounds = 1 if options.quick else ROUNDS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record(folder / "dataset", size)
        found: dict[float, list[Found]] = {0.0: [], DELAY_MS: []}
        with servers(folder) as urls:
            for _ in range(rounds):
                for delay_ms, url in urls.items():
                    found[delay_ms].append(annotate(folder, url, size))
            if options.profile:
                annotate(folder, urls[DELAY_MS], size, profiled=True)
    return print_table(found[0.0], found[DELAY_MS], size)


@contextmanager
def servers(folder: Path) -> Generator[dict[float, str]]:
    """Run a server that answers at once and one that takes its time, on the second core; their base URLs by delay."""
    core = cores()[1]
    script = [sys.executable, str(REPO / "tests" / "fakes" / "openai_server.py"), "--leave-with-parent"]
    processes = {
        delay_ms: subprocess.Popen(
            [*script, "--horizon-s", str(EPISODE_S), "--delay-ms", str(delay_ms)],
            stdout=subprocess.PIPE, text=True, env=environment(folder),
        )
        for delay_ms in (0.0, DELAY_MS)
    }  # fmt: skip
    try:
        for process in processes.values():
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
        yield {d: process.stdout.readline().strip() for d, process in processes.items() if process.stdout}
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def cores() -> tuple[int | None, int | None]:
    """The client's core and the server's; None where they cannot be had."""
    free = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (free[0], free[1]) if len(free) > 1 else (None, None)


def environment(folder: Path) -> dict[str, str]:
    """Keep bytecode as an installation does, also where the environment forbids it; but not among the sources."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return env | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONPATH": f"{REPO}:{REPO}/store"}


def annotate(folder: Path, url: str, size: Size, *, profiled: bool = False) -> Found:
    """Annotate all episodes into a new log.

    Raises:
        SystemExit: the run did not answer every call.
    """
    core = cores()[0]
    report = folder / "report.json"
    with tempfile.TemporaryDirectory(dir=folder) as store:
        command = [
            sys.executable,
            "-c",
            CLIENT,
            "" if core is None else str(core),
            str(report),
            "1" if profiled else "",
        ]
        command += ["sync", str(folder / "dataset"), "--store", store, "--vlm.api_base", url]
        command += ["--vlm.backend", "openai", "--vlm.model_id", "test-model", "--vlm.client_concurrency", "0"]
        command += ["--executor.episode_parallelism", str(size.total)]
        done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the run ended with {done.returncode}\n{done.stderr}")
        print(done.stdout, end="")
        chains = run_query(Path(store), CHAINS).to_pylist()[0]
    cost = msgspec.convert(json.loads(report.read_text()), Cost)
    return Found(cost, calls=int(chains["calls"]), longest=int(chains["longest"]))


def print_table(at_once: Sequence[Found], slow: Sequence[Found], size: Size) -> int:
    """Print what was measured beside the bound; 1 if the limit is broken."""
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    calls, longest = slow[0].calls, slow[0].longest
    print(f"{size.total} episodes, {calls} calls, longest chain {longest}; best of {len(slow)}; load {load}")
    print(f"{'':26}{'wall s':>8}{'CPU s':>8}{'main s':>8}{'waited s':>10}")
    for name, runs in (("answers at once", at_once), (f"answers after {DELAY_MS:g} ms", slow)):
        for cost in (found.cost for found in runs):
            print(f"{name:26}{cost.wall_s:8.2f}{cost.cpu_s:8.2f}{cost.main_s:8.2f}{cost.waited_s:10.2f}")
    chain_s, cpu_s = longest * DELAY_MS / 1000, min(found.cost.cpu_s for found in at_once)
    bound_s = max(chain_s, cpu_s)
    wall_s = min(found.cost.wall_s for found in slow)
    alone_s = min(found.cost.wall_s - found.cost.waited_s for found in slow)
    print(f"bound {bound_s:.2f} s = max(chain {chain_s:.2f} s, CPU {cpu_s:.2f} s)")
    print(f"client's CPU a call: {1000 * cpu_s / calls:.2f} ms; without waiting for others {bound_s / alone_s:.2f}")
    kept = bound_s / wall_s >= LIMIT
    print(f"{'ok    ' if kept else 'BROKEN'} bound / measured is at least {LIMIT}: {bound_s / wall_s:.2f}")
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
