"""What is to be started: how many servers, on which GPUs, by which command. Nothing is started here."""

import importlib.util
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from annotator.config.settings import VlmSettings
from annotator.errors import UsageError
from annotator.vlm.base import Availability, EngineContext
from annotator.vlm.redact import shown_command

VISIBLE = "CUDA_VISIBLE_DEVICES"
API_KEY = "VLLM_API_KEY"
"""Holds the key that a vLLM server asks for below /v1. Elsewhere it asks for none, not even at /invocations, which
takes chat requests as well. Source: vLLM 0.32, entrypoints/serve/middleware."""
_IMAGES, _VIDEOS = 32, 8
"""Media in one prompt at most: three episodes of three sheets and three cameras; the vocabulary's videos."""
_COUNT_TIMEOUT_S = 60.0


class ServerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One server to start. `command` still holds {port}; `environment` is all it gets."""

    label: str
    command: tuple[str, ...]
    environment: dict[str, str]
    log: Path

    def with_port(self, port: int) -> list[str]:
        """Fill in the port."""
        return [word.replace("{port}", str(port)) for word in self.command]


def plan_servers(vlm: VlmSettings, environment: Mapping[str, str], folder: Path) -> tuple[ServerPlan, ...]:
    """Plan the servers of a run; each gets GPUs of its own, as far as they go. Their logs go into `folder`.

    Raises:
        UsageError: there is no such command, or too few GPUs.
    """
    command = serve_command(vlm, environment)
    shares = share_gpus(vlm, visible_gpus(environment))
    return tuple(
        ServerPlan(
            label=f"server {number}",
            command=command,
            environment={**environment, **({VISIBLE: ",".join(gpus)} if gpus else {})},
            log=folder / f"server-{number}.log",
        )
        for number, gpus in enumerate(shares)
    )


async def check(context: EngineContext) -> None:
    """Find out whether servers could be started.

    Raises:
        UsageError: there is no such command, or too few GPUs.
    """
    plan_servers(context.vlm, context.environment, context.logs)


async def availability(context: EngineContext) -> Availability:
    """Whether servers can be started: a command is named, or there are `vllm` and a GPU."""
    vlm = context.vlm
    if not vlm.auto_serve:
        return Availability(missing=("none is to be started",))
    if vlm.serve_command is not None:
        return Availability(reason="--vlm.serve_command starts one")
    missing = [] if visible_gpus(context.environment) else ["no GPU"]
    try:
        serve_command(vlm, context.environment)
    except UsageError as error:
        missing.append(f"no command {error.got}")
    return Availability(missing=tuple(missing)) if missing else Availability(reason="there are vLLM and a GPU")


def serve_command(vlm: VlmSettings, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Make the command that starts one server, {port} left open.

    Raises:
        UsageError: the command has no {port}, or cannot be found.
    """
    where = "--vlm.serve_command"
    if vlm.serve_command is None:
        hint = "pip install 'episode-annotator[vllm]', or name a command with --vlm.serve_command"
        words = default_command(vlm)
    else:
        hint = "write the command as in a shell, with {port} and {model} where they go"
        try:
            words = [word.replace("{model}", vlm.model_id) for word in shlex.split(vlm.serve_command)]
        except ValueError as cause:
            raise UsageError("the command cannot be read", where=where, got=str(cause), hint=hint) from cause
        if not any("{port}" in word for word in words):
            raise UsageError("the command has no {port}", where=where, got=shown_command(vlm.serve_command), hint=hint)
    program = _found(words[0], environment)
    if program is None:
        raise UsageError("there is no such command", where=where, got=shown_command(words[0]), hint=hint)
    return (program, *words[1:])


def _found(program: str, environment: Mapping[str, str]) -> str | None:
    """Look on the PATH, and beside the interpreter: there it is in a virtual environment that is not activated."""
    if shutil.which(program, path=environment.get("PATH")) is not None:
        return program
    return shutil.which(program, path=str(Path(sys.executable).parent))


def default_command(vlm: VlmSettings) -> list[str]:
    """Write out the `vllm serve` that suits this project.

    Guidance is the backend whose JSON always parses. Thinking is off unless an effort is asked for, since a schema
    holds a reply from its first token. Requests may say how their media are read, since the server listens on this
    machine alone; so the times of a video's frames go along. Prompt-token details say what the prefix cache saved. The
    context is what the memory holds: without a word vLLM wants room for the model's whole context, and does not start.
    Source: vLLM 0.32's `vllm serve --help`.
    """
    words = ["vllm", "serve", vlm.model_id, "--host", "127.0.0.1", "--port", "{port}"]
    words += ["--structured-outputs-config", '{"backend":"guidance","disable_any_whitespace":true}']
    words += ["--limit-mm-per-prompt", f'{{"image":{_IMAGES},"video":{_VIDEOS}}}', "--enable-prompt-tokens-details"]
    words += ["--trust-request-mm-kwargs"]
    if vlm.reasoning_effort in (None, "none"):
        words += ["--default-chat-template-kwargs", '{"enable_thinking":false}']
    chosen = {
        "--revision": vlm.model_revision,
        "--max-model-len": vlm.max_model_len or "auto",
        "--gpu-memory-utilization": vlm.gpu_memory_utilization,
        "--tensor-parallel-size": vlm.tensor_parallel_size if vlm.tensor_parallel_size > 1 else None,
    }
    for flag, value in chosen.items():
        words += [] if value is None else [flag, str(value)]
    return words


def share_gpus(vlm: VlmSettings, visible: Sequence[str]) -> list[tuple[str, ...]]:
    """Share the GPUs out, `tensor_parallel_size` to a server; without any, servers get none.

    Raises:
        UsageError: more are asked for than there are.
    """
    if vlm.num_gpus > len(visible):
        raise UsageError("so many GPUs are not there", where=f"--vlm.num_gpus {vlm.num_gpus}", got=str(len(visible)))
    gpus, each = visible[: vlm.num_gpus or None], vlm.tensor_parallel_size
    if not gpus:
        return [()] * (vlm.parallel_servers or 1)
    room = len(gpus) // each
    servers = vlm.parallel_servers or room
    if servers > room or not servers:
        where = f"--vlm.parallel_servers {max(servers, 1)} --vlm.tensor_parallel_size {each}"
        hint = f"there is room for {room}" if room else "lower --vlm.tensor_parallel_size"
        raise UsageError("too few GPUs for so many servers", where=where, got=f"{len(gpus)} GPUs", hint=hint)
    return [tuple(gpus[i * each : (i + 1) * each]) for i in range(servers)]


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Name the GPUs a server may use, as CUDA_VISIBLE_DEVICES does; none where none can be found."""
    named = environment.get(VISIBLE)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi", path=environment.get("PATH")) is not None:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return _said(query, environment).split()
    if importlib.util.find_spec("torch") is None:
        return []
    # In a process of its own: here, it would take hold of a GPU.
    count = _said([sys.executable, "-c", "import torch; print(torch.cuda.device_count())"], environment)
    return [str(index) for index in range(int(count))] if count.isdecimal() else []


def gpu_names(environment: Mapping[str, str]) -> list[str]:
    """Name the kind of each GPU of this machine; none where `nvidia-smi` finds none."""
    if shutil.which("nvidia-smi", path=environment.get("PATH")) is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return [line.strip() for line in _said(query, environment).splitlines() if line.strip()]


def _said(command: list[str], environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_COUNT_TIMEOUT_S, env=dict(environment)
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
