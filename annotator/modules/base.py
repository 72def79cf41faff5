"""What a module is given and what it gives back."""

from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.answers import Answer
from annotator.ask import A, Asked
from annotator.errors import Declined, Rejected
from store.digest import Digest
from store.events import AnnotatedRow, Gap
from store.keys import MediaItem


class EpisodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One episode as a module sees it.

    `clock`: (T,) float32 seconds, exactly as stored. `footage` digests the watched camera's encoded footage;
    it is None where the dataset has no camera, and prompts are text only then.
    """

    where: str
    task: str
    clock: npt.NDArray[np.float32]
    camera: str | None
    footage: Digest | None


class ModuleRows(msgspec.Struct, frozen=True, kw_only=True):
    """What a module found: its rows, in order, and the steps that gave nothing."""

    rows: tuple[AnnotatedRow, ...]
    gaps: tuple[Gap, ...]


class Ask(Protocol):
    """The only way to a model; see `annotator.ask.Asker`."""

    async def __call__(
        self, step: str, answer: type[A], inputs: dict[str, str], media: tuple[MediaItem, ...] = ()
    ) -> Asked[A]:
        """Ask one step."""
        ...


class Gaps:
    """Collects the steps of one episode that gave nothing, where the module can go on without them."""

    def __init__(self) -> None:
        self.found: list[Gap] = []

    async def optional(
        self, ask: Ask, step: str, answer: type[A], inputs: dict[str, str], media: tuple[MediaItem, ...] = ()
    ) -> Asked[A] | None:
        """Ask a step that may be declined or rejected; then its rows are missing on the record, and None comes back."""
        try:
            return await ask(step, answer, inputs, media)
        except Declined as error:
            self.found.append(
                Gap(step=step, reason="declined", detail=error.got or error.what, call=Digest(error.call))
            )
        except Rejected as error:
            self.found.append(
                Gap(step=step, reason="rejected", detail=error.got or error.what, call=Digest(error.call))
            )
        return None


__all__ = ["Answer", "Ask", "EpisodeView", "Gaps", "ModuleRows"]
