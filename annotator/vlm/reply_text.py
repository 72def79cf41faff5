"""The JSON part of a raw reply. The log keeps the reply as it came; only the parser goes through this."""

import re

_FENCED = re.compile(r"```[\w+-]*[ \t]*\n(?P<body>.*)", re.DOTALL)


def json_part(text: str) -> str:
    """Return a reply without what models put around JSON: a leading think block, code fences, surrounding whitespace.

    Text that already starts with `{` or `[` is left alone, so a string inside the JSON may hold any of these.
    A think block that never ends leaves "": the reply was cut before its answer began.
    """
    text = text.strip()
    if not text.startswith(("{", "[")):
        # Some chat templates put `<think>` into the prompt, so the reply may hold only the closing tag.
        _, closed, rest = text.partition("</think>")
        text = rest.strip() if closed else "" if text.startswith("<think>") else text
    if text.startswith(("{", "[")):
        return text
    fenced = _FENCED.search(text)
    return fenced["body"].rpartition("```")[0].strip() or fenced["body"].strip() if fenced else text


def well_formed(text: str) -> str:
    """Replace each half of a surrogate pair by U+FFFD: a Python string may hold one, a file may not."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
