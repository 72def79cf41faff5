"""Declare the language columns and the `say` tool in a dataset's `meta/info.json`, and change nothing else in it.

Source: FORMAT (LeRobot's language columns): a column that is not declared makes the whole dataset unloadable.
"""

import copy
import json
from pathlib import Path
from typing import Any, cast

from annotator_store.atomic_files import replace_content, write_hint
from annotator_store.errors import StoreError
from annotator_store.rows import EVENTS, PERSISTENT

LANGUAGE_FEATURE: dict[str, Any] = {"dtype": "language", "shape": [1], "names": None}

SAY_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "say",
        "description": "Say one short utterance to the user, aloud.",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "description": "The words to say."}},
            "required": ["text"],
        },
    },
}


def declare_language(info: dict[str, Any], where: str = "meta/info.json") -> dict[str, Any]:
    """Return `info` with both features and the `say` tool declared; declarations of the user stay, even of `say`.

    Raises:
        StoreError: `features` or `tools` is not what LeRobot v3 says it is.
    """
    declared = copy.deepcopy(info)
    features = declared.get("features")
    if not isinstance(features, dict):
        raise _odd("features", "an object", where, features)
    features = cast("dict[str, Any]", features)
    for column in (PERSISTENT, EVENTS):
        feature = features.get(column)
        features[column] = (cast("dict[str, Any]", feature) if isinstance(feature, dict) else {}) | LANGUAGE_FEATURE
    tools = declared.get("tools")
    if not isinstance(tools, list | None):
        raise _odd("tools", "a list", where, tools)
    tools = cast("list[Any]", tools or [])
    declared["tools"] = tools if any(_is_say(tool) for tool in tools) else [*tools, copy.deepcopy(SAY_TOOL)]
    return declared


def update_info(path: Path) -> bool:
    """Declare the language in a file, atomically; return whether it had to be written.

    Raises:
        StoreError: it cannot be read or written, or is no `info.json`.
    """
    text, info = _read(path)
    declared = declare_language(info, str(path))
    if declared == info:
        return False
    try:
        replace_content(path, _styled_like(text, info, declared).encode())
    except OSError as cause:
        raise StoreError("a file cannot be written", where=str(path), got=str(cause), hint=write_hint(cause)) from cause
    return True


def declares_language(path: Path) -> bool:
    """Whether a file declares the language already, so that `update_info` would not write it.

    Raises:
        StoreError: it cannot be read, or is no `info.json`.
    """
    _, info = _read(path)
    return declare_language(info, str(path)) == info


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_bytes().decode()
        info = json.loads(text)
    except (OSError, ValueError) as cause:
        hint = "is this the root of a LeRobot v3 dataset?"
        raise StoreError("a dataset's info cannot be read", where=str(path), got=str(cause), hint=hint) from cause
    if not isinstance(info, dict):
        raise _odd("the file", "an object", str(path), info)
    return text, cast("dict[str, Any]", info)


def _styled_like(text: str, info: dict[str, Any], declared: dict[str, Any]) -> str:
    """Format as the file was: the indentation and escaping that give back its old text, else LeRobot's own."""
    end = text[len(text.rstrip()) :]
    for indent in (4, 2, "\t", None):
        for escaped in (False, True):
            if json.dumps(info, indent=indent, ensure_ascii=escaped) == text.rstrip():
                return json.dumps(declared, indent=indent, ensure_ascii=escaped) + end
    return json.dumps(declared, indent=4, ensure_ascii=False) + end


def _is_say(tool: Any) -> bool:
    function = cast("dict[str, Any]", tool).get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and cast("dict[str, Any]", function).get("name") == "say"


def _odd(what: str, expected: str, where: str, got: Any) -> StoreError:
    hint = "repair meta/info.json first; nothing was written"
    return StoreError(f"{what} should be {expected}", where=where, got=repr(got)[:200], hint=hint)
