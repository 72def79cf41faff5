"""A model in this process, through transformers: for machines without vLLM, one reply at a time."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from annotator.engine.base import Reply, Request
from annotator.engine.transformers_model import LoadedModel


class TransformersEngine:
    """Answer with a model loaded here, held to the answer's JSON schema. Requests wait in line for one thread.

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
            CallError: no usable reply. `kind` is `bad_request` or `out_of_memory`.
            NoEngine: the model cannot be loaded.
        """
        model = await self._model()
        left = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._thread, model.answer, request, lambda: left.is_set() or self._closed.is_set()
            )
        finally:
            left.set()

    async def aclose(self) -> None:
        """End what is being generated, and let go of the model."""
        self._closed.set()
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)
        self._loading = None

    async def _model(self) -> LoadedModel:
        if self._loading is None:
            # Set before the first await, so that one request loads and the others wait for it.
            self._loading = asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        return await asyncio.shield(self._loading)

    def _load(self) -> LoadedModel:
        return LoadedModel(self._model_id, revision=self._revision, max_model_len=self._max_model_len)
