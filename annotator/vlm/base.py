"""The contract between an ask and whatever answers it."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec

from annotator.dataset.signals import Signals
from annotator.media.picture import Picture
from annotator_store.digests import Digest
from annotator_store.keys import Message, Model


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
    pictures: tuple[Picture, ...]
    model: Model
    seed: int
    episode: Digest
    inputs: Mapping[str, str]
    signals: Callable[[], Signals] | None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What came back: the raw text, and where it came from. `tokens_*` are 0 where nobody counts them."""

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
        """Begin nothing more: calls that wait fail with `attempts` 0, those under way end as they would."""
        ...


class Engine(Protocol):
    """Answers requests.

    `looks`: it wants pictures, so they are decoded for it. `reads_evidence`: it wants inputs and signals instead.
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
