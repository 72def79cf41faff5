"""Modules that other packages bring, by entry points of the group `annotator.modules`.

    [project.entry-points."annotator.modules"]
    brightness = "annotator_brightness:BRIGHTNESS"

The entry point has the module's name, and its value is a `Module`. Such a package is imported when a run's settings or
modules are needed; where there is none, nothing is imported here at all.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, cast

import msgspec

from annotator.config.settings import Settings, SyncSettings
from annotator.errors import UsageError

if TYPE_CHECKING:
    from annotator.modules.base import Module

GROUP = "annotator.modules"


@cache
def sync_settings() -> type[SyncSettings]:
    """Return the type of a run's settings: `SyncSettings`, with one more group for each third-party module.

    Raises:
        UsageError: a third-party module cannot be loaded.
    """
    groups: list[tuple[str, Any, Any]] = [(m.name, m.settings, m.settings()) for m in _loaded().values()]
    if not groups:
        return SyncSettings
    namespace = {"__doc__": SyncSettings.__doc__}
    kind = msgspec.defstruct(
        "SyncSettings", groups, bases=(SyncSettings,), namespace=namespace, frozen=True, kw_only=True,
        forbid_unknown_fields=True,
    )  # fmt: skip
    return cast("type[SyncSettings]", kind)


def third_party_modules(shipped: Sequence["Module"]) -> tuple["Module", ...]:
    """Return the modules of other packages by name, each after the one that it follows.

    Raises:
        UsageError: one cannot be loaded, has a style of another, or follows a module that is not there.
    """
    placed = list(shipped)
    waiting = list(_loaded().values())
    while waiting:
        names = {module.name for module in placed}
        ready = [module for module in waiting if module.follows is None or module.follows in names]
        if not ready:
            raise _refused(waiting[0].name, "a module follows one that is not there", f"{waiting[0].follows}")
        for module in ready:
            others = {style: other.name for other in placed for style in other.styles}
            if taken := sorted(str(style) for style in module.styles & others.keys()):
                raise _refused(module.name, "a style is another module's", ", ".join(taken))
            placed.append(module)
        waiting = [module for module in waiting if module not in ready]
    return tuple(placed[len(shipped) :])


@cache
def _loaded() -> dict[str, "Module"]:
    """Load every entry point; by name."""
    modules: dict[str, Module] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        if point.name in modules:
            raise _refused(point.name, "two packages bring a module of one name", point.value)
        if point.name in SyncSettings.__struct_fields__ or not point.name.isidentifier():
            raise _refused(point.name, "a module cannot have this name", point.value)
        modules[point.name] = _load(point)
    return modules


def _load(point: EntryPoint) -> "Module":
    from annotator.modules.base import Module

    try:
        module = point.load()
    except Exception as cause:  # whatever another package does when it is imported, it is said in one line
        got = f"{point.value}: {type(cause).__name__}: {cause}"
        raise _refused(point.name, "a module cannot be loaded", got) from cause
    if not isinstance(module, Module):
        raise _refused(point.name, "an entry point is no module", f"{point.value} is a {type(module).__name__}")
    for fault in _faults(module, point.name):
        raise _refused(point.name, "a module cannot be used", fault)
    return module


def _faults(module: "Module", name: str) -> Iterator[str]:
    if module.name != name:
        yield f"the module's name is {module.name}"
    if not issubclass(module.settings, Settings) or "enabled" not in module.settings.__struct_fields__:
        yield f"its settings, {module.settings.__name__}, are no annotator.config.settings.Settings with `enabled`"
    if strange := [step for step in module.steps if not step.startswith(f"{name}.")]:
        yield f"the step {strange[0]} does not begin with {name}."
    if module.prompts is None or not module.prompts.is_dir():
        yield f"its folder of prompts is {module.prompts}"


def _refused(name: str, what: str, got: str) -> UsageError:
    dist = next((point.dist for point in entry_points(group=GROUP, name=name)), None)
    hint = f"it is in the package {dist.name}: repair or uninstall it" if dist else ""
    return UsageError(what, where=f"{GROUP}, {name}", got=got, hint=hint)
