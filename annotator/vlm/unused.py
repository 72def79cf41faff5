"""Which settings a backend does not use: one that was given and changes nothing is worth a word."""

from collections.abc import Iterator

from annotator.config.settings import VlmSettings

_CLIENT = frozenset({"openai", "serve"})
_STARTED = frozenset({"serve", "vllm"})

USED_BY: dict[str, frozenset[str]] = {
    "api_base": frozenset({"openai"}),
    "api_key_env": frozenset({"openai"}),
    "request_timeout_s": _CLIENT,
    "request_max_retries": _CLIENT,
    "client_concurrency": _CLIENT | {"vllm"},
    "parallel_servers": frozenset({"serve"}),
    "num_gpus": frozenset({"serve"}),
    "serve_command": frozenset({"serve"}),
    "serve_ready_timeout_s": frozenset({"serve"}),
    "tensor_parallel_size": _STARTED,
    "max_model_len": _STARTED | {"transformers"},
    "gpu_memory_utilization": _STARTED,
    "engine_kwargs": frozenset({"vllm"}),
}
"""Settings that only some backends use, with these. All others are part of a key, or concern the footage."""


def unused(vlm: VlmSettings, backend: str) -> Iterator[str]:
    """Note every setting that was changed and that the chosen backend does not use.

    Of `offline` nothing is said: the log alone answers there what another backend was asked.
    """
    plain = VlmSettings()
    for name, backends in USED_BY.items():
        if backend not in backends and backend != "offline" and getattr(vlm, name) != getattr(plain, name):
            yield f"note: --vlm.{name} is not used by {backend}"
