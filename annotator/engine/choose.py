"""Choose the engine that a run asked for, and say which and why. Nothing is imported before it is chosen."""

import os
from collections.abc import Callable

from annotator.engine.base import Engine
from annotator.errors import NoEngine, UsageError
from annotator.settings import VlmSettings

DEFAULT_API_BASE = "http://localhost:8000/v1"

CHOICES = (
    "name a server: --vlm.api_base http://HOST:PORT/v1 --vlm.model_id MODEL"
    "\n      start one:     vllm serve MODEL   (then the same command finds it on port 8000)"
    "\n      without one:   --vlm.backend signals   (no model: subtasks from gripper and motion signals alone)"
)


async def choose_engine(vlm: VlmSettings, note: Callable[[str], None], *, offline: bool) -> Engine:
    """Make the engine for a run, and note which.

    Raises:
        NoEngine: none was named and none was found.
        UsageError: the named one cannot be used.
    """
    if offline or vlm.backend == "offline":
        from annotator.engine.offline import OfflineEngine

        return OfflineEngine()
    if vlm.backend == "signals":
        from annotator.engine.signals import SignalsEngine

        note("engine: signals – no model; answers come from gripper and motion signals and the task's words")
        return SignalsEngine()
    if vlm.backend == "scripted":
        from annotator.engine.scripted import ScriptedEngine

        note("engine: scripted – made-up answers, for tests only")
        return ScriptedEngine(record=False)
    return await _openai(vlm, note)


async def _openai(vlm: VlmSettings, note: Callable[[str], None]) -> Engine:
    from annotator.engine.openai import OpenAIEngine, probe, require

    base, key = vlm.api_base or DEFAULT_API_BASE, api_key(vlm)
    if vlm.api_base is None and vlm.backend == "auto" and await probe(base, key, timeout_s=2.0) is None:
        raise NoEngine("no engine", where="--vlm.backend auto", got=f"no server answers at {base}", hint=CHOICES)
    await require(base, vlm.model_id, key)
    note(f"engine: openai at {base}, model {vlm.model_id}")
    return OpenAIEngine(
        api_base=base,
        api_key=key,
        request_timeout_s=vlm.request_timeout_s,
        request_max_retries=vlm.request_max_retries,
        client_concurrency=vlm.client_concurrency,
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
