"""Every engine, in one table: what it uses, what it needs, how it is opened; and which of them a run gets.

Another package adds one by an entry point of the group `annotator.engines`, which has the engine's name and whose value
is an `EngineSpec`:

    [project.entry-points."annotator.engines"]
    echo = "annotator_echo:ECHO"

Such a package is imported when its engine is named, and not before; `auto` never takes it.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import resolve_name

from annotator.config.settings import SyncSettings, VlmSettings
from annotator.errors import NoEngine, UsageError
from annotator.vlm.base import Availability, Engine, EngineContext, EngineSpec
from annotator_store.keys import Model

GROUP = "annotator.engines"

_EVERY_OPTION = frozenset(VlmSettings.__struct_fields__)
_CLIENT = frozenset({"request_timeout_s", "request_max_retries", "client_concurrency"})
_SERVERS = frozenset({"parallel_servers", "num_gpus", "serve_command", "serve_ready_timeout_s"})
_LOADING = frozenset({"tensor_parallel_size", "max_model_len", "gpu_memory_utilization"})

SHIPPED: tuple[EngineSpec, ...] = (
    EngineSpec(
        name="auto",
        meaning="the first of these that is there: `openai`, `serve`, `vllm`",
        open="annotator.vlm.registry:open_first",
        check="annotator.vlm.registry:check_first",
        options=_EVERY_OPTION,
        needs_gpu=True,
    ),
    EngineSpec(
        name="openai",
        meaning="any server with an OpenAI-compatible endpoint, named by `--vlm.api_base`",
        open="annotator.vlm.openai.engine:open_engine",
        check="annotator.vlm.openai.engine:check",
        availability="annotator.vlm.openai.engine:availability",
        options=_CLIENT | {"api_base", "api_key_env"},
    ),
    EngineSpec(
        name="serve",
        meaning="vLLM servers, started for the run and stopped after it, one per GPU",
        open="annotator.vlm.vllm_server.engine:open_engine",
        check="annotator.vlm.vllm_server.command:check",
        availability="annotator.vlm.vllm_server.command:availability",
        options=_CLIENT | _SERVERS | _LOADING,
        install="episode-annotator[vllm]",
        needs_gpu=True,
    ),
    EngineSpec(
        name="vllm",
        meaning="vLLM's engine, loaded for the run, no server in between",
        open="annotator.vlm.vllm_local.engine:open_engine",
        availability="annotator.vlm.vllm_local.startup:availability",
        options=_LOADING | {"client_concurrency", "engine_kwargs"},
        install="episode-annotator[vllm]",
        requires=("vllm",),
        needs_gpu=True,
    ),
    EngineSpec(
        name="transformers",
        meaning="the model, loaded with transformers, one reply at a time",
        open="annotator.vlm.transformers.engine:open_engine",
        options=frozenset({"max_model_len"}),
        install="episode-annotator[transformers]",
        requires=("transformers", "torch", "torchvision", "llguidance"),
        needs_gpu=True,
    ),
    EngineSpec(
        name="signals",
        meaning="no model: rules over gripper and motion signals",
        open="annotator.vlm.signals.engine:open_engine",
        model_id="signals.v1",
        looks=False,
        reads_evidence=True,
    ),
    EngineSpec(
        name="scripted",
        meaning="made-up answers, for tests",
        open="annotator.vlm.scripted.engine:open_engine",
        model_id="scripted.v1",
    ),
    EngineSpec(
        name="offline",
        meaning="no engine: the log alone answers",
        open="annotator.vlm.offline:open_engine",
        options=_EVERY_OPTION,  # it answers what another engine was asked, so nothing is unused
        looks=False,
    ),
)

_OPTIONS = frozenset[str]().union(*(spec.options for spec in SHIPPED if spec.options != _EVERY_OPTION))
"""Settings that some engines use and others do not. All others are part of a key, or concern the footage."""

_CHOICES = (
    "name a server: --vlm.api_base http://HOST:PORT/v1 --vlm.model_id MODEL"
    "\n      start one:     vllm serve MODEL   (then the same command finds it on port 8000)"
    "\n      or have it started: --vlm.backend serve --vlm.model_id MODEL   (needs vLLM and a GPU)"
    "\n      or load it here: --vlm.backend vllm, or --vlm.backend transformers   (slow; for small models)"
    "\n      without one:   --vlm.backend signals   (no model: subtasks from gripper and motion signals alone)"
)


# What there is


def engine_named(name: str) -> EngineSpec:
    """Return an engine by its name; one of another package is imported for that. Shipped names cannot be taken over.

    Raises:
        UsageError: there is no such engine, or its package cannot be imported, or two packages bring one of this name.
    """
    return next((spec for spec in SHIPPED if spec.name == name), None) or _third_party(name)


def third_party_engines() -> Iterator[EntryPoint]:
    """Yield the entry points of the engines that other packages bring, by name. Nothing is imported."""
    yield from sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))


@cache
def _third_party(name: str) -> EngineSpec:
    # Cached: reading the entry points goes through every installed package.
    points = [point for point in third_party_engines() if point.name == name]
    if not points:
        names = [*(spec.name for spec in SHIPPED), *(point.name for point in third_party_engines())]
        hint = f"one of {', '.join(dict.fromkeys(names))}"
        raise UsageError("there is no such engine", where="--vlm.backend", got=name, hint=hint)
    where = f"--vlm.backend {name}"
    if len(points) > 1:
        got = ", ".join(map(package_of, points))
        raise UsageError("several packages bring an engine of this name", where=where, got=got, hint="keep one of them")
    hint = f"it is in the package {package_of(points[0])}: repair or uninstall it"
    try:
        spec = points[0].load()
    except Exception as cause:  # a package may fail in any way when it is imported
        got = f"{points[0].value}: {type(cause).__name__}: {cause}"
        raise UsageError("the engine cannot be imported", where=where, got=got, hint=hint) from cause
    if not isinstance(spec, EngineSpec):
        got = f"{points[0].value} is a {type(spec).__name__}"
        raise UsageError("the entry point is no EngineSpec", where=where, got=got, hint=hint)
    # A key names the engine by its model's name alone, see `engine_of_model`.
    if spec.name != name or (
        spec.model_id is not None and not re.fullmatch(rf"{re.escape(name)}\.v\d+", spec.model_id)
    ):
        got = f"name {spec.name!r}, model_id {spec.model_id!r}"
        raise UsageError(f"the engine is not named {name}, or its model not {name}.vN", where=where, got=got, hint=hint)
    return spec


def package_of(point: EntryPoint) -> str:
    """Return the name and version of the package that brings an entry point."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


# What follows from the name


def model_of(vlm: VlmSettings) -> Model:
    """Return the model that answers, with the settings that can change its answers; an engine's own model has none.

    Raises:
        UsageError: there is no such engine.
    """
    own_model = engine_named(vlm.backend).model_id
    if own_model is not None:
        return Model(model_id=own_model)
    return Model(
        model_id=vlm.model_id,
        revision=vlm.model_revision,
        chat_template_kwargs=vlm.chat_template_kwargs,
        mm_processor_kwargs=vlm.mm_processor_kwargs,
        temperature=vlm.temperature,
        top_p=vlm.top_p,
        max_new_tokens=vlm.max_new_tokens,
        reasoning_effort=vlm.reasoning_effort,
    )


def engine_of_model(model_id: str) -> EngineSpec | None:
    """Return the engine that stands for a model of its own; None for a model that engines load or ask.

    Raises:
        UsageError: the engine is of a package that cannot be imported.
    """
    name, dot, _ = model_id.rpartition(".v")
    if not dot or not any(name == known.name for known in (*SHIPPED, *third_party_engines())):
        return None
    spec = engine_named(name)
    return spec if spec.model_id == model_id else None


def reads_evidence(model: Model) -> bool:
    """Whether a model reads signals and inputs: told by its id, since keys do not know engines."""
    spec = engine_of_model(model.model_id)
    return spec is not None and spec.reads_evidence


def looks(settings: SyncSettings) -> bool:
    """Whether the run's engine is given pictures."""
    return not settings.offline and engine_named(settings.vlm.backend).looks


def needs_gpu(vlm: VlmSettings) -> bool:
    """Whether a run with these settings would run a model on its own machine."""
    return vlm.api_base is None and vlm.serve_command is None and engine_named(vlm.backend).needs_gpu


def unused(vlm: VlmSettings, spec: EngineSpec) -> Iterator[str]:
    """Yield a note for every setting that was changed and that the engine does not use."""
    plain = VlmSettings()
    for name in VlmSettings.__struct_fields__:
        if name in _OPTIONS - spec.options and getattr(vlm, name) != getattr(plain, name):
            yield f"note: --vlm.{name} is not used by {spec.name}"


# Opening


async def choose_engine(
    vlm: VlmSettings, note: Callable[[str], None], *, offline: bool, logs: Path = Path("serve")
) -> Engine:
    """Open the engine of a run, and note which. Servers that it starts write their logs into the folder `logs`.

    Raises:
        NoEngine: none was named and none is there.
        UsageError: the named one cannot be used.
    """
    spec = engine_named("offline" if offline else vlm.backend)
    for point in third_party_engines():
        if point.name == spec.name and spec in SHIPPED:
            note(f"note: {package_of(point)} brings an engine {point.name}, too; the shipped one answers")
    return await _open(spec, EngineContext(vlm=vlm, environment=os.environ, note=note, logs=logs))


async def check_engine(vlm: VlmSettings, *, offline: bool) -> None:
    """Find out whether a run would have an engine, without starting or loading one.

    Raises:
        NoEngine, UsageError: as `choose_engine`, as far as it can be told beforehand.
    """
    spec = engine_named("offline" if offline else vlm.backend)
    await _check(spec, EngineContext(vlm=vlm, environment=os.environ))


async def open_first(context: EngineContext) -> Engine:
    """Open the engine that `auto` takes, and note which and why.

    Raises:
        NoEngine: there is none.
    """
    spec, reason = await _first(context)
    context.note(f"auto: {spec.name}, since {reason}")
    return await _open(spec, context)


async def check_first(context: EngineContext) -> None:
    """Find out whether `auto` would have an engine.

    Raises:
        NoEngine: there is none.
    """
    spec, _ = await _first(context)
    await _check(spec, context)


async def _open(spec: EngineSpec, context: EngineContext) -> Engine:
    for note in unused(context.vlm, spec):
        context.note(note)
    _require_installed(spec)
    return await resolve_name(spec.open)(context)


async def _check(spec: EngineSpec, context: EngineContext) -> None:
    _require_installed(spec)
    if spec.check is not None:
        await resolve_name(spec.check)(context)


async def _first(context: EngineContext) -> tuple[EngineSpec, str]:
    """Return the first engine that is there, in the order of the table, and why it is taken."""
    missing: list[str] = []
    # Packages of others are not looked at: an engine that was just installed must not change who answers.
    for spec in SHIPPED:
        if spec.availability is not None:
            available: Availability = await resolve_name(spec.availability)(context)
            if available.reason:
                return spec, ", and ".join(filter(None, (", ".join(missing), available.reason)))
            missing += available.missing
    where = f"--vlm.backend auto{'' if context.vlm.auto_serve else ' --vlm.auto_serve false'}"
    raise NoEngine("no engine", where=where, got=", ".join(missing), hint=_CHOICES)


def _require_installed(spec: EngineSpec) -> None:
    # Found, not imported: importing torch takes seconds.
    missing = [name for name in spec.requires if importlib.util.find_spec(name) is None]
    if missing:
        hint = f"pip install '{spec.install}'"
        where = f"--vlm.backend {spec.name}"
        raise NoEngine("this engine is not installed", where=where, got=f"no {', no '.join(missing)}", hint=hint)


def api_key(vlm: VlmSettings) -> str:
    """Return the API key that the settings name.

    Raises:
        UsageError: the variable is not set.
    """
    return EngineContext(vlm=vlm, environment=os.environ).api_key()
