"""The JSON part of a raw reply. The reply itself is kept as it came; only the parser looks through this."""

import re

_FENCED = re.compile(r"```[\w+-]*[ \t]*\n(?P<body>.*)", re.DOTALL)


def json_part(text: str) -> str:
    """Drop what models put around their JSON: a leading think block, code fences, surrounding blank space.

    Text that already starts with `{` or `[` is left alone, so a string inside the JSON may hold any of these.
    A think block that never ends leaves nothing: the reply was cut before its answer began.
    """
    text = _after_thinking(text.strip())
    if text.startswith(("{", "[")):
        return text
    fenced = _FENCED.search(text)
    return fenced["body"].rpartition("```")[0].strip() or fenced["body"].strip() if fenced else text


def well_formed(text: str) -> str:
    """Put U+FFFD in the place of each half of a surrogate pair: a Python string may hold one, a file may not."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _after_thinking(text: str) -> str:
    # Some chat templates put `<think>` into the prompt, so the reply may hold only the closing tag.
    if text.startswith(("{", "[")):
        return text
    _, closed, rest = text.partition("</think>")
    if closed:
        return rest.strip()
    return "" if text.startswith("<think>") else text
