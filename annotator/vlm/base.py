"""The contract of an engine: what it is asked, what it replies, and how it registers."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from annotator.config.settings import VlmSettings
from annotator.errors import UsageError
from annotator_store.digests import Digest
from annotator_store.keys import Message, Model

if TYPE_CHECKING:  # the command line lists the engines, and must not load numpy for it
    from annotator.dataset.signals import Signals
    from annotator.media.picture import Picture


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One call, ready to be sent: everything here is covered by `key`.

    `messages` hold `Slot(i)` where `pictures[i]` goes. `pictures` is empty for an engine that does not look.
    `inputs` are the named values that the prompt was rendered from, and `signals` loads the robot's signals;
    both are only for an engine that `reads_evidence`, whose keys cover them.
    """

    key: Digest
    step: str
    messages: tuple[Message, ...]
    schema: dict[str, Any]
    pictures: "tuple[Picture, ...]"
    model: Model
    seed: int
    episode: Digest
    inputs: Mapping[str, str]
    signals: "Callable[[], Signals] | None"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The raw text of a reply, and its provenance. `tokens_*` are 0 where nobody counts them."""

    text: str
    finish_reason: str = "stop"
    tokens_in: int = 0
    tokens_out: int = 0
    elapsed_s: float = 0.0
    attempts: int = 1
    endpoint: str | None = None
    model_revision: str | None = None
    versions: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])


@runtime_checkable
class Stoppable(Protocol):
    """An engine in which calls wait for their turn."""

    def stop(self) -> None:
        """Start no further call: calls that wait fail with `attempts` 0, those in flight end as they would."""
        ...


class Engine(Protocol):
    """Answers requests.

    `looks`: it is given pictures, which are decoded for it. `reads_evidence`: it is given inputs and signals.
    """

    name: str
    looks: bool
    reads_evidence: bool

    async def generate(self, request: Request) -> Reply:
        """Answer one request. Many run at once; cancellation stops the call.

        Raises:
            CallError: no reply, after the engine's own retries.
            Declined: this engine cannot answer this step.
        """
        ...

    async def aclose(self) -> None:
        """Release connections and processes. Safe to call twice."""
        ...


@dataclass(frozen=True, kw_only=True)
class EngineContext:
    """What an engine is opened with. Servers that it starts write their logs into the folder `logs`."""

    vlm: VlmSettings
    environment: Mapping[str, str]
    note: Callable[[str], None] = lambda _: None
    logs: Path = Path("serve")

    def api_key(self) -> str:
        """Return the key from the variable that the settings name; "EMPTY", which local servers take, without one.

        Raises:
            UsageError: the variable is not set.
        """
        if self.vlm.api_key_env is None:
            return "EMPTY"
        key = self.environment.get(self.vlm.api_key_env)
        if not key:
            raise UsageError("the API key is not set", where=f"--vlm.api_key_env {self.vlm.api_key_env}")
        return key


class Availability(msgspec.Struct, frozen=True, kw_only=True):
    """Whether `auto` can take an engine: `reason` says why it can, or `missing` what it lacks.

    Both are empty where the settings rule the engine out, which needs no word.
    """

    reason: str = ""
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """How an engine registers. Functions are given as "package.module:name" and imported when they are needed.

    `model_id` is the model that an engine without a model stands for in keys, `<name>.v<number>`. The number goes up
    when the engine's answers change. None: the settings name the model.
    """

    name: str
    meaning: str
    """What it is, in half a line of Markdown."""
    open: str
    """Async function of an `EngineContext` that returns the `Engine`. Raises NoEngine or UsageError."""
    options: frozenset[str] = frozenset()
    """Fields of `VlmSettings` that it uses, of those that are no part of a key. See `registry.unused`."""
    install: str = ""
    """What `pip install` needs to be given for it."""
    requires: tuple[str, ...] = ()
    """Modules that must be importable before it is opened."""
    check: str | None = None
    """Async function of an `EngineContext` that raises what `open` would, as far as it can tell without opening."""
    availability: str | None = None
    """Async function of an `EngineContext` that returns an `Availability`; `auto` takes no engine without one."""
    model_id: str | None = None
    looks: bool = True
    reads_evidence: bool = False
    needs_gpu: bool = False
    """Whether it runs a model on this machine, unless `--vlm.api_base` names an endpoint."""


Opener = Callable[[EngineContext], Awaitable[Engine]]
