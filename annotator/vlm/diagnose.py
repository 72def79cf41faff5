"""The doctor's checks: what is installed, which GPUs there are, which engine a sync would take, and what it can do.

Every claim about an engine comes from asking it: a server may accept a JSON schema, a video or a seed and ignore it.
"""

import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec
import numpy as np

from annotator.config.settings import VlmSettings
from annotator.errors import CallError, Declined, NoEngine, UsageError
from annotator.media.picture import Picture
from annotator.vlm.base import Engine, Reply, Request
from annotator.vlm.registry import SHIPPED, choose_engine, model_of, package_of, third_party_engines
from annotator.vlm.reply_text import json_part
from annotator_store.digests import Digest, digest_parts
from annotator_store.keys import Message, Slot, Text

_REQUIRED = dict.fromkeys(name for spec in SHIPPED for name in spec.requires)
PACKAGES = ("duckdb", "pyarrow", "av", "pillow", "openai", *_REQUIRED, "huggingface-hub")
_LIST_GPUS = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_VLLM_KEEPS, _FRAMES = 32, 40
"""A vLLM server drops all frames of a video after the 32nd where nobody tells it otherwise. Source: vLLM 0.32."""
_KEEP_FRAMES = (
    """hint: start a vLLM server with --media-io-kwargs '{"video": {"num_frames": -1, "fps": 2}}',"""
    " the 2 being --plan.frames_per_second"
)
_WORD = "zebra-7"
"""No model says this of its own accord: a reply that does was held to the schema."""

State = Literal["ok", "none", "fails"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. `fails` is what a sync with these settings would stumble over."""

    what: str
    state: State
    found: str


def installed() -> Iterator[Check]:
    """Yield the versions of what an engine or a command may need, and the engines that other packages bring."""
    for name in PACKAGES:
        try:
            yield Check(what=name, state="ok", found=metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(what=name, state="none", found="not installed")
    shipped = {spec.name for spec in SHIPPED}
    for point in third_party_engines():
        clash = f", which is not used: {point.name} is a shipped engine" if point.name in shipped else ""
        yield Check(what=f"engine {point.name}", state="none" if clash else "ok", found=f"{package_of(point)}{clash}")


def gpus() -> Iterator[Check]:
    """Yield the GPUs that the driver lists."""
    try:
        lines = subprocess.run(_LIST_GPUS, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except FileNotFoundError:
        yield Check(what="gpu", state="none", found="no NVIDIA driver")
        return
    except (subprocess.SubprocessError, OSError) as cause:
        yield Check(what="gpu", state="none", found=f"nvidia-smi fails: {cause}")
        return
    for line in filter(None, map(str.strip, lines)):
        yield Check(what="gpu", state="ok", found=line)


async def engine(vlm: VlmSettings, *, video_needed: bool = False) -> AsyncIterator[Check]:
    """Open the engine as a sync would, and yield what it can do; close it afterwards. Logs of servers are deleted."""
    notes: list[str] = []
    with TemporaryDirectory(prefix="annotator-doctor-") as folder:
        try:
            chosen = await choose_engine(vlm, notes.append, offline=False, logs=Path(folder))
        except (NoEngine, UsageError) as error:
            yield Check(what="engine", state="fails", found=str(error))
            return
        try:
            yield Check(what="engine", state="ok", found="\n".join(notes) or chosen.name)
            if chosen.looks:
                yield await _check_schema(chosen, vlm)
                yield await _check_pictures(chosen, vlm, "image", (0, 1))
                video = await _check_pictures(chosen, vlm, "video", (0, _VLLM_KEEPS, _FRAMES))
                if video.state == "fails" and not video_needed:
                    found = f"{video.found}\nonly --plan.view video needs it"
                    video = msgspec.structs.replace(video, state="none", found=found)
                yield video
                yield await _check_seed(chosen, vlm)
        finally:
            await chosen.aclose()


async def _check_schema(chosen: Engine, vlm: VlmSettings) -> Check:
    """Whether a reply is held to a schema that allows one word only."""
    what, schema = "answers in the schema", _schema({"enum": [_WORD]})
    try:
        reply = await chosen.generate(_request(vlm, "held", "Name an animal.", schema=schema))
    except (CallError, Declined) as error:
        return Check(what=what, state="fails", found=str(error))
    fault, answer = _read_answer(reply)
    if not fault and answer != _WORD:
        fault = f"the schema is taken and not kept to: it says {answer!r}"
    return Check(what=what, state="fails" if fault else "ok", found=fault or f"{reply.elapsed_s:.1f} s")


async def _check_pictures(
    chosen: Engine, vlm: VlmSettings, kind: Literal["image", "video"], frames: Sequence[int]
) -> Check:
    """Whether pictures are looked at: prompts alike but for the number of frames, ascending from 0, get longer."""
    what = "takes images" if kind == "image" else "takes video"
    replies: list[Reply] = []
    try:
        for count in frames:
            pictures = (_picture(kind, count),) if count else ()
            request = _request(vlm, kind if count else "blind", "What is to be seen?", pictures=pictures)
            replies.append(await chosen.generate(request))
    except (CallError, Declined) as error:
        return Check(what=what, state="fails", found=str(error))
    fault, _ = _read_answer(replies[-1])
    blind, *shown = (reply.tokens_in for reply in replies)
    if not fault and not shown[-1]:
        untold = "it is taken; cannot tell whether it is looked at: the server counts no tokens"
        return Check(what=what, state="none", found=untold)
    if not fault and shown[-1] <= blind:
        fault = "it is dropped: the prompt is no longer with it"
    # A quarter more frames. The times between them are text too, so the length may differ by some digits.
    elif not fault and len(shown) > 1 and shown[-1] - blind < 1.1 * (shown[0] - blind):
        fault = f"not all frames are looked at: {_FRAMES} make the prompt no longer than {_VLLM_KEEPS}\n{_KEEP_FRAMES}"
    return Check(what=what, state="fails" if fault else "ok", found=fault or f"{replies[-1].elapsed_s:.1f} s")


async def _check_seed(chosen: Engine, vlm: VlmSettings) -> Check:
    """Whether a seed gives one text: asked three times at a high temperature, twice with one seed."""
    warm = msgspec.structs.replace(vlm, temperature=1.0)  # at 0 any seed gives one text
    texts: list[str] = []
    try:
        for seed in (1, 1, 2):
            texts.append((await chosen.generate(_request(warm, "seed", "Invent a name for a robot.", seed=seed))).text)
    except (CallError, Declined) as error:
        return Check(what="keeps to the seed", state="fails", found=str(error))
    first, same_seed, other_seed = texts
    if first != same_seed:
        return Check(what="keeps to the seed", state="none", found="no: one seed gave two texts; the log is the pin")
    more = "" if first != other_seed else ", but another seed gives it too"
    return Check(what="keeps to the seed", state="ok", found=f"one seed, one text{more}")


def _read_answer(reply: Reply) -> tuple[str, str]:
    """Return what is wrong with a reply to `_schema`, "" where nothing is, and its answer."""
    try:
        value: Any = msgspec.json.decode(json_part(reply.text))
    except msgspec.DecodeError:
        return f"the reply is no JSON: {reply.text[:80]!r}", ""
    match value:
        case {"answer": str(answer), **rest} if not rest:
            return "", answer
        case _:
            return f"the reply does not fit its schema: {reply.text[:80]!r}", ""


def _schema(answer: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"answer": answer}, "required": ["answer"], "additionalProperties": False}


def _request(
    vlm: VlmSettings, name: str, text: str, *, schema: dict[str, Any] | None = None,
    pictures: tuple[Picture, ...] = (), seed: int = 1,
) -> Request:  # fmt: skip
    slots = tuple(Slot(index) for index in range(len(pictures)))
    parts = [name.encode(), str(seed).encode(), *(picture.media_digest.encode() for picture in pictures)]
    return Request(
        key=digest_parts("doctor.v1", parts),
        step=f"doctor.{name}",
        messages=(Message("user", (*slots, Text(text))),),
        schema=schema or _schema({"type": "string", "maxLength": 60}),
        pictures=pictures,
        model=msgspec.structs.replace(model_of(vlm), max_new_tokens=200),
        seed=seed,
        episode=Digest("0" * 32),
        inputs={},
        signals=None,
    )


def _picture(kind: Literal["image", "video"], frames: int) -> Picture:
    from annotator.media.contact_sheet import encode_jpeg

    shades = [np.full((112, 112, 3), 80 + 4 * number, np.uint8) for number in range(frames)]
    jpegs = tuple(encode_jpeg(pixels, 90) for pixels in shades)
    times = tuple(number / 2 for number in range(frames))
    return Picture(kind=kind, jpegs=jpegs, media_digest=digest_parts("doctor.v1", jpegs), timestamps=times)
