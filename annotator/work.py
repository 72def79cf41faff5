"""Work through the episodes that need it: many at once, no barrier between them, one failing alone."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from annotator.ask import Asker, PictureSource, Subject
from annotator.config import SyncSettings
from annotator.dataset import Dataset
from annotator.desk import Desk
from annotator.errors import AnnotatorError, StepError
from annotator.modules import plan
from annotator.modules.base import EpisodeView
from annotator.reels import clip_of
from annotator.report import Report
from annotator.scan import signals_of, timestamps_of
from annotator.survey import Surveyed
from store.digest import Digest
from store.errors import Problem
from store.events import CameraSeen, EpisodeAnnotated, EpisodeSeen, utc_now

if TYPE_CHECKING:
    from annotator.pictures import Studio


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One module to run for one episode, under its recipe; `copies` episodes of the dataset share it."""

    surveyed: Surveyed
    module: str
    recipe: Digest
    copies: int = 1


class Workshop:
    """Runs the jobs of one run."""

    def __init__(self, dataset: Dataset, settings: SyncSettings, desk: Desk, report: Report) -> None:
        self._dataset = dataset
        self._settings = settings
        self._desk = desk
        self._report = report
        self._studio: Studio | None = None

    async def run(self, jobs: Sequence[Job]) -> None:
        """Run all jobs, at most `executor.episode_parallelism` at once; an episode that fails is noted and counted."""
        with ExitStack() as stack:
            if self._desk.engine.looks:
                from annotator.pictures import Studio  # PyAV and Pillow are loaded only for an engine that looks

                self._studio = stack.enter_context(Studio(self._settings.executor.decode_threads))
            pending = iter(self._without_trouble(jobs))
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
                raise problems.exceptions[0] from group

    def _without_trouble(self, jobs: Sequence[Job]) -> list[Job]:
        """Leave out the episodes whose footage cannot be read; a file that fails many of them is said once."""
        troubled: defaultdict[str, list[Job]] = defaultdict(list)
        for job in jobs:
            if job.surveyed.trouble is not None:
                troubled[str(job.surveyed.trouble)].append(job)
        for trouble, failed in troubled.items():
            self._desk.tally.episode("failed", sum(job.copies for job in failed))
            indices = ", ".join(str(job.surveyed.episode.index) for job in failed)
            self._report.note(f"failed: episode{'s' * (len(failed) > 1)} {indices}: {trouble}")
        return [job for job in jobs if job.surveyed.trouble is None]

    async def _lane(self, pending: Iterator[Job]) -> None:
        for job in pending:
            if self._desk.stopped is not None:
                self._desk.tally.episode("failed", job.copies)
                continue
            await self._job(job)

    async def _job(self, job: Job) -> None:
        try:
            await self._annotate(job)
        except AnnotatorError as error:
            self._desk.tally.episode("failed", job.copies)
            self._report.note(failure_line(job, error))
        else:
            self._desk.tally.episode("done", job.copies)

    async def _annotate(self, job: Job) -> None:
        one = job.surveyed
        view = await asyncio.to_thread(self._view, one)
        with ExitStack() as stack:
            pictures = await self._pictures(one, view, stack)
            asker = Asker(self._desk, self._subject(one, view, pictures))
            found = await plan.annotate(view, asker, self._settings.plan)
        await self._desk.keep(
            EpisodeAnnotated(
                recorded_at=utc_now(),
                run_id=self._desk.run_id,
                episode=one.digest,
                module=job.module,
                recipe=job.recipe,
                engine=self._desk.engine.name,
                model_id=self._desk.model.model_id,
                calls=tuple(sorted(set(asker.calls))),
                rows=found.rows,
                gaps=found.gaps,
            )
        )

    def _view(self, one: Surveyed) -> EpisodeView:
        return EpisodeView(
            where=f"episode {one.episode.index}",
            task=one.task,
            clock=timestamps_of(self._dataset.root, one.episode.shard, one.scanned),
            camera=one.camera.key if one.camera else None,
            footage=one.footage,
        )

    def _subject(self, one: Surveyed, view: EpisodeView, pictures: PictureSource | None) -> Subject:
        return Subject(
            episode=one.digest,
            where=view.where,
            signals_digest=one.scanned.signals,
            signals=cache(lambda: signals_of(self._dataset, one.episode.shard, one.scanned)),
            pictures=pictures,
        )

    async def _pictures(self, one: Surveyed, view: EpisodeView, stack: ExitStack) -> PictureSource | None:
        if self._studio is None or one.camera is None or one.footage is None:
            return None
        clip = await asyncio.to_thread(clip_of, self._dataset, one.camera, one.reel, view.clock)
        return stack.enter_context(self._studio.open({one.footage: clip}, self._count_frames))

    def _count_frames(self, frames: int) -> None:
        self._desk.tally.frames_decoded += frames


def episode_seen(dataset: Dataset, one: Surveyed, run_id: str) -> EpisodeSeen:
    """Say where an episode stands in this dataset."""
    cameras = (CameraSeen(camera=one.camera.key, footage=one.footage),) if one.camera and one.footage else ()
    return EpisodeSeen(
        recorded_at=utc_now(),
        run_id=run_id,
        episode=one.digest,
        dataset=dataset.name,
        revision=None,
        episode_index=one.episode.index,
        tasks=(one.task,),
        frame_count=one.episode.length,
        duration_s=one.scanned.duration_s,
        cameras=cameras,
    )


def failure_line(job: Job, error: AnnotatorError) -> str:
    """Say in one note which episode failed and why."""
    line, _, hint = str(error).partition("\nhint: ")
    kept = " – what was answered is kept" if isinstance(error, StepError) else ""
    failed = f"failed: episode {job.surveyed.episode.index} {job.module}: {line}{kept}"
    return f"{failed}\nhint: {hint}" if hint else failed
