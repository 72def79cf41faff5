"""Hold a model's text to the vocabulary, where there is one; to being a text at all, where there is none."""

from collections.abc import Callable, Sequence

import msgspec

from annotator.modules.vocabulary.entries import LEAST_OVERLAP, snap, told_apart


class Worded(msgspec.Struct, frozen=True):
    """A text that can be written into a row, or why there is none: exactly one of the two is empty."""

    text: str
    refusal: str = ""


def match_entry(said: str, entries: Sequence[str], tidy: Callable[[str], str]) -> Worded:
    """Take the vocabulary's entry that is meant, exactly as it stands; without entries the text itself, tidied.

    A text that overlaps too little with every entry is refused, never bent to one; so is one that shares most of its
    words with an entry but says something else.
    """
    if not entries:
        text = tidy(said)
        return Worded(text) if text else Worded("", "a blank text")
    nearest = snap(said, entries)
    other = told_apart(said, nearest.entry, entries)
    if nearest.overlap >= LEAST_OVERLAP and not other:
        return Worded(nearest.entry)
    apart = f", told apart by {other}" if other else ""
    near = f'the nearest is "{nearest.entry}" (overlap {nearest.overlap:.2f}{apart})'
    return Worded("", f'"{said}" is not in the vocabulary; {near}')


def allowed_values(field: str, entries: Sequence[str]) -> dict[str, Sequence[str]] | None:
    """What an ask is allowed to answer in a field: the entries, or anything where there are none."""
    return {field: entries} if entries else None


def lines(entries: Sequence[str]) -> str:
    """Write entries one a line, as prompts list them."""
    return "\n".join(entries)
