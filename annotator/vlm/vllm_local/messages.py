# pyright: reportMissingImports=false
"""A request as vLLM's own chat renderer takes it: messages, pictures and how they are read, sampling."""

import base64
from typing import Any

from annotator.media.picture import Picture
from annotator.vlm.base import Request
from annotator.vlm.chat import media_io, reply_tokens, template_kwargs
from annotator_store.keys import Message, Text


def conversation(request: Request) -> list[dict[str, Any]]:
    """Return the messages, each picture with its media digest, so that vLLM processes it once for all requests."""
    return [_message(message, request.pictures) for message in request.messages]


async def render_prompt(llm: Any, request: Request) -> Any:
    """Render the prompt with the renderer of vLLM's server, so with the same tokens."""
    from vllm.renderers import ChatParams

    renderer, model = llm.renderer, request.model
    template = getattr(renderer.get_tokenizer(), "chat_template", None)
    parameters = ChatParams(
        chat_template_kwargs={
            "add_generation_prompt": True,
            **template_kwargs(model, template if isinstance(template, str) else None),
            "tokenize": False,
        },
        media_io_kwargs=media_io(request) or None,
        mm_processor_kwargs=model.mm_processor_kwargs or None,
    )
    extras = {"mm_processor_kwargs": model.mm_processor_kwargs} if model.mm_processor_kwargs else {}
    _, (prompt,) = await renderer.render_chat_async([conversation(request)], parameters, prompt_extras=extras)
    return prompt


def sampling_params(llm: Any, request: Request, *, prompt_tokens: int) -> Any:
    """Return vLLM's `SamplingParams` for a request.

    Raises:
        ValueError: the prompt leaves no room for a reply.
    """
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    model = request.model
    context = llm.model_config.max_model_len
    max_tokens = reply_tokens(model, prompt_tokens=prompt_tokens, context_tokens=context)
    if max_tokens < 1:
        raise ValueError(f"{prompt_tokens} tokens of prompt fill the maximum model length of {context}")
    # As in the server, the model's generation_config.json holds where no setting does.
    defaults = llm.model_config.get_diff_sampling_param()
    settings = {"temperature": model.temperature, "top_p": model.top_p, "max_tokens": max_tokens}
    return SamplingParams(
        **{**defaults, **settings},
        seed=request.seed,
        structured_outputs=StructuredOutputsParams(json=request.schema),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _message(message: Message, pictures: tuple[Picture, ...]) -> dict[str, Any]:
    texts = [part.text for part in message.parts if isinstance(part, Text)]
    if len(texts) == len(message.parts):
        return {"role": message.role, "content": "".join(texts)}
    content: list[dict[str, Any]] = []
    for part in message.parts:
        content += [{"type": "text", "text": part.text}] if isinstance(part, Text) else _parts(pictures[part.index])
    return {"role": message.role, "content": content}


def _parts(picture: Picture) -> list[dict[str, Any]]:
    encoded = [base64.b64encode(jpeg).decode() for jpeg in picture.jpegs]
    if picture.kind == "video":
        return [_part("video_url", "data:video/jpeg;base64," + ",".join(encoded), picture.media_digest)]
    # One digest names one item: an image picture holds one.
    return [_part("image_url", "data:image/jpeg;base64," + image, picture.media_digest) for image in encoded]


def _part(kind: str, url: str, uuid: str) -> dict[str, Any]:
    return {"type": kind, kind: {"url": url}, "uuid": uuid}
