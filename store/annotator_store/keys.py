"""What a call's key is made of. Every pre-image of a key is a struct in this file.

If it can change an answer it is a field here; if it is not a field here it cannot change an answer.

    call_key = digest(episode, prompt, model, seed, frames)
"""

from typing import Any, Literal

import msgspec

from annotator_store.digests import Digest, Keyed, digest_struct


class Text(msgspec.Struct, frozen=True, tag="text", forbid_unknown_fields=True):
    """A piece of rendered text inside a message."""

    text: str


class Slot(msgspec.Struct, frozen=True, tag="media", forbid_unknown_fields=True):
    """The place of the `index`-th media item (see `Frames.media`) inside a message."""

    index: int


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One chat message, rendered."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[Text | Slot, ...]


class Prompt(Keyed, frozen=True, kw_only=True):
    """What is sent: every message's text, where the media go, and the answer's JSON schema."""

    tag_v = "prompt.v1"
    messages: tuple[Message, ...]
    schema: dict[str, Any]


class Model(Keyed, frozen=True, kw_only=True):
    """Which model answers, and every setting that can change what it says.

    Not here, because they are provenance: endpoint, engine, batch size, parallelism.
    """

    tag_v = "model.v1"
    model_id: str
    revision: str | None = None
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    mm_processor_kwargs: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 0
    reasoning_effort: str | None = None


class Render(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How frames become one media item.

    `frame`: one JPEG. `video`: an ordered list of JPEGs sent as one video.
    `sheet`: a grid of tiles, row-major, one JPEG.
    `width_px` is a frame's or tile's width; 0 keeps the stored width. Height follows the stored aspect ratio.
    """

    kind: Literal["frame", "video", "sheet"]
    width_px: int = 0
    columns: int = 1
    quality: int = 84
    badge: bool = False
    renderer: str = "1"


class MediaItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One image, video block or contact sheet: which footage, which frames of it, drawn how.

    `timestamps` are seconds from the episode's first frame, float32 values as stored, ascending.
    """

    footage: Digest
    timestamps: tuple[float, ...]
    render: Render


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something other than footage that an engine reads, by digest."""

    kind: Literal["signals", "inputs"]
    digest: Digest


class Frames(Keyed, frozen=True, kw_only=True):
    """Everything an engine looks at beside the text, in order."""

    tag_v = "frames.v1"
    media: tuple[MediaItem, ...] = ()
    evidence: tuple[Evidence, ...] = ()


class Media(Keyed, frozen=True, kw_only=True):
    """One media item alone: the name under which engines may cache its pixels."""

    tag_v = "media.v1"
    item: MediaItem


class Call(Keyed, frozen=True, kw_only=True):
    """The five parts of a call's key."""

    tag_v = "call.v1"
    episode: Digest
    prompt: Digest
    model: Digest
    seed: int
    frames: Digest


def call_key(call: Call) -> Digest:
    """The key under which a call's answer is kept for ever."""
    return digest_struct(call)
