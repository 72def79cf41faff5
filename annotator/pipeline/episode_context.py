"""An episode opened for its modules: its clock, its signals, its pictures, and what the log knows of it."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.config.settings import SyncSettings
from annotator.dataset.episodes import CameraSelection, EpisodeRecord
from annotator.dataset.footage import clip_of
from annotator.dataset.metadata import Camera, Dataset
from annotator.dataset.shard_scan import timestamps_of
from annotator.dataset.signals import Signals, signals_of
from annotator.modules.base import CameraView, Module, ModuleInput
from annotator.modules.plan.gripper_hints import gripper_times
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.pipeline.work_plan import EpisodeWork
from annotator.vlm.client import VlmClient
from annotator.vlm.session import PictureSource, SessionEpisode
from annotator_store.log.events import EpisodeAnnotated

if TYPE_CHECKING:
    from annotator.media.render_pool import RenderPool


class EpisodeContext(msgspec.Struct, frozen=True, kw_only=True):
    """One episode while its modules run. `clock`: (T,) float32 seconds, as stored."""

    job: EpisodeWork
    cast: CameraSelection
    subject: SessionEpisode
    clock: npt.NDArray[np.float32]

    def view(
        self, module: Module, settings: SyncSettings, before: EpisodeAnnotated | None, vocabulary: Vocabulary | None
    ) -> ModuleInput:
        """What one module sees of it. `before` is the annotation of the module that it follows."""
        one, rows = self.job.surveyed, before.rows if before else ()
        settled = before.task if before else None
        return ModuleInput(
            where=self.subject.where,
            digest=one.digest,
            task=one.task if settled is None else settled,
            timestamps=self.clock,
            seed=settings.seed,
            cameras=camera_views(one, module.cameras_of(self.cast)),
            vocabulary=vocabulary if module.uses_vocabulary else None,
            upstream=tuple(annotated.row for annotated in rows),
            borrowed=module.borrowed_values(settings),
            grippers=lambda: gripper_times(self.subject.signals()),
        )


def camera_views(one: EpisodeRecord, cameras: Iterable[Camera]) -> tuple[CameraView, ...]:
    """Describe those of some cameras whose footage of an episode can be read."""
    return tuple(
        CameraView(
            key=camera.key, footage=one.footage[camera.key], width_px=camera.width_px, height_px=camera.height_px
        )
        for camera in cameras
        if camera.key in one.footage
    )


async def open_episode(
    job: EpisodeWork, cameras: Iterable[Camera], cast: CameraSelection, dataset: Dataset, desk: VlmClient,
    studio: "RenderPool | None", stack: ExitStack,
) -> EpisodeContext:  # fmt: skip
    """Open one episode; its pictures are let go when `stack` is closed.

    Raises:
        DatasetError, FootageError: the shard or the footage cannot be read.
    """
    one = job.surveyed
    clock = await asyncio.to_thread(timestamps_of, dataset.root, one.episode.shard, one.scanned)
    pictures = await _pictures(one, cameras, clock, dataset, desk, studio, stack)
    signals: Callable[[], Signals] = cache(lambda: signals_of(dataset, one.episode.shard, one.scanned))
    subject = SessionEpisode(
        episode=one.digest,
        where=f"episode {one.episode.index}",
        signals_digest=one.scanned.signals,
        signals=signals,
        pictures=pictures,
        outcomes=await asyncio.to_thread(desk.outcomes, one.digest),
    )
    return EpisodeContext(job=job, cast=cast, subject=subject, clock=clock)


async def _pictures(
    one: EpisodeRecord, cameras: Iterable[Camera], clock: npt.NDArray[np.float32], dataset: Dataset, desk: VlmClient,
    studio: "RenderPool | None", stack: ExitStack,
) -> PictureSource | None:  # fmt: skip
    used = [camera for camera in cameras if camera.key in one.footage]
    if studio is None or not used:
        return None

    def counted(frames: int) -> None:
        desk.tally.frames_decoded += frames

    clips = {
        one.footage[camera.key]: await asyncio.to_thread(clip_of, dataset, camera, one.reel, clock) for camera in used
    }
    return stack.enter_context(studio.open(clips, counted))
