"""Modules that other packages bring, by entry points of the group `annotator.modules`.

    [project.entry-points."annotator.modules"]
    brightness = "annotator_brightness:BRIGHTNESS"

The entry point has the module's name, and its value is a `Module`. Such a package is imported when a run's settings or
modules are needed; where there is none, nothing is imported here at all.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, cast

import msgspec

from annotator.config.settings import Settings, SyncSettings
from annotator.errors import UsageError
from annotator_store.rows import register_style

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
    """Return the modules of other packages by name, each after the one that it follows; their styles are known then.

    Raises:
        UsageError: one cannot be imported or used, has a style of another, or follows a module that is not there.
    """
    modules = list(shipped)
    waiting = list(_loaded().values())
    while waiting:
        names = {None, *(module.name for module in modules)}
        module = next((module for module in waiting if module.follows in names), None)
        if module is None:
            raise _refused(waiting[0].name, "the module that it follows is not there", str(waiting[0].follows))
        for fault in _clashes(module, modules):
            raise _refused(module.name, "the module cannot be used", fault)
        try:
            for style in module.new_styles:
                register_style(style)
        except ValueError as cause:
            raise _refused(module.name, "the module's new style cannot be used", str(cause)) from cause
        modules.append(module)
        waiting.remove(module)
    return tuple(modules[len(shipped) :])


@cache
def _loaded() -> dict[str, "Module"]:
    """Import every entry point's module; by name."""
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    if not points:
        return {}
    from annotator.modules.base import Module

    modules: dict[str, Module] = {}
    for point in points:
        if point.name in SyncSettings.__struct_fields__:
            raise _refused(point.name, "the name is taken by settings of this package", point.value)
        if point.name in modules:
            raise _refused(point.name, "two packages bring a module of this name", point.value)
        try:
            module = point.load()
        except Exception as cause:  # an import runs another package's code, which may raise anything
            got = f"{point.value}: {type(cause).__name__}: {cause}"
            raise _refused(point.name, "the module cannot be imported", got) from cause
        if not isinstance(module, Module):
            raise _refused(point.name, "the entry point is no Module", f"{point.value} is a {type(module).__name__}")
        for fault in _faults(module, point.name):
            raise _refused(point.name, "the module cannot be used", fault)
        modules[point.name] = module
    return modules


def _faults(module: "Module", name: str) -> Iterator[str]:
    """Say what is wrong with a module on its own."""
    if module.name != name or not name.isidentifier():
        yield f"its name is {module.name!r}"
    if not issubclass(module.settings, Settings) or "enabled" not in module.settings.__struct_fields__:
        yield f"{module.settings.__name__} is no subclass of Settings with a field `enabled`"
    if strange := [step for step in module.steps if not step.startswith(f"{name}.")]:
        yield f"the step {strange[0]} does not begin with {name}."
    if unknown := {style.name for style in module.new_styles} - module.styles:
        yield f"{', '.join(map(str, unknown))} is among its new styles, but not among its styles"


def _clashes(module: "Module", others: Sequence["Module"]) -> Iterator[str]:
    """Say what in a module belongs to another one already, or is missing beside it."""
    from annotator.prompting.loader import load_prompts

    prompts = {file.head.id for file in load_prompts(None, [module.prompts])} if module.prompts else set[str]()
    if missing := set(module.steps) - prompts:
        yield f"{module.prompts} has no prompt for {', '.join(sorted(missing))}"
    for other in others:
        if taken := module.styles & other.styles:
            yield f"the style {', '.join(map(str, taken))} belongs to {other.name}"
        if module.refresh and other.refresh and module.refresh.style == other.refresh.style:
            yield f"{other.name} refreshes the style {module.refresh.style}, too"
    if module.refresh and not any(module.refresh.style in o.styles for o in others if o.name == module.follows):
        yield f"the style {module.refresh.style} that it refreshes is not of the module that it follows"


def _refused(name: str, what: str, got: str) -> UsageError:
    dists = [point.dist for point in entry_points(group=GROUP, name=name)]
    packages = ", ".join(f"{dist.name} {dist.version}" for dist in dists if dist)
    hint = f"it is in the package {packages}: repair or uninstall it"
    return UsageError(what, where=f"module {name}", got=got, hint=hint)
