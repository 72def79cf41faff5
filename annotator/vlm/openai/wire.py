"""The body of a chat completion request, and the reading of its answer. Pure functions of their arguments.

Source: the OpenAI chat completions reference; `video_url` with `data:video/jpeg;base64,<frame>,<frame>,…` is vLLM's.
"""

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec

from annotator.media.picture import Picture
from annotator.vlm.base import Request
from annotator.vlm.chat import media_io
from annotator_store.digests import Digest
from annotator_store.keys import Message, Text

_OFF_THE_LOOP_BYTES = 256 * 1024
"""Above this many bytes, encoding blocks the event loop for longer than a thread hand-over takes (about 0.1 ms)."""

Part = msgspec.Raw
"""One message part, already JSON."""


class BadReply(Exception):
    """The body is no usable completion: `reason` says why in one line; `refused`: the model declined in words."""

    def __init__(self, reason: str, *, hint: str = "", refused: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.refused = refused


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a completion that are used here."""

    text: str
    finish_reason: str
    tokens_in: int
    tokens_out: int
    fingerprint: str | None


class _Message(msgspec.Struct, frozen=True):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Body(msgspec.Struct, frozen=True):
    choices: tuple[_Choice, ...]
    usage: _Usage | None = None
    system_fingerprint: str | None = None


class PictureParts:
    """Message parts of pictures: each picture is encoded once and cached by its media digest, up to `limit_bytes`.

    A video is one `video_url` part, or, with `pictures_as_video` off, a run of `image_url` parts.
    """

    def __init__(self, *, pictures_as_video: bool = True, limit_bytes: int = 128 * 1024 * 1024) -> None:
        self._as_video = pictures_as_video
        self._limit_bytes = limit_bytes
        self._cache: OrderedDict[Digest, tuple[Part, ...]] = OrderedDict()
        self._cached_bytes = 0

    async def get(self, picture: Picture) -> tuple[Part, ...]:
        """Return the parts of a picture, encoded off the event loop if it is large."""
        cached = self._cache.get(picture.media_digest)
        if cached is not None:
            self._cache.move_to_end(picture.media_digest)
            return cached
        if sum(map(len, picture.jpegs)) > _OFF_THE_LOOP_BYTES:
            parts = await asyncio.to_thread(_encode, picture, self._as_video)
        else:
            parts = _encode(picture, self._as_video)
        # Another request may have encoded the same picture meanwhile.
        if picture.media_digest not in self._cache:
            self._cache[picture.media_digest] = parts
            self._cached_bytes += _size(parts)
            while self._cached_bytes > self._limit_bytes:
                _, dropped = self._cache.popitem(last=False)
                self._cached_bytes -= _size(dropped)
        return parts


def _size(parts: tuple[Part, ...]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def _encode(picture: Picture, as_video: bool) -> tuple[Part, ...]:
    encoded = [base64.b64encode(jpeg) for jpeg in picture.jpegs]
    if picture.kind == "video" and as_video:
        return (_media_part(b"video_url", b"data:video/jpeg;base64," + b",".join(encoded)),)
    return tuple(_media_part(b"image_url", b"data:image/jpeg;base64," + image) for image in encoded)


def _media_part(kind: bytes, url: bytes) -> Part:
    # Base64 needs no JSON escaping, so the part is assembled from bytes instead of being scanned on every request.
    return Part(b'{"type":"%b","%b":{"url":"%b"}}' % (kind, kind, url))


def request_body(request: Request, pictures: Sequence[Sequence[Part]], *, video_times: bool = False) -> bytes:
    """Encode a request: a pure function of it. `pictures[i]` are the parts of `request.pictures[i]`.

    Settings at their neutral value (no token limit, no kwargs, no reasoning effort) are left out, since servers
    that do not know them refuse them. `video_times` adds vLLM's `media_io_kwargs`.
    """
    model = request.model
    # OpenAI allows letters, digits, _ and - in a schema's name, at most 64 of them.
    schema_name = "".join(c if c.isalnum() and c.isascii() else "_" for c in request.step)[:64] or "answer"
    body: dict[str, Any] = {
        "model": model.model_id,
        "messages": [_message(message, pictures) for message in request.messages],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": schema_name, "schema": request.schema, "strict": True},
        },
        "seed": request.seed,
        "temperature": model.temperature,
        "top_p": model.top_p,
    }
    if model.max_new_tokens:
        body["max_tokens"] = model.max_new_tokens
    if model.reasoning_effort is not None:
        body["reasoning_effort"] = model.reasoning_effort
    if model.chat_template_kwargs:
        body["chat_template_kwargs"] = model.chat_template_kwargs
    if model.mm_processor_kwargs:
        body["mm_processor_kwargs"] = model.mm_processor_kwargs
    if video_times and (media_io_kwargs := media_io(request)):
        body["media_io_kwargs"] = media_io_kwargs
    return msgspec.json.encode(body)


def _message(message: Message, pictures: Sequence[Sequence[Part]]) -> dict[str, Any]:
    texts = [part.text for part in message.parts if isinstance(part, Text)]
    if len(texts) == len(message.parts):
        # Many servers take a list of parts only in a user's message.
        return {"role": message.role, "content": "".join(texts)}
    content: list[Any] = []
    for part in message.parts:
        if isinstance(part, Text):
            content.append({"type": "text", "text": part.text})
        else:
            content.extend(pictures[part.index])
    return {"role": message.role, "content": content}


def read_completion(body: bytes) -> Completion:
    """Decode a completion.

    Raises:
        BadReply: it is not one, or it holds no text.
    """
    try:
        reply = msgspec.json.decode(body, type=_Body)
    except msgspec.DecodeError as cause:
        raise BadReply(f"{_looks_like(body)}: {excerpt(body)}") from cause
    if not reply.choices:
        raise BadReply("the reply has no choices")
    choice, usage = reply.choices[0], reply.usage or _Usage()
    finish_reason = choice.finish_reason or "unknown"
    return Completion(
        text=_text_of(choice.message, finish_reason),
        finish_reason=finish_reason,
        tokens_in=usage.prompt_tokens or 0,
        tokens_out=usage.completion_tokens or 0,
        fingerprint=reply.system_fingerprint,
    )


def _text_of(message: _Message, finish_reason: str) -> str:
    if message.content:
        return message.content
    if message.refusal:
        raise BadReply(f"the model refused: {message.refusal}", refused=True)
    hint = "raise --vlm.max_new_tokens: all of them went into thinking" if finish_reason == "length" else ""
    raise BadReply(f"the reply holds no text (finish_reason {finish_reason})", hint=hint)


def _looks_like(body: bytes) -> str:
    head = body.lstrip()[:15].lower()
    if not head:
        return "an empty body"
    if head.startswith((b"<!doctype", b"<html")):
        return "an HTML page"
    return "no chat completion"


def excerpt(body: bytes, limit: int = 200) -> str:
    """Return the beginning of a body for a message: one line, whitespace collapsed."""
    line = " ".join(body[: 4 * limit].decode("utf-8", "replace").split())
    return line if len(line) <= limit else f"{line[:limit]}…"
