# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""A model loaded with transformers: the blocking half of the engine, for one thread."""

import importlib.metadata
import io
import time
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import torch
import transformers
from PIL import Image

from annotator.errors import CallError, NoEngine
from annotator.media.picture import Picture
from annotator.vlm.base import Reply, Request
from annotator.vlm.chat import number_frames, reply_tokens, template_kwargs
from annotator.vlm.transformers.guided_json import JsonConstraint, constraint_tokenizer
from annotator_store.keys import Message, Text

_FEWER_FRAMES = "lower --plan.max_frames_per_prompt or --plan.contact_sheet_frame_width"


class LoadedModel:
    """A model and its processor, on one device. Use it from one thread at a time.

    Raises:
        NoEngine: it cannot be loaded.
    """

    def __init__(self, model_id: str, *, revision: str | None = None, max_model_len: int | None = None) -> None:
        self._model, self._processor = _load(model_id, revision)
        text = self._model.config.get_text_config()
        self._context = min(max_model_len or text.max_position_embeddings, text.max_position_embeddings)
        end_ids = self._model.generation_config.eos_token_id
        self._end_ids: list[int] = [end_ids] if isinstance(end_ids, int) else list(end_ids or ())
        device = self._model.device
        self._constraint_tokenizer = constraint_tokenizer(self._processor.tokenizer, text.vocab_size, self._end_ids)
        self.revision = getattr(self._model.config, "_commit_hash", None) or revision
        self.versions: Mapping[str, str] = {
            **{name: importlib.metadata.version(name) for name in ("transformers", "torch", "llguidance")},
            "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        }

    def answer(self, request: Request, stopped: Callable[[], bool]) -> Reply:
        """Answer one request. Generation ends at the next token once `stopped`.

        Raises:
            CallError: `kind` is `bad_request`, `out_of_memory`, `engine_failed`, `engine_dead`, or, once it was
                stopped, `engine_closed`.
        """
        started = time.monotonic()
        try:
            inputs = self._inputs(request).to(self._model.device)
            prompt_tokens = int(inputs["input_ids"].shape[1])
            if prompt_tokens >= self._context:
                got = f"{prompt_tokens} tokens of prompt, where the context has {self._context}"
                raise _refused(request, got, hint=_FEWER_FRAMES)
            ids = self._generate(request, inputs, prompt_tokens, stopped)
        except torch.OutOfMemoryError as cause:
            got = " ".join(str(cause).split())[:200]
            raise _call_error(
                request, "the device is out of memory", "out_of_memory", got, _FEWER_FRAMES, retryable=False
            ) from cause
        except RuntimeError as cause:
            # Overflowing numbers, and whatever goes wrong on the device.
            raise _failed(request, cause) from cause
        except (ValueError, TypeError, KeyError, IndexError, OSError, jinja2.TemplateError) as cause:
            # What processors refuse a picture, an argument or the order of the messages with.
            raise _refused(request, f"{type(cause).__name__}: {cause}") from cause
        ended = bool(ids) and ids[-1] in self._end_ids
        if stopped() and not ended:
            what = "the engine was closed before the reply was complete"
            raise _call_error(request, what, "engine_closed", "", "the next run asks again")
        return Reply(
            text=self._processor.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True),
            finish_reason="stop" if ended else "length",
            tokens_in=prompt_tokens,
            tokens_out=len(ids),
            elapsed_s=time.monotonic() - started,
            model_revision=self.revision,
            versions=self.versions,
        )

    def _inputs(self, request: Request) -> Any:
        messages = [_message(message, request.pictures) for message in request.messages]
        template = self._processor.chat_template
        text = self._processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **template_kwargs(request.model, template)
        )
        return self._processor(text=[text], return_tensors="pt", **_media(request), **request.model.mm_processor_kwargs)

    def _generate(self, request: Request, inputs: Any, prompt_tokens: int, stopped: Callable[[], bool]) -> list[int]:
        model = request.model
        sampled = {"temperature": model.temperature, "top_p": model.top_p} if model.temperature > 0 else {}
        # The library's default of the 50 likeliest tokens would be a setting that nobody made.
        top_k = {"top_k": self._model.generation_config.top_k or 0} if sampled else {}
        torch.manual_seed(request.seed)
        with torch.inference_mode():
            ids = self._model.generate(
                **inputs,
                **sampled,
                **top_k,
                do_sample=bool(sampled),
                max_new_tokens=reply_tokens(model, prompt_tokens=prompt_tokens, context_tokens=self._context),
                logits_processor=[JsonConstraint(self._constraint_tokenizer, request.schema)],
                stopping_criteria=[_Stop(stopped)],
            )
        return ids[0, prompt_tokens:].tolist()


class _Stop:
    """A stopping criterion that ends the generation once nobody waits for it."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return torch.full((input_ids.shape[0],), self._stopped(), device=input_ids.device, dtype=torch.bool)


def _load(model_id: str, revision: str | None) -> tuple[Any, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    transformers.utils.logging.disable_progress_bar()
    try:
        processor = transformers.AutoProcessor.from_pretrained(model_id, revision=revision)
        model = transformers.AutoModelForImageTextToText.from_pretrained(model_id, revision=revision, dtype="auto")
        return model.to(device).eval(), processor
    except (OSError, ValueError, ImportError, RuntimeError) as cause:
        raise NoEngine(
            "the model cannot be loaded",
            where=f"--vlm.model_id {model_id}",
            got=" ".join(str(cause).split())[:400],
            hint="name a folder, or a vision-language model that this machine can fetch; --vlm.model_revision pins it",
        ) from cause


def _message(message: Message, pictures: tuple[Picture, ...]) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": pictures[part.index].kind}
        for part in message.parts
    ]
    return {"role": message.role, "content": parts}


def _media(request: Request) -> dict[str, Any]:
    """Return a processor's arguments for the pictures, in the order in which the messages show them."""
    shown = [
        request.pictures[part.index]
        for message in request.messages
        for part in message.parts
        if not isinstance(part, Text)
    ]
    images = [image for picture in shown if picture.kind == "image" for image in _decode(picture)]
    videos = [picture for picture in shown if picture.kind == "video"]
    media: dict[str, Any] = {"images": images} if images else {}
    if videos:
        media["videos"] = [_decode(video) for video in videos]
        media["video_metadata"] = [_video_metadata(video) for video in videos]
        media["do_sample_frames"] = False
    return media


def _decode(picture: Picture) -> list[Image.Image]:
    return [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in picture.jpegs]


def _video_metadata(video: Picture) -> dict[str, Any]:
    numbers = number_frames(video.timestamps)
    count = numbers.indices[-1] + 1
    return {
        "fps": numbers.fps,
        "frames_indices": list(numbers.indices),
        "total_num_frames": count,
        "duration": count / numbers.fps,
    }


def _refused(request: Request, got: str, *, hint: str = "") -> CallError:
    hint = hint or "the model's processor says so; --vlm.mm_processor_kwargs and --vlm.chat_template_kwargs reach it"
    got = " ".join(got.split())[:400]
    return _call_error(request, "the model cannot take the request", "bad_request", got, hint, retryable=False)


def _failed(request: Request, cause: Exception) -> CallError:
    got = " ".join(str(cause).split())[:400]
    hint = "the next run asks again; inf or nan comes of weights, or of a number format that this device lacks"
    # After an error of the device itself, everything further in this process fails with the same.
    if "CUDA error" in got:
        return _call_error(request, "the device failed", "engine_dead", got, hint)
    return _call_error(request, "the model failed", "engine_failed", got, hint)


def _call_error(request: Request, what: str, kind: str, got: str, hint: str, *, retryable: bool = True) -> CallError:
    where = f"{request.step} at {request.model.model_id}"
    return CallError(what, kind=kind, retryable=retryable, where=where, got=got, hint=hint)
