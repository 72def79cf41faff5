"""Time `annotator sync` on a dataset in which there is nothing to do: `python tests/bench/bench_noop.py [--quick]`.

1,000 episodes of 100 frames in 10 shards, one camera, annotated once by the `signals` engine. Then the whole command is
run again: from the start of the interpreter to its exit, best of `ROUNDS`. The log must say of every rerun that it made
0 calls, looked up 0, decoded 0 frames and wrote 0 shards. Beside it, as floors: an interpreter that does nothing, and
one that imports what a rerun needs. CPU is user and system time; on a busy machine judge by that.
`--profile` lists where a rerun's time goes, by function and by import. Exits 1 when a rerun takes `LIMIT_S` or longer.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2]))

from annotator_store.log.query import run_query
from tests.bench.recordings import Size, record

REPO = Path(__file__).parents[2]
ROUNDS = 5
LIMIT_S = 2.0
IMPORTS = "import annotator.cli.parsing, annotator.cli.progress, annotator.pipeline.sync"
LAST_RUN = """
SELECT outcome, episodes, episodes_skipped, calls_answered, calls_hit, frames_decoded, shards_written
FROM runs ORDER BY finished_at DESC, id LIMIT 1
"""
PROFILED = """
import cProfile, pstats, sys, time
from annotator.cli.main import main
profile = cProfile.Profile(time.thread_time)
profile.runcall(main, sys.argv[1:])
for order in ("cumulative", "tottime"):
    pstats.Stats(profile, stream=sys.stdout).sort_stats(order).print_stats(40)
"""


class Cost(msgspec.Struct, frozen=True):
    """What one process took, seconds."""

    wall_s: float
    user_s: float
    system_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the dataset, annotate it, time reruns; say whether the limit holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the episodes")
    parser.add_argument("--profile", action="store_true", help="list where the time of a rerun goes")
    options = parser.parse_args(arguments)
    size = Size(shards=10, episodes=10 if options.quick else 100, frames=100)
    with tempfile.TemporaryDirectory() as folder:
        env = environment(Path(folder) / "bytecode")
        root = record(Path(folder) / "dataset", size)
        sync = [sys.executable, "-m", "annotator", "sync", str(root), "--vlm.backend", "signals"]
        costs = {
            "the first run": run(sync, env),
            "an interpreter alone": best([sys.executable, "-c", "pass"], env),
            "imports alone": best([sys.executable, "-c", IMPORTS], env),
            "a rerun": best_rerun(sync, env, root, size),
        }
        print_table(costs, size)
        if options.profile:
            profile(sync, env)
    return report_limit(costs["a rerun"])


def environment(bytecode: Path) -> dict[str, str]:
    """Keep bytecode as an installation does, also where the environment forbids it; but not among the sources."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return env | {"PYTHONPYCACHEPREFIX": str(bytecode), "PYTHONPATH": f"{REPO}:{REPO}/store"}


def run(command: Sequence[str], env: dict[str, str]) -> Cost:
    """Run a process to its end; what it says is shown only if it fails."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr}")
    return Cost(wall_s, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)


def best(command: Sequence[str], env: dict[str, str]) -> Cost:
    """Run a process several times; the least wall, user and system time, each by itself."""
    return least([run(command, env) for _ in range(ROUNDS)])


def best_rerun(sync: Sequence[str], env: dict[str, str], root: Path, size: Size) -> Cost:
    """As `best`, checking after every rerun that it did nothing.

    Raises:
        SystemExit: the log says otherwise.
    """
    costs: list[Cost] = []
    nothing = dict.fromkeys(("calls_answered", "calls_hit", "frames_decoded", "shards_written"), 0)
    expected = {"outcome": "done", "episodes": size.total, "episodes_skipped": size.total} | nothing
    for _ in range(ROUNDS):
        costs.append(run(sync, env))
        found = run_query(root / ".annotator", LAST_RUN).to_pylist()[0]
        if found != expected:
            raise SystemExit(f"the rerun was to do nothing, but: {found}")
    return least(costs)


def least(costs: Sequence[Cost]) -> Cost:
    """The best of several rounds, figure by figure."""
    return Cost(min(c.wall_s for c in costs), min(c.user_s for c in costs), min(c.system_s for c in costs))


def profile(sync: Sequence[str], env: dict[str, str]) -> None:
    """Print a rerun's functions by CPU time of the main thread, and its slowest imports."""
    subprocess.run([sys.executable, "-c", PROFILED, *sync[3:]], env=env, check=True)
    timed = subprocess.run(
        [sys.executable, "-X", "importtime", *sync[1:]], env=env, capture_output=True, text=True, check=True
    )
    lines = [line for line in timed.stderr.splitlines() if line.startswith("import time:") and "|" in line]
    lines = [line for line in lines[1:] if line.split("|")[1].strip().isdigit()]
    print("slowest imports: self µs | cumulative µs | module")
    for line in sorted(lines, key=lambda line: -int(line.split("|")[1]))[:30]:
        print(line.removeprefix("import time:"))


def print_table(costs: dict[str, Cost], size: Size) -> None:
    """Print every cost, and how busy the machine was."""
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{size.total:,} episodes of {size.frames} frames in {size.shards} shards; best of {ROUNDS}; load {load}")
    print(f"{'':24}{'wall s':>8}{'user s':>8}{'system s':>10}")
    for name, cost in costs.items():
        print(f"{name:24}{cost.wall_s:8.2f}{cost.user_s:8.2f}{cost.system_s:10.2f}")


def report_limit(cost: Cost) -> int:
    """Compare with the limit; 1 if it is broken."""
    kept = cost.wall_s < LIMIT_S
    print(f"{'ok    ' if kept else 'BROKEN'} a rerun takes less than {LIMIT_S} s: {cost.wall_s:.2f}")
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
