"""The Hub's client: opened when first needed, its errors translated once, its token never said.

The token is found by `huggingface_hub` itself (`HF_TOKEN`, or `hf auth login`); nothing here takes one as an argument.
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
    401: "hf auth login, or put a token into HF_TOKEN; a name that does not exist is answered like this too",
    403: "the token must be allowed to write there: see the settings of your access tokens",
    404: "check its name; a private one looks like this to a token that may not see it",
    409: f"somebody else wrote there at the same time; {_KEPT}",
    412: "somebody else has committed there since: pull the new revision, or push to another name with --new_repo_id",
    429: f"the Hub asks for fewer requests: wait a few minutes; {_KEPT}",
}
_TOKENS = re.compile(r"hf_[A-Za-z0-9]{8,}|(?<=Bearer )\S+")


class HubError(AnnotatorError):
    """The Hub refused, does not have it, or cannot be reached. `status` is the HTTP status; None without an answer.

    `passing` says whether asking again a little later may help: no answer, too many requests, trouble of the Hub's own.
    """

    status: int | None = None
    passing: bool = False


@contextmanager
def at_the_hub(what: str, where: str) -> Generator["HfApi"]:
    """Lend the client; what goes wrong meanwhile is said as `what` at `where`.

    Raises:
        UsageError: huggingface_hub is not installed.
        HubError: the Hub refused, or cannot be reached.
    """
    api = _client()
    from huggingface_hub import errors

    # Its HTTP errors derive from httpx's up to 1.x and from httpx2's since 2.0: take the one that is in use.
    transport: type[Exception] = next(b for b in errors.HfHubHTTPError.__mro__ if b.__name__ == "HTTPError")
    try:
        yield api
    except errors.HfHubHTTPError as cause:
        raise _refused(what, where, cause) from cause
    except errors.LocalTokenNotFoundError as cause:
        raise HubError(what, where=where, got="no token", hint=_HINTS[401]) from cause
    except (errors.HFValidationError, errors.HfUriError) as cause:
        raise UsageError(what, where=where, got=unsaid(_first_line(cause)), hint="names are org/name") from cause
    except (transport, OSError, RuntimeError) as cause:  # the transfer library's own errors are RuntimeErrors
        root = _root(cause)
        if isinstance(root, errors.HfHubHTTPError):
            raise _refused(what, where, root) from cause
        hint = f"check the network, HF_ENDPOINT and free disk space; {_KEPT}"
        raise _passed(what, where, _first_line(root), hint) from cause
    except json.JSONDecodeError as cause:  # a proxy's page, or half an answer
        got = f"an answer that is no JSON: {_first_line(cause)}"
        raise _passed(what, where, got, f"the Hub, or what lies before it, has trouble; {_KEPT}") from cause
    except ValueError as cause:  # the client's own word for a card whose metadata the Hub does not take
        got = unsaid(" ".join(str(cause).split()))[:200]
        raise HubError(what, where=where, got=got, hint="mend what it names; for a card, that is README.md") from cause


def _client() -> "HfApi":
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars, logging
    except ModuleNotFoundError as cause:
        raise UsageError("the Hub's client is not installed", got=str(cause), hint=INSTALL) from cause
    if not sys.stderr.isatty():
        disable_progress_bars()
    logging.set_verbosity_error()
    return HfApi(library_name="episode-annotator")


def token() -> str | None:
    """Find the token that huggingface_hub would use, to hand it on as a secret; None where there is none."""
    from huggingface_hub import get_token

    return get_token()


def unsaid(text: str, secrets: Iterable[str] = ()) -> str:
    """Take every token, and these secrets, out of a text that came from elsewhere."""
    held = token()
    text = _TOKENS.sub("hf_…", text.replace(held, "hf_…") if held else text)
    for secret in secrets:
        text = text.replace(secret, "…")
    return text


def _passed(what: str, where: str, got: str, hint: str) -> HubError:
    error = HubError(what, where=where, got=unsaid(got), hint=hint)
    error.passing = True
    return error


def _refused(what: str, where: str, cause: Exception) -> HubError:
    response = getattr(cause, "response", None)
    status = response.status_code if response is not None else None
    failures = [f"{one.get('path')}: {one.get('error')}" for one in getattr(cause, "failures", [])]
    if failures:  # of a batch, some operations; the answer as a whole is a 200
        return _passed(what, where, "; ".join(failures)[:200], _KEPT)
    said = getattr(cause, "server_message", None) or _first_line(cause)
    hint = _HINTS.get(status or 0, f"the Hub has trouble of its own; {_KEPT}" if (status or 0) >= 500 else _KEPT)
    error = HubError(what, where=where, got=f"HTTP {status}, {unsaid(str(said))[:200]}", hint=hint)
    error.status, error.passing = status, status is None or status == 429 or status >= 500
    return error


def _root(cause: BaseException) -> BaseException:
    """Find what an error was first raised for: the client wraps what fails in its threads."""
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return cause


def _first_line(cause: BaseException) -> str:
    return next(iter(str(cause).strip().splitlines()), "") or type(cause).__name__
