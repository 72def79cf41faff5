"""Entries of the vocabulary, the subtask labels and memory milestones of a dataset: which is meant, what was edited."""

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


class NearestEntry(msgspec.Struct, frozen=True):
    """The entry that a text comes nearest to, and the Jaccard overlap of their words, 0 to 1."""

    entry: str
    overlap: float


def nearest_entry(text: str, entries: Sequence[str]) -> NearestEntry:
    """Return the entry whose set of words overlaps most with the text's; 1.0 is the same words.

    Of entries that overlap alike, the one with its words in an order more like the text's, then the first: "put a on b"
    is no "put b on a". The text of an entry is always that entry.

    Raises:
        ValueError: there are no entries.
    """
    if text in entries:
        return NearestEntry(text, 1.0)
    words = _words(text)

    def overlap(entry: str) -> float:
        shared, either = set(words) & set(_words(entry)), set(words) | set(_words(entry))
        return len(shared) / len(either) if either else 0.0

    overlaps = [overlap(entry) for entry in entries]
    nearest = [entry for entry, value in zip(entries, overlaps, strict=True) if value == max(overlaps)]
    # Comparing the order is a hundred times as slow as comparing the sets: only where these do not decide.
    entry = max(nearest, key=lambda entry: SequenceMatcher(None, words, _words(entry), autojunk=False).ratio())
    return NearestEntry(entry, max(overlaps))


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


def distinguishing_word(text: str, entry: str, entries: Sequence[str]) -> str:
    """Return a word that sets the text apart from an entry with much the same words; "" where nothing does.

    Such a word stands in the text and in another of the entries, but not in this one: there it makes the difference.
    So does the opposite of one of the entry's words, and a negation on one side only.
    """
    words, known = set(_words(text)), set(_words(entry))
    pairs = {*_OPPOSITES, *((second, first) for first, second in _OPPOSITES)}
    opposed = {word for word, opposite in pairs if word in words - known and opposite in known - words}
    elsewhere = {word for other in entries for word in _words(other)} - _ARTICLES
    apart = sorted((words - known) & (elsewhere | opposed))
    if apart:
        return f'"{apart[0]}"'
    negated = _NEGATION.search(text.casefold()), _NEGATION.search(entry.casefold())
    return "a negation" if (negated[0] is None) != (negated[1] is None) else ""


def distinct(entries: Iterable[str]) -> list[str]:
    """Return the entries without those that are blank or say the same as one before them."""
    first: dict[str, str] = {}
    for entry in entries:
        if sameness(entry):
            first.setdefault(sameness(entry), entry)
    return list(first.values())


def edit_event(
    before: VocabularyDiscovered | VocabularyEdited | None, now: Vocabulary, *, dataset: str, run_id: str
) -> VocabularyEdited | None:
    """Return how the vocabulary differs from what was last recorded; None where it does not.

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
