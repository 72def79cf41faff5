# pyright: reportMissingImports=false
"""Start vLLM's engine: its arguments, and the hints for when it does not start."""

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any

from annotator.errors import NoEngine
from annotator.vlm.base import Availability, EngineContext
from annotator.vlm.vllm_server.command import visible_gpus

_ENVIRONMENT = {
    # stdout is for data.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""Set before vLLM is imported, where nobody set them. None of them can change an answer."""

_GOT_CHARACTERS = 400
_FIT_MEMORY = -1
"""Have vLLM take as long a context as the memory holds. Source: vLLM 0.32, ModelConfig.max_model_len."""

_HINTS = (
    (("gpu_memory_utilization", "kv cache", "out of memory", "outofmemory", "max_model_len", "max seq len",
      "free memory"),
     "lower --vlm.max_model_len, raise --vlm.gpu_memory_utilization, or spread the model over several GPUs with"
     " --vlm.tensor_parallel_size"),
    (("tensor", "world size", "number of gpus"),
     "--vlm.tensor_parallel_size must be a number of GPUs that are there, and divide the model's heads"),
    (("repository", "repo id", "repo_id", "huggingface", "no such file", "config.json", "revision", "connect"),
     "name a folder, or a model that this machine can fetch: --vlm.model_id, --vlm.model_revision"),
    (("unexpected keyword", "engine_kwargs", "validation error"),
     "--vlm.engine_kwargs takes the names of vLLM's engine arguments, such as {\"max_num_seqs\": 64}"),
)  # fmt: skip
_UNKNOWN_HINT = (
    "what vLLM printed above says why; most often the model needs more memory (lower --vlm.max_model_len, raise"
    " --vlm.gpu_memory_utilization) or more GPUs (--vlm.tensor_parallel_size)"
)


async def availability(context: EngineContext) -> Availability:
    """Whether vLLM can be loaded here. Not looked at where servers may be started, which is the better choice."""
    if context.vlm.auto_serve:
        return Availability()
    missing = [] if visible_gpus(context.environment) else ["no GPU"]
    missing += [] if importlib.util.find_spec("vllm") is not None else ["no vLLM"]
    return Availability(missing=tuple(missing)) if missing else Availability(reason="there are vLLM and a GPU")


def boot(
    model_id: str,
    *,
    revision: str | None,
    tensor_parallel_size: int,
    max_model_len: int | None,
    gpu_memory_utilization: float | None,
    more: Mapping[str, Any],
    abandoned: Callable[[], bool],
) -> Any:
    """Return a started `AsyncLLM`; blocks for minutes with a large model. `more` are further engine arguments.

    Raises:
        NoEngine: it does not start, or was `abandoned` before its processes were started.
    """
    # A fork would copy the locks of the threads that decode and write, and the pipe that tells the watchdog of the end.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    where = f"--vlm.backend vllm, model {model_id}"
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        if abandoned():  # importing vLLM took seconds
            raise NoEngine("vLLM was stopped while it was loaded", where=where)
        arguments: dict[str, Any] = {
            "model": model_id,
            "revision": revision,
            "tokenizer_revision": revision,
            "tensor_parallel_size": tensor_parallel_size,
            "max_model_len": max_model_len or _FIT_MEMORY,
            **({"gpu_memory_utilization": gpu_memory_utilization} if gpu_memory_utilization else {}),
            "enable_prefix_caching": True,
            "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
            **more,
        }
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    except (RuntimeError, ValueError, TypeError, AssertionError, OSError, ImportError) as cause:
        got = " ".join(str(cause).split())
        shown = got if len(got) <= _GOT_CHARACTERS else f"{got[:_GOT_CHARACTERS]}…"
        raise NoEngine("vLLM does not start", where=where, got=shown, hint=hint_for(got)) from cause


def hint_for(got: str, otherwise: str = _UNKNOWN_HINT) -> str:
    """Return the hint for the message that vLLM failed with."""
    message = got.lower()
    return next((hint for words, hint in _HINTS if any(word in message for word in words)), otherwise)
