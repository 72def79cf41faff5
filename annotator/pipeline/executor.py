"""Work through the episodes that need it: many at once, no barrier between them or their modules, one failing alone."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from annotator.config.settings import SyncSettings
from annotator.dataset.episodes import CameraSelection, EpisodeRecord
from annotator.dataset.metadata import Dataset
from annotator.errors import AnnotatorError, NoEngine, NotInLog, StepError
from annotator.modules.base import Module
from annotator.modules.registry import module_named
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.pipeline.episode_context import EpisodeContext, open_episode
from annotator.pipeline.fingerprints import ModuleFingerprints
from annotator.pipeline.progress import Progress
from annotator.pipeline.work_plan import EpisodeWork
from annotator.vlm.client import VlmClient
from annotator.vlm.session import EpisodeSession
from annotator_store.digests import Digest
from annotator_store.errors import Problem
from annotator_store.log.events import CameraSeen, EpisodeAnnotated, EpisodeSeen, utc_now
from annotator_store.log.folds import rows_digest

if TYPE_CHECKING:
    from annotator.media.render_pool import RenderPool


class Executor:
    """Runs the jobs of one run."""

    def __init__(
        self,
        *,
        dataset: Dataset,
        settings: SyncSettings,
        desk: VlmClient,
        report: Progress,
        cast: CameraSelection,
        kitchens: Mapping[str, ModuleFingerprints],
        vocabulary: Vocabulary | None,
    ) -> None:
        self._dataset = dataset
        self._settings = settings
        self._desk = desk
        self._report = report
        self._cast = cast
        self._kitchens = kitchens
        self._vocabulary = vocabulary
        self._studio: RenderPool | None = None

    async def run(self, jobs: Sequence[EpisodeWork]) -> None:
        """Run all jobs, at most `executor.episode_parallelism` at once; an episode that fails is noted and counted."""
        self._note_troubles(jobs)
        with ExitStack() as stack:
            if self._desk.looks:
                from annotator.media.render_pool import (
                    RenderPool,  # PyAV and Pillow are loaded only for an engine that looks
                )

                self._studio = stack.enter_context(RenderPool(self._settings.executor.decode_threads))
            pending = iter(jobs)
            lanes = min(self._settings.executor.episode_parallelism, len(jobs))
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(lanes):
                        group.create_task(self._lane(pending))
            except ExceptionGroup as group:
                # The log cannot be written: one lane's message says it, the others would only repeat it.
                problems, others = group.split(Problem)
                if problems is None or others is not None:
                    raise
                raise _first(problems) from group

    def _note_troubles(self, jobs: Sequence[EpisodeWork]) -> None:
        """Say which footage cannot be read; a file that fails many episodes is said once."""
        troubled: defaultdict[str, list[int]] = defaultdict(list)
        for job in jobs:
            for trouble in {str(t) for name in job.todo if (t := self._trouble(job, name))}:
                troubled[trouble] += job.copies
        for trouble, failed in troubled.items():
            indices = ", ".join(str(index) for index in failed)
            self._report.note(f"failed: episode{'s' * (len(failed) > 1)} {indices}: {trouble}")

    def _trouble(self, job: EpisodeWork, name: str) -> AnnotatorError | None:
        return job.surveyed.trouble(module_named(name).cameras_of(self._cast))

    async def _lane(self, pending: Iterator[EpisodeWork]) -> None:
        for job in pending:
            done = self._desk.stopped is None and await self._job(job)
            self._desk.tally.episode("done" if done else "failed", len(job.copies))

    async def _job(self, job: EpisodeWork) -> bool:
        """Run an episode's modules side by side, each after the one it follows; True if none failed."""
        sound = {name: recipe for name, recipe in job.todo.items() if self._trouble(job, name) is None}
        heads = [module_named(name) for name in sound if module_named(name).follows not in sound]
        if not heads:
            return False
        modules = [module_named(name) for name in sound]
        cameras = {camera.key: camera for module in modules for camera in module.cameras_of(self._cast)}
        with ExitStack() as stack:
            try:
                episode = await open_episode(
                    job, cameras.values(), self._cast, self._dataset, self._desk, self._studio, stack
                )
            except AnnotatorError as error:
                self._report.note(failure_line(job, heads[0].name, error))
                return False
            async with asyncio.TaskGroup() as group:
                chains = [group.create_task(self._from(episode, module, sound)) for module in heads]
        return len(sound) == len(job.todo) and all(chain.result() for chain in chains)

    async def _from(self, episode: EpisodeContext, module: Module, sound: Mapping[str, Digest | None]) -> bool:
        """Run a module that waits for none, with the rows that an earlier run found for it to follow."""
        event = episode.job.upstream.get(module.name)
        before = await asyncio.to_thread(self._desk.log.annotation, event) if event else None
        recipe = sound[module.name]
        assert recipe is not None, "only a module that follows another one may wait for its recipe"
        return await self._chain(episode, module, recipe, before, sound)

    async def _chain(
        self,
        episode: EpisodeContext,
        module: Module,
        recipe: Digest,
        before: EpisodeAnnotated | None,
        sound: Mapping[str, Digest | None],
    ) -> bool:
        """Run one module, then those that follow it; True if none failed."""
        try:
            found = await self._annotate(episode, module, recipe, before)
        except NoEngine:
            raise
        except NotInLog:
            return False  # said once, of all episodes together
        except AnnotatorError as error:
            self._report.note(failure_line(episode.job, module.name, error))
            return False
        done = True
        for follower in [module_named(name) for name in sound if module_named(name).follows == module.name]:
            after = self._kitchens[follower.name].recipe(episode.job.surveyed, rows_digest(found))
            if not await asyncio.to_thread(self._desk.log.recipes, [after]):
                done = await self._chain(episode, follower, after, found, sound) and done
        return done

    async def _annotate(
        self, episode: EpisodeContext, module: Module, recipe: Digest, before: EpisodeAnnotated | None
    ) -> EpisodeAnnotated:
        asker = EpisodeSession(self._desk, episode.subject)
        view = episode.view(module, self._settings, before, self._vocabulary)
        found = await module.annotate(view, asker, module.own_settings(self._settings))
        event = EpisodeAnnotated(
            recorded_at=utc_now(),
            run_id=self._desk.run_id,
            episode=episode.job.surveyed.digest,
            module=module.name,
            recipe=recipe,
            engine=self._desk.engine_name,
            model_id=self._desk.model.model_id,
            calls=tuple(sorted(set(asker.calls))),
            rows=found.rows,
            gaps=found.gaps,
            task=found.task,
            setup=self._kitchens[module.name].used,
        )
        await self._desk.keep(event)
        return event


def _first(problems: ExceptionGroup[Problem]) -> Problem:
    one = problems.exceptions[0]
    return _first(one) if isinstance(one, ExceptionGroup) else one


def episode_seen(dataset: Dataset, one: EpisodeRecord, run_id: str, before: Mapping[str, str]) -> EpisodeSeen:
    """Say where an episode stands in this dataset. `before`: what could not be read; of cameras not in use it stays."""
    unseen = {key: why for key, why in before.items() if key not in one.footage}
    return EpisodeSeen(
        recorded_at=utc_now(),
        run_id=run_id,
        episode=one.digest,
        dataset=dataset.name,
        revision=dataset.revision,
        episode_index=one.episode.index,
        tasks=(one.task,),
        frame_count=one.episode.length,
        duration_s=one.scanned.duration_s,
        cameras=tuple(CameraSeen(camera=key, footage=footage) for key, footage in sorted(one.footage.items())),
        unreadable=unseen | {key: trouble.line for key, trouble in one.troubles.items()},
    )


def failure_line(job: EpisodeWork, module: str, error: AnnotatorError) -> str:
    """Say in one note which episode failed and why."""
    line, _, hint = str(error).partition("\nhint: ")
    kept = " – what was answered is kept" if isinstance(error, StepError) else ""
    failed = f"failed: episode {job.surveyed.episode.index} {module}: {line}{kept}"
    return f"{failed}\nhint: {hint}" if hint else failed
