"""Plain values for the tests of the run's core: cameras, episodes, fingerprints, annotations, runs and clients."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from annotator.config.settings import SyncSettings
from annotator.dataset.cameras import CameraSelection
from annotator.dataset.episode_record import EpisodeRecord
from annotator.dataset.metadata import Camera
from annotator.modules.registry import module_named
from annotator.pipeline.fingerprints import ModuleFingerprints
from annotator.pipeline.run import Run, prepare
from annotator.prompting.loader import Prompts
from annotator.vlm.base import Engine
from annotator.vlm.call_stats import CallStats
from annotator.vlm.client import VlmClient
from annotator.vlm.scripted.engine import ScriptedEngine
from annotator_store.digests import Digest
from annotator_store.keys import Model
from annotator_store.log.events import (
    AnnotatedRow,
    AnyEvent,
    EpisodeAnnotated,
    EpisodeSources,
    SetupUsed,
    ShardWritten,
)
from annotator_store.log.lines import entry_of
from annotator_store.log.log import Log
from annotator_store.rows import Row
from tests.store.facts import at, digest

TOP = Camera(key="observation.images.top", stored="video", height_px=480, width_px=640, depth=False)
WRIST = Camera(key="observation.images.wrist", stored="video", height_px=240, width_px=320, depth=False)
CAMERAS = CameraSelection(episode_cameras=(TOP,), frame_cameras=(TOP, WRIST))

SHARD = "data/chunk-000/file-000.parquet"
FRAMES = 10
"""Frames of each of these episodes; they lie in their shard one after the other."""
MODEL = Model(model_id="some/model")
USED = SetupUsed(seed=1, model=digest("model"), prompts={}, vocabulary=None, module_version=1, settings={})


def record(index: int, **changes: Any) -> EpisodeRecord:
    """An episode with both cameras; episodes of another index are other recordings unless `changes` say otherwise."""
    fields: dict[str, Any] = {
        "index": index,
        "shard": SHARD,
        "start": index * FRAMES,
        "stop": (index + 1) * FRAMES,
        "duration_s": 60.0,
        "task_indices": (0,),
        "timestamps_digest": digest("timestamps"),
        "motion_digest": digest("episode", index),
        "signals_digest": digest("signals", index),
        "videos": {},
        "task": "stack the cups",
        "digest": digest("episode", index),
        "footage": {camera.key: digest("footage", index, camera.key) for camera in (TOP, WRIST)},
    }
    return EpisodeRecord(**fields | changes)


def makers(*names: str, setup: str = "setup", reads_evidence: bool = False) -> dict[str, ModuleFingerprints]:
    """What makes the fingerprints of some shipped modules, with stand-ins for what the setups digest to."""
    return {
        name: ModuleFingerprints(
            module=module_named(name),
            cameras=CAMERAS,
            setup=digest(setup, name),
            used=USED,
            reads_evidence=reads_evidence,
        )
        for name in names
    }


def annotation(
    episode: EpisodeRecord, module: str, recipe: Digest, *, second: float = 0, text: str = "reach"
) -> EpisodeAnnotated:
    """A module's annotation of an episode: one row that says `text`."""
    style = {"plan": "subtask", "interjections": "interjection", "vqa": "vqa"}[module]
    row = Row(role="user" if module == "interjections" else "assistant", content=text, style=style, timestamp=0.0)
    return EpisodeAnnotated(
        recorded_at=at(second),
        run_id="run-1",
        episode=episode.digest,
        module=module,
        recipe=recipe,
        engine="scripted",
        model_id="some/model",
        calls=(),
        rows=(AnnotatedRow(row=row),),
        gaps=(),
    )


def record_annotations(log: Log, *events: EpisodeAnnotated) -> list[Digest]:
    """Record annotations; return the ids of their events."""
    log.record(*events).result()
    return [entry_of(event).id for event in events]


def written(
    episodes: Iterable[tuple[EpisodeRecord, dict[str, Digest] | None]], *, dataset: str = "cups", second: float = 0
) -> ShardWritten:
    """A note that the shard of these episodes was written from those annotations, by module."""
    made_of = tuple(
        EpisodeSources(episode=episode.digest, start=episode.start, stop=episode.stop, sources=sources)
        for episode, sources in episodes
    )
    return ShardWritten(
        recorded_at=at(second),
        run_id="run-1",
        dataset=dataset,
        path=SHARD,
        language=digest("language"),
        episodes=len(made_of),
        frames=FRAMES * len(made_of),
        made_of=made_of,
    )


def prepared(root: Path, **changes: Any) -> Run:
    """A run over the dataset at `root`, asking the scripted engine unless `changes` say otherwise."""
    settings = SyncSettings(root=root, **changes)
    if "vlm" not in changes:
        settings = msgspec.structs.replace(settings, vlm=msgspec.structs.replace(settings.vlm, backend="scripted"))
    return prepare(settings)


def keep_in(events: list[AnyEvent]) -> Callable[..., "Future[None]"]:
    """A `record` that puts events into a list."""

    def keep(*news: AnyEvent) -> "Future[None]":
        events.extend(news)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    return keep


def client(
    log: Log,
    prompts: Prompts,
    *,
    engine: Engine | None = None,
    record: Callable[..., "Future[None]"] | None = None,
    notes: list[str] | None = None,
    model: Model = MODEL,
    **changes: Any,
) -> VlmClient:
    """A client of a scripted engine, or of another one."""

    async def open_engine() -> Engine:
        return engine or ScriptedEngine()

    fields: dict[str, Any] = {
        "log": log,
        "record": record or log.record,
        "open_engine": open_engine,
        "looks": False,
        "model": model,
        "seed": 1,
        "prompts": prompts,
        "stats": CallStats(),
        "run_id": "run-2",
        "note": (notes if notes is not None else list[str]()).append,
    }
    return VlmClient(**fields | changes)


def indices(records: Sequence[EpisodeRecord]) -> list[int]:
    """The indices of some episodes."""
    return [episode.index for episode in records]
