"""Any OpenAI-compatible server, through the official client."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import openai

from annotator.engine.base import Reply, Request
from annotator.engine.openai_errors import NO_KEY, attempts_of, bad_reply, call_error, hide
from annotator.engine.wire import BadReply, PictureParts, read_completion, request_body
from annotator.errors import CallError, NoEngine, UsageError

_CONNECT_TIMEOUT_S = 10.0
_SIDE_TIMEOUT_S = 5.0
_KEEPALIVE_S = 4.0
"""Shorter than the 5 s after which uvicorn (vLLM's server) hangs up, so that a request never meets a closing line."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint serves: its models, and its own version where it tells."""

    api_base: str
    model_ids: tuple[str, ...]
    version: str | None = None


class _ModelCard(msgspec.Struct, frozen=True):
    id: str


class _ModelList(msgspec.Struct, frozen=True):
    data: tuple[_ModelCard, ...]


class _Version(msgspec.Struct, frozen=True):
    version: str


class _Client(openai.AsyncOpenAI):
    """The official client, minus everything it would take from the environment, redirects, and ambient headers."""

    def __init__(self, api_base: str, api_key: str | None, *, timeout_s: float, max_retries: int) -> None:
        timeout = httpx2.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S), pool=None)
        # A proxy is a route, not an answer, so the environment may name one; but none leads to this very machine.
        http = httpx2.AsyncClient(
            timeout=timeout,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEPALIVE_S),
            trust_env=urlsplit(api_base).hostname not in _LOOPBACK,
        )
        super().__init__(
            base_url=api_base,
            api_key=api_key or NO_KEY,
            admin_api_key="",
            organization="",
            project="",
            webhook_secret="",
            timeout=timeout,
            max_retries=max_retries,
            http_client=http,
        )
        # "" kept OPENAI_ORG_ID and its like out; None now keeps their headers out.
        # OPENAI_CUSTOM_HEADERS has no argument that would.
        self.organization = self.project = self.admin_api_key = None
        self._custom_headers = {}
        self._ambient_authorizations = frozenset()


class OpenAIEngine:
    """Answer through `POST <api_base>/chat/completions`, with the answer's JSON schema as response format.

    `request_timeout_s` is how long the server may stay silent, per attempt. Lost connections, time-outs, 408, 409,
    429 and 5xx are asked again up to `request_max_retries` times, after the server's `Retry-After` (up to 120 s) or
    0.5, 1, 2, … 8 s less up to a quarter at random. `client_concurrency` limits requests in flight; 0 sets no limit.
    `pictures_as_video` sends a video block as vLLM's `video_url`; off, as a run of images, for servers without video.

    Raises:
        UsageError: `api_base` is no http(s) URL, or the key holds characters no header can carry.
    """

    name = "openai"
    looks = True
    reads_evidence = False

    def __init__(
        self,
        *,
        api_base: str,
        api_key: str | None = None,
        request_timeout_s: float = 600.0,
        request_max_retries: int = 2,
        client_concurrency: int = 16,
        pictures_as_video: bool = True,
    ) -> None:
        self.endpoint = _shown(api_base)
        self._api_key = _checked_key(api_key)
        self._client = _Client(
            _checked_base(api_base), self._api_key, timeout_s=request_timeout_s, max_retries=request_max_retries
        )
        self._parts = PictureParts(pictures_as_video=pictures_as_video)
        self._lanes = asyncio.Semaphore(client_concurrency) if client_concurrency else contextlib.nullcontext()
        self._versions: Mapping[str, str] | None = None

    async def generate(self, request: Request) -> Reply:
        """Send one request and wait for its reply; cancelling closes its connection.

        Raises:
            CallError: no usable reply. `kind` is `connection`, `timeout`, `http_<status>`, `bad_reply` or `refused`.
        """
        async with self._lanes:
            pictures = [await self._parts.get(picture) for picture in request.pictures]
            versions = await self._versions_once()
            started = time.monotonic()
            response = await self._post(request_body(request, pictures), where=self._where(request))
            return self._reply(request, response, time.monotonic() - started, versions)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.close()

    def _where(self, request: Request) -> str:
        return f"{request.step} at {self.endpoint}"

    async def _post(self, body: bytes, *, where: str) -> httpx2.Response:
        try:
            return await self._client.post("/chat/completions", content=body, cast_to=httpx2.Response)
        except openai.APIError as cause:
            error = await self._translated(cause, where)
            # A traceback shows the cause, so a cause that repeats the key is left out.
            raise error from (cause if hide(str(cause), self._api_key) == str(cause) else None)

    async def _translated(self, error: openai.APIError, where: str) -> CallError:
        served = ""
        if isinstance(error, openai.NotFoundError):
            with contextlib.suppress(CallError):
                names = ", ".join((await _list_models(self._client, self.endpoint, self._api_key)).model_ids)
                served = f"the server has {names or 'no model'}; name one with --vlm.model_id"
        return call_error(error, where=where, api_key=self._api_key, served=served)

    def _reply(
        self, request: Request, response: httpx2.Response, elapsed_s: float, versions: Mapping[str, str]
    ) -> Reply:
        attempts = attempts_of(response.request)
        try:
            said = read_completion(response.content)
        except BadReply as cause:
            raise bad_reply(cause, where=self._where(request), api_key=self._api_key, attempts=attempts) from cause
        fingerprint = {"fingerprint": said.fingerprint} if said.fingerprint else {}
        return Reply(
            text=said.text,
            finish_reason=said.finish_reason,
            tokens_in=said.tokens_in,
            tokens_out=said.tokens_out,
            elapsed_s=elapsed_s,
            attempts=attempts,
            endpoint=self.endpoint,
            versions={**versions, **fingerprint},
        )

    async def _versions_once(self) -> Mapping[str, str]:
        if self._versions is None:
            # Set before the first await, so that one request asks the server and none waits for it.
            self._versions = versions = {"openai": openai.__version__}
            server = await _server_version(self._client)
            if server is not None:
                versions["server"] = server
        return self._versions


async def served_at(api_base: str, api_key: str | None = None, timeout_s: float = _SIDE_TIMEOUT_S) -> Served:
    """Ask an endpoint what it serves.

    Raises:
        CallError: nothing usable answers there.
        UsageError: `api_base` or the key is malformed.
    """
    key = _checked_key(api_key)
    client = _Client(_checked_base(api_base), key, timeout_s=timeout_s, max_retries=0)
    try:
        served = await _list_models(client, _shown(api_base), key)
        return msgspec.structs.replace(served, version=await _server_version(client))
    finally:
        await client.close()


async def probe(api_base: str, api_key: str | None = None, timeout_s: float = _SIDE_TIMEOUT_S) -> Served | None:
    """Ask an endpoint what it serves, or return None if no OpenAI-compatible server answers there.

    Raises:
        NoEngine: a server is there, but it refuses the API key: looking further would hide that.
    """
    try:
        return await served_at(api_base, api_key, timeout_s)
    except CallError as error:
        if error.kind in ("http_401", "http_403"):
            raise _no_engine("the server refuses the API key", error) from error
        return None


async def require(
    api_base: str, model_id: str, api_key: str | None = None, timeout_s: float = _SIDE_TIMEOUT_S
) -> Served:
    """Check before the first call that a server answers and has the model.

    Raises:
        NoEngine: it does not answer, or it serves other models.
    """
    try:
        served = await served_at(api_base, api_key, timeout_s)
    except CallError as error:
        raise _no_engine("no model server answers", error) from error
    # A server that lists nothing (some gateways) may still serve: then the first call tells.
    if served.model_ids and model_id not in served.model_ids:
        raise NoEngine(
            "the server does not have this model",
            where=served.api_base,
            got=model_id,
            hint=f"--vlm.model_id={served.model_ids[0]} (it has: {', '.join(served.model_ids)})",
        )
    return served


def _no_engine(what: str, error: CallError) -> NoEngine:
    hint = error.hint
    if error.kind == "connection":
        hint = "start one, for example with: vllm serve MODEL; or name another with --vlm.api_base"
    return NoEngine(what, where=error.where, got=error.got, hint=hint)


async def _list_models(client: _Client, endpoint: str, api_key: str | None) -> Served:
    where = f"{endpoint}/models"
    try:
        response = await client.get("/models", cast_to=httpx2.Response, options=_side())
    except openai.APIError as cause:
        error = call_error(cause, where=where, api_key=api_key)
        raise error from (cause if hide(str(cause), api_key) == str(cause) else None)
    try:
        models = msgspec.json.decode(response.content, type=_ModelList).data
    except msgspec.DecodeError as cause:
        reason = BadReply(hide(f"no list of models: {response.text[:100]!r}", api_key))
        raise bad_reply(reason, where=where, api_key=api_key) from cause
    return Served(api_base=endpoint, model_ids=tuple(card.id for card in models))


async def _server_version(client: _Client) -> str | None:
    """Ask for `/version`, which vLLM answers beside `/v1`; else take what the response's `Server` header says."""
    url = str(client.base_url).rstrip("/").removesuffix("/v1") + "/version"
    try:
        response = await client.get(url, cast_to=httpx2.Response, options=_side())
        return msgspec.json.decode(response.content, type=_Version).version
    except openai.APIStatusError as error:
        return error.response.headers.get("server")
    except (openai.APIError, msgspec.DecodeError):
        return None


def _side() -> Any:
    """Options of a request beside the work: asked once, and briefly."""
    return {"timeout": _SIDE_TIMEOUT_S, "max_retries": 0}


def _checked_base(api_base: str) -> str:
    parts = urlsplit(api_base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            "this is no endpoint", where="--vlm.api_base", got=repr(_shown(api_base)), hint="http://localhost:8000/v1"
        )
    return api_base


def _checked_key(api_key: str | None) -> str | None:
    key = (api_key or "").strip()
    if not (key.isascii() and key.isprintable()):
        # The key itself is never shown.
        raise UsageError("the API key holds characters that no header can carry", where="--vlm.api_key_env")
    return key or None


def _shown(api_base: str) -> str:
    """The endpoint as it may be shown and recorded: without credentials and query, which may hold secrets."""
    parts = urlsplit(api_base)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")
