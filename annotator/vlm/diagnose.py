"""The doctor: what is installed, which GPU there is, which engine would answer, and what that engine can really do.

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
_GPU = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_LOOK = "What is to be seen?"
_KEPT, _FRAMES = 32, 40
"""A vLLM server drops all frames of a video after the 32nd where nobody tells it otherwise. Source: vLLM 0.32."""
_KEEP_FRAMES = (
    """hint: start a vLLM server with --media-io-kwargs '{"video": {"num_frames": -1, "fps": 2}}',"""
    " the 2 being --plan.frames_per_second"
)
_UNTOLD = "it is taken; cannot tell whether it is looked at: the server counts no tokens"
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
    """Name the GPUs that the driver shows."""
    try:
        said = subprocess.run(_GPU, capture_output=True, text=True, timeout=20, check=True).stdout
    except FileNotFoundError:
        yield Check(what="gpu", state="none", found="no NVIDIA driver")
        return
    except (subprocess.SubprocessError, OSError) as cause:
        yield Check(what="gpu", state="none", found=f"nvidia-smi fails: {cause}")
        return
    for line in filter(None, map(str.strip, said.splitlines())):
        yield Check(what="gpu", state="ok", found=line)


async def engine(vlm: VlmSettings, *, video_needed: bool = False) -> AsyncIterator[Check]:
    """Choose the engine as a sync would, and ask it what can be asked. What servers say goes with them."""
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
                async for check in _abilities(chosen, vlm, video_needed):
                    yield check
        finally:
            await chosen.aclose()


async def _abilities(chosen: Engine, vlm: VlmSettings, video_needed: bool) -> AsyncIterator[Check]:
    yield await _held(chosen, vlm)
    yield await _takes(chosen, vlm, "takes images", "image", (0, 1))
    video = await _takes(chosen, vlm, "takes video", "video", (0, _KEPT, _FRAMES))
    if video.state == "fails" and not video_needed:
        found = f"{video.found}\nonly --plan.view video needs it"
        video = msgspec.structs.replace(video, state="none", found=found)
    yield video
    yield await _seed(chosen, vlm)


async def _held(chosen: Engine, vlm: VlmSettings) -> Check:
    what = "answers in the schema"
    try:
        reply = await chosen.generate(_request(vlm, "held", "Name an animal.", schema=_schema({"enum": [_WORD]})))
    except (CallError, Declined) as error:
        return Check(what=what, state="fails", found=str(error))
    wrong = _says_the_word(reply)
    return Check(what=what, state="fails" if wrong else "ok", found=wrong or _took(reply))


async def _takes(
    chosen: Engine, vlm: VlmSettings, what: str, kind: Literal["image", "video"], frames: Sequence[int]
) -> Check:
    """Ask the same with so many frames, ascending from none: what is looked at makes the prompt longer."""
    try:
        replies = [await chosen.generate(_look(vlm, kind, count)) for count in frames]
    except (CallError, Declined) as error:
        return Check(what=what, state="fails", found=str(error))
    wrong = _fits(replies[-1])
    if not wrong and not replies[-1].tokens_in:
        return Check(what=what, state="none", found=_UNTOLD)
    wrong = wrong or _dropped(*(reply.tokens_in for reply in replies))
    return Check(what=what, state="fails" if wrong else "ok", found=wrong or _took(replies[-1]))


def _dropped(blind: int, *shown: int) -> str:
    if shown[-1] <= blind:
        return "it is dropped: the prompt is no longer with it"
    # A quarter more frames. The times between them are text too, so the length may differ by some digits.
    if len(shown) > 1 and shown[-1] - blind < 1.1 * (shown[0] - blind):
        return f"not all frames are looked at: {_FRAMES} make the prompt no longer than {_KEPT}\n{_KEEP_FRAMES}"
    return ""


def _took(reply: Reply) -> str:
    return f"{reply.elapsed_s:.1f} s"


async def _seed(chosen: Engine, vlm: VlmSettings) -> Check:
    """Ask for free text at a high temperature three times, twice with one seed."""
    warm = msgspec.structs.replace(vlm, temperature=1.0)
    try:
        one, same, other = [
            (await chosen.generate(_request(warm, "seed", "Invent a name for a robot.", seed=seed))).text
            for seed in (1, 1, 2)
        ]
    except (CallError, Declined) as error:
        return Check(what="keeps to the seed", state="fails", found=str(error))
    if one != same:
        return Check(what="keeps to the seed", state="none", found="no: one seed gave two texts; the log is the pin")
    more = "" if one != other else ", but another seed gives it too"
    return Check(what="keeps to the seed", state="ok", found=f"one seed, one text{more}")


def _says_the_word(reply: Reply) -> str:
    wrong = _fits(reply)
    said = "" if wrong else msgspec.json.decode(json_part(reply.text))["answer"]
    return wrong or ("" if said == _WORD else f"the schema is taken and not kept to: it says {said!r}")


def _fits(reply: Reply) -> str:
    try:
        answer: Any = msgspec.json.decode(json_part(reply.text))
    except msgspec.DecodeError:
        return f"the reply is no JSON: {reply.text[:80]!r}"
    fits = isinstance(answer, dict) and set(answer) == {"answer"} and isinstance(answer["answer"], str)  # pyright: ignore[reportUnknownArgumentType]
    return "" if fits else f"the reply does not fit its schema: {reply.text[:80]!r}"


def _schema(answer: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"answer": answer}, "required": ["answer"], "additionalProperties": False}


def _look(vlm: VlmSettings, kind: Literal["image", "video"], frames: int) -> Request:
    """The same words each time, so that prompts differ by the picture alone."""
    return _request(vlm, kind if frames else "blind", _LOOK, pictures=(_picture(kind, frames),) if frames else ())


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
