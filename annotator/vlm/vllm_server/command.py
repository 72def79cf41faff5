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
        """Return the command with its port."""
        return [word.replace("{port}", str(port)) for word in self.command]


def plan_servers(vlm: VlmSettings, environment: Mapping[str, str], folder: Path) -> tuple[ServerPlan, ...]:
    """Return the servers of a run, each with GPUs of its own where there are any. Logs are written into `folder`.

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
    """Return the command that starts one server, with {port} still to be filled in.

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
    program = _find_program(words[0], environment)
    if program is None:
        raise UsageError("there is no such command", where=where, got=shown_command(words[0]), hint=hint)
    return (program, *words[1:])


def _find_program(program: str, environment: Mapping[str, str]) -> str | None:
    """Return the program if it is on the PATH, else its path beside the interpreter of an environment not activated."""
    if shutil.which(program, path=environment.get("PATH")) is not None:
        return program
    return shutil.which(program, path=str(Path(sys.executable).parent))


def default_command(vlm: VlmSettings) -> list[str]:
    """Return the words of the `vllm serve` that suits this project. Source: vLLM 0.32's `vllm serve --help`."""
    words = ["vllm", "serve", vlm.model_id, "--host", "127.0.0.1", "--port", "{port}"]
    # Of vLLM's backends, guidance is the one whose JSON always parses.
    words += ["--structured-outputs-config", '{"backend":"guidance","disable_any_whitespace":true}']
    # Prompt-token details say what the prefix cache saved.
    words += ["--limit-mm-per-prompt", f'{{"image":{_IMAGES},"video":{_VIDEOS}}}', "--enable-prompt-tokens-details"]
    # Requests give the times of a video's frames. Only this machine can send any, so they may be trusted.
    words += ["--trust-request-mm-kwargs"]
    # A schema constrains a reply from its first token, so a model that thinks first could not.
    if vlm.reasoning_effort in (None, "none"):
        words += ["--default-chat-template-kwargs", '{"enable_thinking":false}']
    options = {
        "--revision": vlm.model_revision,
        # By default vLLM wants room for the model's whole context, and does not start where the memory has none.
        "--max-model-len": vlm.max_model_len or "auto",
        "--gpu-memory-utilization": vlm.gpu_memory_utilization,
        "--tensor-parallel-size": vlm.tensor_parallel_size if vlm.tensor_parallel_size > 1 else None,
    }
    for flag, value in options.items():
        words += [] if value is None else [flag, str(value)]
    return words


def share_gpus(vlm: VlmSettings, visible: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the GPUs of each server, `tensor_parallel_size` to one; without any, servers get none.

    Raises:
        UsageError: more are asked for than there are.
    """
    if vlm.num_gpus > len(visible):
        raise UsageError("so many GPUs are not there", where=f"--vlm.num_gpus {vlm.num_gpus}", got=str(len(visible)))
    gpus, per_server = visible[: vlm.num_gpus or None], vlm.tensor_parallel_size
    if not gpus:
        # Another command than vLLM's may well run on the CPU, or elsewhere.
        return [()] * (vlm.parallel_servers or 1)
    room = len(gpus) // per_server
    servers = vlm.parallel_servers or room
    if servers > room or not servers:
        where = f"--vlm.parallel_servers {max(servers, 1)} --vlm.tensor_parallel_size {per_server}"
        hint = f"there is room for {room}" if room else "lower --vlm.tensor_parallel_size"
        raise UsageError("too few GPUs for so many servers", where=where, got=f"{len(gpus)} GPUs", hint=hint)
    return [tuple(gpus[i * per_server : (i + 1) * per_server]) for i in range(servers)]


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the GPUs that a server may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    listed = environment.get(VISIBLE)
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi", path=environment.get("PATH")) is not None:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return _output_of(query, environment).split()
    if importlib.util.find_spec("torch") is None:
        return []
    # In a process of its own, since torch keeps the GPUs that it has initialised.
    count = _output_of([sys.executable, "-c", "import torch; print(torch.cuda.device_count())"], environment)
    return [str(index) for index in range(int(count))] if count.isdecimal() else []


def gpu_names(environment: Mapping[str, str]) -> list[str]:
    """Return the model name of each GPU of this machine, as `nvidia-smi` lists them."""
    if shutil.which("nvidia-smi", path=environment.get("PATH")) is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return [line.strip() for line in _output_of(query, environment).splitlines() if line.strip()]


def _output_of(command: list[str], environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_COUNT_TIMEOUT_S, env=dict(environment)
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
