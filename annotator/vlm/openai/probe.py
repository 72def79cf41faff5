"""Checks before the first call: whether a server answers, and whether it has the model."""

import asyncio
from collections.abc import Sequence

from annotator.errors import CallError, NoEngine
from annotator.vlm.openai.client import SIDE_TIMEOUT_S, Client, Served


async def served_at(api_base: str, api_key: str | None = None, timeout_s: float = SIDE_TIMEOUT_S) -> Served:
    """Return what an endpoint serves.

    Raises:
        CallError: nothing usable answers there.
        UsageError: `api_base` or the key is malformed.
    """
    client = Client(api_base, api_key, timeout_s=timeout_s)
    try:
        return await client.served()
    finally:
        await client.aclose()


async def probe(api_base: str, api_key: str | None = None, timeout_s: float = SIDE_TIMEOUT_S) -> Served | None:
    """Return what an endpoint serves, or None if no OpenAI-compatible server answers there.

    Raises:
        NoEngine: a server is there, but it refuses the API key: looking further would hide that.
    """
    try:
        return await served_at(api_base, api_key, timeout_s)
    except CallError as error:
        if error.kind in ("http_401", "http_403"):
            raise _no_engine("the server refuses the API key", error) from error
        return None


async def require(
    api_base: str, model_id: str, api_key: str | None = None, timeout_s: float = SIDE_TIMEOUT_S
) -> Served:
    """Return what an endpoint serves, which must include the model.

    Raises:
        NoEngine: it does not answer, or it serves other models.
    """
    try:
        served = await served_at(api_base, api_key, timeout_s)
    except CallError as error:
        raise _no_engine("no model server answers", error) from error
    # A server that lists nothing (some gateways) may still serve: then the first call tells.
    if served.model_ids and model_id not in served.model_ids:
        raise NoEngine(
            "the server does not have this model",
            where=served.api_base,
            got=model_id,
            hint=f"--vlm.model_id={served.model_ids[0]} (it has: {', '.join(served.model_ids)})",
        )
    return served


async def require_any(api_bases: Sequence[str], model_id: str, api_key: str | None = None) -> list[CallError | None]:
    """Check several endpoints at once: one that has the model is enough, as long as the others are silent.

    Returns one item per endpoint, in their order: why it does not answer, or None.

    Raises:
        NoEngine: none answers; or one does, and is no model server, serves other models or refuses the API key.
    """
    checks = [require(api_base, model_id, api_key) for api_base in api_bases]
    outcomes = await asyncio.gather(*checks, return_exceptions=True)
    silences = [_silence(outcome) for outcome in outcomes]
    for outcome, silence in zip(outcomes, silences, strict=True):
        if isinstance(outcome, BaseException) and (silence is None or None not in silences):
            raise outcome
    return silences


def _silence(outcome: Served | BaseException) -> CallError | None:
    """Return why an endpoint is unhealthy, busy or not there, which may pass; None for any other outcome."""
    error = outcome.__cause__ if isinstance(outcome, NoEngine) else None
    if isinstance(error, CallError) and error.kind.startswith(("connection", "timeout", "http_429", "http_5")):
        return error
    return None


def _no_engine(what: str, error: CallError) -> NoEngine:
    hint = error.hint
    if error.kind == "connection":
        hint = "start one, for example with: vllm serve MODEL; or name another with --vlm.api_base"
    return NoEngine(what, where=error.where, got=error.got, hint=hint)
