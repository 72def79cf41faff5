"""Who answers where that is left open: a server that is named or found, else one that can be started; and why."""

import importlib.util
from collections.abc import Mapping

import msgspec

from annotator.config.settings import VlmSettings
from annotator.errors import NoEngine, UsageError
from annotator.vlm.vllm_server.command import can_serve, serve_command, visible_gpus

_CHOICES = (
    "name a server: --vlm.api_base http://HOST:PORT/v1 --vlm.model_id MODEL"
    "\n      start one:     vllm serve MODEL   (then the same command finds it on port 8000)"
    "\n      or have it started: --vlm.backend serve --vlm.model_id MODEL   (needs vLLM and a GPU)"
    "\n      or load it here: --vlm.backend vllm, or --vlm.backend transformers   (slow; for small models)"
    "\n      without one:   --vlm.backend signals   (no model: subtasks from gripper and motion signals alone)"
)


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A backend by its name in the settings. `why` is empty where the settings name it."""

    backend: str
    why: str = ""


async def who_answers(vlm: VlmSettings, environment: Mapping[str, str], api_base: str, api_key: str) -> Choice:
    """Take the first that is there. `api_base` is where to look for a server that nobody named.

    Raises:
        NoEngine: there is none, or a server is there and refuses the key.
    """
    if vlm.api_base is not None:
        return Choice(backend="openai", why="--vlm.api_base names where to ask")
    from annotator.vlm.openai.engine import probe

    if await probe(api_base, api_key, timeout_s=2.0) is not None:
        return Choice(backend="openai", why=f"a server answers at {api_base}")
    silent = f"no server answers at {api_base}"
    if vlm.auto_serve and can_serve(vlm, environment):
        started = "there are vLLM and a GPU" if vlm.serve_command is None else "--vlm.serve_command starts one"
        return Choice(backend="serve", why=f"{silent}, and {started}")
    missing = _missing(vlm, environment)
    if not vlm.auto_serve and not missing:
        return Choice(backend="vllm", why=f"{silent}, none is to be started, and there are vLLM and a GPU")
    where = f"--vlm.backend auto{'' if vlm.auto_serve else ' --vlm.auto_serve false'}"
    raise NoEngine("no engine", where=where, got=", ".join([silent, *missing]), hint=_CHOICES)


def _missing(vlm: VlmSettings, environment: Mapping[str, str]) -> list[str]:
    """Say what is not there of what a server to be started needs, or vLLM in this process."""
    missing = [] if visible_gpus(environment) else ["no GPU"]
    if not vlm.auto_serve:
        return missing if importlib.util.find_spec("vllm") is not None else [*missing, "no vLLM"]
    try:
        serve_command(vlm, environment)
        return missing
    except UsageError as error:
        return [*missing, f"no command {error.got}"]
