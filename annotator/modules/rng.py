"""Random choices that any machine makes alike, and that do not move when episodes are renumbered.

A draw is a digest of (seed, episode, purpose, place), not the state of a generator: one choice more or less leaves
the others as they were, and no release of Python can change them.
"""

from collections.abc import Sequence
from typing import TypeVar

from annotator_store.digests import Digest, digest_parts

T = TypeVar("T")


def pick(options: Sequence[T], *, seed: int, episode: Digest, purpose: str, place: str = "") -> T:
    """Pick one of some options, all equally likely; `place` tells apart several draws for one purpose.

    Raises:
        ValueError: there is nothing to pick from.
    """
    if not options:
        raise ValueError(f"nothing to pick from for {purpose}")
    return options[_drawn(seed, episode, purpose, place) % len(options)]


def choose(count: int, most: int, *, seed: int, episode: Digest, purpose: str) -> list[int]:
    """Choose up to `most` of `count` places, without repetition, all sets equally likely; ascending."""
    ranked = sorted(range(count), key=lambda at: _drawn(seed, episode, purpose, str(at)))
    return sorted(ranked[:most])


def _drawn(seed: int, episode: Digest, purpose: str, place: str) -> int:
    return int(digest_parts("draw.v1", [str(seed).encode(), episode.encode(), purpose.encode(), place.encode()]), 16)
