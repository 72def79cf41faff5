"""The contract of a module: what it is given, what it returns, and what the rest of the program knows about it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import typing_extensions

from annotator.config.settings import Settings, SyncSettings
from annotator.dataset.cameras import CameraSelection
from annotator.dataset.metadata import Camera
from annotator.errors import Declined, Rejected
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.vlm.session import A, StepAnswer
from annotator_store.digests import Digest
from annotator_store.keys import MediaItem
from annotator_store.log.events import AnnotatedRow, Gap
from annotator_store.rows import Row, Style

S = typing_extensions.TypeVar("S", bound=Settings, default=Any)
T = TypeVar("T")


class CameraView(msgspec.Struct, frozen=True, kw_only=True):
    """One camera of an episode. `footage` digests its encoded footage; sizes are those of the stored frame."""

    key: str
    footage: Digest
    width_px: int
    height_px: int


class GripperTime(msgspec.Struct, frozen=True, kw_only=True):
    """A named gripper begins to close or to open at `time`, seconds from the episode's first frame.

    `kind` is `close` or `open`; `side` may be empty. `measured` is false for a command, which the fingers may follow at
    another time.
    """

    time: float
    kind: str
    side: str
    measured: bool = True


class ModuleInput(msgspec.Struct, frozen=True, kw_only=True):
    """One episode as a module sees it.

    `timestamps`: (T,) float32 seconds, exactly as stored. `cameras`: those that the module looks through, in order;
    empty where the dataset has none, and prompts are text only then. `upstream`: the rows that the module it follows
    has for this episode; `task` is then the task which that module used, else the dataset's. `vocabulary` is None
    unless the module uses one. `borrowed`: the values of `Module.borrowed`, under its names. `grippers` returns what
    named grippers do, in order; it reads the shard, so call it only where `Module.uses_signals` says so.
    """

    where: str
    digest: Digest
    task: str
    timestamps: npt.NDArray[np.float32]
    seed: int = 0
    cameras: tuple[CameraView, ...] = ()
    vocabulary: Vocabulary | None = None
    upstream: tuple[Row, ...] = ()
    borrowed: Mapping[str, Any] = msgspec.field(default_factory=dict[str, Any])
    grippers: Callable[[], tuple[GripperTime, ...]] = tuple


class ModuleOutput(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one episode, in order, and the steps that gave nothing.

    `task` is the task that the module used, where that is not the dataset's.
    """

    rows: tuple[AnnotatedRow, ...]
    gaps: tuple[Gap, ...]
    task: str | None = None


class Ask(Protocol):
    """The only way to a model; see `annotator.vlm.session.EpisodeSession`."""

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


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """A style of the followed module that a module writes too, at the times of rows of its own.

    Where this module has a row of style `beside`, the row of style `style` at that time is this module's.
    `content(rows, time)` returns what such a row says once the followed module has the new `rows`; "" leaves it.
    """

    style: str
    beside: str
    content: Callable[[Sequence[Row], float], str]


@dataclass(frozen=True, kw_only=True)
class Module(Generic[S]):
    """One module. Whatever differs between modules is a field here; no other code asks for a module's name.

    `version`: raise it when rows change for the same answers. `steps`: the ids of its prompts. `styles`: the styles of
    its rows; None is speech. `settings`: its group of settings, which has a field `enabled`.
    `annotate(episode, ask, settings)` annotates one episode; it is given nothing that is not in its fingerprint.
    `estimate_calls(seconds, cameras, settings)` estimates the calls of one episode, rather too many.
    `borrowed`: settings of other groups that its rows depend on, as name → dotted flag (`quality` →
    `plan.contact_sheet_quality`); the names stand in its setup digest, so renaming one invalidates every annotation.
    `cameras`: whether it looks through the cameras of whole-episode prompts, or those that single frames are asked of.
    `follows` names the module whose rows it starts from, `refresh` which of those it writes itself.
    `needs_pixels`: without a camera, or with an engine that sees none, it is left out.
    `uses_signals(settings)`: whether rows depend on `observation.state` and `action`.
    `warn(settings, cameras, fps)`: what the user should know before the run; "" for nothing.
    `prompts`: the folder of its prompt files, and `new_styles`: those of its `styles` that the format does not have;
    both for a module that is not shipped with this package.
    """

    name: str
    version: int
    steps: tuple[str, ...]
    styles: frozenset[str | None]
    settings: type[S]
    annotate: Callable[[ModuleInput, Ask, S], Awaitable[ModuleOutput]]
    estimate_calls: Callable[[float, int, S], int]
    borrowed: Mapping[str, str] = field(default_factory=dict[str, str])
    cameras: Literal["episode", "frame"] = "episode"
    follows: str | None = None
    refresh: Refresh | None = None
    uses_vocabulary: bool = False
    needs_pixels: bool = False
    uses_signals: Callable[[S], bool] = lambda settings: False
    warn: Callable[[S, int, float], str] = lambda settings, cameras, fps: ""
    prompts: Path | None = None
    new_styles: tuple[Style, ...] = ()

    def own_settings(self, settings: SyncSettings) -> S:
        """Return its group of settings: its defaults where `settings` were made without this module."""
        return getattr(settings, self.name, None) or self.settings()

    def enabled(self, settings: SyncSettings) -> bool:
        """Whether it is switched on."""
        return bool(getattr(self.own_settings(settings), "enabled"))  # noqa: B009 `Settings` itself has no such field

    def cameras_of(self, selection: CameraSelection) -> tuple[Camera, ...]:
        """Return the cameras whose footage its rows depend on."""
        return selection.frame_cameras if self.cameras == "frame" else selection.episode_cameras

    def borrowed_values(self, settings: SyncSettings) -> dict[str, Any]:
        """Return the values of the settings that it borrows, under its own names for them."""
        values: dict[str, Any] = {}
        for name, flag in self.borrowed.items():
            value: Any = settings
            for part in flag.split("."):
                value = getattr(value, part)
            values[name] = value
        return values

    def setup_settings(self, settings: SyncSettings) -> dict[str, Any]:
        """Return every setting that its rows can depend on, as its setup digest covers them."""
        values: dict[str, Any] = msgspec.to_builtins(self.own_settings(settings), enc_hook=str)
        del values["enabled"]
        return values | self.borrowed_values(settings)

    def depends_on(self, settings: SyncSettings) -> Callable[[str], bool]:
        """Return a test of a flag: whether the rows depend on it, directly or by the cameras that are shown."""
        flags = set(self.borrowed.values())
        if self.cameras == "frame":
            flags.add("vqa.restrict_to_default_camera")
        if self.cameras == "episode" or settings.vqa.restrict_to_default_camera:
            flags |= {"vlm.camera_key", "vlm.camera_keys"}
        own = f"{self.name}."
        return lambda flag: flag in flags or (flag.startswith(own) and flag != f"{own}enabled")


def gap_of(step: str, error: Declined | Rejected) -> Gap:
    """Return the record of a step that gave nothing."""
    reason = "declined" if isinstance(error, Declined) else "rejected"
    return Gap(step=step, reason=reason, detail=error.got or error.what, call=Digest(error.call))


class Gaps:
    """Collects the steps of one episode that gave nothing, where the module can go on without them."""

    def __init__(self) -> None:
        self.recorded: list[Gap] = []

    def in_order(self) -> tuple[Gap, ...]:
        """Return the gaps in the order that annotations have them in, which is not that of the asks."""
        return tuple(sorted(self.recorded, key=lambda gap: (gap.step, gap.call, gap.detail)))

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
        """Ask a step that may be declined or rejected: that is recorded as a gap then, and None is returned."""
        try:
            return await ask(step, answer, inputs, media, allowed=allowed, misfit=misfit)
        except (Declined, Rejected) as error:
            self.recorded.append(gap_of(step, error))
        return None


async def gather_all(asks: Iterable[Awaitable[T]]) -> list[T]:
    """Await all, then raise the first error in their order: no answer under way is thrown away for another's error."""
    results = await asyncio.gather(*asks, return_exceptions=True)
    done: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done
