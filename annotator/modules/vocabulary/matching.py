"""Match a model's text to an entry of the vocabulary, where there is one; else only refuse a blank text."""

from collections.abc import Callable, Sequence

import msgspec

from annotator.modules.vocabulary.entries import LEAST_OVERLAP, distinguishing_word, nearest_entry


class EntryMatch(msgspec.Struct, frozen=True):
    """A text that can be written into a row, or why there is none: exactly one of the two is empty."""

    text: str
    refusal: str = ""


def match_entry(text: str, entries: Sequence[str], tidy: Callable[[str], str]) -> EntryMatch:
    """Return the vocabulary's entry that is meant, exactly as it stands; without entries the text itself, tidied.

    A text that overlaps too little with every entry is refused, never bent to one; so is one that shares most of its
    words with an entry but says something else.
    """
    if not entries:
        tidied = tidy(text)
        return EntryMatch(tidied) if tidied else EntryMatch("", "a blank text")
    nearest = nearest_entry(text, entries)
    word = distinguishing_word(text, nearest.entry, entries)
    if nearest.overlap >= LEAST_OVERLAP and not word:
        return EntryMatch(nearest.entry)
    apart = f", told apart by {word}" if word else ""
    near = f'the nearest is "{nearest.entry}" (overlap {nearest.overlap:.2f}{apart})'
    return EntryMatch("", f'"{text}" is not in the vocabulary; {near}')


def allowed_values(field: str, entries: Sequence[str]) -> dict[str, Sequence[str]] | None:
    """Return `allowed` of an ask: the entries as the only values of a field, or None where there are none."""
    return {field: entries} if entries else None


def lines(entries: Sequence[str]) -> str:
    """Return the entries one a line, as prompts list them."""
    return "\n".join(entries)
