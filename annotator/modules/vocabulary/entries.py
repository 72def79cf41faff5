"""The canonical vocabulary: the subtask labels and memory milestones that a whole dataset is worded in."""

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher

import msgspec

from annotator.prompting.normalize import sameness
from annotator_store.keys import Vocabulary
from annotator_store.log.events import VocabularyDiscovered, VocabularyEdited, utc_now

LEAST_OVERLAP = 0.5
"""Below this Jaccard overlap of words, a text is none of the entries."""

LONGEST_ENTRY = 200
"""Characters of an entry at most: as long as the answers that must repeat it may be."""


class Snapped(msgspec.Struct, frozen=True):
    """The entry that a text comes nearest to, and the Jaccard overlap of their words, 0 to 1."""

    entry: str
    overlap: float


def snap(text: str, entries: Sequence[str]) -> Snapped:
    """Find the entry whose set of words overlaps most with the text's. 1.0 is the same words.

    Of entries that overlap alike, the one with its words in an order more like the text's, then the first: "put a on b"
    is no "put b on a". The text of an entry is always that entry.

    Raises:
        ValueError: there are no entries.
    """
    if text in entries:
        return Snapped(text, 1.0)
    said = _words(text)
    scored = [Snapped(entry, _jaccard(frozenset(said), frozenset(_words(entry)))) for entry in entries]
    most = max(one.overlap for one in scored)
    return max((one for one in scored if one.overlap == most), key=lambda one: _order(said, _words(one.entry)))


_ARTICLES = frozenset({"a", "an", "the"})
_OPPOSITES = (
    ("left", "right"),
    ("open", "close"), ("opened", "closed"),
    ("push", "pull"), ("pushed", "pulled"),
    ("up", "down"),
    ("raise", "lower"), ("raised", "lowered"),
    ("lift", "lower"), ("lifted", "lowered"),
)  # fmt: skip
_NEGATION = re.compile(r"\b(?:no|not|never|nothing|without|cannot)\b|n['\u2019]t\b")


def told_apart(text: str, entry: str, entries: Sequence[str]) -> str:
    """Name a word that tells the text from an entry that has much the same words; "" where nothing does.

    Such a word stands in the text and in another of the entries, but not in this one: there it makes the difference.
    So does the opposite of one of the entry's words, and a negation on one side only.
    """
    said, own = set(_words(text)), set(_words(entry))
    pairs = {*_OPPOSITES, *((other, one) for one, other in _OPPOSITES)}
    opposed = {one for one, other in pairs if {one} <= said - own and {other} <= own - said}
    elsewhere = {word for one in entries for word in _words(one)} - _ARTICLES
    apart = sorted((said - own) & (elsewhere | opposed))
    if apart:
        return f'"{apart[0]}"'
    negated = _NEGATION.search(text.casefold()), _NEGATION.search(entry.casefold())
    return "a negation" if (negated[0] is None) != (negated[1] is None) else ""


def distinct(entries: Iterable[str]) -> list[str]:
    """Drop entries without a text, and those that say the same as one before them."""
    first: dict[str, str] = {}
    for entry in entries:
        if sameness(entry):
            first.setdefault(sameness(entry), entry)
    return list(first.values())


def edited(
    before: VocabularyDiscovered | VocabularyEdited | None, now: Vocabulary, *, dataset: str, run_id: str
) -> VocabularyEdited | None:
    """Say how the vocabulary differs from what was last recorded; None where it does not.

    Entries are named with their kind ("subtask: pick up the cup"). Another order alone is a change too, since prompts
    list the entries in order: nothing is then added or removed.
    """
    known = Vocabulary(subtasks=before.subtasks, memories=before.memories) if before else None
    if known == now:
        return None
    old, new = list(_named(known)) if known else [], list(_named(now))
    return VocabularyEdited(
        recorded_at=utc_now(),
        run_id=run_id,
        dataset=dataset,
        vocabulary=now.digest,
        before=before.vocabulary if before else None,
        subtasks=now.subtasks,
        memories=now.memories,
        added=tuple(entry for entry in new if entry not in old),
        removed=tuple(entry for entry in old if entry not in new),
    )


def _named(vocabulary: Vocabulary) -> Iterator[str]:
    yield from (f"subtask: {entry}" for entry in vocabulary.subtasks)
    yield from (f"memory: {entry}" for entry in vocabulary.memories)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one | other else 0.0


def _order(said: Sequence[str], entry: Sequence[str]) -> float:
    return SequenceMatcher(None, said, entry, autojunk=False).ratio()
