"""Plan a run: what `sync` would do with these settings, found out without asking anything."""

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

import msgspec

from annotator.config.settings import SyncSettings
from annotator.dataset.episode_record import EpisodeRecord
from annotator.dataset.episodes import read_episodes
from annotator.modules.registry import module_named
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.pipeline.executor import Executor
from annotator.pipeline.fingerprints import ModuleFingerprints, fingerprints
from annotator.pipeline.progress import SilentProgress
from annotator.pipeline.resolve_vocabulary import look_up_vocabulary
from annotator.pipeline.run import Run, prepare
from annotator.pipeline.run_stats import RunStats
from annotator.pipeline.work_plan import AnnotationLookup, EpisodeWork, PlannedModule, RunPlan, plan_work
from annotator.vlm.base import Engine
from annotator.vlm.call_stats import CallStats
from annotator.vlm.client import VlmClient
from annotator_store.log.events import AnyEvent, VocabularyEdited
from annotator_store.log.log import Log


class CallNeeded(Exception):
    """Planning has come to a call that the log does not know: what follows from its answer cannot be told."""


def plan_run(settings: SyncSettings) -> RunPlan:
    """Plan what `annotator sync` would do with these settings, and estimate its calls.

    The modules are run against the log, each until its first call that the log does not know. What was rejected or
    declined, and footage that cannot be read, needs no call: asking again would bring the same.

    Takes the log's lock, and remembers in the log's cache what it read of the dataset. Records no event.

    Raises:
        UsageError, PromptError, DatasetError, VocabularyError: the run itself would be refused for it.
        StoreError: the log is in use, or cannot be read.
    """
    run = prepare(settings)
    with Log.open(run.store) as log:
        run = run.named_in(log)
        read = read_episodes(run.dataset, log, run.cameras.all, run.episodes, threads=settings.executor.decode_threads)
        records = [record for record in read if record.index in run.episodes]
        vocabulary = look_up_vocabulary(run, log, read)
        if vocabulary.discovery is not None:
            return _plan_everything(run, records)
        digest = vocabulary.vocabulary.digest if vocabulary.vocabulary else None
        makers = fingerprints(run.modules, settings, run.cameras, run.prompts, run.model, digest)
        plan = plan_work(records, makers, log, run.dataset.name)
        work = asyncio.run(_mark_asking(run, log, makers, vocabulary.vocabulary, plan.work))
        own = vocabulary.edit is not None or (
            vocabulary.vocabulary is not None and isinstance(log.vocabulary(run.dataset.name), VocabularyEdited)
        )
    calls = sum(
        _estimate_calls(run, episode.record, asking)
        for episode in work
        if (asking := [name for name, module in episode.modules.items() if module.asks])
    )
    return msgspec.structs.replace(plan, work=work, estimated_calls=calls, own_vocabulary=own)


def _plan_everything(run: Run, records: Sequence[EpisodeRecord]) -> RunPlan:
    """Plan a run whose vocabulary must be asked for first: every module of every episode depends on it, or may."""
    modules = {module.name: PlannedModule(fingerprint=None, reason="new") for module in run.modules}
    calls = sum(_estimate_calls(run, record, modules) for record in records)
    return RunPlan(
        episodes=len(records),
        work=tuple(EpisodeWork(record=record, modules=modules, copies=(record.index,)) for record in records),
        lookup=AnnotationLookup(fingerprints={}, follows={}, known={}),
        estimated_calls=calls + 1,
        discovers_vocabulary=True,
    )


async def _mark_asking(
    run: Run,
    log: Log,
    makers: dict[str, ModuleFingerprints],
    vocabulary: Vocabulary | None,
    work: Sequence[EpisodeWork],
) -> tuple[EpisodeWork, ...]:
    """Run the modules of all work against the log alone, and mark those that would ask."""
    client = VlmClient(
        log=log, record=_record_nothing, open_engine=_ask_nobody, looks=False, model=run.model, seed=run.settings.seed,
        prompts=run.prompts, stats=CallStats(), run_id=run.run_id, note=lambda _: None,
    )  # fmt: skip
    executor = Executor(
        dataset=run.dataset, settings=run.settings, client=client, stats=RunStats(), progress=SilentProgress(),
        cameras=run.cameras, makers=makers, vocabulary=vocabulary,
    )  # fmt: skip
    marked: list[EpisodeWork] = []
    for episode in work:
        asking: set[str] = set()
        for names in _chains(episode):
            try:
                await executor.run([episode.only(names)])
            except* CallNeeded:
                asking |= set(names)
        modules = {
            name: msgspec.structs.replace(module, asks=name in asking) for name, module in episode.modules.items()
        }
        marked.append(msgspec.structs.replace(episode, modules=modules))
    return tuple(marked)


def _chains(work: EpisodeWork) -> Iterable[list[str]]:
    """Split an episode's modules into chains: one that waits for none of the others, and those that follow it."""
    chains: dict[str, list[str]] = {}
    for name in work.modules:
        head = name
        while (after := module_named(head).follows) in work.modules:
            head = after
        chains.setdefault(head, []).append(name)
    return chains.values()


async def _ask_nobody() -> Engine:
    raise CallNeeded


def _record_nothing(*events: AnyEvent) -> "Future[None]":
    """Leave it to the run itself to record what it finds in the log."""
    done: Future[None] = Future()
    done.set_result(None)
    return done


def _estimate_calls(run: Run, record: EpisodeRecord, names: Iterable[str]) -> int:
    """Estimate the calls of some modules for one episode: rather too many, since some depend on the answers."""
    return sum(
        module.estimate_calls(record.duration_s, len(module.cameras_of(run.cameras)), module.own_settings(run.settings))
        for module in map(module_named, names)
    )
