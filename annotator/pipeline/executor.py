"""Run the planned work: episodes and their modules run concurrently, and a failure stays with its episode."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from annotator.config.settings import SyncSettings
from annotator.dataset.cameras import CameraSelection
from annotator.dataset.metadata import Dataset
from annotator.errors import AnnotatorError, FootageError, NoEngine, NotInLog, StepError
from annotator.modules.base import Module
from annotator.modules.registry import module_named
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.pipeline.episode_context import EpisodeContext, open_episode
from annotator.pipeline.fingerprints import ModuleFingerprints
from annotator.pipeline.progress import Progress
from annotator.pipeline.run_stats import RunStats
from annotator.pipeline.work_plan import EpisodeWork
from annotator.vlm.client import VlmClient
from annotator.vlm.session import EpisodeSession
from annotator_store.digests import Digest
from annotator_store.errors import Problem
from annotator_store.log.events import EpisodeAnnotated, utc_now
from annotator_store.log.folds import rows_digest

if TYPE_CHECKING:
    from annotator.media.render_pool import RenderPool


class Executor:
    """Runs modules for episodes and records what they annotate."""

    def __init__(
        self,
        *,
        dataset: Dataset,
        settings: SyncSettings,
        client: VlmClient,
        stats: RunStats,
        progress: Progress,
        cameras: CameraSelection,
        makers: Mapping[str, ModuleFingerprints],
        vocabulary: Vocabulary | None,
    ) -> None:
        self._dataset = dataset
        self._settings = settings
        self._client = client
        self._stats = stats
        self._progress = progress
        self._cameras = cameras
        self._makers = makers
        self._vocabulary = vocabulary
        self._pool: RenderPool | None = None

    async def run(self, work: Sequence[EpisodeWork]) -> None:
        """Run all work, at most `executor.episode_parallelism` episodes at once; a failed episode is noted and counted.

        Raises:
            NoEngine: there is no engine to ask.
            Problem: the log cannot be written.
        """
        self._note_unreadable(work)
        with ExitStack() as stack:
            if self._client.looks:
                # PyAV and Pillow are loaded only for an engine that wants pictures.
                from annotator.media.render_pool import RenderPool

                self._pool = stack.enter_context(RenderPool(self._settings.executor.decode_threads))
            pending = iter(work)
            workers = min(self._settings.executor.episode_parallelism, len(work))
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(workers):
                        group.create_task(self._work_off(pending))
            except ExceptionGroup as group:
                # The log cannot be written: one worker's message says it, the others would only repeat it.
                problems, others = group.split(Problem)
                if problems is None or others is not None:
                    raise
                first: BaseException = problems
                while isinstance(first, BaseExceptionGroup):  # task groups nest: episodes, then their modules
                    first = first.exceptions[0]
                raise first from group

    def _note_unreadable(self, work: Sequence[EpisodeWork]) -> None:
        """Note which footage cannot be read; a file that fails many episodes is noted once."""
        failed: defaultdict[str, list[int]] = defaultdict(list)
        for episode in work:
            for message in {str(error) for name in episode.modules if (error := self._footage_error(episode, name))}:
                failed[message] += episode.copies
        for message, indices in failed.items():
            listed = ", ".join(str(index) for index in indices)
            self._progress.note(f"failed: episode{'s' * (len(indices) > 1)} {listed}: {message}")

    def _footage_error(self, work: EpisodeWork, name: str) -> FootageError | None:
        return work.record.error_of(module_named(name).cameras_of(self._cameras))

    async def _work_off(self, pending: Iterator[EpisodeWork]) -> None:
        for work in pending:
            done = self._client.stopped is None and await self._run_episode(work)
            self._stats.episode("done" if done else "failed", len(work.copies))

    async def _run_episode(self, work: EpisodeWork) -> bool:
        """Run an episode's modules concurrently, each after the one it follows; return whether all succeeded."""
        readable = work.only(name for name in work.modules if self._footage_error(work, name) is None)
        modules = [module_named(name) for name in readable.modules]
        heads = [module for module in modules if module.follows not in readable.modules]
        if not heads:
            return False
        shown = {camera.key: camera for module in modules for camera in module.cameras_of(self._cameras)}
        with ExitStack() as stack:
            try:
                context = await open_episode(
                    work.record, shown.values(), self._cameras, self._dataset, self._client, self._pool, stack
                )
            except AnnotatorError as error:
                self._progress.note(failure_line(work, heads[0].name, error))
                return False
            async with asyncio.TaskGroup() as group:
                chains = [group.create_task(self._run_head(context, module, readable)) for module in heads]
        return len(readable.modules) == len(work.modules) and all(chain.result() for chain in chains)

    async def _run_head(self, context: EpisodeContext, module: Module, work: EpisodeWork) -> bool:
        """Run a module that waits for none, with the rows of an earlier run to follow, and all that follow it."""
        planned = work.modules[module.name]
        follows = None
        if planned.follows is not None:
            follows = await asyncio.to_thread(self._client.log.annotation, planned.follows)
        assert planned.fingerprint is not None, "only a module that follows another one may wait for its fingerprint"
        return await self._run_chain(context, module, planned.fingerprint, follows, work)

    async def _run_chain(
        self,
        context: EpisodeContext,
        module: Module,
        fingerprint: Digest,
        follows: EpisodeAnnotated | None,
        work: EpisodeWork,
    ) -> bool:
        """Run one module, then those that follow it; return whether all succeeded."""
        try:
            annotation = await self._annotate(context, module, fingerprint, follows)
        except NoEngine:
            raise
        except NotInLog:
            return False  # noted once, for all episodes together
        except AnnotatorError as error:
            self._progress.note(failure_line(work, module.name, error))
            return False
        done = True
        for follower in [module_named(name) for name in work.modules if module_named(name).follows == module.name]:
            after = self._makers[follower.name].fingerprint(work.record, rows_digest(annotation))
            if not await asyncio.to_thread(self._client.log.recipes, [after]):
                done = await self._run_chain(context, follower, after, annotation, work) and done
        return done

    async def _annotate(
        self, context: EpisodeContext, module: Module, fingerprint: Digest, follows: EpisodeAnnotated | None
    ) -> EpisodeAnnotated:
        ask = EpisodeSession(self._client, context.session)
        module_input = context.module_input(module, self._settings, follows, self._vocabulary)
        output = await module.annotate(module_input, ask, module.own_settings(self._settings))
        event = EpisodeAnnotated(
            recorded_at=utc_now(),
            run_id=self._client.run_id,
            episode=context.record.digest,
            module=module.name,
            recipe=fingerprint,
            engine=self._client.engine_name,
            model_id=self._client.model.model_id,
            calls=tuple(sorted(set(ask.calls))),
            rows=output.rows,
            gaps=output.gaps,
            task=output.task,
            setup=self._makers[module.name].used,
        )
        await self._client.keep(event)
        return event


def failure_line(work: EpisodeWork, module: str, error: AnnotatorError) -> str:
    """Return the note that names the failed episode and the cause."""
    line, _, hint = str(error).partition("\nhint: ")
    kept = " – what was answered is kept" if isinstance(error, StepError) else ""
    failed = f"failed: episode {work.record.index} {module}: {line}{kept}"
    return f"{failed}\nhint: {hint}" if hint else failed
