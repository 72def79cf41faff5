"""Which of several endpoints gets a call: an episode keeps to one, for its prefix cache, while that one is well."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

from annotator.errors import CallError
from annotator.vlm.openai.limiter import ConcurrencyLimiter
from annotator_store.digests import Digest, digest_parts

STRIKES = 3
"""Failures in a row (5xx, silence) after which an endpoint counts as ill. A lost connection counts at once."""
LONGEST_WAIT_S = 120.0
"""A server that wants to be left alone for longer gets no second request in this run for the same call."""
_PROBE_AFTER_S = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Pauses between the questions whether an endpoint is well again; the last one repeats."""
_SHARE = 1.25
"""An endpoint takes a new episode as long as it has at most this many times its share of episodes and of open calls.
Source: consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016)."""
_HOMES = 100_000

State = Literal["up", "down", "awaited", "gone"]


class Stopped(CallError):
    """The run asks nothing more, and this call had not been sent."""


class Endpoint(Protocol):
    """What a lane leads to."""

    endpoint: str

    async def alive(self) -> bool:
        """Say whether it is there and well."""
        ...

    async def aclose(self) -> None:
        """Let go of it."""
        ...


E = TypeVar("E", bound=Endpoint)


class EndpointState(Generic[E]):
    """The way to one endpoint. Its label is what episodes are assigned by, so that they find back to it.

    `up`: it gets calls. `down`: it gets them only where no other is up. `awaited`: somebody is bringing it back, and
    calls wait for that. `gone`: it does not come back.
    """

    def __init__(self, label: str, window: ConcurrencyLimiter, endpoint: E | None, *, supervised: bool) -> None:
        self.label = label
        self.window = window
        self.endpoint = endpoint
        self.supervised = supervised
        self.state: State = "up" if endpoint else "awaited"
        self.open_calls = self.episodes = 0
        self.strikes = 0
        self.relapses = 0


class Router(Generic[E]):
    """The lanes of a run. On the event loop only."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.lanes: list[EndpointState[E]] = []
        self._note = note
        self._homes: OrderedDict[Digest, EndpointState[E]] = OrderedDict()
        self._changed = asyncio.Event()
        self._stopped = False
        self._probes: dict[EndpointState[E], asyncio.Task[None]] = {}

    def add(self, label: str, limit: int, endpoint: E | None = None, *, supervised: bool = False) -> EndpointState[E]:
        """Add a lane; without an endpoint it is awaited. `supervised`: somebody starts it again when it is down."""
        lane = EndpointState(label, ConcurrencyLimiter(limit), endpoint, supervised=supervised)
        self.lanes.append(lane)
        return lane

    def any_up(self) -> bool:
        """Say whether any lane is well."""
        return any(lane.state == "up" for lane in self.lanes)

    async def enter(self, episode: Digest, where: str) -> EndpointState[E]:
        """Choose a lane for an episode's next call and wait for a place on it. The caller must `leave`.

        Raises:
            CallError: every endpoint is gone.
            Stopped: nothing more is to be sent.
        """
        while True:
            if self._stopped:
                raise Stopped("the run asks nothing more", kind="stopped", retryable=True, where=where, attempts=0)
            changed = self._changed
            lane = self._choose(episode)
            if lane is None:
                if all(one.state == "gone" for one in self.lanes):
                    raise _all_gone(where)
                await changed.wait()
                continue
            lane.open_calls += 1
            try:
                if await lane.window.enter():
                    if not self._stopped:
                        return lane
                    lane.window.leave()  # its turn came in the same moment in which the run stopped asking
            except asyncio.CancelledError:
                lane.open_calls -= 1
                raise
            lane.open_calls -= 1

    def leave(self, lane: EndpointState[E]) -> None:
        """Give the place back."""
        lane.open_calls -= 1
        lane.window.leave()

    def succeeded(self, lane: EndpointState[E]) -> None:
        """Take note that an endpoint answered: it is well."""
        lane.strikes = lane.relapses = 0
        lane.window.grow()

    def failed(self, lane: EndpointState[E], endpoint: E, error: CallError, sent_at: float) -> None:
        """Take note of a failure, and of what it says about the endpoint."""
        busy = error.kind == "http_429" or (error.kind == "http_503" and error.retry_after_s is not None)
        if error.kind in ("http_429", "http_503"):
            lane.window.shrink(sent_at)
        if error.retry_after_s is not None and error.retry_after_s <= LONGEST_WAIT_S:
            lane.window.close_for(error.retry_after_s)
        if endpoint is not lane.endpoint or busy:
            return
        if error.kind == "connection":
            self._down(lane, error)
        elif error.kind == "timeout" or error.kind.startswith("http_5"):
            lane.strikes += 1
            if lane.strikes >= STRIKES:
                self._down(lane, error)

    def absent(self, lane: EndpointState[E], error: CallError) -> None:
        """Take note that an endpoint did not answer before the first call. It joins when it does."""
        self._down(lane, error, "starting without it")

    def open(self, lane: EndpointState[E], endpoint: E) -> None:
        """Open a lane, or open it again, perhaps to another address."""
        self._stop_probe(lane)
        lane.endpoint, lane.strikes = endpoint, 0
        self._up(lane)

    def shut(self, lane: EndpointState[E], state: Literal["awaited", "gone"]) -> None:
        """Close a lane: it is being brought back, or it does not come back."""
        self._stop_probe(lane)
        self._set(lane, state)

    def stop(self) -> None:
        """Let nobody in any more; who waits fails with `Stopped`."""
        self._stopped = True
        for lane in self.lanes:
            lane.window.send_away()
        self._changed.set()

    async def aclose(self) -> None:
        """Stop looking after endpoints, and let go of them."""
        for probe in list(self._probes.values()):
            probe.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)
        self._probes.clear()
        for lane in self.lanes:
            if lane.endpoint is not None:
                await lane.endpoint.aclose()

    def _choose(self, episode: Digest) -> EndpointState[E] | None:
        """Its home if that is up, else the next by its own order, else one that is down; None: wait."""
        up = [lane for lane in self.lanes if lane.state == "up"]
        home = self._homes.get(episode)
        if home is not None and home.state == "up":
            self._homes.move_to_end(episode)
            return home
        if not up:
            awaited = any(lane.state == "awaited" for lane in self.lanes)
            down = [lane for lane in self.lanes if lane.state == "down"]
            return None if awaited or not down else _ranked(down, episode)[0]
        if home is not None and home.state != "gone":
            return _ranked(up, episode)[0]
        chosen = self._homes[episode] = _with_room(_ranked(up, episode))
        chosen.episodes += 1
        if len(self._homes) > _HOMES:
            self._homes.popitem(last=False)
        return chosen

    def _down(self, lane: EndpointState[E], error: CallError, rest: str = "") -> None:
        if lane.state != "up":
            return
        self._set(lane, "awaited" if lane.supervised else "down")
        if len(self.lanes) > 1 and lane.endpoint is not None and lane.relapses == 0:
            rest = rest or ("going on with the others" if self.any_up() else "and no other is left")
            self._note(f"{lane.endpoint.endpoint} does not answer ({error.kind}): {rest}")
        self._probes[lane] = asyncio.create_task(self._probe(lane))

    async def _probe(self, lane: EndpointState[E]) -> None:
        """Ask until it is well again. One that falls ill again without having answered is asked later and later."""
        tries = lane.relapses
        lane.relapses += 1
        while True:
            await asyncio.sleep(_PROBE_AFTER_S[min(tries, len(_PROBE_AFTER_S) - 1)])
            tries += 1
            if lane.endpoint is not None and await lane.endpoint.alive():
                break
        del self._probes[lane]
        lane.strikes = 0
        self._up(lane)

    def _stop_probe(self, lane: EndpointState[E]) -> None:
        probe = self._probes.pop(lane, None)
        if probe is not None:
            probe.cancel()

    def _up(self, lane: EndpointState[E]) -> None:
        """Let calls in. Where the others took its share while it was away, every episode chooses its home anew."""
        self._set(lane, "up")
        up = [one for one in self.lanes if one.state == "up"]
        if lane.episodes * len(up) * _SHARE >= sum(one.episodes for one in up):
            return
        self._homes.clear()
        for one in up:
            one.episodes = 0
            one.window.send_away()

    def _set(self, lane: EndpointState[E], state: State) -> None:
        """Change a lane's state; whoever waits where it is now pointless chooses again."""
        lane.state = state
        for one in self.lanes:
            if one.state in ("awaited", "gone") or (one.state == "down" and self.any_up()):
                one.window.send_away()
        self._changed.set()
        self._changed = asyncio.Event()


def _ranked(lanes: list[EndpointState[E]], episode: Digest) -> list[EndpointState[E]]:
    """Order lanes by rendezvous hashing: an episode's order of any two depends on nothing but the two."""
    return sorted(lanes, key=lambda lane: digest_parts("route.v1", [lane.label.encode(), episode.encode()]))


def _with_room(lanes: list[EndpointState[E]]) -> EndpointState[E]:
    """Take the first that has no more than its share; where each has too much of something, the least busy."""
    calls = _SHARE * (sum(lane.open_calls for lane in lanes) + 1) / len(lanes)
    episodes = _SHARE * (sum(lane.episodes for lane in lanes) + 1) / len(lanes)
    room = [lane for lane in lanes if lane.open_calls < calls and lane.episodes < episodes]
    return room[0] if room else min(lanes, key=lambda lane: lane.open_calls)


def _all_gone(where: str) -> CallError:
    return CallError(
        "no server is left",
        kind="connection",
        retryable=True,
        where=where,
        hint="the notes above say why each one ended; the same command goes on where this run stopped",
    )
