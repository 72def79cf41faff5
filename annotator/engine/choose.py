"""Choose the engine that a run asked for, and say which and why. Nothing is imported before it is chosen."""

import importlib.util
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.engine.base import Engine
from annotator.errors import NoEngine, UsageError
from annotator.settings import VlmSettings

if TYPE_CHECKING:
    from annotator.engine.openai import OpenAIEngine
    from annotator.engine.transformers import TransformersEngine
    from annotator.engine.vllm import VllmEngine

DEFAULT_API_BASE = "http://localhost:8000/v1"

CHOICES = (
    "name a server: --vlm.api_base http://HOST:PORT/v1 --vlm.model_id MODEL"
    "\n      start one:     vllm serve MODEL   (then the same command finds it on port 8000)"
    "\n      or have it started: --vlm.backend serve --vlm.model_id MODEL   (needs vLLM and a GPU)"
    "\n      or load it here: --vlm.backend vllm, or --vlm.backend transformers   (slow; for small models)"
    "\n      without one:   --vlm.backend signals   (no model: subtasks from gripper and motion signals alone)"
)


async def choose_engine(
    vlm: VlmSettings, note: Callable[[str], None], *, offline: bool, logs: Path = Path("serve")
) -> Engine:
    """Make the engine for a run, and note which. Servers that it starts write what they say into the folder `logs`.

    Raises:
        NoEngine: none was named and none was found.
        UsageError: the named one cannot be used.
    """
    backend = "offline" if offline else await _backend(vlm)
    if backend == "offline":
        from annotator.engine.offline import OfflineEngine

        return OfflineEngine()
    if backend == "signals":
        from annotator.engine.signals import SignalsEngine

        note("engine: signals – no model; answers come from gripper and motion signals and the task's words")
        return SignalsEngine()
    if backend == "scripted":
        from annotator.engine.scripted import ScriptedEngine

        note("engine: scripted – made-up answers, for tests only")
        return ScriptedEngine(record=False)
    if backend == "serve":
        return await _serve(vlm, note, logs)
    if backend in EXTRAS:
        return await _loaded(vlm, backend, note)
    return await _openai(vlm, note)


async def check_engine(vlm: VlmSettings, *, offline: bool) -> None:
    """Find out whether a run would have an engine, without starting or loading one.

    Raises:
        NoEngine, UsageError: as `choose_engine`, as far as it can be told beforehand.
    """
    backend = "offline" if offline else await _backend(vlm)
    if backend == "serve":
        from annotator.engine.serve_plan import plan_servers

        plan_servers(vlm, os.environ, Path("serve"))
    if backend in EXTRAS:
        _require_extra(backend)
    if backend == "openai":
        await (await _openai(vlm, lambda _: None)).aclose()


async def _backend(vlm: VlmSettings) -> str:
    """Say who is to answer where that is left open: a server that is named or found, else one that can be started."""
    if vlm.backend != "auto":
        return vlm.backend
    if vlm.api_base is not None:
        return "openai"
    from annotator.engine.openai import probe

    if await probe(DEFAULT_API_BASE, api_key(vlm), timeout_s=2.0) is not None:
        return "openai"
    if vlm.auto_serve:
        from annotator.engine.serve_plan import can_serve

        if can_serve(vlm, os.environ):
            return "serve"
    elif _can_load_vllm():
        return "vllm"
    raise NoEngine(
        "no engine", where="--vlm.backend auto", got=f"no server answers at {DEFAULT_API_BASE}", hint=CHOICES
    )


EXTRAS = {"vllm": ("vllm",), "transformers": ("transformers", "torch", "torchvision", "llguidance")}
"""Backends that load a model here, each an extra of the same name, and what must be importable for it."""


def _require_extra(backend: str) -> None:
    """Refuse a backend whose libraries are not installed, without importing them.

    Raises:
        NoEngine: naming what is missing, and the command that installs it.
    """
    missing = [name for name in EXTRAS[backend] if importlib.util.find_spec(name) is None]
    if missing:
        hint = f"pip install 'episode-annotator[{backend}]'"
        where = f"--vlm.backend {backend}"
        raise NoEngine("this engine is not installed", where=where, got=f"no {', no '.join(missing)}", hint=hint)


def _can_load_vllm() -> bool:
    from annotator.engine.serve_plan import visible_gpus

    return importlib.util.find_spec("vllm") is not None and bool(visible_gpus(os.environ))


async def _loaded(vlm: VlmSettings, backend: str, note: Callable[[str], None]) -> Engine:
    """Load the model before the first call, so that what is wrong with it is said once."""
    _require_extra(backend)
    engine = _vllm(vlm) if backend == "vllm" else _transformers(vlm)
    note(f"engine: {backend} – loading {vlm.model_id} for this run")
    try:
        await engine.start()
    except BaseException:
        await engine.aclose()
        raise
    return engine


def _vllm(vlm: VlmSettings) -> "VllmEngine":
    from annotator.engine.vllm import VllmEngine

    return VllmEngine(
        model_id=vlm.model_id,
        revision=vlm.model_revision,
        tensor_parallel_size=vlm.tensor_parallel_size,
        max_model_len=vlm.max_model_len,
        gpu_memory_utilization=vlm.gpu_memory_utilization,
        client_concurrency=vlm.client_concurrency,
        engine_kwargs=vlm.engine_kwargs,
    )


def _transformers(vlm: VlmSettings) -> "TransformersEngine":
    from annotator.engine.transformers import TransformersEngine

    return TransformersEngine(model_id=vlm.model_id, revision=vlm.model_revision, max_model_len=vlm.max_model_len)


def endpoints(vlm: VlmSettings) -> list[str]:
    """Part `api_base` into its endpoints.

    Raises:
        UsageError: it names none.
    """
    named = DEFAULT_API_BASE if vlm.api_base is None else vlm.api_base
    found = list(dict.fromkeys(part.strip() for part in named.split(",") if part.strip()))
    if not found:
        hint = "http://HOST:PORT/v1, or several joined by commas"
        raise UsageError("no endpoint is named", where="--vlm.api_base", got=repr(named), hint=hint)
    return found


async def _openai(vlm: VlmSettings, note: Callable[[str], None]) -> Engine:
    from annotator.engine.openai import require_any

    bases = endpoints(vlm)
    engine = _asking(vlm, bases, note)
    for error in await require_any(bases, vlm.model_id, api_key(vlm)):
        note(f"{error.where.removesuffix('/models')} does not answer ({error.kind}): starting without it")
    shown = ", ".join(lane.label for lane in engine.router.lanes)
    note(f"engine: openai at {shown}, model {vlm.model_id}")
    return engine


async def _serve(vlm: VlmSettings, note: Callable[[str], None], logs: Path) -> Engine:
    from annotator.engine.serve import Patience, serve
    from annotator.engine.serve_plan import plan_servers

    plans = plan_servers(vlm, os.environ, logs)
    shown = f"{len(plans)} server{'s' * (len(plans) > 1)}"
    note(f"engine: serve – starting {shown} of {vlm.model_id}: {shlex.join(plans[0].command)} (logs: {logs})")
    patience = Patience(ready_s=vlm.serve_ready_timeout_s)
    # Another command starts who knows what: only the default one is known to take the times of frames.
    asking = _asking(vlm, (), note, video_times=vlm.serve_command is None)
    return await serve(plans, asking, vlm.model_id, note, patience)


def _asking(
    vlm: VlmSettings, bases: Sequence[str], note: Callable[[str], None], *, video_times: bool = False
) -> "OpenAIEngine":
    from annotator.engine.openai import OpenAIEngine

    return OpenAIEngine(
        api_base=bases,
        api_key=api_key(vlm),
        request_timeout_s=vlm.request_timeout_s,
        request_max_retries=vlm.request_max_retries,
        client_concurrency=vlm.client_concurrency,
        video_times=video_times,
        note=note,
    )


def api_key(vlm: VlmSettings) -> str:
    """Read the key from the variable the settings name; local servers take any.

    Raises:
        UsageError: the variable is not set.
    """
    if vlm.api_key_env is None:
        return "EMPTY"
    key = os.environ.get(vlm.api_key_env)
    if not key:
        raise UsageError("the API key is not set", where=f"--vlm.api_key_env {vlm.api_key_env}")
    return key
