"""A module of its own for episode-annotator: one row of a new style says what stands in the scene at the start."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from annotator.config.settings import Settings
from annotator.modules.base import Ask, Gaps, Module, ModuleInput, ModuleOutput
from annotator.prompting.answers import Answer, Sentence
from annotator_store.keys import MediaItem, Render
from annotator_store.log.events import AnnotatedRow
from annotator_store.rows import PERSISTENT, Row, Style

STEP = "scene.describe"
STYLE = Style(name="scene", column=PERSISTENT, roles=("assistant",), one_at_a_time=True)
RENDER = Render(kind="frame", width_px=448, quality=84)


class SceneSettings(Settings, frozen=True, kw_only=True):
    """The `scene` module: what stands there before the robot moves."""

    enabled: bool = True
    """Write scene rows."""
    max_words: Annotated[int, Meta(ge=1, le=60)] = 20
    """Words of a description at most."""


class Scene(Answer, frozen=True):
    """`scene.describe`: one sentence about what stands there."""

    scene: Sentence


async def annotate(episode: ModuleInput, ask: Ask, settings: SceneSettings) -> ModuleOutput:
    """Ask what stands in the first frame of every camera; one row at that frame's timestamp.

    Raises:
        CallError, FootageError: there was no reply; the next run asks again.
    """
    gaps = Gaps()
    start = float(episode.timestamps[0])
    media = tuple(MediaItem(footage=c.footage, timestamps=(start,), render=RENDER) for c in episode.cameras)
    inputs = {"task": episode.task, "max_words": str(settings.max_words)}
    answered = await gaps.optional(ask, STEP, Scene, inputs, media)
    if answered is None:
        return ModuleOutput(rows=(), gaps=gaps.in_order())
    content = " ".join(answered.answer.scene.split())
    row = Row(role="assistant", content=content, style=STYLE.name, timestamp=start)
    return ModuleOutput(rows=(AnnotatedRow(row=row, call=answered.key),), gaps=gaps.in_order())


SCENE = Module(
    name="scene",
    version=1,
    steps=(STEP,),
    styles=frozenset({"scene"}),
    new_styles=(STYLE,),
    settings=SceneSettings,
    annotate=annotate,
    estimate_calls=lambda seconds, cameras, settings: 1,
    needs_pixels=True,
    prompts=Path(__file__).with_name("prompts"),
)
