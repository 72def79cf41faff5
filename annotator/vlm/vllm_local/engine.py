# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""vLLM in this process: no server, no HTTP. Its engine core runs in processes of the run."""

import asyncio
import contextlib
import importlib.metadata
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

from annotator.errors import CallError
from annotator.vlm.base import EngineContext, Reply, Request
from annotator.vlm.openai.router import Stopped
from annotator.vlm.vllm_local.messages import render_prompt, sampling_params
from annotator.vlm.vllm_local.processes import EngineProcesses
from annotator.vlm.vllm_local.startup import boot
from annotator.vlm.vllm_server.command import visible_gpus

_SHUTDOWN_S = 30.0


class VllmEngine:
    """Answer with vLLM's asynchronous engine, held to the answer's JSON schema by its guidance backend.

    `max_model_len` is the context, tokens; None takes what fits. `gpu_memory_utilization` is the share of each GPU's
    memory that the engine may fill; None leaves it to vLLM. `client_concurrency` limits requests in flight, unless 0.
    `engine_kwargs` are further arguments of vLLM's engine. Several requests are answered in one batch, so a seed gives
    the same text again only where the batch cannot matter: see `batch_invariant` in a reply's versions.
    """

    name = "vllm"
    looks = True
    reads_evidence = False

    def __init__(
        self,
        *,
        model_id: str,
        revision: str | None = None,
        tensor_parallel_size: int = 1,
        max_model_len: int | None = None,
        gpu_memory_utilization: float | None = None,
        client_concurrency: int = 0,
        engine_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._model_id = model_id
        self._revision = revision
        self._boot_arguments: dict[str, Any] = {
            "revision": revision,
            "tensor_parallel_size": tensor_parallel_size,
            "max_model_len": max_model_len,
            "gpu_memory_utilization": gpu_memory_utilization,
            "more": dict(engine_kwargs or {}),
        }
        self._slots = asyncio.Semaphore(client_concurrency) if client_concurrency else contextlib.nullcontext()
        self._starting: asyncio.Task[Any] | None = None
        self._processes: EngineProcesses | None = None
        self._stopped = False
        self._numbers = itertools.count()  # vLLM wants another id for a request that is asked again
        self._versions: Mapping[str, str] = {}

    async def start(self) -> Any:
        """Return vLLM's `AsyncLLM`, starting it on first use. Concurrent callers share one start and its failure.

        Raises:
            NoEngine: it does not start.
        """
        if self._starting is None:
            # A task of its own: a caller that is cancelled leaves it to the others.
            self._processes = EngineProcesses()
            self._starting = asyncio.create_task(self._start(self._processes))
        llm = await asyncio.shield(self._starting)
        if not self._versions:
            self._versions = _versions(llm)
        return llm

    async def generate(self, request: Request) -> Reply:
        """Answer one request; cancelling takes it out of the batch.

        Raises:
            CallError: no usable reply. `kind` is `bad_request`, `engine_failed` or `engine_dead`.
            Stopped: its turn came after `stop`.
            NoEngine: vLLM does not start.
        """
        llm = await self.start()
        from vllm.exceptions import VLLMClientError, VLLMError
        from vllm.v1.engine.exceptions import EngineDeadError

        async with self._slots:
            self._refuse_stopped(request)
            started = time.monotonic()
            try:
                output = await self._output(llm, request)
            except (VLLMClientError, ValueError, TypeError) as cause:
                # The renderer refuses pictures and arguments with plain ValueErrors.
                raise self._refused(request, cause) from cause
            except EngineDeadError as cause:
                raise self._failed(request, "vLLM's engine has died", "engine_dead", cause) from cause
            except VLLMError as cause:
                raise self._failed(request, "vLLM failed", "engine_failed", cause.__cause__ or cause) from cause
            return self._reply(request, output, time.monotonic() - started)

    def stop(self) -> None:
        """Start no further call: those that wait fail with `attempts` 0, those in the batch end as they would."""
        self._stopped = True

    async def aclose(self) -> None:
        """Stop vLLM's processes, also while they are being started; requests in flight end with an error."""
        starting, self._starting = self._starting, None
        processes, self._processes = self._processes, None
        if starting is None or processes is None:
            return
        if not starting.done():
            processes.abandon()
        # A failed start was raised to its callers.
        (llm,) = await asyncio.gather(starting, return_exceptions=True)
        if not isinstance(llm, BaseException):
            await self._shut_down(llm)
        await asyncio.to_thread(processes.close)

    async def _start(self, processes: EngineProcesses) -> Any:
        def load(abandoned: Callable[[], bool]) -> Any:
            return boot(self._model_id, abandoned=abandoned, **self._boot_arguments)

        try:
            # In a thread, since it blocks for minutes.
            return await asyncio.to_thread(processes.load, load)
        except asyncio.CancelledError:
            # The thread goes on, and the interpreter's end waits for it.
            processes.abandon()
            raise

    async def _shut_down(self, llm: Any) -> None:
        if llm.output_handler is not None and not llm.get_num_unfinished_requests():
            # Else it takes the end of the engine for its death, and logs that at length.
            llm.output_handler.cancel()
        await asyncio.to_thread(llm.shutdown, timeout=_SHUTDOWN_S)
        # Its finalizer shuts down once more, at the interpreter's end, when the modules it needs are gone.
        llm.shutdown = lambda timeout=None: None
        if llm.output_handler is not None:
            await asyncio.gather(llm.output_handler, return_exceptions=True)

    async def _output(self, llm: Any, request: Request) -> Any:
        prompt = await render_prompt(llm, request)
        self._refuse_stopped(request)  # rendering many pictures takes a while
        last_output: Any = None
        parameters = sampling_params(llm, request, prompt_tokens=len(prompt["prompt_token_ids"]))
        async for output in llm.generate(prompt, parameters, f"{request.key}-{next(self._numbers)}"):
            last_output = output
        return last_output

    def _reply(self, request: Request, output: Any, elapsed_s: float) -> Reply:
        completion = output.outputs[0]
        if completion.finish_reason not in ("stop", "length"):
            got = f"finish_reason {completion.finish_reason}"
            raise self._failed(request, "vLLM ended the reply", "engine_failed", got)
        return Reply(
            text=completion.text,
            finish_reason=completion.finish_reason,
            tokens_in=len(output.prompt_token_ids),
            tokens_out=len(completion.token_ids),
            elapsed_s=elapsed_s,
            model_revision=self._versions.get("model_revision") or self._revision,
            versions={name: value for name, value in self._versions.items() if name != "model_revision"},
        )

    def _refuse_stopped(self, request: Request) -> None:
        if self._stopped:
            where = self._where(request)
            raise Stopped("the run asks nothing more", kind="stopped", retryable=True, where=where, attempts=0)

    def _where(self, request: Request) -> str:
        return f"{request.step} at {self._model_id}"

    def _refused(self, request: Request, cause: Exception) -> CallError:
        got = " ".join(str(cause).split())[:400]
        return CallError(
            "vLLM refused the request",
            kind="bad_request",
            retryable=False,
            where=self._where(request),
            got=got,
            hint=_hint(got.lower()),
        )

    def _failed(self, request: Request, what: str, kind: str, cause: object) -> CallError:
        return CallError(
            what,
            kind=kind,
            retryable=True,
            where=self._where(request),
            got=" ".join(str(cause).split())[:400],
            hint="what vLLM printed says why; the next run asks again",
        )


async def open_engine(context: EngineContext) -> VllmEngine:
    """Load vLLM before the first call, so that what is wrong with it is said once.

    Raises:
        NoEngine: vLLM does not start.
    """
    vlm = context.vlm
    engine = VllmEngine(
        model_id=vlm.model_id,
        revision=vlm.model_revision,
        tensor_parallel_size=vlm.tensor_parallel_size,
        max_model_len=vlm.max_model_len,
        gpu_memory_utilization=vlm.gpu_memory_utilization,
        client_concurrency=vlm.client_concurrency,
        engine_kwargs=vlm.engine_kwargs,
    )
    context.note(f"engine: vllm – loading {vlm.model_id} for this run")
    # One engine takes as many GPUs as it is told to, however many there are.
    visible, used = len(visible_gpus(context.environment)), vlm.tensor_parallel_size
    if visible > used and not any(name.endswith("parallel_size") for name in vlm.engine_kwargs):
        context.note(
            f"note: vllm uses {used} of {visible} GPUs, the others stay idle; --vlm.backend serve uses them all"
        )
    try:
        await engine.start()
    except BaseException:
        await engine.aclose()
        raise
    return engine


def _hint(got: str) -> str:
    if "context length" in got or "max_model_len" in got or "maximum model length" in got:
        return (
            "raise --vlm.max_model_len, or lower --vlm.max_new_tokens, --plan.max_frames_per_prompt or"
            " --plan.contact_sheet_frame_width"
        )
    if "at most" in got:
        return '--vlm.engine_kwargs \'{"limit_mm_per_prompt": {"image": 32}}\', or lower --plan.max_frames_per_prompt'
    return "--vlm.mm_processor_kwargs, --vlm.chat_template_kwargs and the pictures are what a model may refuse"


def _versions(llm: Any) -> dict[str, str]:
    import vllm
    from vllm import envs
    from vllm.platforms import current_platform

    versions = {
        "vllm": vllm.__version__,
        "torch": importlib.metadata.version("torch"),
        "hardware": str(current_platform.get_device_name()),
        "batch_invariant": str(bool(envs.VLLM_BATCH_INVARIANT)).lower(),
    }
    revision = getattr(llm.model_config.hf_config, "_commit_hash", None)
    return {**versions, "model_revision": revision} if revision else versions
