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
from annotator.vlm.vllm_server.info import ServerInfo, facts_of
from annotator.vlm.vllm_server.process import ServerProcess

_LOOK_EVERY_S, _ASK_EVERY_S = 0.1, 5.0
_SILENT_BEFORE_ILL = 12
"""Questions without an answer after which a server that still runs is taken for hung; about a minute or two."""
_LONG_LIFE_S = 60.0
_SHORT_LIVES = 5
"""Deaths in a row, with no long life between them, after which a server is given up."""
_PORTS = 3
"""Ports that are tried where somebody else was quicker to take one."""


class StartupPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long a server may take to be ready, and the first pause before it is started again (each next is twice as
    long), seconds."""

    ready_s: float = 600.0
    pause_s: float = 1.0


class ServeEngine:
    """Answers through servers that it has started itself. Made by `serve`."""

    name = "serve"
    looks = True
    reads_evidence = False

    def __init__(self, asking: OpenAIEngine, fleet: "ServerPool", facts: ServerInfo) -> None:
        self._asking = asking
        self._fleet = fleet
        self._facts = facts

    async def generate(self, request: Request) -> Reply:
        """Send one request; while its server is being started again, it waits.

        Raises:
            CallError: no usable reply, or no server is left.
        """
        reply = await self._asking.generate(request)
        versions = {**self._facts.versions, **reply.versions}
        return msgspec.structs.replace(reply, model_revision=self._facts.model_revision, versions=versions)

    def stop(self) -> None:
        """Send nothing more: calls that wait for their turn fail with `attempts` 0."""
        self._asking.stop()

    async def aclose(self) -> None:
        """Stop the servers."""
        try:
            await self._fleet.stop()
        finally:
            await self._asking.aclose()


async def open_engine(context: EngineContext) -> ServeEngine:
    """Start the servers of a run, and return the engine when the first is ready.

    Raises:
        UsageError: there is no such command, or too few GPUs.
        NoEngine: no server gets ready.
    """
    vlm = context.vlm
    # Other users of this machine reach its loopback too, and a key that is set for other servers is none of theirs.
    key = secrets.token_urlsafe(32)
    plans = plan_servers(vlm, {**context.environment, API_KEY: key}, context.logs)
    count, command = f"{len(plans)} server{'s' * (len(plans) > 1)}", shown_command(shlex.join(plans[0].command))
    context.note(f"engine: serve – starting {count} of {vlm.model_id}: {command} (logs: {context.logs})")
    # Another command starts who knows what: only the default one is known to take the times of frames.
    asking = engine_of(context, (), key, video_times=vlm.serve_command is None)
    patience = StartupPolicy(ready_s=vlm.serve_ready_timeout_s)
    return await serve(
        plans, asking, vlm.model_id, context.note, patience, known=lambda: facts_of(vlm, context.environment)
    )


async def serve(
    plans: Sequence[ServerPlan],
    asking: OpenAIEngine,
    model_id: str,
    note: Callable[[str], None],
    patience: StartupPolicy | None = None,
    known: Callable[[], ServerInfo] = ServerInfo,
) -> ServeEngine:
    """Start servers and wait until the first is ready; the others join in when they are.

    `known` says what to record with every answer; it is asked once, when a model has been loaded.

    Raises:
        NoEngine: none gets ready; the message ends with the last lines of a server's log.
    """
    fleet = ServerPool(asking, model_id, note, patience or StartupPolicy())
    async with AsyncExitStack() as undo:
        undo.push_async_callback(asking.aclose)
        undo.push_async_callback(fleet.stop)
        await fleet.start(plans)
        facts = await asyncio.to_thread(known)
        undo.pop_all()
    return ServeEngine(asking, fleet, facts)


class _First(msgspec.Struct, frozen=True):
    """How a server's first start went; `trouble` is empty where it got ready."""

    server: ServerProcess
    trouble: str


class ServerPool:
    """The servers of a run, and one task for each that looks after it."""

    def __init__(
        self, asking: OpenAIEngine, model_id: str, note: Callable[[str], None], patience: StartupPolicy
    ) -> None:
        self._asking = asking
        self._model_id = model_id
        self._note = note
        self._patience = patience
        self._servers: list[ServerProcess] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._any_ready = asyncio.Event()

    async def start(self, plans: Sequence[ServerPlan]) -> None:
        """Start all, and wait until one is ready.

        Raises:
            NoEngine: none gets ready.
        """
        firsts: list[asyncio.Future[_First]] = []
        for plan in plans:
            server, first = ServerProcess(plan), asyncio.get_running_loop().create_future()
            self._servers.append(server)
            firsts.append(first)
            self._tasks.append(asyncio.create_task(self._tend(server, self._asking.await_server(plan.label), first)))
        failed: list[_First] = []
        for first in asyncio.as_completed(firsts):
            failed.append(await first)
            if not failed[-1].trouble:
                return
        server, trouble = failed[0].server, failed[0].trouble
        hints = (hint_for(server.cause(), ""), f"the whole log: {server.plan.log}")
        hint = "; ".join(filter(None, hints))
        raise NoEngine("no server got ready", where=server.plan.label, got=trouble, hint=hint)

    async def stop(self) -> None:
        """Stop all. Safe to call twice."""
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(server.stop() for server in self._servers))
        self._tasks.clear()
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome

    async def _tend(self, server: ServerProcess, lane: EndpointState[Client], first: asyncio.Future[_First]) -> None:
        """Look after one server until the run ends or it is given up; `first` says how its first start went."""
        try:
            try:
                trouble = await self._tend_while_it_pays(server, lane, first)
            except OSError as cause:
                trouble = f"cannot be started: {cause}"
                await self._while_another_runs(server, first, trouble)
            self._note(f"{server.plan.label} is given up: {trouble}")
        finally:
            # Whatever happened here: no call may wait for a server that nobody looks after.
            self._asking.router.shut(lane, "gone")
            await server.stop()

    async def _while_another_runs(self, server: ServerProcess, first: asyncio.Future[_First], trouble: str) -> None:
        """Tell how the first start failed, and go on once another server is ready: without one the run ends at once."""
        if not first.done():
            first.set_result(_First(server, trouble))
        await self._any_ready.wait()

    async def _tend_while_it_pays(
        self, server: ServerProcess, lane: EndpointState[Client], first: asyncio.Future[_First]
    ) -> str:
        loop, lives, ports = asyncio.get_running_loop(), 0, 1
        while True:
            server.start()
            started = loop.time()
            trouble = await self._until_ready(server, lane)
            if not trouble:
                self._note(f"{server.plan.label} is ready at {server.api_base}, after {loop.time() - started:.0f} s")
                self._any_ready.set()
                if not first.done():
                    first.set_result(_First(server, ""))
                ready = loop.time()
                trouble = await self._until_ill(server, lane)
                lives = 0 if loop.time() - ready > _LONG_LIFE_S else lives
            self._asking.router.shut(lane, "awaited")
            await server.stop()
            said = f"{trouble}\n{server.tail()}"
            if "address already in use" in said.lower() and ports < _PORTS:
                ports += 1
                continue
            lives += 1
            await self._while_another_runs(server, first, said)
            if lives >= _SHORT_LIVES:
                return said
            self._note(f"{server.plan.label} {trouble}; starting it again (its log: {server.plan.log})")
            await asyncio.sleep(self._patience.pause_s * 2 ** (lives - 1))

    async def _until_ready(self, server: ServerProcess, lane: EndpointState[Client]) -> str:
        """Open the lane once the server answers; else say why it does not."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience.ready_s
        client = self._asking.connect(server.api_base)
        while True:
            if server.status() is not None:
                trouble = f"ended with status {server.status()} before it was ready"
            elif await client.alive():
                trouble = await self._stranger(client)
                if not trouble:
                    before = lane.endpoint
                    self._asking.router.open(lane, client)
                    await (before.aclose() if before else asyncio.sleep(0))
                    return ""
            else:
                trouble = ""
            if not trouble and loop.time() > deadline:
                trouble = f"was not ready after {self._patience.ready_s:g} s (--vlm.serve_ready_timeout_s)"
            if trouble:
                await client.aclose()
                return trouble
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _stranger(self, client: Client) -> str:
        """Say so if what answers does not have the model."""
        try:
            models = (await client.served()).model_ids
        except CallError as error:
            return f"is there, but: {error.what} – {error.got}"
        return f"has {', '.join(models)}, not {self._model_id}" if models and self._model_id not in models else ""

    async def _until_ill(self, server: ServerProcess, lane: EndpointState[Client]) -> str:
        """Watch a server that is up; say what became of it."""
        loop, silent = asyncio.get_running_loop(), 0
        asked = loop.time()
        while silent < _SILENT_BEFORE_ILL:
            if server.status() is not None:
                return f"died with status {server.status()}"
            if loop.time() - asked >= _ASK_EVERY_S and lane.endpoint is not None:
                silent = 0 if await lane.endpoint.alive() else silent + 1
                asked = loop.time()
            await asyncio.sleep(_LOOK_EVERY_S)
        return "runs, but does not answer any more"
