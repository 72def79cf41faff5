"""Sync: THE PATH. A dataset has episodes; frames and a prompt make an ask; a key is known, or it is called;
every call leaves one event; events fold to rows; rows project to shards."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import msgspec

from annotator import __version__
from annotator.config import SyncSettings, check, parse_episodes
from annotator.dataset import Dataset, open_dataset
from annotator.desk import Desk
from annotator.engine.base import Engine
from annotator.engine.choose import choose_engine
from annotator.models import model_of
from annotator.modules import plan
from annotator.output import link_dataset, refuse_overlap
from annotator.project import Plotter, Wanted
from annotator.prompts import Prompts, load_prompts
from annotator.recipe import Kitchen, plan_kitchen
from annotator.report import Report
from annotator.survey import Surveyed, remember_written, survey, watched_camera
from annotator.tally import Tally
from annotator.work import Job, Workshop, episode_seen
from store.digest import Digest
from store.errors import Problem, StoreError
from store.events import EpisodeAnnotated, RunFinished, utc_now
from store.keys import Model
from store.log import Log
from store.replace import sweep_leftovers

Outcome = Literal["done", "incomplete", "interrupted", "failed"]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What one run is about, once its settings, prompts and dataset are read and found good."""

    run_id: str
    started_at: datetime
    settings: SyncSettings
    dataset: Dataset
    target_root: Path
    episodes: frozenset[int]
    prompts: Prompts
    model: Model


def sync(settings: SyncSettings, report: Report) -> Outcome:
    """Annotate what is not annotated yet, and bring the shards up to date.

    Raises:
        Problem: the run cannot start, or its log or shards cannot be written. Answers that were kept stay kept.
        KeyboardInterrupt: after the log was closed in order.
    """
    started = time.monotonic()
    run = _prepare(settings)
    store = settings.store or run.target_root / ".annotator"
    if not store.exists() and settings.plan.enabled:
        # All is to be asked: with nobody there to answer, not even a store is made.
        asyncio.run(_refuse_without_engine(run))
    with Log.open(store) as log:
        run = msgspec.structs.replace(run, dataset=_labelled(run.dataset, store, log))
        for folder in ("data", "meta"):
            sweep_leftovers(run.target_root / folder)
        tally = Tally(report.changed)
        engine = "none needed"
        try:
            engine = _annotate_and_project(run, log, tally, report)
        except (KeyboardInterrupt, asyncio.CancelledError):
            _record_run(run, log, tally, engine, "interrupted", time.monotonic() - started)
            raise
        except Problem:
            with suppress(
                StoreError
            ):  # the log itself may be what cannot be written; the first problem is the one to say
                _record_run(run, log, tally, engine, "failed", time.monotonic() - started)
            raise
        outcome: Outcome = "incomplete" if tally.incomplete() else "done"
        _record_run(run, log, tally, engine, outcome, time.monotonic() - started)
    report.close(tally, engine=engine, elapsed_s=time.monotonic() - started)
    return outcome


async def _refuse_without_engine(run: Run) -> None:
    engine = await choose_engine(run.settings.vlm, lambda _: None, offline=run.settings.offline)
    await engine.aclose()


def _labelled(dataset: Dataset, store: Path, log: Log) -> Dataset:
    """Name the dataset in the log: where the log lies inside it, as it was first named, wherever it moved since.

    In a log that datasets share, the path tells apart those whose folders have one name.
    """
    if not store.resolve().is_relative_to(dataset.root.resolve()):
        return msgspec.structs.replace(dataset, name=str(dataset.root.resolve()))
    names = sorted({name for _, name, _ in log.seen_episodes()})
    return msgspec.structs.replace(dataset, name=names[0]) if names else dataset


def _prepare(settings: SyncSettings) -> Run:
    check(settings)
    prompts = load_prompts(settings.prompts)
    dataset = open_dataset(settings.root)
    if settings.output is not None:
        refuse_overlap(settings.root, settings.output)
    chosen = parse_episodes(settings.only_episodes, [e.index for e in dataset.episodes])
    return Run(
        run_id=uuid4().hex,
        started_at=utc_now(),
        settings=settings,
        dataset=dataset,
        target_root=settings.output or settings.root,
        episodes=frozenset(chosen),
        prompts=prompts,
        model=model_of(settings.vlm),
    )


def _annotate_and_project(run: Run, log: Log, tally: Tally, report: Report) -> str:
    settings = run.settings
    camera = watched_camera(run.dataset, settings.vlm.camera_key)
    threads = settings.executor.decode_threads
    surveyed = survey(run.dataset, log, camera, run.episodes, threads=threads)
    if run.target_root != run.dataset.root:
        link_dataset(run.dataset.root, run.target_root, run.dataset.shards)
    _announce(run, log, surveyed)
    recipes = _recipes(run, surveyed)
    jobs = _jobs(run, log, surveyed, recipes)
    tally.episodes_total = len(recipes)
    tally.episodes_skipped = len(recipes) - sum(job.copies for job in jobs)
    plotter = Plotter(run.dataset, run.target_root, log, run.run_id)
    engine = "none needed"
    if jobs:
        plotter.refuse_unwritable(_wanted(run, log, surveyed, recipes))
        engine = asyncio.run(_work(run, log, tally, report, jobs))
    _make_current(run, log, surveyed, recipes)
    wanted = _wanted(run, log, surveyed, recipes)
    written = plotter.project(wanted, threads=settings.executor.write_threads)
    remember_written(run.dataset, log, written, surveyed)
    tally.shards_written = len(written)
    return engine


def _announce(run: Run, log: Log, surveyed: Sequence[Surveyed]) -> None:
    """Record where each episode that was asked for stands, where the log does not know yet."""
    known = log.seen_episodes()
    news = [
        episode_seen(run.dataset, one, run.run_id)
        for one in surveyed
        if one.episode.index in run.episodes and (one.digest, run.dataset.name, one.episode.index) not in known
    ]
    if news:
        log.record(*news).result()


def _recipes(run: Run, surveyed: Sequence[Surveyed]) -> dict[int, Digest]:
    """The recipe of each episode that was asked for, by episode index; empty when the module is off."""
    if not run.settings.plan.enabled:
        return {}
    kitchen: Kitchen = plan_kitchen(run.settings, run.prompts, run.model)
    return {
        one.episode.index: kitchen.recipe(
            episode=one.digest, footage=one.footage, signals=one.scanned.signals, task=one.task
        )
        for one in surveyed
        if one.episode.index in run.episodes
    }


def _jobs(run: Run, log: Log, surveyed: Sequence[Surveyed], recipes: Mapping[int, Digest]) -> list[Job]:
    """The episodes whose recipe was never followed, or whose footage cannot be read; equal recipes once."""
    followed = log.recipes(set(recipes.values()))
    stale: dict[Digest, list[Surveyed]] = {}
    for one in surveyed:
        recipe = recipes.get(one.episode.index)
        if recipe is not None and (recipe not in followed or one.trouble is not None):
            stale.setdefault(recipe, []).append(one)
    return [Job(surveyed=n[0], module=plan.NAME, recipe=recipe, copies=len(n)) for recipe, n in stale.items()]


async def _work(run: Run, log: Log, tally: Tally, report: Report, jobs: Sequence[Job]) -> str:
    engine: Engine = await choose_engine(run.settings.vlm, report.note, offline=run.settings.offline)
    desk = Desk(
        log=log, engine=engine, model=run.model, seed=run.settings.seed, prompts=run.prompts, tally=tally,
        run_id=run.run_id, note=report.note,
    )  # fmt: skip
    report.begin(tally)
    try:
        await Workshop(run.dataset, run.settings, desk, report).run(jobs)
    finally:
        report.end()
        await engine.aclose()
    return f"{engine.name}, model {run.model.model_id}"


def _make_current(run: Run, log: Log, surveyed: Sequence[Surveyed], recipes: Mapping[int, Digest]) -> None:
    """Say again what an earlier run found, where a later run with other settings has overruled it since."""
    current = log.current()
    followed = log.recipes(set(recipes.values()))
    wanted_by_episode: dict[Digest, set[Digest]] = {}
    for one in surveyed:
        if one.episode.index in recipes:
            wanted_by_episode.setdefault(one.digest, set()).add(recipes[one.episode.index])
    overruled = [
        followed[recipe]
        for digest, wanted in wanted_by_episode.items()
        for recipe in sorted(wanted)
        if recipe in followed and (held := current.get((digest, plan.NAME))) and held.recipe not in wanted
    ]
    again = [_again(event, run.run_id) for event in log.annotations(overruled)]
    if again:
        log.record(*again).result()


def _again(event: EpisodeAnnotated, run_id: str) -> EpisodeAnnotated:
    return msgspec.structs.replace(event, recorded_at=utc_now(), run_id=run_id)


def _wanted(run: Run, log: Log, surveyed: Sequence[Surveyed], recipes: Mapping[int, Digest]) -> list[Wanted]:
    """For every episode, the event each module's rows come from; None for episodes that were not asked for.

    A module that is off, or did not finish, has none: what the shard holds of it stays, whoever wrote it.
    """
    followed = log.recipes(set(recipes.values()))
    wanted: list[Wanted] = []
    for one in surveyed:
        sources: dict[str, Digest] | None = None
        if one.episode.index in run.episodes:
            recipe = recipes.get(one.episode.index)
            event = followed.get(recipe) if recipe else None
            sources = {plan.NAME: event} if event else {}
        wanted.append(Wanted(surveyed=one, sources=sources))
    return wanted


def _record_run(run: Run, log: Log, tally: Tally, engine: str, outcome: Outcome, elapsed_s: float) -> None:
    arguments: dict[str, Any] = msgspec.to_builtins(run.settings, enc_hook=str)
    log.record(
        RunFinished(
            recorded_at=utc_now(),
            run_id=run.run_id,
            started_at=run.started_at,
            dataset=run.dataset.name,
            arguments=arguments,
            engine=engine,
            model_id=run.model.model_id,
            dataset_episodes=len(run.dataset.episodes),
            episodes=tally.episodes_total,
            episodes_skipped=tally.episodes_skipped,
            calls_answered=tally.calls["answered"],
            calls_hit=tally.calls["hit"],
            calls_failed=tally.calls["failed"],
            calls_declined=tally.calls["declined"],
            answers_rejected=tally.calls["rejected"],
            answered_by_step=dict(tally.answered_by_step),
            tokens_in=tally.tokens_in,
            tokens_out=tally.tokens_out,
            frames_decoded=tally.frames_decoded,
            shards_written=tally.shards_written,
            elapsed_s=round(elapsed_s, 3),
            outcome=outcome,
            versions={"annotator": __version__},
        )
    ).result()
