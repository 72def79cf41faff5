"""What a run would have to do, counted on a local copy of the dataset: nothing is asked, no shard is written."""

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from annotator.config.settings import SyncSettings
from annotator.dataset.episodes import CameraSelection, EpisodeRecord, read_episodes
from annotator.modules.registry import module_named
from annotator.pipeline.executor import Executor
from annotator.pipeline.fingerprints import fingerprints
from annotator.pipeline.progress import SilentProgress
from annotator.pipeline.resolve_vocabulary import resolve_vocabulary
from annotator.pipeline.run import prepare
from annotator.pipeline.run_stats import RunStats
from annotator.pipeline.work_plan import EpisodeWork, agenda_of, list_work
from annotator.vlm.base import Engine
from annotator.vlm.client import VlmClient
from annotator.vlm.office import Office
from annotator_store.digests import Digest
from annotator_store.log.events import AnyEvent, VocabularyEdited
from annotator_store.log.log import Log


class WorkEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """What is left to call for: `todo` is module → episodes. `calls` is an estimate from settings and lengths.

    `own_vocabulary`: a person wrote or edited the vocabulary, so that no log would give it to another machine.
    """

    episodes: int
    todo: dict[str, int]
    calls: int
    own_vocabulary: bool = False


class _WouldAsk(Exception):
    """Something has to be asked before anything else can be told."""


class _ClosedOffice(Office):
    """An office without an engine: whoever wants to ask something is turned away."""

    async def _open(self) -> Engine:
        raise _WouldAsk

    def reading_desk(self) -> VlmClient:
        """Make a desk at which nothing is written down, and no picture made."""
        run = self.run
        return _ReadingDesk(
            log=self.log, open_engine=self._open, looks=False, model=run.model, seed=run.settings.seed,
            prompts=run.prompts, tally=RunStats(), run_id=run.run_id, note=self.report.note,
        )  # fmt: skip


class _ReadingDesk(VlmClient):
    async def keep(self, *events: AnyEvent) -> None:
        """Leave it to the run itself to record what it finds in the log."""


def count_work(settings: SyncSettings) -> WorkEstimate:
    """Count the episodes for which `annotator sync` would call with these settings, and estimate its calls.

    The modules are run against the log, each until its first call that the log does not know. What was rejected or
    declined, and footage that cannot be read, is nothing to call for: asking again would bring the same.

    Takes the log's lock, and remembers in the log's cache what it read of the dataset.

    Raises:
        UsageError, PromptError, DatasetError, VocabularyError: the run itself would be refused for it.
        StoreError: the log is in use, or cannot be read.
    """
    run = prepare(settings)
    with Log.open(run.store) as log:
        run = run.labelled(log)
        surveyed = read_episodes(run.dataset, log, run.cast.all, run.episodes, threads=settings.executor.decode_threads)
        asked = [one for one in surveyed if one.episode.index in run.episodes]
        office = _ClosedOffice(run, log, RunStats(), SilentProgress())
        try:
            vocabulary = asyncio.run(resolve_vocabulary(office, surveyed))
        except _WouldAsk:
            return _everything(settings, run.cast, asked, [module.name for module in run.modules])
        digest = vocabulary.digest if vocabulary else None
        rules = fingerprints(run.modules, settings, run.cast, run.prompts, run.model, digest)
        jobs = list_work(asked, rules, agenda_of(asked, rules, log, run.dataset.name), run.cast)
        workshop = Executor(
            dataset=run.dataset, settings=settings, desk=office.reading_desk(), report=office.report, cast=run.cast,
            kitchens=rules, vocabulary=vocabulary,
        )  # fmt: skip
        left = _left(settings, run.cast, asyncio.run(_that_ask(workshop, jobs)))
        edited = vocabulary is not None and isinstance(log.vocabulary(run.dataset.name), VocabularyEdited)
    return msgspec.structs.replace(left, own_vocabulary=edited)


async def _that_ask(workshop: Executor, jobs: Sequence[EpisodeWork]) -> list[EpisodeWork]:
    """Keep the jobs that would ask, and of each the modules that would."""
    kept: list[EpisodeWork] = []
    for job in jobs:
        parts = [part for part in _parts(job) if await _asks(workshop, part)]
        if parts:
            todo = {name: recipe for part in parts for name, recipe in part.todo.items()}
            kept.append(msgspec.structs.replace(job, todo=todo))
    return kept


def _parts(job: EpisodeWork) -> list[EpisodeWork]:
    """Part a job into modules that wait for none of the others, each with those that follow it."""
    parts: dict[str, dict[str, Digest | None]] = {}
    for name, recipe in job.todo.items():
        head = name
        while (before := module_named(head).follows) in job.todo:
            head = before
        parts.setdefault(head, {})[name] = recipe
    return [msgspec.structs.replace(job, todo=todo) for todo in parts.values()]


async def _asks(workshop: Executor, job: EpisodeWork) -> bool:
    asks = False
    try:
        await workshop.run([job])
    except* _WouldAsk:
        asks = True
    return asks


def _everything(
    settings: SyncSettings, cast: CameraSelection, asked: Sequence[EpisodeRecord], modules: Iterable[str]
) -> WorkEstimate:
    todo = {name: len(asked) for name in modules}
    calls = sum(_calls(settings, cast, one, todo) for one in asked)
    return WorkEstimate(episodes=len(asked), todo=todo, calls=calls + 1)


def _left(settings: SyncSettings, cast: CameraSelection, jobs: Sequence[EpisodeWork]) -> WorkEstimate:
    todo: dict[str, int] = {}
    for job in jobs:
        for name in job.todo:
            todo[name] = todo.get(name, 0) + len(job.copies)
    calls = sum(_calls(settings, cast, job.surveyed, job.todo) for job in jobs)
    return WorkEstimate(episodes=sum(len(job.copies) for job in jobs), todo=todo, calls=calls)


def _calls(settings: SyncSettings, cast: CameraSelection, one: EpisodeRecord, names: Iterable[str]) -> int:
    seconds = one.scanned.duration_s
    return sum(
        module.estimate_calls(seconds, len(module.cameras_of(cast)), module.own_settings(settings))
        for module in map(module_named, names)
    )
