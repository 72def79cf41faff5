"""One form for texts that mean the same: white space, case, the full stop at the end."""

import re
import unicodedata

_UNSEEN = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Cn"})
"""Categories of what shows nothing, and of what this Python knows no letter for, since a newer one may call it so."""
_FILLERS = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0") | frozenset(map(chr, range(0xFE00, 0xFE10)))
"""Letters that show nothing: Hangul fillers, blank Braille, joiners and selectors of the letter before them."""


def folded(text: str) -> str:
    """Return a text with its white space folded; a sentence keeps its full stop or question mark."""
    return " ".join(text.split())


def tidy_label(text: str) -> str:
    """Return a label on one line, without white space at its ends and without full stops at its end."""
    return _or_nothing(tidy_memory(text).rstrip(". "))


def tidy_memory(text: str) -> str:
    """Return a milestone on one line; control characters count as white space. "" where nothing of it can be seen."""
    # Surrogates, too: they cannot be encoded as UTF-8, so no log or shard could hold them.
    spaced = "".join(" " if unicodedata.category(letter) in {"Cc", "Cs"} else letter for letter in text)
    return _or_nothing(re.sub(r"\s+", " ", spaced).strip())


def _or_nothing(text: str) -> str:
    """Return a text of which anything can be seen, else ""; the validation rule `no_empty_text` agrees."""
    visible = any(unicodedata.category(letter) not in _UNSEEN and letter not in _FILLERS for letter in text)
    return text if visible else ""


def sameness(entry: str) -> str:
    """Return what an entry is compared by: two that differ in case or a full stop are the same."""
    return tidy_label(entry).casefold()
