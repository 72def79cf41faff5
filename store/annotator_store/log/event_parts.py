"""What events are made of: values that stand inside them, written as part of their wire forms."""

from typing import Any, Literal

import msgspec

from annotator_store.digests import Digest
from annotator_store.rows import Row


class CameraSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One camera of an episode and the digest of its encoded footage."""

    camera: str
    footage: Digest


class AnnotatedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row and the call it came from; `call` is None where no single call wrote it (a plan's list of what is left)."""

    row: Row
    call: Digest | None = None


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A step that gave nothing for this episode, and why: its rows are missing on the record."""

    step: str
    reason: Literal["rejected", "declined"]
    detail: str
    call: Digest


class SetupUsed(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer's rows or entries were made with, alike for all that a run makes with it.

    `model`: digest of the model. `prompts`: step → digest of the prompt's body, of all steps that could be asked.
    `vocabulary`: what they were held to, None where they are worded freely. `settings`: those that are not the
    defaults, by the names of their flags.
    """

    seed: int
    model: Digest
    prompts: dict[str, Digest]
    vocabulary: Digest | None
    module_version: int
    settings: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class EpisodeSources(msgspec.Struct, frozen=True, kw_only=True):
    """Rows [start, stop) of a shard are this episode; module → id of the `EpisodeAnnotated` its rows come from.

    The rows of other modules, and all rows where `sources` is None, were kept as they stood in the shard.
    """

    episode: Digest
    start: int
    stop: int
    sources: dict[str, Digest] | None
