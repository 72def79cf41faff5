"""Sync: THE PATH. A dataset has episodes; frames and a prompt make an ask; a key is known, or it is called;
every call leaves one event; events fold to rows; rows project to shards."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

import msgspec

from annotator.config.settings import SyncSettings
from annotator.dataset.episode_record import EpisodeRecord
from annotator.dataset.episodes import read_episodes, remember_written
from annotator.dataset.linked_copy import link_dataset
from annotator.dataset.metadata import Dataset
from annotator.pipeline.executor import Executor
from annotator.pipeline.fingerprints import fingerprints
from annotator.pipeline.locked import refuse_changes, refuse_unannotated, refuse_work
from annotator.pipeline.progress import Progress
from annotator.pipeline.resolve_vocabulary import resolve_vocabulary
from annotator.pipeline.run import Outcome, Run, prepare, record_run
from annotator.pipeline.run_stats import RunStats
from annotator.pipeline.setup_diff import explained, note_missing
from annotator.pipeline.validation_gate import ValidationGate, future_rule_context
from annotator.pipeline.work_plan import (
    AnnotationLookup,
    find_annotations,
    notes_of_left_out,
    plan_work,
    restated_annotations,
)
from annotator.pipeline.write_shards import EpisodeTarget, ShardWriter
from annotator.provenance.publish import PublishedFrom, publish
from annotator.vlm.base import Engine
from annotator.vlm.client import VlmClient
from annotator.vlm.registry import check_engine, choose_engine, looks
from annotator_store.atomic_files import sweep_leftovers
from annotator_store.errors import Problem, StoreError
from annotator_store.log.events import CameraSeen, EpisodeSeen, utc_now
from annotator_store.log.log import Log
from annotator_store.log.read_only import ReadingLog


class OpenRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run while its log is open."""

    run: Run
    log: Log
    client: VlmClient
    stats: RunStats
    progress: Progress


class Annotated(msgspec.Struct, frozen=True, kw_only=True):
    """What is known when nothing more is to be asked, and what writes it down."""

    lookup: AnnotationLookup
    writer: ShardWriter
    gate: ValidationGate


def sync(
    settings: SyncSettings, progress: Progress, beside: Callable[[Log], AbstractContextManager[object]] = nullcontext
) -> Outcome:
    """Annotate what is not annotated yet, and bring the shards up to date. `beside` is entered while the log is open.

    Raises:
        Problem: the run cannot start, or its log or shards cannot be written. Answers that were kept stay kept.
        KeyboardInterrupt: after the log was closed in order.
    """
    started = time.monotonic()
    run = prepare(settings)
    if settings.locked:
        refuse_unannotated(run)
    if not run.store.exists() and run.modules:
        # Everything is to be asked: with nobody there to answer, not even a store is made.
        asyncio.run(check_engine(settings.vlm, offline=settings.offline))
    with (ReadingLog if settings.locked else Log).open(run.store) as log, beside(log):
        opened = _open(run.named_in(log), log, progress)
        if not settings.locked:
            # Remove what a killed run left half-written.
            for folder in ("data", "meta"):
                sweep_leftovers(run.target_root / folder)
            sweep_leftovers(run.target_root, deep=False)
        try:
            with explained(opened.run):
                _annotate_and_project(opened)
        except (KeyboardInterrupt, asyncio.CancelledError):
            _record_outcome(opened, "interrupted", started)
            raise
        except Problem:
            with suppress(StoreError):  # the log itself may be what cannot be written: then the first problem is raised
                _record_outcome(opened, "failed", started)
            if opened.stats.calls.outcomes:  # they were paid for, or came from the log: what they took is to be seen
                _close_progress(opened, started)
            raise
        outcome: Outcome = "incomplete" if opened.stats.incomplete() else "done"
        _record_outcome(opened, outcome, started)
    _close_progress(opened, started)
    return outcome


def _open(run: Run, log: Log, progress: Progress) -> OpenRun:
    settings, stats = run.settings, RunStats(progress.changed)

    async def open_engine() -> Engine:
        return await choose_engine(settings.vlm, progress.note, offline=settings.offline, logs=run.store / "serve")

    client = VlmClient(
        log=log,
        record=log.record,
        open_engine=open_engine,
        looks=looks(settings),
        model=run.model,
        seed=settings.seed,
        prompts=run.prompts,
        stats=stats.calls,
        run_id=run.run_id,
        note=progress.note,
        max_failures=settings.max_failures,
    )
    return OpenRun(run=run, log=log, client=client, stats=stats, progress=progress)


def _record_outcome(opened: OpenRun, outcome: Outcome, started: float) -> None:
    """Record how the run ended, unless it is to change nothing."""
    if not opened.run.settings.locked:
        elapsed_s = time.monotonic() - started
        record_run(opened.run, opened.log, opened.stats, opened.client.engine_label, outcome, elapsed_s)


def _close_progress(opened: OpenRun, started: float) -> None:
    opened.progress.close(opened.stats, engine=opened.client.engine_label, elapsed_s=time.monotonic() - started)


def _annotate_and_project(opened: OpenRun) -> None:
    run, log, locked = opened.run, opened.log, opened.run.settings.locked
    threads = run.settings.executor.decode_threads
    records = read_episodes(run.dataset, log, run.cameras.all, run.episodes, threads=threads)
    asked_for = [record for record in records if record.index in run.episodes]
    for note in run.notes:
        opened.progress.note(note)
    if not locked:
        if run.target_root != run.dataset.root:
            link_dataset(run.dataset.root, run.target_root, run.dataset.shards)
        _record_seen(run, log, asked_for)
    annotated = asyncio.run(_annotate(opened, asked_for, records))
    if not locked:
        restated = restated_annotations(asked_for, annotated.lookup, log, run.run_id)
        if restated:
            log.record(*restated).result()
    _project(opened, records, annotated)


def _record_seen(run: Run, log: Log, records: Sequence[EpisodeRecord]) -> None:
    """Record where each episode that was asked for lies, and what of its footage can be read, where that is news."""
    name = run.dataset.name
    seen, unreadable, footage = log.seen_episodes(), log.unreadable(name), log.footage(name)
    news: list[EpisodeSeen] = []
    for record in records:
        place = record.digest, record.index
        before = unreadable.get(place, {})
        event = episode_seen(run.dataset, record, run.run_id, before)
        new_footage = record.footage.items() - footage.get(place, {}).items()
        if (record.digest, name, record.index) not in seen or event.unreadable != before or new_footage:
            news.append(event)
    if news:
        log.record(*news).result()


def episode_seen(dataset: Dataset, record: EpisodeRecord, run_id: str, before: Mapping[str, str]) -> EpisodeSeen:
    """Describe an episode of this dataset. `before`: what could not be read; of cameras not in use it stays."""
    unseen = {key: reason for key, reason in before.items() if key not in record.footage}
    return EpisodeSeen(
        recorded_at=utc_now(),
        run_id=run_id,
        episode=record.digest,
        dataset=dataset.name,
        revision=dataset.revision,
        episode_index=record.index,
        tasks=(record.task,),
        frame_count=record.frame_count,
        duration_s=record.duration_s,
        cameras=tuple(CameraSeen(camera=key, footage=footage) for key, footage in sorted(record.footage.items())),
        unreadable=unseen | {key: error.line for key, error in record.footage_errors.items()},
    )


async def _annotate(opened: OpenRun, asked_for: Sequence[EpisodeRecord], records: Sequence[EpisodeRecord]) -> Annotated:
    """Ask what is not known yet, and say which annotations the episodes are to show."""
    run, log, stats, progress, client = opened.run, opened.log, opened.stats, opened.progress, opened.client
    try:
        vocabulary = await resolve_vocabulary(run, log, records, client, progress)
        gate = ValidationGate(run.rules, future_rule_context(run.dataset, vocabulary), run.settings)
        writer = ShardWriter(run.dataset, run.target_root, log, run.run_id, gate)
        digest = vocabulary.digest if vocabulary else None
        makers = fingerprints(run.modules, run.settings, run.cameras, run.prompts, run.model, digest)
        plan = plan_work(asked_for, makers, log, run.dataset.name)
        for note in notes_of_left_out(plan):
            progress.note(note)
        stats.episodes_total, stats.episodes_skipped = plan.episodes, plan.episodes_up_to_date
        lookup = plan.lookup
        if plan.work:
            if run.settings.locked:
                refuse_work(run, plan)
            writer.refuse_unwritable(_targets(run, records, lookup))
            executor = Executor(
                dataset=run.dataset, settings=run.settings, client=client, stats=stats, progress=progress,
                cameras=run.cameras, makers=makers, vocabulary=vocabulary,
            )  # fmt: skip
            progress.begin(stats)
            try:
                await executor.run(plan.work)
            finally:
                progress.end()
            note_missing(run, stats.calls, progress.note)
            lookup = find_annotations(asked_for, makers, log, run.dataset.name)
        return Annotated(lookup=lookup, writer=writer, gate=gate)
    finally:
        await client.aclose()


def _project(opened: OpenRun, records: Sequence[EpisodeRecord], annotated: Annotated) -> None:
    """Write the shards that are out of date, then what their language was made from."""
    run, log, gate, stats = opened.run, opened.log, annotated.gate, opened.stats
    targets = _targets(run, records, annotated.lookup)
    published_from = PublishedFrom(dataset=run.dataset.name, shards=run.dataset.shards)
    if run.settings.locked:
        refuse_changes(run, log, published_from, annotated.writer.pending(targets))
        return
    try:
        written = annotated.writer.project(targets, threads=run.settings.executor.write_threads)
    finally:
        stats.violations = gate.violations()
        digests = {record.index: record.digest for record in records}
        stats.quarantined = {digests[index]: rules for index, rules in gate.violations_by_episode().items()}
        gate.describe(opened.progress.note)
    remember_written(run.dataset, log, written, records)
    stats.shards_written = len(written)
    publish(run.target_root, log, published_from, opened.progress.note)


def _targets(run: Run, records: Sequence[EpisodeRecord], lookup: AnnotationLookup) -> list[EpisodeTarget]:
    """Return, for every episode, the event each module's rows come from; None for episodes that were not asked for.

    A module that is off, or did not finish, has none: what the shard holds of it stays, whoever wrote it.
    """
    return [
        EpisodeTarget(record=record, sources=lookup.sources(record.index) if record.index in run.episodes else None)
        for record in records
    ]
