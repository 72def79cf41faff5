"""The doctor: what is installed, which GPU there is, which engine would answer, and what that engine can really do.

Every claim about an engine comes from asking it: a server may accept a JSON schema, a video or a seed and ignore it.
"""

import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import metadata
from time import perf_counter
from typing import Any, Literal

import msgspec
import numpy as np

from annotator.engine.base import Engine, Picture, Reply, Request
from annotator.engine.choose import choose_engine
from annotator.engine.text import json_part
from annotator.errors import CallError, Declined, NoEngine, UsageError
from annotator.models import model_of
from annotator.settings import VlmSettings
from store.digest import Digest, digest_parts
from store.keys import Message, Slot, Text

PACKAGES = ("duckdb", "pyarrow", "av", "pillow", "openai", "vllm", "torch", "transformers", "huggingface-hub")
_GPU = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_TIMES = (0.0, 0.5)
_WORD = "zebra-7"
"""No model says this of its own accord: a reply that does was held to the schema."""

State = Literal["ok", "none", "fails"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. `fails` is what a sync with these settings would stumble over."""

    what: str
    state: State
    found: str


def installed() -> Iterator[Check]:
    """Name the versions of what an engine or a command may need."""
    for name in PACKAGES:
        try:
            yield Check(what=name, state="ok", found=metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(what=name, state="none", found="not installed")


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


async def engine(vlm: VlmSettings) -> AsyncIterator[Check]:
    """Choose the engine as a sync would, and ask it what can be asked."""
    notes: list[str] = []
    try:
        chosen = await choose_engine(vlm, notes.append, offline=False)
    except (NoEngine, UsageError) as error:
        yield Check(what="engine", state="fails", found=str(error))
        return
    try:
        yield Check(what="engine", state="ok", found="; ".join(notes) or chosen.name)
        if chosen.looks and not chosen.reads_evidence and chosen.name != "offline":
            async for check in _abilities(chosen, vlm):
                yield check
    finally:
        await chosen.aclose()


async def _abilities(chosen: Engine, vlm: VlmSettings) -> AsyncIterator[Check]:
    held = _request(vlm, "held", "Name an animal.", schema=_schema({"enum": [_WORD]}))
    yield await _ability(chosen, "answers in the schema", held, _says_the_word)
    image = _request(vlm, "image", "What colour is this?", picture="image")
    yield await _ability(chosen, "takes images", image, _fits)
    video = _request(vlm, "video", "What happens here?", picture="video")
    yield await _ability(chosen, "takes video", video, _fits)
    yield await _seed(chosen, vlm)


async def _ability(chosen: Engine, what: str, request: Request, judge: Callable[[Reply], str]) -> Check:
    began = perf_counter()
    try:
        wrong = judge(await chosen.generate(request))
    except (CallError, Declined) as error:
        return Check(what=what, state="fails", found=str(error))
    took = f"{perf_counter() - began:.1f} s"
    return Check(what=what, state="fails" if wrong else "ok", found=wrong or took)


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


def _request(
    vlm: VlmSettings, name: str, text: str, *, schema: dict[str, Any] | None = None,
    picture: Literal["image", "video"] | None = None, seed: int = 1,
) -> Request:  # fmt: skip
    pictures = (_picture(picture),) if picture else ()
    slots = tuple(Slot(index) for index in range(len(pictures)))
    return Request(
        key=digest_parts("doctor.v1", [name.encode(), str(seed).encode()]),
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


def _picture(kind: Literal["image", "video"]) -> Picture:
    from annotator.sheets import encode_jpeg

    times = _TIMES if kind == "video" else _TIMES[:1]
    shades = [np.full((112, 112, 3), 80 + 100 * number, np.uint8) for number in range(len(times))]
    jpegs = tuple(encode_jpeg(pixels, 90) for pixels in shades)
    return Picture(kind=kind, jpegs=jpegs, media_digest=digest_parts("doctor.v1", jpegs), timestamps=times)
