"""What a module is given and what it gives back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.errors import Declined, Rejected
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.prompting.answers import Answer
from annotator.vlm.session import A, StepAnswer
from annotator_store.digests import Digest
from annotator_store.keys import MediaItem
from annotator_store.log.events import AnnotatedRow, Gap
from annotator_store.rows import Row


class CameraView(msgspec.Struct, frozen=True, kw_only=True):
    """One camera of an episode. `footage` digests its encoded footage; sizes are those of the stored frame."""

    key: str
    footage: Digest
    width_px: int
    height_px: int


class GripperTime(msgspec.Struct, frozen=True, kw_only=True):
    """A named gripper begins to close or to open at `time`, seconds on the episode's clock. `side` may be empty.

    `measured` is false where that is a command, which the fingers may follow at another time.
    """

    time: float
    kind: str
    side: str
    measured: bool = True


class ModuleInput(msgspec.Struct, frozen=True, kw_only=True):
    """One episode as a module sees it.

    `clock`: (T,) float32 seconds, exactly as stored. `watched`: the cameras that prompts about the whole episode
    show, `cameras`: those that single frames are asked of; both are empty where the dataset has no camera, and
    prompts are text only then. `upstream` are the rows this episode has from the module that this one follows;
    `task` is then the task which that module went by, else the dataset's.
    `grippers` lists what named grippers do, in order; it reads the shard, so call it only where it is wanted.
    """

    where: str
    digest: Digest
    task: str
    clock: npt.NDArray[np.float32]
    watched: tuple[CameraView, ...] = ()
    cameras: tuple[CameraView, ...] = ()
    vocabulary: Vocabulary | None = None
    upstream: tuple[Row, ...] = ()
    grippers: Callable[[], tuple[GripperTime, ...]] = tuple


class ModuleOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What a module found: its rows, in order, and the steps that gave nothing.

    `task` is the one it went by, where it set the dataset's aside.
    """

    rows: tuple[AnnotatedRow, ...]
    gaps: tuple[Gap, ...]
    task: str | None = None


class Ask(Protocol):
    """The only way to a model; see `annotator.vlm.session.Asker`."""

    async def __call__(
        self,
        step: str,
        answer: type[A],
        inputs: dict[str, str],
        media: tuple[MediaItem, ...] = (),
        *,
        allowed: Mapping[str, Sequence[str]] | None = None,
        misfit: Callable[[A], str] | None = None,
        most: Mapping[str, int] | None = None,
    ) -> StepAnswer[A]:
        """Ask one step."""
        ...


class Gaps:
    """Collects the steps of one episode that gave nothing, where the module can go on without them."""

    def __init__(self) -> None:
        self.found: list[Gap] = []

    async def optional(
        self,
        ask: Ask,
        step: str,
        answer: type[A],
        inputs: dict[str, str],
        media: tuple[MediaItem, ...] = (),
        *,
        allowed: Mapping[str, Sequence[str]] | None = None,
        misfit: Callable[[A], str] | None = None,
    ) -> StepAnswer[A] | None:
        """Ask a step that may be declined or rejected; then its rows are missing on the record, and None comes back."""
        try:
            return await ask(step, answer, inputs, media, allowed=allowed, misfit=misfit)
        except Declined as error:
            self.found.append(
                Gap(step=step, reason="declined", detail=error.got or error.what, call=Digest(error.call))
            )
        except Rejected as error:
            self.found.append(
                Gap(step=step, reason="rejected", detail=error.got or error.what, call=Digest(error.call))
            )
        return None


__all__ = ["Answer", "Ask", "CameraView", "Gaps", "GripperTime", "ModuleInput", "ModuleOutput"]
