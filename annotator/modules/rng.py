"""Random choices that any machine makes alike, and that do not move when episodes are renumbered.

A draw is a digest of (seed, episode, purpose, place), not the state of a generator: one choice more or less leaves
the others as they were, and no release of Python can change them.
"""

from collections.abc import Sequence
from typing import TypeVar

from annotator_store.digests import Digest, digest_parts

T = TypeVar("T")


def pick(options: Sequence[T], *, seed: int, episode: Digest, purpose: str, place: str = "") -> T:
    """Return one of some options, all equally likely; `place` tells several draws for one purpose apart.

    Raises:
        ValueError: there are no options.
    """
    if not options:
        raise ValueError(f"nothing to pick from for {purpose}")
    return options[draw(seed, episode, purpose, place) % len(options)]


def choose(count: int, most: int, *, seed: int, episode: Digest, purpose: str) -> list[int]:
    """Return up to `most` of `count` indices, without repetition, all sets equally likely; ascending."""
    ranked = sorted(range(count), key=lambda index: draw(seed, episode, purpose, str(index)))
    return sorted(ranked[:most])


def draw(seed: int, episode: Digest, purpose: str, place: str) -> int:
    """Return a number of 128 bits, all equally likely."""
    return int(digest_parts("draw.v1", [str(seed).encode(), episode.encode(), purpose.encode(), place.encode()]), 16)
