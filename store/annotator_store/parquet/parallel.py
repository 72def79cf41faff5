"""Prepare several shards at once, all or none, within a cap on memory. Arrow does its work outside Python's lock."""

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event

import msgspec

from annotator_store.memory_budget import MemoryBudget
from annotator_store.parquet.episode_language import EpisodeRows
from annotator_store.parquet.files import opened_shard
from annotator_store.parquet.rewrite import PreparedShard, prepare_shard

_OWN_BYTES = 96 << 20
"""What rewriting a shard needs beside its row group: broadcast rows, encoded pages, slices of the read-back."""


class ShardJob(msgspec.Struct, frozen=True, kw_only=True):
    """One call of `prepare_shard`."""

    source: Path
    target: Path
    episodes: tuple[EpisodeRows, ...]


def prepare_shards(
    jobs: Sequence[ShardJob], *, workers: int = 2, memory_bytes: int = 1 << 30
) -> tuple[PreparedShard, ...]:
    """Prepare every shard, in the order of `jobs`; when one fails, all that was prepared is discarded.

    Args:
        workers: threads, at least 1; each works on one shard.
        memory_bytes: a shard waits while its estimate and those of the shards in work together exceed this; one that
            exceeds it alone is rewritten by itself.

    Raises:
        ShardError: the first that failed, in the order of `jobs`. No target was touched.
    """
    budget, stopped = MemoryBudget(memory_bytes), Event()

    def prepare(job: ShardJob) -> PreparedShard | None:
        with budget.reserve(estimated_bytes(job.source)):
            return None if stopped.is_set() else prepare_shard(job.source, job.target, job.episodes)

    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="shards")
    futures = [pool.submit(prepare, job) for job in jobs]
    complete = False
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
        stopped.set()
        prepared = [future.result() for future in futures]
        complete = True
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
        if not complete:
            for future in futures:
                shard = None if future.cancelled() or future.exception() else future.result()
                if shard is not None:
                    shard.discard()
    return tuple(shard for shard in prepared if shard is not None)


def estimated_bytes(path: Path) -> int:
    """Estimate what rewriting a shard holds at once: its largest row group, decoded, and encoded anew.

    Raises:
        ShardError: the file cannot be read.
    """
    with opened_shard(path) as file:
        groups = [file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups)]
    return 3 * max(groups, default=0) + _OWN_BYTES
