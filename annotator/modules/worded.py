"""Hold a model's text to the vocabulary, where there is one; to being a text at all, where there is none."""

from collections.abc import Callable, Sequence

import msgspec

from annotator.vocabulary import LEAST_OVERLAP, snap


class Worded(msgspec.Struct, frozen=True):
    """A text that can be written into a row, or why there is none: exactly one of the two is empty."""

    text: str
    refusal: str = ""


def worded(said: str, entries: Sequence[str], tidy: Callable[[str], str]) -> Worded:
    """Take the vocabulary's entry that is meant, exactly as it stands; without entries the text itself, tidied.

    A text that overlaps too little with every entry is refused, never bent to one.
    """
    if not entries:
        text = tidy(said)
        return Worded(text) if text else Worded("", "a blank text")
    nearest = snap(said, entries)
    if nearest.overlap >= LEAST_OVERLAP:
        return Worded(nearest.entry)
    return Worded(
        "", f'"{said}" is not in the vocabulary; the nearest is "{nearest.entry}" (overlap {nearest.overlap:.2f})'
    )


def held_to(field: str, entries: Sequence[str]) -> dict[str, Sequence[str]] | None:
    """What an ask is allowed to answer in a field: the entries, or anything where there are none."""
    return {field: entries} if entries else None


def lines(entries: Sequence[str]) -> str:
    """Write entries one a line, as prompts list them."""
    return "\n".join(entries)
