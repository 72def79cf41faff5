"""Measure the projection of rows into shards against a floor: reading and rewriting the row groups, nothing added.

    python tests/bench/bench_projection.py [--quick] [--one-group]

Every variant runs in its own child process, so that CPU time (user + system) and peak memory are its own.
Each is timed in several rounds, the floor before and after the projection; what counts is the median over the rounds of
the ratio to the floor of the same round, since others may be using the machine.
Exit status 1 if a limit is broken.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from annotator_store.parquet.episode_language import EpisodeRows
from annotator_store.parquet.parallel import ShardJob, prepare_shards
from annotator_store.parquet.rewrite import expected_digest, language_digest, prepare_shard
from annotator_store.rows import Row

JOINTS = 14
PERSISTENT_ROWS = 30
EVENT_ROWS = 20
ROUNDS, QUICK_ROUNDS = 3, 5
CPU_LIMIT, WALL_LIMIT, PEAK_LIMIT_MB = 4.0, 2.5, 400.0


class Size(msgspec.Struct, frozen=True):
    """How much is written."""

    shards: int
    episodes: int
    frames: int


class Cost(msgspec.Struct, frozen=True):
    """What one variant took: seconds of CPU and of wall clock, and its peak memory in MB."""

    cpu_s: float
    wall_s: float
    peak_mb: float


Variant = Callable[[Sequence[ShardJob]], None]
Round = dict[str, Cost]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all variants, print the table, and say whether a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the frames")
    parser.add_argument("--one-group", action="store_true", help="one row group per shard instead of one per episode")
    options = parser.parse_args(arguments)
    size = Size(shards=4 if options.quick else 10, episodes=50 if options.quick else 100, frames=1000)
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), size, one_group=options.one_group)
        rounds = [one_round(Path(folder), size) for _ in range(QUICK_ROUNDS if options.quick else ROUNDS)]
    print_table(rounds, size)
    return report_limits(rounds)


def one_round(folder: Path, size: Size) -> Round:
    """Run every variant once."""
    variants: dict[str, Variant] = {
        "floor": floor,
        "projection": projection,
        "floor again": floor,
        "projection, 2 threads": projection_in_threads,
        "floor, 2 threads": floor_in_threads,
        "rerun, one episode of each shard": one_episode,
        "digest of what is there": digest_of_files,
        "digest of what is meant": digest_of_rows,
    }
    return {name: run_apart(variant, folder, size) for name, variant in variants.items()}


def cpu_ratio(rounds: Sequence[Round], name: str) -> float:
    """The median over the rounds of a variant's CPU time to the floor's."""
    return median(2 * costs[name].cpu_s / (costs["floor"].cpu_s + costs["floor again"].cpu_s) for costs in rounds)


def wall_ratio(rounds: Sequence[Round], name: str) -> float:
    """The median over the rounds of a variant's wall time to the floor's, which has one thread."""
    return median(2 * costs[name].wall_s / (costs["floor"].wall_s + costs["floor again"].wall_s) for costs in rounds)


def run_apart(variant: Variant, folder: Path, size: Size) -> Cost:
    """Run a variant in a new process; its imports and the making of the rows are not timed."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=measure, args=(variant, folder, size, sending))
    child.start()
    sending.close()
    cost: Cost = receiving.recv()
    child.join()
    return cost


def measure(variant: Variant, folder: Path, size: Size, sending: Connection) -> None:
    """Send the cost of one variant; the peak is of the whole process, imports and rows included."""
    import_module("pyarrow.compute")  # loaded when first used, otherwise
    jobs = make_jobs(folder, size)
    cpu, wall = cpu_seconds(), time.perf_counter()
    variant(jobs)
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    sending.send(Cost(cpu_s=cpu, wall_s=wall, peak_mb=peak))


def cpu_seconds() -> float:
    """User and system time of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# --- what is measured --------------------------------------------------------------------------------------------


def floor(jobs: Sequence[ShardJob]) -> None:
    """Read and rewrite every shard, one after the other."""
    for job in jobs:
        rewrite(job.source)


def floor_in_threads(jobs: Sequence[ShardJob]) -> None:
    """The same with two threads."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(rewrite, [job.source for job in jobs]))


def rewrite(source: Path) -> None:
    """Read and write row group by row group, with nothing added."""
    target = source.with_suffix(".floor")
    with (
        pq.ParquetFile(source, pre_buffer=False) as file,
        pq.ParquetWriter(target, file.schema_arrow, compression="snappy") as writer,
    ):
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, use_threads=False)
            writer.write_table(table, row_group_size=table.num_rows)


def projection(jobs: Sequence[ShardJob]) -> None:
    """Write every shard with its rows, read it back, fsync; one after the other."""
    for job in jobs:
        prepare_shard(job.source, job.target, job.episodes).commit()


def projection_in_threads(jobs: Sequence[ShardJob]) -> None:
    """The same with two threads."""
    for prepared in prepare_shards(jobs, workers=2):
        prepared.commit()


def one_episode(jobs: Sequence[ShardJob]) -> None:
    """Replace the rows of one episode of each annotated shard, and keep those of the others."""
    for job in jobs:
        kept = [EpisodeRows(start=rows.start, stop=rows.stop, rows=None) for rows in job.episodes[1:]]
        prepare_shard(job.target, job.target.with_suffix(".rerun"), [job.episodes[0], *kept]).commit()


def digest_of_files(jobs: Sequence[ShardJob]) -> None:
    """Digest the language columns of annotated shards, as a rerun does to see that nothing is to be done."""
    for job in jobs:
        language_digest(job.target, [(rows.start, rows.stop) for rows in job.episodes])


def digest_of_rows(jobs: Sequence[ShardJob]) -> None:
    """Digest the rows, without a file."""
    for job in jobs:
        expected_digest(job.episodes)


# --- the dataset -------------------------------------------------------------------------------------------------


def make(folder: Path, size: Size, *, one_group: bool) -> None:
    """Write shards of state, action and the index columns, with one row group per episode or one for all."""
    for shard, source in enumerate(sources(folder, size)):
        tables = [episode_table(shard * size.episodes + episode, size.frames) for episode in range(size.episodes)]
        with pq.ParquetWriter(source, tables[0].schema, compression="snappy") as writer:
            for table in [pa.concat_tables(tables)] if one_group else tables:
                writer.write_table(table, row_group_size=table.num_rows)


def episode_table(episode: int, frames: int) -> pa.Table:
    """One episode of smooth joint motion at 30 Hz."""
    random = np.random.default_rng(episode)
    state = np.cumsum(random.normal(0, 0.01, (frames, JOINTS)), axis=0).astype(np.float32)
    frame = np.arange(frames)
    columns = {
        "observation.state": pa.FixedSizeListArray.from_arrays(state.ravel(), JOINTS),
        "action": pa.FixedSizeListArray.from_arrays(np.roll(state, -1, axis=0).ravel(), JOINTS),
        "timestamp": pa.array((frame / 30).astype(np.float32)),
        "frame_index": pa.array(frame),
        "episode_index": pa.array(np.full(frames, episode)),
        "index": pa.array(frame + episode * frames),
        "task_index": pa.array(np.zeros(frames, np.int64)),
    }
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": {}}})})


def sources(folder: Path, size: Size) -> list[Path]:
    """The shards' paths."""
    return [folder / f"file-{shard:03}.parquet" for shard in range(size.shards)]


def make_jobs(folder: Path, size: Size) -> list[ShardJob]:
    """Every shard with the rows of its episodes; the annotated one lies beside it."""
    times = (np.arange(size.frames) / 30).astype(np.float32).tolist()
    found: list[ShardJob] = []
    for shard, source in enumerate(sources(folder, size)):
        rows = [episode_rows(shard * size.episodes + episode, times) for episode in range(size.episodes)]
        episodes = tuple(
            EpisodeRows(start=index * size.frames, stop=(index + 1) * size.frames, rows=mine)
            for index, mine in enumerate(rows)
        )
        found.append(ShardJob(source=source, target=source.with_suffix(".annotated"), episodes=episodes))
    return found


def episode_rows(episode: int, times: Sequence[float]) -> tuple[Row, ...]:
    """30 persistent rows (subtasks, plans, memory, rephrasings) and 20 event rows (interjections, speech, VQA)."""
    step = len(times) // PERSISTENT_ROWS
    styles = ("subtask", "plan", "memory")
    text = "put the red cube into the left box, then close the lid"
    persistent = [
        Row(role="assistant", content=f"{episode}.{i}: {text}", style=styles[i % 3], timestamp=times[i * step])
        for i in range(PERSISTENT_ROWS - 6)
    ]
    asked = [Row(role="user", content=f"{episode}.{i}: {text}", style="task_aug", timestamp=times[0]) for i in range(6)]
    events = [event for i in range(EVENT_ROWS // 4) for event in four_events(f"{episode}.{i}", times[i * step * 4])]
    return (*persistent, *asked, *events)


def four_events(name: str, timestamp: float) -> list[Row]:
    """An interjection, its spoken answer, a question and its answer, on one frame."""
    say = {"type": "function", "function": {"name": "say", "arguments": {"text": f"{name}: all right"}}}
    camera = "observation.images.top"
    return [
        Row(role="user", content=f"{name}: wait", style="interjection", timestamp=timestamp),
        Row(role="assistant", content=None, style=None, timestamp=timestamp, tool_calls=(json.dumps(say),)),
        Row(role="user", content=f"{name}: how many?", style="vqa", timestamp=timestamp, camera=camera),
        Row(role="assistant", content='{"count": 2}', style="vqa", timestamp=timestamp, camera=camera),
    ]


# --- the report --------------------------------------------------------------------------------------------------


def print_table(rounds: Sequence[Round], size: Size) -> None:
    """Print every variant, the least it took, and its ratios to the floor."""
    frames = size.shards * size.episodes * size.frames
    print(f"{frames:,} frames, {size.shards * size.episodes:,} episodes, {size.shards} shards, {len(rounds)} rounds")
    print(f"{'':34}{'CPU s':>8}{'× floor':>9}{'wall s':>8}{'× floor':>9}{'peak MB':>9}")
    for name in rounds[0]:
        cpu, wall = (min(getattr(costs[name], figure) for costs in rounds) for figure in ("cpu_s", "wall_s"))
        ratios = f"{cpu:8.2f}{cpu_ratio(rounds, name):9.2f}{wall:8.2f}{wall_ratio(rounds, name):9.2f}"
        print(f"{name:34}{ratios}{peak_mb(rounds, name):9.0f}")


def peak_mb(rounds: Sequence[Round], name: str) -> float:
    """The most memory of any round."""
    return max(costs[name].peak_mb for costs in rounds)


def report_limits(rounds: Sequence[Round]) -> int:
    """Compare with the limits; 1 if one is broken."""
    peak = max(peak_mb(rounds, name) for name in ("projection", "projection, 2 threads"))
    measured = {
        f"CPU, at most {CPU_LIMIT} × floor": (cpu_ratio(rounds, "projection"), CPU_LIMIT),
        f"wall with 2 threads, at most {WALL_LIMIT} × floor with one": (
            wall_ratio(rounds, "projection, 2 threads"),
            WALL_LIMIT,
        ),
        f"peak, below {PEAK_LIMIT_MB:.0f} MB": (peak, PEAK_LIMIT_MB),
    }
    for name, (found, limit) in measured.items():
        print(f"{'ok    ' if found <= limit else 'BROKEN'} {name}: {found:.2f}")
    return int(any(found > limit for found, limit in measured.values()))


if __name__ == "__main__":
    sys.exit(main())
