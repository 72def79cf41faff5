"""Sync: THE PATH. A dataset has episodes; frames and a prompt make an ask; a key is known, or it is called;
every call leaves one event; events fold to rows; rows project to shards."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

import msgspec

from annotator.config.settings import SyncSettings
from annotator.dataset.episodes import EpisodeRecord, read_episodes, remember_written
from annotator.dataset.linked_copy import link_dataset
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.pipeline.executor import Executor, episode_seen
from annotator.pipeline.fingerprints import fingerprints
from annotator.pipeline.locked import refuse_changes, refuse_unannotated, refuse_work
from annotator.pipeline.progress import Progress
from annotator.pipeline.resolve_vocabulary import resolve_vocabulary
from annotator.pipeline.run import Outcome, Run, prepare, record_run
from annotator.pipeline.run_stats import RunStats
from annotator.pipeline.setup_diff import explained, note_missing
from annotator.pipeline.validation_gate import ValidationGate, future_rule_context
from annotator.pipeline.work_plan import Agenda, agenda_of, left_out, list_work, overruled
from annotator.pipeline.write_shards import EpisodeTarget, ShardWriter
from annotator.provenance.publish import PublishedFrom, publish
from annotator.vlm.office import Office
from annotator.vlm.registry import check_engine
from annotator_store.atomic_files import sweep_leftovers
from annotator_store.errors import Problem, StoreError
from annotator_store.log.events import EpisodeSeen
from annotator_store.log.log import Log
from annotator_store.log.read_only import ReadingLog


class Annotated(msgspec.Struct, frozen=True, kw_only=True):
    """What is known when nothing more is to be asked, and what writes it down."""

    agenda: Agenda
    plotter: ShardWriter
    judge: ValidationGate
    vocabulary: Vocabulary | None


def sync(
    settings: SyncSettings, report: Progress, beside: Callable[[Log], AbstractContextManager[object]] = nullcontext
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
        # All is to be asked: with nobody there to answer, not even a store is made.
        asyncio.run(_refuse_without_engine(run))
    with (ReadingLog if settings.locked else Log).open(run.store) as log, beside(log):
        run = run.labelled(log)
        if not settings.locked:
            _sweep(run)
        tally = RunStats(report.changed)
        office = Office(run, log, tally, report)
        try:
            with explained(run):
                _annotate_and_project(office)
        except (KeyboardInterrupt, asyncio.CancelledError):
            _record(office, "interrupted", time.monotonic() - started)
            raise
        except Problem:
            with suppress(StoreError):  # the log itself may be what cannot be written: then the first problem is said
                _record(office, "failed", time.monotonic() - started)
            if tally.calls:  # they were paid for, or came from the log: what they took is to be seen
                report.close(tally, engine=office.engine, elapsed_s=time.monotonic() - started)
            raise
        outcome: Outcome = "incomplete" if tally.incomplete() else "done"
        _record(office, outcome, time.monotonic() - started)
    report.close(tally, engine=office.engine, elapsed_s=time.monotonic() - started)
    return outcome


def _sweep(run: Run) -> None:
    """Remove what a killed run left half-written."""
    for folder in ("data", "meta"):
        sweep_leftovers(run.target_root / folder)
    sweep_leftovers(run.target_root, deep=False)


def _record(office: Office, outcome: Outcome, elapsed_s: float) -> None:
    """Record how the run ended, unless it is to change nothing."""
    if not office.run.settings.locked:
        record_run(office.run, office.log, office.tally, office.engine, outcome, elapsed_s)


async def _refuse_without_engine(run: Run) -> None:
    await check_engine(run.settings.vlm, offline=run.settings.offline)


def _annotate_and_project(office: Office) -> None:
    run, log = office.run, office.log
    threads = run.settings.executor.decode_threads
    surveyed = read_episodes(run.dataset, log, run.cast.all, run.episodes, threads=threads)
    asked = [one for one in surveyed if one.episode.index in run.episodes]
    for note in run.notes:
        office.report.note(note)
    if run.target_root != run.dataset.root and not run.settings.locked:
        link_dataset(run.dataset.root, run.target_root, run.dataset.shards)
    if not run.settings.locked:
        _announce(run, log, asked)
    annotated = asyncio.run(_annotate(office, asked, surveyed))
    again = [] if run.settings.locked else overruled(asked, annotated.agenda, log, run.run_id)
    if again:
        log.record(*again).result()
    _project(office, surveyed, annotated)


def _project(office: Office, surveyed: Sequence[EpisodeRecord], annotated: Annotated) -> None:
    """Write the shards that are not right yet, then what their language was made from."""
    run, log, judge = office.run, office.log, annotated.judge
    wanted = _wanted(run, surveyed, annotated.agenda)
    basis = PublishedFrom(dataset=run.dataset.name, shards=run.dataset.shards)
    if run.settings.locked:
        refuse_changes(run, log, basis, annotated.plotter.pending(wanted))
        return
    try:
        written = annotated.plotter.project(wanted, threads=run.settings.executor.write_threads)
    finally:
        office.tally.broken_rules = judge.broken_rules()
        digests = {one.episode.index: one.digest for one in surveyed}
        office.tally.quarantined = {digests[index]: rules for index, rules in judge.broken_by().items()}
        judge.say(office.report.note)
    remember_written(run.dataset, log, written, surveyed)
    office.tally.shards_written = len(written)
    publish(run.target_root, log, basis, office.report.note)


def _announce(run: Run, log: Log, asked: Sequence[EpisodeRecord]) -> None:
    """Record where each episode that was asked for stands, and what of its footage can be read, where that is news."""
    known, unreadable = log.seen_episodes(), log.unreadable(run.dataset.name)
    footage = log.footage(run.dataset.name)
    news: list[EpisodeSeen] = []
    for one in asked:
        before = unreadable.get((one.digest, one.episode.index), {})
        seen = episode_seen(run.dataset, one, run.run_id, before)
        other = one.footage.items() - footage.get((one.digest, one.episode.index), {}).items()
        if (one.digest, run.dataset.name, one.episode.index) not in known or seen.unreadable != before or other:
            news.append(seen)
    if news:
        log.record(*news).result()


async def _annotate(office: Office, asked: Sequence[EpisodeRecord], surveyed: Sequence[EpisodeRecord]) -> Annotated:
    """Ask what is not known yet, and say which annotations the episodes are to show."""
    run, log, tally = office.run, office.log, office.tally
    try:
        vocabulary = await resolve_vocabulary(office, surveyed)
        judge = ValidationGate(run.rules, future_rule_context(run.dataset, vocabulary), run.settings)
        plotter = ShardWriter(run.dataset, run.target_root, log, run.run_id, judge)
        digest = vocabulary.digest if vocabulary else None
        rules = fingerprints(run.modules, run.settings, run.cast, run.prompts, run.model, digest)
        agenda = agenda_of(asked, rules, log, run.dataset.name)
        jobs = list_work(asked, rules, agenda, run.cast)
        for note in left_out(asked, rules, agenda):
            office.report.note(note)
        tally.episodes_total = len(asked) if rules else 0
        tally.episodes_skipped = tally.episodes_total - sum(len(job.copies) for job in jobs)
        if jobs:
            if run.settings.locked:
                refuse_work(run, jobs)
            plotter.refuse_unwritable(_wanted(run, surveyed, agenda))
            workshop = Executor(
                dataset=run.dataset, settings=run.settings, desk=office.desk, report=office.report, cast=run.cast,
                kitchens=rules, vocabulary=vocabulary,
            )  # fmt: skip
            office.report.begin(tally)
            try:
                await workshop.run(jobs)
            finally:
                office.report.end()
            note_missing(run, tally, office.report.note)
            agenda = agenda_of(asked, rules, log, run.dataset.name)
        return Annotated(agenda=agenda, plotter=plotter, judge=judge, vocabulary=vocabulary)
    finally:
        await office.aclose()


def _wanted(run: Run, surveyed: Sequence[EpisodeRecord], agenda: Agenda) -> list[EpisodeTarget]:
    """For every episode, the event each module's rows come from; None for episodes that were not asked for.

    A module that is off, or did not finish, has none: what the shard holds of it stays, whoever wrote it.
    """
    return [
        EpisodeTarget(
            surveyed=one, sources=agenda.sources(one.episode.index) if one.episode.index in run.episodes else None
        )
        for one in surveyed
    ]
