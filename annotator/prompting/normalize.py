"""One form for texts that mean the same: white space, case, the full stop at the end."""

import re
import unicodedata

_UNSEEN = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Cn"})
"""Categories of what shows nothing, and of what this Python knows no letter for, since a newer one may call it so."""
_FILLERS = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0") | frozenset(map(chr, range(0xFE00, 0xFE10)))
"""Letters that show nothing: Hangul fillers, blank Braille, joiners and selectors of the letter before them."""


def tidy_subtask(text: str) -> str:
    """Fold a label to one line, without white space at its ends and without what ends a sentence."""
    return _or_nothing(tidy_memory(text).rstrip(". "))


def tidy_memory(text: str) -> str:
    """Fold a milestone to one line; control characters count as white space. "" where nothing of it can be seen."""
    seen = "".join(" " if unicodedata.category(c) in {"Cc", "Cs"} else c for c in text)
    return _or_nothing(re.sub(r"\s+", " ", seen).strip())


def _or_nothing(text: str) -> str:
    """Give a text of which anything can be seen; the rule `no_empty_text` calls all others blank."""
    shows = any(unicodedata.category(one) not in _UNSEEN and one not in _FILLERS for one in text)
    return text if shows else ""


def sameness(entry: str) -> str:
    """Reduce an entry to what tells it from another: upper or lower case and a full stop do not."""
    return tidy_subtask(entry).casefold()
