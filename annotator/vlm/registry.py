"""Choose the engine that a run asked for, and say which and why. Nothing is imported before it is chosen."""

import importlib.util
import os
import secrets
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.config.settings import VlmSettings
from annotator.errors import NoEngine, UsageError
from annotator.vlm.auto import Choice, who_answers
from annotator.vlm.base import Engine
from annotator.vlm.unused import unused

if TYPE_CHECKING:
    from annotator.vlm.openai.engine import OpenAIEngine
    from annotator.vlm.transformers.engine import TransformersEngine
    from annotator.vlm.vllm_local.engine import VllmEngine

DEFAULT_API_BASE = "http://localhost:8000/v1"


async def choose_engine(
    vlm: VlmSettings, note: Callable[[str], None], *, offline: bool, logs: Path = Path("serve")
) -> Engine:
    """Make the engine for a run, and note which. Servers that it starts write what they say into the folder `logs`.

    Raises:
        NoEngine: none was named and none was found.
        UsageError: the named one cannot be used.
    """
    choice = await _choice(vlm, offline=offline)
    backend = choice.backend
    if choice.why:
        note(f"auto: {backend}, since {choice.why}")
    for one in unused(vlm, backend):
        note(one)
    if backend == "offline":
        from annotator.vlm.offline import OfflineEngine

        return OfflineEngine()
    if backend == "signals":
        from annotator.vlm.signals.engine import SignalsEngine

        note("engine: signals – no model; answers come from gripper and motion signals and the task's words")
        return SignalsEngine()
    if backend == "scripted":
        from annotator.vlm.scripted.engine import ScriptedEngine

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
    backend = (await _choice(vlm, offline=offline)).backend
    if backend == "serve":
        from annotator.vlm.vllm_server.command import plan_servers

        plan_servers(vlm, os.environ, Path("serve"))
    if backend in EXTRAS:
        _require_extra(backend)
    if backend == "openai":
        await (await _openai(vlm, lambda _: None)).aclose()


async def _choice(vlm: VlmSettings, *, offline: bool) -> Choice:
    if offline or vlm.backend != "auto":
        return Choice(backend="offline" if offline else vlm.backend)
    return await who_answers(vlm, os.environ, DEFAULT_API_BASE, api_key(vlm))


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


async def _loaded(vlm: VlmSettings, backend: str, note: Callable[[str], None]) -> Engine:
    """Load the model before the first call, so that what is wrong with it is said once."""
    _require_extra(backend)
    engine = _vllm(vlm) if backend == "vllm" else _transformers(vlm)
    note(f"engine: {backend} – loading {vlm.model_id} for this run")
    if backend == "vllm":
        _note_idle_gpus(vlm, note)
    try:
        await engine.start()
    except BaseException:
        await engine.aclose()
        raise
    return engine


def _note_idle_gpus(vlm: VlmSettings, note: Callable[[str], None]) -> None:
    """One engine takes as many GPUs as it is told to, however many there are."""
    from annotator.vlm.vllm_server.command import visible_gpus

    visible, used = len(visible_gpus(os.environ)), vlm.tensor_parallel_size
    if visible > used and not any(name.endswith("parallel_size") for name in vlm.engine_kwargs):
        note(f"note: vllm uses {used} of {visible} GPUs, the others stay idle; --vlm.backend serve uses them all")


def _vllm(vlm: VlmSettings) -> "VllmEngine":
    from annotator.vlm.vllm_local.engine import VllmEngine

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
    from annotator.vlm.transformers.engine import TransformersEngine

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
    from annotator.vlm.openai.engine import require_any

    bases = endpoints(vlm)
    engine = _asking(vlm, bases, api_key(vlm), note)
    silent = await require_any(bases, vlm.model_id, api_key(vlm))
    shown = ", ".join(lane.label for lane in engine.router.lanes)
    note(f"engine: openai at {shown}, model {vlm.model_id}")
    for lane, error in zip(engine.router.lanes, silent, strict=True):
        if error is not None:
            engine.router.absent(lane, error)
    return engine


async def _serve(vlm: VlmSettings, note: Callable[[str], None], logs: Path) -> Engine:
    from annotator.vlm.redact import shown_command
    from annotator.vlm.vllm_server.command import API_KEY, plan_servers
    from annotator.vlm.vllm_server.engine import StartupPolicy, serve
    from annotator.vlm.vllm_server.info import facts_of

    # Other users of this machine reach its loopback too, and a key that is set for other servers is none of theirs.
    key = secrets.token_urlsafe(32)
    plans = plan_servers(vlm, {**os.environ, API_KEY: key}, logs)
    count, command = f"{len(plans)} server{'s' * (len(plans) > 1)}", shown_command(shlex.join(plans[0].command))
    note(f"engine: serve – starting {count} of {vlm.model_id}: {command} (logs: {logs})")
    patience = StartupPolicy(ready_s=vlm.serve_ready_timeout_s)
    # Another command starts who knows what: only the default one is known to take the times of frames.
    asking = _asking(vlm, (), key, note, video_times=vlm.serve_command is None)
    return await serve(plans, asking, vlm.model_id, note, patience, known=lambda: facts_of(vlm, os.environ))


def _asking(
    vlm: VlmSettings, bases: Sequence[str], key: str, note: Callable[[str], None], *, video_times: bool = False
) -> "OpenAIEngine":
    from annotator.vlm.openai.engine import OpenAIEngine

    return OpenAIEngine(
        api_base=bases,
        api_key=key,
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
