"""A small OpenAI-compatible server that answers schema-valid JSON, and fails on demand. For tests and benchmarks.

    python tests/fakes/openai_server.py --port 0 --delay-ms 50 --log answered.jsonl

prints its base URL (`http://127.0.0.1:<port>/v1`) on stdout when it is ready. The same messages, schema and seed get
the same answer, from any process. Beside `/v1/models`, `/v1/chat/completions`, `/health` and `/version` it has

    GET  /control/stats     counts: received, answered, aborted (the client hung up), in_flight, most_in_flight
    GET  /control/requests  the latest requests: their headers and bodies
    POST /control/faults    replace the plan: a JSON list of rules (see `Rule`), as `--faults` takes it
    POST /control/answers   replace what is told: a JSON list (see `Told`); all other answers are made up
    POST /control/hold      answer so many more, and let what comes after wait: a number, or -1 for all
    POST /control/reset     forget counts, requests, faults and what was told

A request to a model named `fault:<name>` gets that fault every time. `FAULTS` lists the names.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

import msgspec
import xxhash
from aiohttp import web

from annotator.vlm.scripted.schema_sampler import sample_text

VERSION = "test-server-1"
HTML = "<!DOCTYPE html><html><head><title>Bad gateway</title></head><body>nginx</body></html>"


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which requests get a fault: of those that match, skip the first `skip`, then every `every`-th, `times` in all.

    `step` is the schema's name as sent (`plan_task`). `seconds` is how long `silence` lasts.
    `retry_after` goes out as `Retry-After`, in seconds, or as an HTTP date with `retry_date`; `should_retry` as
    OpenAI's `x-should-retry`.
    """

    fault: str
    times: int | None = None
    skip: int = 0
    every: int = 1
    step: str | None = None
    model: str | None = None
    seconds: float = 0.0
    retry_after: float | None = None
    retry_date: bool = False
    should_retry: bool | None = None
    message: str = "a fault on demand"


class Told(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to answer: of those for a request's step whose texts all stand in its messages, the first counts.

    `step` is the schema's name as sent. Without an `answer` it is made up from the pictures alone, whatever is said.
    """

    step: str
    contains: tuple[str, ...] = ()
    answer: Any = None


class _Schema(msgspec.Struct, frozen=True):
    name: str
    schema: dict[str, Any]


class _Format(msgspec.Struct, frozen=True):
    type: str
    json_schema: _Schema


class Ask(msgspec.Struct, frozen=True):
    """What this server reads of a request. `messages` stay as they were sent: they seed the answer."""

    model: str
    messages: msgspec.Raw
    response_format: _Format
    seed: int = 0
    guided_json: Any = None


class Server:
    """The handlers and what they count."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.models: list[str] = options.model or ["test-model"]
        self.api_key: str | None = options.api_key
        self.delay_s: float = options.delay_ms / 1000
        self.horizon_s: float = options.horizon_s
        self.capacity: int = options.capacity
        self.log = os.open(options.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if options.log else None
        self.more = asyncio.Event()
        self.reset(msgspec.json.decode(options.faults or "[]", type=list[Rule]))

    def reset(self, rules: list[Rule]) -> None:
        self.rules = rules
        self.matched = [0] * len(rules)
        self.used = [0] * len(rules)
        self.counts = dict.fromkeys(("received", "answered", "aborted", "in_flight", "most_in_flight"), 0)
        self.latest: deque[dict[str, Any]] = deque(maxlen=16)
        self.told: list[Told] = []
        self.room = -1

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**30)
        app.router.add_get("/health", self.health)
        app.router.add_get("/version", self.version)
        app.router.add_get("/v1/models", self.list_models)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/control/stats", self.stats)
        app.router.add_get("/control/requests", self.requests)
        app.router.add_post("/control/faults", self.set_faults)
        app.router.add_post("/control/answers", self.set_answers)
        app.router.add_post("/control/hold", self.hold)
        app.router.add_post("/control/reset", self.set_faults)
        return app

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": VERSION})

    async def list_models(self, request: web.Request) -> web.Response:
        if not self._allowed(request):
            return _error(401, f"Incorrect API key provided: {request.headers.get('Authorization')}")
        cards = [{"id": name, "object": "model", "owned_by": "test"} for name in self.models]
        return web.json_response({"object": "list", "data": cards})

    async def stats(self, _: web.Request) -> web.Response:
        return web.json_response(self.counts)

    async def requests(self, _: web.Request) -> web.Response:
        return web.json_response(list(self.latest))

    async def set_faults(self, request: web.Request) -> web.Response:
        self.reset(msgspec.json.decode(await request.read() or b"[]", type=list[Rule]))
        return web.Response()

    async def set_answers(self, request: web.Request) -> web.Response:
        self.told = msgspec.json.decode(await request.read(), type=list[Told])
        return web.Response()

    async def hold(self, request: web.Request) -> web.Response:
        self.room = msgspec.json.decode(await request.read(), type=int)
        self.more.set()
        self.more = asyncio.Event()
        return web.Response()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.counts["received"] += 1
        self.counts["in_flight"] += 1
        self.counts["most_in_flight"] = max(self.counts["most_in_flight"], self.counts["in_flight"])
        try:
            return await self._chat(request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.counts["aborted"] += 1
            raise
        finally:
            self.counts["in_flight"] -= 1

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.latest.append({"headers": dict(request.headers), "body": body.decode()})
        if not self._allowed(request):
            return _error(401, f"Incorrect API key provided: {request.headers.get('Authorization')}")
        try:
            ask = msgspec.json.decode(body, type=Ask)
        except msgspec.DecodeError as cause:
            return _error(400, f"this server wants response_format with a json_schema: {cause}")
        if ask.guided_json is not None:
            return _error(400, "guided_json is ignored by today's servers: send response_format")
        if self.capacity and self.counts["in_flight"] > self.capacity:
            return _error(429, "too many requests at once", Retry_After="0.1")
        rule = self._rule_for(ask)
        if rule is None and ask.model not in self.models:
            return _error(404, f"The model `{ask.model}` does not exist.")
        await asyncio.sleep(self.delay_s)
        while self.room == 0:
            await self.more.wait()
        self.room -= self.room > 0
        return await self._answer(request, ask, rule)

    async def _answer(self, request: web.Request, ask: Ask, rule: Rule | None) -> web.StreamResponse:
        digest = _digest(ask)
        text = self._text(ask, digest)
        response = await _fault(rule)(request, ask, text, rule) if rule else _ok(_completion(ask, text))
        if not isinstance(response, web.Response):
            return response
        await response.prepare(request)
        await response.write_eof()
        # Only now have the bytes left: a line in the log means that the client's machine holds the whole answer.
        if response.status == 200:
            self._note(ask, digest, rule)
        return response

    def _text(self, ask: Ask, digest: str) -> str:
        schema, parts = ask.response_format.json_schema.schema, _parts(ask) if self.told else []
        said = "\n".join(part["text"] for part in parts if part["type"] == "text")
        for told in self.told:
            if told.step == ask.response_format.json_schema.name and all(text in said for text in told.contains):
                if told.answer is not None:
                    return msgspec.json.encode(told.answer).decode()
                shown = [part for part in parts if part["type"] != "text"]
                digest = xxhash.xxh3_128_hexdigest(msgspec.json.encode(shown, order="sorted"))
                break
        return sample_text(schema, seed=digest, horizon_s=self.horizon_s)

    def _note(self, ask: Ask, digest: str, rule: Rule | None) -> None:
        self.counts["answered"] += 1
        if self.log is not None:
            fault = rule.fault if rule else None
            line = {"at": time.time(), "step": ask.response_format.json_schema.name, "request": digest, "fault": fault}
            os.write(self.log, json.dumps(line).encode() + b"\n")

    def _allowed(self, request: web.Request) -> bool:
        return self.api_key is None or request.headers.get("Authorization") == f"Bearer {self.api_key}"

    def _rule_for(self, ask: Ask) -> Rule | None:
        if ask.model.startswith("fault:"):
            return Rule(fault=ask.model.removeprefix("fault:"))
        for i, rule in enumerate(self.rules):
            if rule.step not in (None, ask.response_format.json_schema.name) or rule.model not in (None, ask.model):
                continue
            self.matched[i] += 1
            due = self.matched[i] > rule.skip and (self.matched[i] - rule.skip - 1) % rule.every == 0
            if due and (rule.times is None or self.used[i] < rule.times):
                self.used[i] += 1
                return rule
        return None


def _parts(ask: Ask) -> list[dict[str, Any]]:
    """The parts of all messages; a text that stands alone is one."""
    contents: list[Any] = [message["content"] for message in msgspec.json.decode(ask.messages)]
    lists = [content if isinstance(content, list) else [{"type": "text", "text": content}] for content in contents]
    return [part for parts in lists for part in parts]


def _digest(ask: Ask) -> str:
    hasher = xxhash.xxh3_128(ask.messages)
    hasher.update(msgspec.json.encode([ask.response_format.json_schema.schema, ask.seed], order="sorted"))
    return hasher.hexdigest()


def _completion(ask: Ask, text: str | None, **changes: Any) -> bytes:
    """Encode a chat completion; `changes` go into its only choice."""
    message = {"role": "assistant", "content": text} | changes.pop("message", {})
    usage = {"prompt_tokens": memoryview(ask.messages).nbytes // 4, "completion_tokens": len(text or "") // 4}
    choice = {"index": 0, "message": message, "finish_reason": "stop"} | changes
    reply = {"id": "chatcmpl-test", "object": "chat.completion", "model": ask.model, "choices": [choice]}
    return msgspec.json.encode(reply | {"created": 0, "usage": usage, "system_fingerprint": "fp-test"})


def _error(status: int, message: str, **headers: str) -> web.Response:
    body = {"error": {"message": message, "type": "test", "param": None, "code": status}}
    return web.json_response(body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})


Fault = Callable[[web.Request, Ask, str, Rule], Awaitable[web.StreamResponse]]


def _fault(rule: Rule) -> Fault:
    return _status if rule.fault.startswith("http_") else FAULTS[rule.fault]


async def _status(_: web.Request, __: Ask, ___: str, rule: Rule) -> web.Response:
    """`http_<status>`: an error of the OpenAI shape."""
    headers: dict[str, str] = {}
    if rule.retry_after is not None:
        wait = formatdate(time.time() + rule.retry_after, usegmt=True) if rule.retry_date else str(rule.retry_after)
        headers["Retry_After"] = wait
    if rule.should_retry is not None:
        headers["x_should_retry"] = str(rule.should_retry).lower()
    return _error(int(rule.fault.removeprefix("http_")), rule.message, **headers)


async def _reset(request: web.Request, ask: Ask, text: str, _: Rule) -> web.StreamResponse:
    """Send half of the body, then cut the connection."""
    body = _completion(ask, text)
    response = web.StreamResponse(headers={"Content-Length": str(len(body)), "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    _hang_up(request)
    return response


async def _disconnect(request: web.Request, _: Ask, __: str, ___: Rule) -> web.StreamResponse:
    """Cut the connection before the first byte."""
    _hang_up(request)
    return web.StreamResponse()


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _die(_: web.Request, __: Ask, ___: str, ____: Rule) -> web.Response:
    """Be gone at once, as when the machine takes the process away, with this request unanswered."""
    os.kill(os.getpid(), signal.SIGKILL)
    return web.Response()


async def _silence(_: web.Request, ask: Ask, text: str, rule: Rule) -> web.Response:
    """Say nothing for `seconds`, then answer."""
    await asyncio.sleep(rule.seconds)
    return _ok(_completion(ask, text))


def _ok(body: bytes, content_type: str = "application/json", status: int = 200) -> web.Response:
    return web.Response(body=body, content_type=content_type, status=status)


def _body(make: Callable[[Ask, str], bytes], **how: Any) -> Fault:
    async def answer(_: web.Request, ask: Ask, text: str, __: Rule) -> web.Response:
        return _ok(make(ask, text), **how)

    return answer


FAULTS: dict[str, Fault] = {
    "reset": _reset,
    "disconnect": _disconnect,
    "die": _die,
    "silence": _silence,
    "garbage": _body(lambda ask, text: base64.b64decode("AP/+3q2+7w==") + text.encode()),
    "empty": _body(lambda ask, text: b""),
    "truncated": _body(lambda ask, text: _completion(ask, text)[:-40]),
    "html_200": _body(lambda ask, text: HTML.encode(), content_type="text/html"),
    "html_502": _body(lambda ask, text: HTML.encode(), content_type="text/html", status=502),
    "wrong_schema": _body(lambda ask, text: _completion(ask, '{"surprise": true}')),
    "not_json": _body(lambda ask, text: _completion(ask, "I am happy to help with that!")),
    "empty_choices": _body(lambda ask, text: msgspec.json.encode({"object": "chat.completion", "choices": []})),
    "empty_content": _body(lambda ask, text: _completion(ask, "")),
    "length": _body(lambda ask, text: _completion(ask, text[: len(text) // 2], finish_reason="length")),
    "length_thinking": _body(lambda ask, text: _completion(ask, None, finish_reason="length")),
    "refusal": _body(lambda ask, text: _completion(ask, None, message={"refusal": "I cannot help with that."})),
    "think": _body(lambda ask, text: _completion(ask, f"<think>\nA robot, {{so}} what?\n</think>\n\n{text}")),
    "fenced": _body(lambda ask, text: _completion(ask, f"```json\n{text}\n```")),
}
"""Beside these, `http_<status>` answers with that status."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--model", action="append", help="a model to serve; may be repeated (default: test-model)")
    parser.add_argument("--api-key", help="refuse requests without this key")
    parser.add_argument("--delay-ms", type=float, default=0, help="how long every answer takes")
    parser.add_argument("--capacity", type=int, default=0, help="refuse (429) what comes while so many are in flight")
    parser.add_argument("--horizon-s", type=float, default=8.0, help="where the times in answers end, seconds")
    parser.add_argument("--log", help="append one JSON line per answered request, after its bytes are sent")
    parser.add_argument("--faults", help="a JSON list of rules")
    parser.add_argument("--leave-with-parent", action="store_true", help="stop when the starting process is gone")
    return parser.parse_args()


async def _serve(options: argparse.Namespace) -> None:
    runner = web.AppRunner(Server(options).app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, options.host, options.port, backlog=4096)
    await site.start()
    port = runner.addresses[0][1]
    print(f"http://{options.host}:{port}/v1", flush=True)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    parent = os.getppid()
    while not stop.is_set() and not (options.leave_with_parent and os.getppid() != parent):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1.0)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve(_options()))
