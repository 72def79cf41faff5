"""One endpoint of an OpenAI-compatible server, through the official client: a request is sent once, and never again."""

import contextlib
import functools
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import openai

from annotator.errors import CallError, UsageError
from annotator.vlm.base import Reply, Request
from annotator.vlm.openai.errors import NO_KEY, bad_reply, call_error, hide, retry_after_s
from annotator.vlm.openai.wire import BadReply, Part, read_completion, request_body
from annotator.vlm.redact import shown_endpoint

_CONNECT_TIMEOUT_S = 10.0
SIDE_TIMEOUT_S = 5.0
"""Time-out of requests for health, version and models, seconds."""
_KEEPALIVE_S = 4.0
"""Shorter than the 5 s after which uvicorn (vLLM's server) closes an idle connection, so that no request meets that."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_POOLS = 8
_POOL_CONNECTIONS = 32
"""A pool goes through all of its connections for every request, so many connections are spread over several pools."""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint serves. `version` is the server's own, where it tells."""

    api_base: str
    model_ids: tuple[str, ...]
    version: str | None = None


class _ModelCard(msgspec.Struct, frozen=True):
    id: str


class _ModelList(msgspec.Struct, frozen=True):
    data: tuple[_ModelCard, ...]


class _Version(msgspec.Struct, frozen=True):
    version: str


@functools.cache
def _tls() -> ssl.SSLContext:
    """Load the certificates once: it takes longer than a short call."""
    return httpx2.create_ssl_context()


class _Pool(openai.AsyncOpenAI):
    """The official client, minus everything it would take from the environment, redirects, and ambient headers."""

    def __init__(self, api_base: str, api_key: str | None, *, timeout_s: float) -> None:
        timeout = httpx2.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S), pool=None)
        # A proxy is a route, not an answer, so the environment may name one; but none leads to this very machine.
        http = httpx2.AsyncClient(
            verify=_tls(),
            timeout=timeout,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEPALIVE_S),
            trust_env=urlsplit(api_base).hostname not in _LOOPBACK,
        )
        super().__init__(
            base_url=api_base,
            api_key=api_key or NO_KEY,
            # "" and not None, for which the client looks into the environment.
            admin_api_key="",
            organization="",
            project="",
            webhook_secret="",
            timeout=timeout,
            max_retries=0,  # the engine retries, elsewhere if need be
            http_client=http,
        )
        # "" kept OPENAI_ORG_ID and its like out; None now keeps their headers out.
        # OPENAI_CUSTOM_HEADERS has no argument that would.
        self.organization = self.project = self.admin_api_key = None
        self._custom_headers = {}
        self._ambient_authorizations = frozenset()
        self.open_requests = 0


class Client:
    """Sends requests to one endpoint. `connections` is the most that are open at once, 0 without a limit.

    `video_times` tells a vLLM server at which times a video's frames were taken.

    Raises:
        UsageError: `api_base` is no http(s) URL, or the key holds characters no header can carry.
    """

    def __init__(
        self,
        api_base: str,
        api_key: str | None,
        *,
        timeout_s: float,
        connections: int = 1,
        video_times: bool = False,
    ) -> None:
        self.url = shown_endpoint(api_base)
        self._base, self._api_key = _checked_base(api_base), _checked_key(api_key)
        pools = -(-connections // _POOL_CONNECTIONS) if connections else _POOLS
        self._pools = [_Pool(self._base, self._api_key, timeout_s=timeout_s) for _ in range(min(pools, _POOLS))]
        self._side_timeout_s = min(timeout_s, SIDE_TIMEOUT_S)
        self._video_times = video_times
        self._versions: Mapping[str, str] | None = None

    async def send(self, request: Request, pictures: Sequence[Sequence[Part]]) -> Reply:
        """Send one request and wait for its reply; cancelling closes its connection.

        Raises:
            CallError: no usable reply. `kind` is `connection`, `timeout`, `http_<status>`, `bad_reply` or `refused`.
        """
        versions = await self._versions_once()
        body = request_body(request, pictures, video_times=self._video_times)
        where = f"{request.step} at {self.url}"
        started = time.monotonic()
        response = await self._post(body, where)
        elapsed_s = time.monotonic() - started
        try:
            completion = read_completion(response.content)
        except BadReply as cause:
            error = bad_reply(cause, where=where, api_key=self._api_key)
            error.endpoint = self.url
            raise error from cause
        fingerprint = {"fingerprint": completion.fingerprint} if completion.fingerprint else {}
        return Reply(
            text=completion.text,
            finish_reason=completion.finish_reason,
            tokens_in=completion.tokens_in,
            tokens_out=completion.tokens_out,
            elapsed_s=elapsed_s,
            endpoint=self.url,
            versions={**versions, **fingerprint},
        )

    async def served(self) -> Served:
        """Return which models it serves, and its version.

        Raises:
            CallError: nothing usable answers there.
        """
        served = await self._list_models()
        return msgspec.structs.replace(served, version=await self._server_version())

    async def is_healthy(self) -> bool:
        """Whether `/health` answers, as vLLM's does for its engine; without that page, whether models are listed."""
        try:
            await self._get(self._beside("/health"))
            return True
        except openai.APIStatusError as error:
            if error.status_code >= 500:
                return False
            # There is no such page: not vLLM.
        except openai.APIError:
            return False
        try:
            await self._list_models()
        except CallError as error:
            return error.kind.startswith("http_4")  # it answers, if only to refuse the key
        return True

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            await pool.close()

    async def _post(self, body: bytes, where: str) -> httpx2.Response:
        pool = min(self._pools, key=lambda pool: pool.open_requests)
        pool.open_requests += 1
        try:
            return await pool.post("/chat/completions", content=body, cast_to=httpx2.Response)
        except openai.APIError as cause:
            error = await self._translated(cause, where)
            # A traceback shows the cause, so a cause that repeats the key is left out.
            raise error from (cause if hide(str(cause), self._api_key) == str(cause) else None)
        finally:
            pool.open_requests -= 1

    async def _translated(self, cause: openai.APIError, where: str) -> CallError:
        served = ""
        # A 404 most often means that the model has another name there.
        if isinstance(cause, openai.NotFoundError):
            with contextlib.suppress(CallError):
                names = ", ".join((await self._list_models()).model_ids)
                served = f"the server has {names or 'no model'}; name one with --vlm.model_id"
        error = call_error(cause, where=where, api_key=self._api_key, served=served)
        error.endpoint = self.url
        error.retry_after_s = retry_after_s(cause)
        return error

    async def _versions_once(self) -> Mapping[str, str]:
        if self._versions is None:
            # Set before the first await, so that one request asks the server and none waits for it.
            self._versions = versions = {"openai": openai.__version__}
            server = await self._server_version()
            if server is not None:
                versions["server"] = server
        return self._versions

    async def _list_models(self) -> Served:
        where = f"{self.url}/models"
        try:
            response = await self._get("/models")
        except openai.APIError as cause:
            error = call_error(cause, where=where, api_key=self._api_key)
            raise error from (cause if hide(str(cause), self._api_key) == str(cause) else None)
        try:
            models = msgspec.json.decode(response.content, type=_ModelList).data
        except msgspec.DecodeError as cause:
            reason = BadReply(hide(f"no list of models: {response.text[:100]!r}", self._api_key))
            raise bad_reply(reason, where=where, api_key=self._api_key) from cause
        return Served(api_base=self.url, model_ids=tuple(card.id for card in models))

    async def _server_version(self) -> str | None:
        """Return what `/version` says, which vLLM has beside `/v1`; else the `Server` header of the response."""
        try:
            response = await self._get(self._beside("/version"))
            return msgspec.json.decode(response.content, type=_Version).version
        except openai.APIStatusError as error:
            return error.response.headers.get("server")
        except (openai.APIError, msgspec.DecodeError):
            return None

    def _beside(self, path: str) -> str:
        return self._base.rstrip("/").removesuffix("/v1") + path

    async def _get(self, path: str) -> httpx2.Response:
        """Send a request that is not a call: once, with a short time-out."""
        options: Any = {"timeout": self._side_timeout_s}
        return await self._pools[0].get(path, cast_to=httpx2.Response, options=options)


def _checked_base(api_base: str) -> str:
    parts = urlsplit(api_base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        got, hint = repr(shown_endpoint(api_base)), "http://localhost:8000/v1"
        raise UsageError("this is no endpoint", where="--vlm.api_base", got=got, hint=hint)
    return api_base


def _checked_key(api_key: str | None) -> str | None:
    key = (api_key or "").strip()
    if not (key.isascii() and key.isprintable()):
        # The key itself is never shown.
        raise UsageError("the API key holds characters that no header can carry", where="--vlm.api_key_env")
    return key or None
