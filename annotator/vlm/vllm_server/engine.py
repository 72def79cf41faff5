"""Servers of the run's own: started for it, watched, started again when they die, stopped with it."""

import asyncio
import secrets
import shlex
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import msgspec

from annotator.errors import CallError, NoEngine
from annotator.vlm.base import EngineContext, Reply, Request
from annotator.vlm.openai.client import Client
from annotator.vlm.openai.engine import OpenAIEngine, engine_of
from annotator.vlm.openai.router import EndpointState
from annotator.vlm.redact import shown_command
from annotator.vlm.vllm_local.startup import hint_for
from annotator.vlm.vllm_server.command import API_KEY, ServerPlan, plan_servers
from annotator.vlm.vllm_server.info import ServerInfo, read_server_info
from annotator.vlm.vllm_server.process import ServerProcess

_POLL_S, _PROBE_EVERY_S = 0.1, 5.0
_HUNG_AFTER = 12
"""Failed probes in a row after which a server that still runs is taken for hung; about a minute or two."""
_LONG_LIFE_S = 60.0
_MOST_DEATHS = 5
"""Deaths in a row, with no long life between them, after which a server is given up."""
_MOST_PORTS = 3
"""Ports that are tried where another process was quicker to take one."""


class StartupPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long a server may take to be ready, and the pause before its first restart, seconds.

    Each further pause is twice as long.
    """

    ready_s: float = 600.0
    pause_s: float = 1.0


class ServeEngine:
    """Answers through servers that it has started itself. Made by `serve`."""

    name = "serve"
    looks = True
    reads_evidence = False

    def __init__(self, http_engine: OpenAIEngine, pool: "ServerPool", info: ServerInfo) -> None:
        self._http_engine = http_engine
        self._pool = pool
        self._info = info

    async def generate(self, request: Request) -> Reply:
        """Send one request; while its server is being started again, it waits.

        Raises:
            CallError: no usable reply, or no server is left.
        """
        reply = await self._http_engine.generate(request)
        versions = {**self._info.versions, **reply.versions}
        return msgspec.structs.replace(reply, model_revision=self._info.model_revision, versions=versions)

    def stop(self) -> None:
        """Send nothing more: calls that wait for their turn fail with `attempts` 0."""
        self._http_engine.stop()

    async def aclose(self) -> None:
        """Stop the servers."""
        try:
            await self._pool.stop()
        finally:
            await self._http_engine.aclose()


async def open_engine(context: EngineContext) -> ServeEngine:
    """Start the servers of a run, and return the engine when the first is ready.

    Raises:
        UsageError: there is no such command, or too few GPUs.
        NoEngine: no server gets ready.
    """
    vlm = context.vlm
    # Other users of this machine reach its loopback too, and a key that is set for other servers is none of theirs.
    # Hexadecimal: a serve_command may pass it on as an argument, and one that begins with a hyphen would be no value.
    key = secrets.token_hex(32)
    plans = plan_servers(vlm, {**context.environment, API_KEY: key}, context.logs)
    count, command = f"{len(plans)} server{'s' * (len(plans) > 1)}", shown_command(shlex.join(plans[0].command))
    context.note(f"engine: serve – starting {count} of {vlm.model_id}: {command} (logs: {context.logs})")
    # Only servers of the default command are known to take the times of frames.
    http_engine = engine_of(context, (), key, video_times=vlm.serve_command is None)
    return await serve(
        plans,
        http_engine,
        vlm.model_id,
        context.note,
        StartupPolicy(ready_s=vlm.serve_ready_timeout_s),
        read_info=lambda: read_server_info(vlm, context.environment),
    )


async def serve(
    plans: Sequence[ServerPlan],
    http_engine: OpenAIEngine,
    model_id: str,
    note: Callable[[str], None],
    policy: StartupPolicy | None = None,
    read_info: Callable[[], ServerInfo] = ServerInfo,
) -> ServeEngine:
    """Start servers and wait until the first is ready; the others join when they are.

    `read_info` returns what to record with every answer; it is called once, in a thread, when a model is loaded.

    Raises:
        NoEngine: none gets ready; the message ends with the last lines of a server's log.
    """
    pool = ServerPool(http_engine, model_id, note, policy or StartupPolicy())
    async with AsyncExitStack() as undo:
        undo.push_async_callback(http_engine.aclose)
        undo.push_async_callback(pool.stop)
        await pool.start(plans)
        info = await asyncio.to_thread(read_info)
        undo.pop_all()  # from here on closing the engine does both
    return ServeEngine(http_engine, pool, info)


class _FirstStart(msgspec.Struct, frozen=True):
    """How a server's first start ended; `trouble` is empty where it got ready."""

    server: ServerProcess
    trouble: str


class ServerPool:
    """The servers of a run, each supervised by a task."""

    def __init__(
        self, http_engine: OpenAIEngine, model_id: str, note: Callable[[str], None], policy: StartupPolicy
    ) -> None:
        self._http_engine = http_engine
        self._model_id = model_id
        self._note = note
        self._policy = policy
        self._servers: list[ServerProcess] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._any_ready = asyncio.Event()

    async def start(self, plans: Sequence[ServerPlan]) -> None:
        """Start all servers, and wait until one is ready.

        Raises:
            NoEngine: none gets ready.
        """
        first_starts: list[asyncio.Future[_FirstStart]] = []
        for plan in plans:
            server, first_start = ServerProcess(plan), asyncio.get_running_loop().create_future()
            self._servers.append(server)
            first_starts.append(first_start)
            endpoint = self._http_engine.add_server(plan.label)
            self._tasks.append(asyncio.create_task(self._supervise(server, endpoint, first_start)))
        failed: list[_FirstStart] = []
        for first_start in asyncio.as_completed(first_starts):
            failed.append(await first_start)
            if not failed[-1].trouble:
                return
        server, trouble = failed[0].server, failed[0].trouble
        hints = (hint_for(server.cause(), ""), f"the whole log: {server.plan.log}")
        hint = "; ".join(filter(None, hints))
        raise NoEngine("no server got ready", where=server.plan.label, got=trouble, hint=hint)

    async def stop(self) -> None:
        """Stop all servers. Safe to call twice."""
        for task in self._tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        # Again: a task that was cancelled before it began has stopped nothing.
        await asyncio.gather(*(server.stop() for server in self._servers))
        self._tasks.clear()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _supervise(
        self, server: ServerProcess, endpoint: EndpointState[Client], first_start: asyncio.Future[_FirstStart]
    ) -> None:
        """Keep one server running until the run ends or the server is given up."""
        try:
            try:
                trouble = await self._restart_while_it_lives(server, endpoint, first_start)
            except OSError as cause:
                trouble = f"cannot be started: {cause}"
                await self._report_failure(server, first_start, trouble)
            self._note(f"{server.plan.label} is given up: {trouble}")
        finally:
            # Whatever happened: no call may wait for a server that is not supervised any more.
            self._http_engine.router.set_unavailable(endpoint, "gone")
            await server.stop()

    async def _report_failure(
        self, server: ServerProcess, first_start: asyncio.Future[_FirstStart], trouble: str
    ) -> None:
        """Report a failed first start, and return once another server is ready: without one the run ends at once."""
        if not first_start.done():
            first_start.set_result(_FirstStart(server, trouble))
        await self._any_ready.wait()

    async def _restart_while_it_lives(
        self, server: ServerProcess, endpoint: EndpointState[Client], first_start: asyncio.Future[_FirstStart]
    ) -> str:
        """Start the server again whenever it ends; return the trouble of its last death when it dies too often."""
        loop, deaths, ports = asyncio.get_running_loop(), 0, 1
        while True:
            server.start()
            started_at = loop.time()
            trouble = await self._wait_until_ready(server, endpoint)
            if not trouble:
                self._note(f"{server.plan.label} is ready at {server.api_base}, after {loop.time() - started_at:.0f} s")
                self._any_ready.set()
                if not first_start.done():
                    first_start.set_result(_FirstStart(server, ""))
                # A server that ran for long has died of something else than the last time.
                ready_at = loop.time()
                trouble = await self._wait_until_unhealthy(server, endpoint)
                deaths = 0 if loop.time() - ready_at > _LONG_LIFE_S else deaths
            self._http_engine.router.set_unavailable(endpoint, "starting")
            await server.stop()
            trouble_and_log = f"{trouble}\n{server.tail()}"
            if "address already in use" in trouble_and_log.lower() and ports < _MOST_PORTS:
                ports += 1
                continue  # not the server's fault, so not a death
            deaths += 1
            await self._report_failure(server, first_start, trouble_and_log)
            if deaths >= _MOST_DEATHS:
                return trouble_and_log
            self._note(f"{server.plan.label} {trouble}; starting it again (its log: {server.plan.log})")
            await asyncio.sleep(self._policy.pause_s * 2 ** (deaths - 1))

    async def _wait_until_ready(self, server: ServerProcess, endpoint: EndpointState[Client]) -> str:
        """Let calls in once the server answers, and return ""; else return why it does not."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._policy.ready_s
        client = self._http_engine.connect(server.api_base)
        while True:
            trouble = ""
            if server.status() is not None:
                trouble = f"ended with status {server.status()} before it was ready"
            elif await client.is_healthy():
                # Another process may have been quicker to take the port, and answer in its place.
                trouble = await self._trouble_with_model(client)
                if not trouble:
                    previous = endpoint.client
                    self._http_engine.router.set_ready(endpoint, client)
                    if previous is not None:
                        await previous.aclose()
                    return ""
            if not trouble and loop.time() > deadline:
                trouble = f"was not ready after {self._policy.ready_s:g} s (--vlm.serve_ready_timeout_s)"
            if trouble:
                await client.aclose()
                return trouble
            await asyncio.sleep(_POLL_S)

    async def _trouble_with_model(self, client: Client) -> str:
        """Return why the server cannot be asked for the model; "" if it can."""
        try:
            models = (await client.served()).model_ids
        except CallError as error:
            return f"is there, but: {error.what} – {error.got}"
        return f"has {', '.join(models)}, not {self._model_id}" if models and self._model_id not in models else ""

    async def _wait_until_unhealthy(self, server: ServerProcess, endpoint: EndpointState[Client]) -> str:
        """Watch a server that is up; return what became of it."""
        loop, failed_probes = asyncio.get_running_loop(), 0
        probed_at = loop.time()
        while failed_probes < _HUNG_AFTER:
            if server.status() is not None:
                return f"died with status {server.status()}"
            if loop.time() - probed_at >= _PROBE_EVERY_S and endpoint.client is not None:
                failed_probes = 0 if await endpoint.client.is_healthy() else failed_probes + 1
                probed_at = loop.time()
            await asyncio.sleep(_POLL_S)
        return "runs, but does not answer any more"
