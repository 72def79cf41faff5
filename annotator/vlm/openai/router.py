"""Which of several endpoints gets a call: an episode keeps to one, for its prefix cache, while that one is healthy."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

from annotator.errors import CallError
from annotator.vlm.openai.limiter import ConcurrencyLimiter
from annotator_store.digests import Digest, digest_parts

UNHEALTHY_AFTER = 3
"""Failures in a row (5xx, time-outs) after which an endpoint is unhealthy. A lost connection is enough by itself."""
LONGEST_WAIT_S = 120.0
"""A call is not sent again in this run to a server whose `Retry-After` is longer than this."""
_PROBE_AFTER_S = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Pauses between the probes of an unhealthy endpoint; the last one repeats."""
_SHARE = 1.25
"""An endpoint takes a new episode as long as it has at most this many times its share of episodes and of open calls.
Source: consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016)."""
_MOST_STICKY = 100_000
"""Episodes whose endpoint is remembered, in memory."""

State = Literal["up", "down", "starting", "gone"]


class Stopped(CallError):
    """The run asks nothing more, and this call had not been sent."""


class EndpointClient(Protocol):
    """The connection to an endpoint. `url` is how it is shown."""

    url: str

    async def is_healthy(self) -> bool:
        """Whether the endpoint answers and can serve."""
        ...

    async def aclose(self) -> None:
        """Close the connection."""
        ...


C = TypeVar("C", bound=EndpointClient)


class EndpointState(Generic[C]):
    """What the router knows of one endpoint. Episodes are assigned by its label, in every run alike.

    `up`: it gets calls. `down`: it gets them only where no other is up. `starting`: it is being started, also again,
    and calls wait for that. `gone`: it does not come back. `supervised`: it is started again when it is down.
    """

    def __init__(self, label: str, limiter: ConcurrencyLimiter, client: C | None, *, supervised: bool) -> None:
        self.label = label
        self.limiter = limiter
        self.client = client
        self.supervised = supervised
        self.state: State = "up" if client else "starting"
        self.open_calls = self.episodes = 0
        self.consecutive_failures = 0
        self.outages = 0
        """Times it went down since it last answered."""


class Router(Generic[C]):
    """The endpoints of a run. On the event loop only."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.endpoints: list[EndpointState[C]] = []
        self._note = note
        self._sticky: OrderedDict[Digest, EndpointState[C]] = OrderedDict()
        self._changed = asyncio.Event()
        self._stopped = False
        self._probes: dict[EndpointState[C], asyncio.Task[None]] = {}

    def add(self, label: str, limit: int, client: C | None = None, *, supervised: bool = False) -> EndpointState[C]:
        """Add an endpoint; without a client it is starting."""
        endpoint = EndpointState(label, ConcurrencyLimiter(limit), client, supervised=supervised)
        self.endpoints.append(endpoint)
        return endpoint

    def any_up(self) -> bool:
        """Whether any endpoint is up."""
        return any(endpoint.state == "up" for endpoint in self.endpoints)

    async def acquire(self, episode: Digest, where: str) -> EndpointState[C]:
        """Choose an endpoint for an episode's next call and wait for a slot there, which the caller must `release`.

        Raises:
            CallError: every endpoint is gone.
            Stopped: nothing more is to be sent.
        """
        while True:
            if self._stopped:
                raise Stopped("the run asks nothing more", kind="stopped", retryable=True, where=where, attempts=0)
            changed = self._changed  # taken before choosing: a change in between is not missed
            endpoint = self._choose(episode)
            if endpoint is None:
                if all(other.state == "gone" for other in self.endpoints):
                    raise _all_gone(where)
                await changed.wait()
                continue
            endpoint.open_calls += 1  # also while it waits: the next episode is assigned by it
            try:
                if await endpoint.limiter.acquire():
                    if not self._stopped:
                        return endpoint
                    endpoint.limiter.release()  # its turn came in the same moment in which the run stopped asking
            except asyncio.CancelledError:
                endpoint.open_calls -= 1
                raise
            endpoint.open_calls -= 1

    def release(self, endpoint: EndpointState[C]) -> None:
        """Return the slot."""
        endpoint.open_calls -= 1
        endpoint.limiter.release()

    def succeeded(self, endpoint: EndpointState[C]) -> None:
        """Count an answer: the endpoint is healthy."""
        endpoint.consecutive_failures = endpoint.outages = 0
        endpoint.limiter.grow()

    def failed(self, endpoint: EndpointState[C], client: C, error: CallError, sent_at: float) -> None:
        """Count a failure of a call that was sent by `client` at `sent_at` (the loop's clock).

        | failure | what follows |
        | --- | --- |
        | 429, 503 | fewer requests at once |
        | with `Retry-After` | no request for that long |
        | lost connection | down |
        | time-out, 5xx but a 503 with `Retry-After` | down after `UNHEALTHY_AFTER` in a row |
        | any, of a client that was replaced since | says nothing about the new server |
        """
        busy = error.kind == "http_429" or (error.kind == "http_503" and error.retry_after_s is not None)
        if error.kind in ("http_429", "http_503"):
            endpoint.limiter.shrink(sent_at)
        if error.retry_after_s is not None and error.retry_after_s <= LONGEST_WAIT_S:
            endpoint.limiter.pause_for(error.retry_after_s)
        if client is not endpoint.client or busy:
            return
        if error.kind == "connection":
            self._set_down(endpoint, error)
        elif error.kind == "timeout" or error.kind.startswith("http_5"):
            endpoint.consecutive_failures += 1
            if endpoint.consecutive_failures >= UNHEALTHY_AFTER:
                self._set_down(endpoint, error)

    def set_absent(self, endpoint: EndpointState[C], error: CallError) -> None:
        """Mark an endpoint that did not answer before the first call. It joins when it does."""
        self._set_down(endpoint, error, "starting without it")

    def set_ready(self, endpoint: EndpointState[C], client: C) -> None:
        """Let calls in through a new client, which may lead to another address than the last."""
        self._stop_probe(endpoint)
        endpoint.client, endpoint.consecutive_failures = client, 0
        self._set_up(endpoint)

    def set_unavailable(self, endpoint: EndpointState[C], state: Literal["starting", "gone"]) -> None:
        """Let no calls in: the endpoint is being started again, or does not come back."""
        self._stop_probe(endpoint)
        self._set(endpoint, state)

    def stop(self) -> None:
        """Let no further call in; calls that wait fail with `Stopped`."""
        self._stopped = True
        for endpoint in self.endpoints:
            endpoint.limiter.dismiss_waiting()
        self._changed.set()

    async def aclose(self) -> None:
        """End all probes and close all clients."""
        for probe in list(self._probes.values()):
            probe.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)
        self._probes.clear()
        for endpoint in self.endpoints:
            if endpoint.client is not None:
                await endpoint.client.aclose()

    def _choose(self, episode: Digest) -> EndpointState[C] | None:
        """Return the endpoint for an episode's next call; None: wait until a state changes.

        | sticky endpoint | others | chosen |
        | --- | --- | --- |
        | up | | the sticky one |
        | down or starting | some up | the first of them in the episode's order, and the sticky one is kept |
        | none, or gone | some up | the first with room in the episode's order, which becomes sticky |
        | any | none up, some starting | wait |
        | any | none up, some down | the first of them: a call is the quickest probe |
        | any | all gone | None |
        """
        up = [endpoint for endpoint in self.endpoints if endpoint.state == "up"]
        sticky = self._sticky.get(episode)
        if sticky is not None and sticky.state == "up":
            self._sticky.move_to_end(episode)
            return sticky
        if not up:
            starting = any(endpoint.state == "starting" for endpoint in self.endpoints)
            down = [endpoint for endpoint in self.endpoints if endpoint.state == "down"]
            return None if starting or not down else _ranked(down, episode)[0]
        if sticky is not None and sticky.state != "gone":
            return _ranked(up, episode)[0]
        chosen = self._sticky[episode] = _with_room(_ranked(up, episode))
        chosen.episodes += 1
        if len(self._sticky) > _MOST_STICKY:
            self._sticky.popitem(last=False)
        return chosen

    def _set_down(self, endpoint: EndpointState[C], error: CallError, consequence: str = "") -> None:
        if endpoint.state != "up":
            return
        self._set(endpoint, "starting" if endpoint.supervised else "down")
        # Noted once an outage, and not where the errors of the calls themselves say it.
        if len(self.endpoints) > 1 and endpoint.client is not None and endpoint.outages == 0:
            consequence = consequence or ("going on with the others" if self.any_up() else "and no other is left")
            self._note(f"{endpoint.client.url} does not answer ({error.kind}): {consequence}")
        self._probes[endpoint] = asyncio.create_task(self._probe(endpoint))

    async def _probe(self, endpoint: EndpointState[C]) -> None:
        """Probe until the endpoint is healthy. The pauses go on growing over outages without an answer in between."""
        tries = endpoint.outages
        endpoint.outages += 1
        while True:
            await asyncio.sleep(_PROBE_AFTER_S[min(tries, len(_PROBE_AFTER_S) - 1)])
            tries += 1
            if endpoint.client is not None and await endpoint.client.is_healthy():
                break
        del self._probes[endpoint]
        endpoint.consecutive_failures = 0
        self._set_up(endpoint)

    def _stop_probe(self, endpoint: EndpointState[C]) -> None:
        probe = self._probes.pop(endpoint, None)
        if probe is not None:
            probe.cancel()

    def _set_up(self, endpoint: EndpointState[C]) -> None:
        """Let calls in. If the others took its share while it was away, all episodes are assigned anew."""
        self._set(endpoint, "up")
        up = [other for other in self.endpoints if other.state == "up"]
        # Assigning anew costs every episode its prefix cache, so a small imbalance stays.
        if endpoint.episodes * len(up) * _SHARE >= sum(other.episodes for other in up):
            return
        self._sticky.clear()
        for other in up:
            other.episodes = 0
            other.limiter.dismiss_waiting()

    def _set(self, endpoint: EndpointState[C], state: State) -> None:
        """Change a state; calls that wait where they can no longer be served choose again."""
        endpoint.state = state
        for other in self.endpoints:
            if other.state in ("starting", "gone") or (other.state == "down" and self.any_up()):
                other.limiter.dismiss_waiting()
        # Wakes those that wait now, and no later ones.
        self._changed.set()
        self._changed = asyncio.Event()


def _ranked(endpoints: list[EndpointState[C]], episode: Digest) -> list[EndpointState[C]]:
    """Order endpoints by rendezvous hashing: the order of any two depends on nothing but the episode and the two."""
    return sorted(endpoints, key=lambda endpoint: digest_parts("route.v1", [endpoint.label.encode(), episode.encode()]))


def _with_room(endpoints: list[EndpointState[C]]) -> EndpointState[C]:
    """Return the first that has no more than its share of calls and episodes; the least busy where each has more."""
    calls = _SHARE * (sum(endpoint.open_calls for endpoint in endpoints) + 1) / len(endpoints)
    episodes = _SHARE * (sum(endpoint.episodes for endpoint in endpoints) + 1) / len(endpoints)
    room = (endpoint for endpoint in endpoints if endpoint.open_calls < calls and endpoint.episodes < episodes)
    return next(room, None) or min(endpoints, key=lambda endpoint: endpoint.open_calls)


def _all_gone(where: str) -> CallError:
    return CallError(
        "no server is left",
        kind="connection",
        retryable=True,
        where=where,
        hint="the notes above say why each one ended; the same command goes on where this run stopped",
    )
