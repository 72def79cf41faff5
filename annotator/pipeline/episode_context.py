"""An episode opened for its modules: its timestamps, its signals, its pictures, and what the log knows of it."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.config.settings import SyncSettings
from annotator.dataset.cameras import CameraSelection
from annotator.dataset.episode_record import EpisodeRecord
from annotator.dataset.footage import locate_clip
from annotator.dataset.metadata import Camera, Dataset
from annotator.dataset.shard_scan import read_timestamps
from annotator.dataset.signals import Signals, read_signals
from annotator.modules.base import CameraView, Module, ModuleInput
from annotator.modules.plan.gripper_hints import gripper_times
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.vlm.client import VlmClient
from annotator.vlm.session import PictureSource, SessionEpisode
from annotator_store.log.events import EpisodeAnnotated

if TYPE_CHECKING:
    from annotator.media.render_pool import RenderPool


class EpisodeContext(msgspec.Struct, frozen=True, kw_only=True):
    """One episode while its modules run. `timestamps`: (T,) float32 seconds, as stored."""

    record: EpisodeRecord
    cameras: CameraSelection
    session: SessionEpisode
    timestamps: npt.NDArray[np.float32]

    def module_input(
        self, module: Module, settings: SyncSettings, follows: EpisodeAnnotated | None, vocabulary: Vocabulary | None
    ) -> ModuleInput:
        """Return what one module sees of the episode. `follows` is the annotation of the module that it follows."""
        task = follows.task if follows else None
        return ModuleInput(
            where=self.session.where,
            digest=self.record.digest,
            task=self.record.task if task is None else task,
            timestamps=self.timestamps,
            seed=settings.seed,
            cameras=camera_views(self.record, module.cameras_of(self.cameras)),
            vocabulary=vocabulary if module.uses_vocabulary else None,
            upstream=tuple(annotated.row for annotated in follows.rows) if follows else (),
            borrowed=module.borrowed_values(settings),
            grippers=lambda: gripper_times(self.session.signals()),
        )


def camera_views(record: EpisodeRecord, cameras: Iterable[Camera]) -> tuple[CameraView, ...]:
    """Describe those of some cameras whose footage of an episode can be read."""
    return tuple(
        CameraView(
            key=camera.key, footage=record.footage[camera.key], width_px=camera.width_px, height_px=camera.height_px
        )
        for camera in cameras
        if camera.key in record.footage
    )


async def open_episode(
    record: EpisodeRecord,
    shown: Iterable[Camera],
    cameras: CameraSelection,
    dataset: Dataset,
    client: VlmClient,
    pool: "RenderPool | None",
    stack: ExitStack,
) -> EpisodeContext:
    """Open one episode, with the footage of the cameras in `shown`; its pictures are released when `stack` is closed.

    Raises:
        DatasetError, FootageError: the shard or the footage cannot be read.
    """
    timestamps = await asyncio.to_thread(read_timestamps, dataset.root, record)
    pictures: PictureSource | None = None
    readable = [camera for camera in shown if camera.key in record.footage]
    if pool is not None and readable:
        clips = {
            record.footage[camera.key]: await asyncio.to_thread(locate_clip, dataset, camera, record, timestamps)
            for camera in readable
        }
        pictures = stack.enter_context(pool.open(clips, client.stats.decoded))
    signals: Callable[[], Signals] = cache(lambda: read_signals(dataset, record))
    session = SessionEpisode(
        digest=record.digest,
        where=f"episode {record.index}",
        signals_digest=record.signals_digest,
        signals=signals,
        pictures=pictures,
        outcomes=await asyncio.to_thread(client.outcomes, record.digest),
    )
    return EpisodeContext(record=record, cameras=cameras, session=session, timestamps=timestamps)
