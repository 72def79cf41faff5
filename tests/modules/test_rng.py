"""Draws: fair, the same on every machine, and each on its own."""

from collections import Counter

import pytest

from annotator.modules.rng import choose, pick
from annotator_store.digests import Digest, digest_parts


def episode(number: int) -> Digest:
    return digest_parts("episode", [str(number).encode()])


def test_draws_are_pinned() -> None:
    """Another machine, release or order of listing draws the same; a change here costs users their answers."""
    kinds = ("bbox", "keypoint", "count", "attribute", "spatial")
    drawn = [pick(kinds, seed=1729, episode=episode(1), purpose="vqa", place=str(at)) for at in range(6)]
    assert drawn == ["spatial", "count", "spatial", "spatial", "count", "bbox"]
    assert choose(9, 3, seed=1729, episode=episode(1), purpose="interjections") == [0, 1, 2]


@pytest.mark.parametrize("change", ["seed", "episode", "purpose", "place"])
def test_a_draw_depends_on_each_of_its_parts(change: str) -> None:
    parts = {"seed": 1, "episode": episode(1), "purpose": "a", "place": "0"}
    other = parts | {change: 2 if change == "seed" else episode(2)}
    many = range(10**6)
    assert pick(many, **parts) != pick(many, **other)  # type: ignore[arg-type]
    assert pick(many, **parts) == pick(many, **parts)  # type: ignore[arg-type]


def test_all_options_are_drawn_equally_often() -> None:
    drawn = Counter(pick("abcde", seed=1, episode=episode(i), purpose="p") for i in range(5000))
    assert all(900 < count < 1100 for count in drawn.values())
    assert len(drawn) == 5


def test_places_are_chosen_without_repetition_in_order_and_all_when_there_are_few() -> None:
    for i in range(50):
        chosen = choose(10, 4, seed=i, episode=episode(i), purpose="p")
        assert chosen == sorted(set(chosen))
        assert len(chosen) == 4
        assert all(0 <= at < 10 for at in chosen)
    assert choose(2, 4, seed=1, episode=episode(1), purpose="p") == [0, 1]
    assert choose(0, 4, seed=1, episode=episode(1), purpose="p") == []
    seen = Counter(at for i in range(2000) for at in choose(10, 4, seed=1, episode=episode(i), purpose="p"))
    assert all(700 < seen[at] < 900 for at in range(10))


def test_nothing_can_be_picked_from_nothing() -> None:
    with pytest.raises(ValueError, match="vqa"):
        pick([], seed=1, episode=episode(1), purpose="vqa")
