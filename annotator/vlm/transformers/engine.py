"""A model in this process, through transformers: for machines without vLLM, one reply at a time."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from annotator.vlm.base import EngineContext, Reply, Request
from annotator.vlm.openai.router import Stopped
from annotator.vlm.transformers.model import LoadedModel


class TransformersEngine:
    """Answer with a model loaded here, held to the answer's JSON schema. Requests queue for one thread.

    `max_model_len` shortens the model's context, tokens. The model runs on the first CUDA device, else on the CPU.
    A seed gives the same text again on the same hardware and versions.
    """

    name = "transformers"
    looks = True
    reads_evidence = False

    def __init__(self, *, model_id: str, revision: str | None = None, max_model_len: int | None = None) -> None:
        self._model_id = model_id
        self._revision = revision
        self._max_model_len = max_model_len
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transformers")
        self._loading: asyncio.Future[LoadedModel] | None = None
        self._stopped = threading.Event()
        self._closed = threading.Event()

    async def start(self) -> None:
        """Load the model, unless it is loaded.

        Raises:
            NoEngine: it cannot be loaded.
        """
        await self._model()

    async def generate(self, request: Request) -> Reply:
        """Answer one request, when its turn comes. Cancelling it ends its generation at the next token.

        Raises:
            CallError: no usable reply. `kind` is `bad_request`, `out_of_memory`, `engine_failed`, `engine_dead` or
                `engine_closed`.
            Stopped: its turn came after `stop`.
            NoEngine: the model cannot be loaded.
        """
        model = await self._model()
        cancelled = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._thread, self._answer, model, request, lambda: cancelled.is_set() or self._closed.is_set()
            )
        finally:
            cancelled.set()

    def stop(self) -> None:
        """Start no further call: those that wait fail with `attempts` 0, the one being answered ends as it would."""
        self._stopped.set()

    async def aclose(self) -> None:
        """End the generation that is under way, and release the model."""
        self._stopped.set()
        self._closed.set()
        await asyncio.to_thread(self._thread.shutdown, wait=True)
        self._loading = None

    def _answer(self, model: LoadedModel, request: Request, ended: Callable[[], bool]) -> Reply:
        if self._stopped.is_set():
            where = f"{request.step} at {self._model_id}"
            raise Stopped("the run asks nothing more", kind="stopped", retryable=True, where=where, attempts=0)
        return model.answer(request, ended)

    async def _model(self) -> LoadedModel:
        if self._loading is None:
            # Set before the first await, so that one request loads and the others wait for it.
            self._loading = asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        return await asyncio.shield(self._loading)

    def _load(self) -> LoadedModel:
        return LoadedModel(self._model_id, revision=self._revision, max_model_len=self._max_model_len)


async def open_engine(context: EngineContext) -> TransformersEngine:
    """Load the model before the first call, so that what is wrong with it is said once.

    Raises:
        NoEngine: it cannot be loaded.
    """
    vlm = context.vlm
    engine = TransformersEngine(model_id=vlm.model_id, revision=vlm.model_revision, max_model_len=vlm.max_model_len)
    context.note(f"engine: transformers – loading {vlm.model_id} for this run")
    try:
        await engine.start()
    except BaseException:
        await engine.aclose()
        raise
    return engine
