"""The client of the Hugging Face Hub: created on first use, its errors translated in one place, its token never shown.

`huggingface_hub` finds the token itself (`HF_TOKEN`, or `hf auth login`); nothing here takes one as an argument.
"""

import json
import re
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from annotator.errors import AnnotatorError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

INSTALL = "python -m pip install 'episode-annotator[hub]'"
_KEPT = "what was answered is kept; run the same command again"
_HINTS = {
    401: "hf auth login, or put a token into HF_TOKEN; the Hub answers like this for a name that does not exist, too",
    403: "the token must be allowed to write there: see the settings of your access tokens",
    404: "check its name; the Hub answers like this for a private one that the token may not read, too",
    409: f"somebody else wrote there at the same time; {_KEPT}",
    412: "somebody else has committed there since: pull the new revision, or push to another name with --new_repo_id",
    429: f"the Hub asks for fewer requests: wait a few minutes; {_KEPT}",
}
_TOKENS = re.compile(r"hf_[A-Za-z0-9]{8,}|(?<=Bearer )\S+")


class HubError(AnnotatorError):
    """The Hub refused a request, does not have what was asked for, or cannot be reached.

    `status`: the HTTP status; None without a response. `transient`: whether the same request may succeed a little
    later (no response, too many requests, an error of the Hub's own).
    """

    def __init__(
        self, what: str, *, where: str = "", got: str = "", hint: str = "", status: int | None = None,
        transient: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(what, where=where, got=got, hint=hint)
        self.status = status
        self.transient = transient

    @classmethod
    def of_response(cls, what: str, where: str, cause: Exception) -> "HubError":
        """Translate the client's error for a response that refuses the request."""
        response = getattr(cause, "response", None)
        status = response.status_code if response is not None else None
        failures = [f"{failure.get('path')}: {failure.get('error')}" for failure in getattr(cause, "failures", [])]
        if failures:  # some operations of a batch failed; the response as a whole is a 200
            return cls(what, where=where, got=redact("; ".join(failures)[:200]), hint=_KEPT, transient=True)
        message = getattr(cause, "server_message", None) or _first_line(cause)
        own_trouble = (status or 0) >= 500
        hint = _HINTS.get(status or 0, f"the Hub has trouble of its own; {_KEPT}" if own_trouble else _KEPT)
        got = f"HTTP {status}, {redact(str(message))[:200]}"
        transient = status is None or status == 429 or own_trouble
        return cls(what, where=where, got=got, hint=hint, status=status, transient=transient)


@contextmanager
def hub_api(what: str, where: str) -> Generator["HfApi"]:
    """Yield the client; an error inside the block is raised as `what` failing at `where`.

    Raises:
        UsageError: huggingface_hub is not installed, or refuses a name.
        HubError: the Hub refused, or cannot be reached.
    """
    api = _new_client()
    from huggingface_hub import errors

    # Its HTTP errors derive from httpx's up to 1.x and from httpx2's since 2.0: take the one that is in use.
    transport: type[Exception] = next(b for b in errors.HfHubHTTPError.__mro__ if b.__name__ == "HTTPError")
    try:
        yield api
    except errors.HfHubHTTPError as cause:
        raise HubError.of_response(what, where, cause) from cause
    except errors.LocalTokenNotFoundError as cause:
        raise HubError(what, where=where, got="no token", hint=_HINTS[401]) from cause
    except (errors.HFValidationError, errors.HfUriError) as cause:
        raise UsageError(what, where=where, got=redact(_first_line(cause)), hint="names are org/name") from cause
    except (transport, OSError, RuntimeError) as cause:  # the transfer library's own errors are RuntimeErrors
        root: BaseException = cause
        while root.__cause__ is not None:  # the client wraps what fails in its threads
            root = root.__cause__
        if isinstance(root, errors.HfHubHTTPError):
            raise HubError.of_response(what, where, root) from cause
        hint = f"check the network, HF_ENDPOINT and free disk space; {_KEPT}"
        raise HubError(what, where=where, got=redact(_first_line(root)), hint=hint, transient=True) from cause
    except json.JSONDecodeError as cause:  # a proxy's page, or half a response
        got = redact(f"a response that is not JSON: {_first_line(cause)}")
        hint = f"the Hub, or a proxy before it, has trouble; {_KEPT}"
        raise HubError(what, where=where, got=got, hint=hint, transient=True) from cause
    except ValueError as cause:  # the client raises it for a card whose metadata the Hub does not accept
        got = redact(" ".join(str(cause).split()))[:200]
        hint = "correct what it names; for a card, that is README.md"
        raise HubError(what, where=where, got=got, hint=hint) from cause


def _new_client() -> "HfApi":
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars, logging
    except ModuleNotFoundError as cause:
        raise UsageError("the Hub's client is not installed", got=str(cause), hint=INSTALL) from cause
    if not sys.stderr.isatty():
        disable_progress_bars()
    logging.set_verbosity_error()  # its warnings would appear between our own lines
    return HfApi(library_name="episode-annotator")


def find_token() -> str | None:
    """Return the token that huggingface_hub would use, to pass it on as a secret; None where there is none."""
    from huggingface_hub import get_token

    return get_token()


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace every token, and each of these secrets, in a text that came from elsewhere."""
    token = find_token()
    # By its value too, since a token need not look like one.
    text = _TOKENS.sub("hf_…", text.replace(token, "hf_…") if token else text)
    for secret in secrets:
        text = text.replace(secret, "…")
    return text


def _first_line(cause: BaseException) -> str:
    return next(iter(str(cause).strip().splitlines()), "") or type(cause).__name__
