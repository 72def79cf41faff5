"""The modules: which there are, what each depends on, and which rows belong to whom."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import msgspec

from annotator.config.settings import Settings, SyncSettings
from annotator.dataset.cameras import CameraSelection
from annotator.dataset.metadata import Camera
from annotator.modules import interjections
from annotator.modules.base import Ask, ModuleInput, ModuleOutput
from annotator.modules.plan import module as plan
from annotator.modules.vqa import module as vqa
from annotator_store.rows import Row

ModuleName = Literal["plan", "interjections", "vqa"]


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """One module. `after` names the module whose rows it follows; its own annotation then waits for theirs."""

    name: ModuleName
    version: int
    steps: tuple[str, ...]
    styles: frozenset[str | None]
    annotate: Callable[[ModuleInput, Ask, SyncSettings], Awaitable[ModuleOutput]]
    after: ModuleName | None = None

    def group(self, settings: SyncSettings) -> Settings:
        """Its own group of settings."""
        return getattr(settings, self.name)

    def enabled(self, settings: SyncSettings) -> bool:
        """Say whether it is switched on."""
        return bool(getattr(self.group(settings), "enabled"))  # noqa: B009 every module's group has it

    def cameras(self, cast: CameraSelection) -> tuple[Camera, ...]:
        """The cameras whose footage its rows depend on."""
        return cast.frame_cameras if self.name == "vqa" else cast.episode_cameras

    def depends_on(self, settings: SyncSettings) -> Callable[[str], bool]:
        """Say of a setting, by its flag's name, whether its rows depend on it: the dials, and which cameras it sees."""
        borrowed = {"vqa": {"vlm.coordinates"}, "interjections": {"plan.contact_sheet_quality"}}.get(self.name, set())
        if self.name != "vqa" or settings.vqa.restrict_to_default_camera:
            borrowed |= {"vlm.camera_key", "vlm.camera_keys"}
        own = f"{self.name}."
        return lambda name: name in borrowed or (name.startswith(own) and name != f"{own}enabled")

    def dials(self, settings: SyncSettings) -> dict[str, Any]:
        """Every setting that its rows can depend on: its own group, and what it borrows."""
        values: dict[str, Any] = msgspec.to_builtins(self.group(settings))
        del values["enabled"]
        if self.name == "vqa":
            values["coordinates"] = settings.vlm.coordinates
        if self.name == "interjections":
            values["quality"] = settings.plan.contact_sheet_quality
        return values


PLAN = Module(
    name="plan", version=plan.VERSION, steps=plan.STEPS, styles=frozenset(plan.STYLES), annotate=plan.annotate
)
INTERJECTIONS = Module(
    name="interjections",
    version=interjections.VERSION,
    steps=interjections.STEPS,
    styles=frozenset(interjections.STYLES),
    annotate=interjections.annotate,
    after="plan",
)
VQA = Module(name="vqa", version=vqa.VERSION, steps=vqa.STEPS, styles=frozenset(vqa.STYLES), annotate=vqa.annotate)

MODULES: tuple[Module, ...] = (PLAN, INTERJECTIONS, VQA)
"""In the order in which they follow each other."""


def module_named(name: str) -> Module:
    """Find a module by its name."""
    return next(module for module in MODULES if module.name == name)


def owners(rows: Sequence[Row]) -> list[ModuleName | None]:
    """Say which module each of an episode's rows belongs to; None for styles that no module writes.

    A style belongs to one module, but for the plan at an interjection: that is the interjection's own refresh. Of the
    rows without a style, which call tools, only those that call `say` and nothing else are speech of ours.
    """
    refreshed = {row.timestamp for row in rows if row.style == "interjection"}
    return [_owner(row, refreshed) for row in rows]


def _owner(row: Row, refreshed: set[float]) -> ModuleName | None:
    if row.style == "plan" and row.timestamp in refreshed:
        return INTERJECTIONS.name
    if row.style is None and not _only_says(row):
        return None
    return next((module.name for module in MODULES if row.style in module.styles), None)


class _Function(msgspec.Struct):
    name: str


class _Call(msgspec.Struct):
    function: _Function


_call = msgspec.json.Decoder(_Call)


def _only_says(row: Row) -> bool:
    try:
        names = {_call.decode(body).function.name for body in row.tool_calls or ()}
    except msgspec.DecodeError:  # also of another shape: ValidationError is one
        return False
    return names == {"say"}
