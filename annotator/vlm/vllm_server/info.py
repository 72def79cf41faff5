"""Provenance of the servers that a run starts, beside what they report themselves; recorded with every answer."""

import importlib.util
import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from annotator.config.settings import VlmSettings
from annotator.vlm.vllm_server.command import gpu_names

BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The commit of the model that was loaded, where it has one, and entries for a reply's `versions`."""

    model_revision: str | None = None
    versions: dict[str, str] = {}


def read_server_info(vlm: VlmSettings, environment: Mapping[str, str]) -> ServerInfo:
    """Return what is known once a server has loaded its model; of the model of another command nothing is."""
    versions = {"hardware": hardware(environment)}
    if vlm.serve_command is not None:
        return ServerInfo(versions=versions)
    invariant = environment.get(BATCH_INVARIANT, "0").strip().lower() in ("1", "true")
    versions["batch_invariant"] = str(invariant).lower()
    return ServerInfo(model_revision=commit_of(vlm.model_id, vlm.model_revision), versions=versions)


def hardware(environment: Mapping[str, str]) -> str:
    """Return the GPUs of this machine ("2 × NVIDIA H200"), or its kind of processor where there are none."""
    counts = Counter(gpu_names(environment))
    return ", ".join(f"{number} × {name}" for name, number in counts.items()) or f"cpu {platform.machine()}"


def commit_of(model_id: str, revision: str | None) -> str | None:
    """Return the commit of a Hub model in the local cache, where vLLM has just put it; None for a folder."""
    if Path(model_id).exists() or importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(model_id, "config.json", revision=revision)
    except HFValidationError:  # no name that the Hub could have
        return None
    # …/snapshots/<commit>/config.json
    return Path(path).parent.name if isinstance(path, str) else None
