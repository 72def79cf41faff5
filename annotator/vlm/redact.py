"""Endpoints and commands without what may be a secret, to be shown, recorded and published."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_WORD = r"""(?:"[^"]*"|'[^']*'|[^\s"']+)"""
_NAME = r"[\w-]*(?:key|token|secret|password)"
# `vllm serve --api-key` takes several keys; `NAME=value` before a command sets its environment.
_BEARER = re.compile(r"(?i)\b(bearer)\s+[^\s\"']+")
_QUOTED = re.compile(rf'(?i)"({_NAME})"\s*:\s*"[^"]*"')
_IS_SECRET = re.compile(rf"(?i){_NAME}")
_SECRET = re.compile(rf"(?i)(--{_NAME})(?:=|\s+(?!-))({_WORD}+(?:\s+(?!-){_WORD}+)*)|(?<![\w-])({_NAME})={_WORD}+")


def shown_endpoint(api_base: str) -> str:
    """Return the endpoint without credentials and query, which may hold secrets."""
    try:
        parts = urlsplit(api_base)
    except ValueError:  # half an IPv6 address is no endpoint, but may hold a secret all the same
        return api_base.rpartition("@")[2].partition("?")[0]
    if not parts.netloc:
        return api_base.rpartition("@")[2].partition("?")[0]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl().rstrip("/")


def shown_command(command: str) -> str:
    """Return a command without what follows `--api-key`, `--token`, `Bearer` and the like, or has such a name."""
    bare = _QUOTED.sub(r'"\1": "…"', _BEARER.sub(r"\1 …", command))
    return _SECRET.sub(lambda match: f"{match[1]} …" if match[1] else f"{match[3]}=…", bare)


def shown_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return further arguments of an engine without the values whose names say that they are secret."""
    return {name: "…" if _IS_SECRET.fullmatch(name) else value for name, value in values.items()}
