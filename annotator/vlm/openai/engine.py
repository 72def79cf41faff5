"""Any OpenAI-compatible server, or several with the same model, through the official client."""

import asyncio
import random
from collections.abc import Callable, Sequence

import msgspec

from annotator.config.settings import VlmSettings
from annotator.errors import CallError, UsageError
from annotator.vlm.base import Availability, EngineContext, Reply, Request
from annotator.vlm.openai.client import Client
from annotator.vlm.openai.probe import probe, require, require_any, served_at
from annotator.vlm.openai.router import LONGEST_WAIT_S, EndpointState, Router, Stopped
from annotator.vlm.openai.wire import Part, PictureParts

__all__ = ["OpenAIEngine", "probe", "require", "require_any", "served_at"]

DEFAULT_API_BASE = "http://localhost:8000/v1"
_PROBE_TIMEOUT_S = 2.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0


class OpenAIEngine:
    """Answer through `POST <api_base>/chat/completions`, with the answer's JSON schema as response format.

    `request_timeout_s` is how long the server may stay silent, per attempt. Lost connections, time-outs, 408, 409, 425,
    429 and 5xx are asked again up to `request_max_retries` times, after the server's `Retry-After` (up to 120 s) or
    0.5, 1, 2, … 8 s less up to a quarter at random. `client_concurrency` limits requests in flight at each endpoint;
    0 sets no limit. With several endpoints an episode keeps to one while that one is healthy; a call whose connection
    was lost is sent to another at once, which does not count as a retry.
    `pictures_as_video` sends a video block as vLLM's `video_url`; off, as a run of images, for servers without video.
    `video_times` sends the times of its frames along, which a vLLM server takes with `--trust-request-mm-kwargs`.

    Raises:
        UsageError: an `api_base` is no http(s) URL, or the key holds characters no header can carry.
    """

    name = "openai"
    looks = True
    reads_evidence = False

    def __init__(
        self,
        *,
        api_base: str | Sequence[str],
        api_key: str | None = None,
        request_timeout_s: float = 600.0,
        request_max_retries: int = 2,
        client_concurrency: int = 16,
        pictures_as_video: bool = True,
        video_times: bool = False,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.router: Router[Client] = Router(note)
        self._api_key = api_key
        self._timeout_s = request_timeout_s
        self._retries = request_max_retries
        self._concurrency = client_concurrency
        self._video_times = video_times
        self._parts = PictureParts(pictures_as_video=pictures_as_video)
        # An endpoint that is named twice would get twice the requests.
        for base in dict.fromkeys([api_base] if isinstance(api_base, str) else api_base):
            client = self.connect(base)
            self.router.add(client.url, client_concurrency, client)

    def connect(self, api_base: str) -> Client:
        """Return a client for an endpoint."""
        return Client(
            api_base,
            self._api_key,
            timeout_s=self._timeout_s,
            connections=self._concurrency,
            video_times=self._video_times,
        )

    def add_server(self, label: str) -> EndpointState[Client]:
        """Add an endpoint for a server that is about to be started, and that is started again when it is down."""
        return self.router.add(label, self._concurrency, supervised=True)

    async def generate(self, request: Request) -> Reply:
        """Send one request, again where that can help, and wait for its reply; cancelling closes its connection.

        Raises:
            CallError: no usable reply. `kind` is `connection`, `timeout`, `http_<status>`, `bad_reply` or `refused`.
        """
        pictures = [await self._parts.get(picture) for picture in request.pictures]
        attempts = retries = moves = 0
        last_error: CallError | None = None
        while True:
            try:
                reply = await self._send(request, pictures)
                return msgspec.structs.replace(reply, attempts=attempts + 1)
            except Stopped as error:
                # What it failed with before says more than that the run stopped.
                raise _with_attempts(last_error or error, attempts) from error
            except CallError as error:
                attempts += 1 if error.endpoint else 0  # without an endpoint nothing was sent
                # A lost connection says nothing of the call itself: another endpoint may answer it.
                elsewhere = moves + 1 < len(self.router.endpoints) and self.router.any_up()
                moves_on = error.kind == "connection" and elsewhere
                if not moves_on and (retries >= self._retries or not _can_help(error)):
                    raise _with_attempts(error, attempts, last_error) from error.__cause__
                last_error = error
                if moves_on:
                    moves += 1
                    continue
                retries += 1
                # The limiter already pauses for a Retry-After.
                if error.retry_after_s is None:
                    pause_s = min(_FIRST_PAUSE_S * 2 ** (retries - 1), _LONGEST_PAUSE_S)
                    # At random, so that calls that failed together do not come together.
                    await asyncio.sleep(pause_s * (1 - random.random() / 4))

    def stop(self) -> None:
        """Send nothing more: calls that wait for their turn fail with `attempts` 0."""
        self.router.stop()

    async def aclose(self) -> None:
        """Close all connections."""
        await self.router.aclose()

    async def _send(self, request: Request, pictures: Sequence[Sequence[Part]]) -> Reply:
        endpoint = await self.router.acquire(request.episode, request.step)
        try:
            sent_at, client = asyncio.get_running_loop().time(), endpoint.client
            assert client is not None, "only endpoints with a client are chosen"
            try:
                reply = await client.send(request, pictures)
            except CallError as error:
                self.router.failed(endpoint, client, error, sent_at)
                raise
            self.router.succeeded(endpoint)
            return reply
        finally:
            self.router.release(endpoint)


def _can_help(error: CallError) -> bool:
    """Whether asking the same again may help: not where a server answered nonsense, or its `Retry-After` is long."""
    if not error.retryable or error.kind == "bad_reply" or not error.endpoint:
        return False
    return error.retry_after_s is None or error.retry_after_s <= LONGEST_WAIT_S


def _with_attempts(error: CallError, attempts: int, previous: CallError | None = None) -> CallError:
    """Add how often the call was sent, and where to last if the last attempt found no endpoint."""
    error.attempts = attempts
    if error.endpoint is None and previous is not None:
        error.endpoint = previous.endpoint
    if attempts > 1:
        error.got = f"{error.got} (after {attempts} attempts)" if error.got else f"after {attempts} attempts"
    return error


async def open_engine(context: EngineContext) -> OpenAIEngine:
    """Return an engine that asks the endpoints of `--vlm.api_base`; one that is silent joins when it answers.

    Raises:
        UsageError: no endpoint is named, or one is malformed, or the API key is not set.
        NoEngine: none answers; or one does, and is no model server, serves other models or refuses the API key.
    """
    vlm, key = context.vlm, context.api_key()
    bases = endpoints(vlm)
    engine = engine_of(context, bases, key)
    silences = await require_any(bases, vlm.model_id, key)
    shown = ", ".join(endpoint.label for endpoint in engine.router.endpoints)
    context.note(f"engine: openai at {shown}, model {vlm.model_id}")
    for endpoint, error in zip(engine.router.endpoints, silences, strict=True):
        if error is not None:
            engine.router.set_absent(endpoint, error)
    return engine


async def check(context: EngineContext) -> None:
    """Find out whether the endpoints answer.

    Raises:
        UsageError, NoEngine: as `open_engine`.
    """
    key = context.api_key()
    bases = endpoints(context.vlm)
    await engine_of(context, bases, key).aclose()
    await require_any(bases, context.vlm.model_id, key)


async def availability(context: EngineContext) -> Availability:
    """Whether an endpoint is named, or a server answers at the usual one.

    Raises:
        NoEngine: a server is there and refuses the API key.
    """
    if context.vlm.api_base is not None:
        return Availability(reason="--vlm.api_base names where to ask")
    if await probe(DEFAULT_API_BASE, context.api_key(), timeout_s=_PROBE_TIMEOUT_S) is not None:
        return Availability(reason=f"a server answers at {DEFAULT_API_BASE}")
    return Availability(missing=(f"no server answers at {DEFAULT_API_BASE}",))


def engine_of(
    context: EngineContext, api_base: Sequence[str], api_key: str, *, video_times: bool = False
) -> OpenAIEngine:
    """Return an engine with the settings of a run, for these endpoints."""
    return OpenAIEngine(
        api_base=api_base,
        api_key=api_key,
        request_timeout_s=context.vlm.request_timeout_s,
        request_max_retries=context.vlm.request_max_retries,
        client_concurrency=context.vlm.client_concurrency,
        video_times=video_times,
        note=context.note,
    )


def endpoints(vlm: VlmSettings) -> list[str]:
    """Split `api_base` into its endpoints, each once.

    Raises:
        UsageError: it names none.
    """
    named = DEFAULT_API_BASE if vlm.api_base is None else vlm.api_base
    bases = list(dict.fromkeys(part.strip() for part in named.split(",") if part.strip()))
    if not bases:
        hint = "http://HOST:PORT/v1, or several joined by commas"
        raise UsageError("no endpoint is named", where="--vlm.api_base", got=repr(named), hint=hint)
    return bases
