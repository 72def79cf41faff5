"""Measure all rules over 1,000,000 frames with 100,000 event rows, beside a floor: reading the same columns.

    python tests/bench/bench_validate.py [--quick]

Every variant runs in its own child process. What is timed is a whole check, from paths to verdict: reading, filling
the tables, running every rule; imports are not. `rows_to_be_written` is what a run checks before it touches a shard:
the frames come from the shards and the rows from memory. `shards_as_they_are` is `annotator validate`: it reads both
language columns, the persistent one of every frame, since the list must be the same on all of them. The limit of 1.5 s
holds for rows to be written alone. The check of whole columns does not meet it on 2 cores: its limit is a ratio of CPU
time to its floor, since reading 30 rows a frame takes longer than all the rest.
Exit status 1 if a limit is broken.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq

from annotator_store.log.events import AnnotatedRow
from annotator_store.parquet.columns import LANGUAGE_COLUMNS
from annotator_store.parquet.episode_language import EpisodeRows
from annotator_store.parquet.parallel import ShardJob, prepare_shards
from annotator_store.rows import Row
from annotator_store.validation.report import ValidationReport
from annotator_store.validation.rules import load_rules
from annotator_store.validation.run import CameraSize, RuleContext, check_rows, check_shards
from annotator_store.validation.tables import FRAMES
from tests.bench.bench_projection import Size, cpu_seconds, make, sources

CAMERAS = ("observation.images.top", "observation.images.wrist")
TEXT = "put the red cube into the left box"
STARTS = range(0, 960, 120)
"""The frames at which an episode's eight subtasks start."""
KNOWN = RuleContext(
    cameras=tuple(CameraSize(camera=camera, width_px=640, height_px=480) for camera in CAMERAS),
    subtasks=tuple(f"step {number}: {TEXT}" for number in range(8)),
)
ANSWERS: tuple[dict[str, Any], ...] = (
    {"detections": [{"label": "cube", "bbox_format": "xyxy", "bbox": [10, 20, 300, 400]}]},
    {"label": "cube", "point_format": "xy", "point": [320, 240]},
    {"label": "cube", "count": 2},
    {"label": "cube", "attribute": "color", "value": "red"},
    {"subject": "cube", "relation": "left of", "object": "box"},
)
ROUNDS = 5
LIMIT_S, LIMIT_RATIO = 1.5, 2.5


class Cost(msgspec.Struct, frozen=True):
    """Seconds of wall clock and of CPU, the peak memory in MB, and the verdict where there is one."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    verdict: ValidationReport | None


Variant = Callable[[Path, Size], Callable[[], ValidationReport | None]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all variants, print the table, and say whether a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the frames; no limit is then held to")
    options = parser.parse_args(arguments)
    size = Size(shards=2 if options.quick else 10, episodes=50 if options.quick else 100, frames=1000)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), size)
        variants = (index_floor, rows_to_be_written, column_floor, shards_as_they_are)
        rounds = [{one.__name__: run_apart(one, Path(folder), size) for one in variants} for _ in range(ROUNDS)]
    return report(rounds, quick=options.quick)


# --- what is measured --------------------------------------------------------------------------------------------


def rows_to_be_written(folder: Path, size: Size) -> Callable[[], ValidationReport]:
    """Check the rows of every shard before they are written."""
    shards = [(path, shard_rows(shard, size)) for shard, path in enumerate(sources(folder, size))]
    rules = load_rules()
    return lambda: check_rows(shards, rules, KNOWN)


def shards_as_they_are(folder: Path, size: Size) -> Callable[[], ValidationReport]:
    """Check every shard's columns."""
    rules = load_rules()
    return lambda: check_shards(sources(folder, size), rules, KNOWN)


def index_floor(folder: Path, size: Size) -> Callable[[], None]:
    """Read episode_index, frame_index and timestamp, and do nothing with them."""
    return lambda: _read_all(sources(folder, size), FRAMES.names)


def column_floor(folder: Path, size: Size) -> Callable[[], None]:
    """Read the same columns and both language columns, and do nothing with them."""
    return lambda: _read_all(sources(folder, size), [*FRAMES.names, *LANGUAGE_COLUMNS])


def _read_all(paths: Sequence[Path], columns: Sequence[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda path: _read(path, columns), paths))


def _read(path: Path, columns: Sequence[str]) -> None:
    leaves = [f"{column}.list.element.{name}" for column in LANGUAGE_COLUMNS for name in ("role", "content", "style")]
    with pq.ParquetFile(path, pre_buffer=False, read_dictionary=leaves) as file:
        for group in range(file.num_row_groups):
            file.read_row_group(group, columns=list(columns), use_threads=False)


def run_apart(variant: Variant, folder: Path, size: Size) -> Cost:
    """Run a variant in a new process; its imports and the making of the rows are not timed."""
    receiving, sending = multiprocessing.get_context("spawn").Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=measure, args=(variant, folder, size, sending))
    child.start()
    sending.close()
    cost: Cost = receiving.recv()
    child.join()
    return cost


def measure(variant: Variant, folder: Path, size: Size, sending: Connection) -> None:
    """Send the cost of one variant."""
    work = variant(folder, size)
    cpu, wall = cpu_seconds(), time.perf_counter()
    verdict = work()
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    sending.send(Cost(wall_s=wall, cpu_s=cpu, peak_mb=peak_mb, verdict=verdict))


# --- the dataset -------------------------------------------------------------------------------------------------


def write(folder: Path, size: Size) -> None:
    """Write annotated shards, one row group an episode."""
    make(folder, size, one_group=False)
    jobs = [
        ShardJob(source=path, target=path, episodes=_episodes(shard_rows(shard, size), size))
        for shard, path in enumerate(sources(folder, size))
    ]
    for prepared in prepare_shards(jobs):
        prepared.commit()


def _episodes(rows: Mapping[int, Sequence[AnnotatedRow]], size: Size) -> tuple[EpisodeRows, ...]:
    return tuple(
        EpisodeRows(start=at * size.frames, stop=(at + 1) * size.frames, rows=tuple(one.row for one in mine))
        for at, mine in enumerate(rows.values())
    )


def shard_rows(shard: int, size: Size) -> dict[int, list[AnnotatedRow]]:
    """The rows of a shard's episodes, by episode index."""
    times = (np.arange(size.frames) / 30).astype(np.float32).tolist()
    indices = range(shard * size.episodes, (shard + 1) * size.episodes)
    return {index: [AnnotatedRow(row=row) for row in episode_rows(index, times)] for index in indices}


def episode_rows(episode: int, times: Sequence[float]) -> list[Row]:
    """30 persistent rows and 101 events that no rule finds fault with: speech, interjections, 47 pairs of vqa."""
    rows = [_state("subtask", KNOWN.subtasks[number], times[at]) for number, at in enumerate(STARTS)]
    rows += [_state("plan", f"{episode}: 1. {TEXT}\n2. {TEXT}", times[at]) for at in STARTS]
    rows += [_state("memory", f"{episode}: I {TEXT} at {at}.", times[at]) for at in STARTS[1:]]
    rows += [Row(role="user", content=f"{TEXT}, {n}", style="task_aug", timestamp=times[0]) for n in range(7)]
    rows += [_say("On it.", times[0]), *(_say("All right.", times[at]) for at in STARTS[1:4])]
    rows += [_event("interjection", "user", f"{episode}: wait", times[at], None) for at in STARTS[1:4]]
    for number in range(47):
        time_s, camera = times[20 * number + 7], CAMERAS[number % 2]
        answer = json.dumps(ANSWERS[number % 5], sort_keys=True)
        rows += [_event("vqa", "user", f"{episode}.{number}: what is there?", time_s, camera)]
        rows += [_event("vqa", "assistant", answer, time_s, camera)]
    return rows


def _state(style: str, content: str, timestamp: float) -> Row:
    return Row(role="assistant", content=content, style=style, timestamp=timestamp)


def _event(style: str, role: str, content: str, timestamp: float, camera: str | None) -> Row:
    return Row(role=role, content=content, style=style, timestamp=timestamp, camera=camera)


def _say(text: str, timestamp: float) -> Row:
    call = {"type": "function", "function": {"name": "say", "arguments": {"text": text}}}
    return Row(role="assistant", content=None, style=None, timestamp=timestamp, tool_calls=(json.dumps(call),))


# --- the report --------------------------------------------------------------------------------------------------


def report(rounds: Sequence[Mapping[str, Cost]], *, quick: bool) -> int:
    """Print every variant; 1 if a verdict is not clean, or a limit is broken."""
    verdicts = [cost.verdict for costs in rounds for cost in costs.values() if cost.verdict]
    first = verdicts[0]
    load = os.getloadavg()[0]
    print(f"{first.rules} rules, {first.frames:,} frames, {first.episodes:,} episodes, {first.rows:,} rows", end="; ")
    print(f"{len(rounds)} rounds, {os.cpu_count()} cores, load {load:.1f}")
    print(f"{'':22}{'wall s: least':>14}{'median':>8}{'CPU s':>8}{'× floor':>9}{'peak MB':>9}")
    floors = {"rows_to_be_written": "index_floor", "shards_as_they_are": "column_floor"}
    for name in rounds[0]:
        walls = [costs[name].wall_s for costs in rounds]
        cpu = min(costs[name].cpu_s for costs in rounds)
        ratio = median(costs[name].cpu_s / costs[floors.get(name, name)].cpu_s for costs in rounds)
        peak = max(costs[name].peak_mb for costs in rounds)
        print(f"{name:22}{min(walls):14.2f}{median(walls):8.2f}{cpu:8.2f}{ratio:9.1f}{peak:9.0f}")
    clean = all(not verdict.violations and verdict.rows == first.rows for verdict in verdicts)
    if not clean:
        print("BROKEN the rows are clean, and a rule found something")
    if quick:
        return int(not clean)
    least_s = min(costs["rows_to_be_written"].wall_s for costs in rounds)
    ratio = median(costs["shards_as_they_are"].cpu_s / costs["column_floor"].cpu_s for costs in rounds)
    measured = {
        f"rows_to_be_written, at most {LIMIT_S} s in the best round": (least_s, LIMIT_S),
        f"shards_as_they_are, at most {LIMIT_RATIO} × the CPU of its floor": (ratio, LIMIT_RATIO),
    }
    for name, (found, limit) in measured.items():
        print(f"{'ok    ' if found <= limit else 'BROKEN'} {name}: {found:.2f}")
    return int(not clean or any(found > limit for found, limit in measured.values()))


if __name__ == "__main__":
    sys.exit(main())
