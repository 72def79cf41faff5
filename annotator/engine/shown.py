"""Endpoints and commands as they may be shown, recorded and published: without what may be a secret."""

import re
from urllib.parse import urlsplit

_WORD = r"""(?:"[^"]*"|'[^']*'|[^\s"']+)"""
_NAMED = r"[\w-]*(?:key|token|secret|password)"
# `vllm serve --api-key` takes several keys; `NAME=value` before a command sets its environment.
_SECRET = re.compile(rf"(?i)(--{_NAMED})(?:=|\s+)(?!-)({_WORD}+(?:\s+(?!-){_WORD}+)*)|(?<![\w-])({_NAMED})={_WORD}+")


def shown_endpoint(api_base: str) -> str:
    """Give the endpoint without credentials and query, which may hold secrets."""
    try:
        parts = urlsplit(api_base)
    except ValueError:  # half an IPv6 address: it is no endpoint, but may hold a secret all the same
        return api_base.rpartition("@")[2].partition("?")[0]
    if not parts.netloc:
        return api_base.rpartition("@")[2].partition("?")[0]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")


def shown_command(command: str) -> str:
    """Give a command without what follows `--api-key`, `--token` and the like, and without such variables' values."""
    return _SECRET.sub(lambda found: f"{found[1]} …" if found[1] else f"{found[3]}=…", command)
