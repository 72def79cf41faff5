"""Episodes for the plan module, and its run over a scripted `ask`."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from annotator.config.settings import PlanSettings
from annotator.errors import StepError
from annotator.modules.base import CameraView, ModuleInput, ModuleOutput
from annotator.modules.plan.module import annotate
from annotator.modules.vocabulary.entries import Vocabulary
from annotator_store.digests import Digest, digest_parts
from tests.modules.scripted_ask import Script, ScriptedAsk

FOOTAGE = digest_parts("footage", [b"x"])
CALL = digest_parts("call", [b"x"])
EPISODE = digest_parts("episode", [b"x"])


def camera(name: str = "top", footage: Digest = FOOTAGE) -> CameraView:
    return CameraView(key=f"observation.images.{name}", footage=footage, width_px=64, height_px=48)


def episode(
    frames: int = 100, *, task: str = "stack the red cups", cameras: Sequence[CameraView] = (camera(),), **more: Any
) -> ModuleInput:
    """Ten frames a second, from 0."""
    timestamps = (np.arange(frames) / 10).astype(np.float32)
    return ModuleInput(
        where="episode 0", digest=EPISODE, task=task, timestamps=timestamps, cameras=tuple(cameras), **more
    )


def vocabulary(subtasks: str = "", memories: str = "") -> Vocabulary:
    """Entries, given with a bar between two."""
    parts = (tuple(filter(None, entries.split("|"))) for entries in (subtasks, memories))
    return Vocabulary(subtasks=next(parts), memories=next(parts))


def run(view: ModuleInput, script: Script | None = None, /, **settings: Any) -> tuple[ModuleOutput, ScriptedAsk]:
    ask = ScriptedAsk(script or {})
    return asyncio.run(annotate(view, ask, PlanSettings(**settings))), ask


def shown(found: ModuleOutput, style: str) -> list[tuple[float, str | None]]:
    return [(round(a.row.timestamp, 3), a.row.content) for a in found.rows if a.row.style == style]


def refused(kind: type[StepError], step: str) -> StepError:
    error = kind("it will not do", where=step, got=f"no {step}")
    error.call = CALL
    return error
