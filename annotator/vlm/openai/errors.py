"""What the OpenAI client raises, translated once into `CallError`, with the hint that usually helps."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2
import openai

from annotator.errors import CallError
from annotator.vlm.openai.wire import BadReply, excerpt

NO_KEY = "EMPTY"
"""Sent where no API key is set. Source: vLLM's documentation of its OpenAI-compatible server."""

_SHOULD_RETRY = "x-should-retry"
"""A header of OpenAI's servers: whether a retry can help. It cannot where a quota is used up, for one."""
_TRANSIENT = frozenset({408, 409, 425, 429})
_HINT_OF_STATUS = {
    401: "set the API key: --vlm.api_key_env names the environment variable that holds it",
    403: "this API key may not use the model: --vlm.api_key_env names the variable that holds the key",
    413: "lower --plan.max_frames_per_prompt or --plan.contact_sheet_frame_width",
    429: "lower --vlm.client_concurrency; the next run asks again",
}
_HINT_OF_WORDS = (
    # Source: vLLM 0.32's and OpenAI's texts of HTTP 400.
    (("max_tokens=", "max_completion_tokens"),
     "lower --vlm.max_new_tokens"),
    (("context length", "maximum model length", "max_model_len", "maximum context", "too many tokens"),
     "lower --plan.max_frames_per_prompt or --plan.contact_sheet_frame_width, or start the server with a larger"
     " --max-model-len"),
    (("mm_processor_kwargs", "trust-request-mm-kwargs"),
     "start the server with --trust-request-mm-kwargs, or unset --vlm.mm_processor_kwargs"),
    (("at most", "limit-mm-per-prompt"),
     "start the server with a larger --limit-mm-per-prompt, or lower --plan.max_frames_per_prompt"),
)  # fmt: skip


def retry_after_s(error: openai.APIError) -> float | None:
    """Return `Retry-After` in seconds, whether it is a number or an HTTP date; None where there is none to keep to."""
    if not isinstance(error, openai.APIStatusError):
        return None
    header = error.response.headers.get("retry-after", "")
    try:
        wait_s = float(header)
    except ValueError:
        try:
            wait_s = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):  # no date, or one without a time zone
            return None
    return wait_s if math.isfinite(wait_s) and wait_s > 0 else None


def hide(text: str, api_key: str | None) -> str:
    """Replace the API key by `***`: some servers repeat it in their messages."""
    return text.replace(api_key, "***") if api_key and api_key != NO_KEY else text


def call_error(error: openai.APIError, *, where: str, api_key: str | None = None, served: str = "") -> CallError:
    """Translate an error of the client. `served` names the server's models, for the hint of a 404."""
    if isinstance(error, openai.APIStatusError):
        return _status_error(error, where=where, api_key=api_key, served=served)
    cause = error.__cause__
    got = hide(str(cause) or type(cause).__name__, api_key)
    if isinstance(error, openai.APITimeoutError) and not isinstance(cause, httpx2.ConnectTimeout):
        return CallError(
            "the server did not answer in time",
            kind="timeout",
            retryable=True,
            where=where,
            got=got,
            hint="raise --vlm.request_timeout_s, or lower --vlm.client_concurrency",
        )
    return CallError(
        "the server cannot be reached, or it hung up",
        kind="connection",
        retryable=True,
        where=where,
        got=got,
        hint="is the server up? --vlm.api_base says where it is",
    )


def bad_reply(error: BadReply, *, where: str, api_key: str | None = None) -> CallError:
    """Translate a reply without a usable text."""
    return CallError(
        "the model refused to answer" if error.refused else "the server's reply cannot be used",
        kind="refused" if error.refused else "bad_reply",
        retryable=not error.refused,
        where=where,
        got=hide(error.reason, api_key),
        hint=error.hint or ("" if error.refused else "is this an OpenAI-compatible endpoint? see the server's log"),
    )


def _status_error(error: openai.APIStatusError, *, where: str, api_key: str | None, served: str) -> CallError:
    status = error.status_code
    message = hide(_message_of(error), api_key)
    transient = status in _TRANSIENT or status >= 500
    should_retry = error.response.headers.get(_SHOULD_RETRY)
    return CallError(
        "the server failed" if transient else "the server refused the request",
        kind=f"http_{status}",
        retryable=transient if should_retry is None else should_retry == "true",
        where=where,
        got=f"HTTP {status}: {message}",
        hint=_hint(error, message, served),
    )


def _message_of(error: openai.APIStatusError) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return excerpt(message.encode(), 400) if isinstance(message, str) else excerpt(error.response.content)


def _hint(error: openai.APIStatusError, message: str, served: str) -> str:
    status = error.status_code
    if status == 404:
        return served or "--vlm.api_base usually ends in /v1"
    if 300 <= status < 400:
        return f"--vlm.api_base has moved, to {error.response.headers.get('location', 'an unnamed place')}"
    if status in _HINT_OF_STATUS:
        return _HINT_OF_STATUS[status]
    for words, hint in _HINT_OF_WORDS:
        if any(word in message.lower() for word in words):
            return hint
    return "see the server's log; the next run asks again" if status >= 500 else ""
