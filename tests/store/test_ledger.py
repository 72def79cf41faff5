"""The ledger: what each shard was last made of, whatever order its notes come in."""

from itertools import permutations

import msgspec
import pytest

from annotator_store.digests import Digest
from annotator_store.log.events import EpisodeSources, ShardWritten
from annotator_store.log.shard_history import adds_to_record, fold_shards
from tests.store import facts

PLAN, SPEECH, NEWER = facts.digest("plan"), facts.digest("speech"), facts.digest("newer")


def written(second: float, *sources: dict[str, Digest] | None, dataset: str = "cups") -> ShardWritten:
    made_of = tuple(
        EpisodeSources(episode=facts.digest("episode", i), start=i * 10, stop=i * 10 + 10, sources=one)
        for i, one in enumerate(sources)
    )
    return ShardWritten(
        recorded_at=facts.at(second), run_id="run-1", dataset=dataset, path="data/a.parquet",
        language=facts.digest("language", second), episodes=len(sources), frames=10 * len(sources), made_of=made_of,
    )  # fmt: skip


NOTES = [
    (facts.digest("1"), written(1, {"plan": PLAN, "interjections": SPEECH}, {"plan": PLAN})),
    (facts.digest("2"), written(2, {"plan": NEWER}, None)),
    (facts.digest("3"), written(3, dataset="bowls")),
]


@pytest.mark.parametrize("notes", list(permutations(NOTES)))
def test_the_last_writing_counts_and_what_it_left_comes_from_the_one_before(
    notes: tuple[tuple[Digest, ShardWritten], ...],
) -> None:
    (record,) = fold_shards([*notes, notes[0]], "cups").values()
    assert record.language == facts.digest("language", 2)
    first, second = record.episodes
    assert (first.sources, first.kept) == ({"plan": NEWER}, {"interjections": SPEECH})
    assert (second.sources, second.kept) == ({}, {"plan": PLAN})
    assert record.annotations == (SPEECH, NEWER, PLAN)


def test_a_note_without_episodes_takes_nothing_away() -> None:
    (record,) = fold_shards([NOTES[0], (facts.digest("4"), written(4))], "cups").values()
    assert record.language == facts.digest("language", 4)
    assert len(record.episodes) == 2


def test_only_what_the_ledger_does_not_say_yet_is_worth_a_note() -> None:
    record = fold_shards(NOTES, "cups")["data/a.parquet"]
    same = written(2, {"plan": NEWER}, {"plan": PLAN})
    assert adds_to_record(None, same)
    assert not adds_to_record(record, same)
    assert not adds_to_record(record, written(2, None, {}))
    assert adds_to_record(record, written(2, {"plan": PLAN}, None))
    assert adds_to_record(record, written(2, {"vqa": NEWER}, None))
    assert adds_to_record(record, written(2, {"plan": NEWER}))
    assert adds_to_record(record, msgspec.structs.replace(same, language=facts.digest("other")))


def moved(second: float, *places: tuple[object, int, dict[str, Digest] | None]) -> tuple[Digest, ShardWritten]:
    """A writing of episodes that are named, and start where they are said to."""
    made_of = tuple(
        EpisodeSources(episode=facts.digest("episode", name), start=start, stop=start + 10, sources=sources)
        for name, start, sources in places
    )
    return facts.digest(second), msgspec.structs.replace(written(second), made_of=made_of)


def test_an_episode_keeps_its_annotations_when_one_before_it_is_deleted() -> None:
    before = moved(1, ("a", 0, {"plan": PLAN}), ("b", 10, {"plan": NEWER}), ("c", 20, {"vqa": SPEECH}))
    (record,) = fold_shards([before, moved(2, ("b", 0, {}), ("c", 10, None))], "cups").values()
    assert [one.annotations for one in record.episodes] == [{"plan": NEWER}, {"vqa": SPEECH}]
    assert [one.start for one in record.episodes] == [0, 10]


def test_episodes_that_are_alike_are_told_apart_by_where_they_start() -> None:
    before = moved(1, ("x", 0, {"plan": SPEECH}), ("a", 10, {"plan": PLAN}), ("a", 20, {"plan": NEWER}))
    (record,) = fold_shards([before, moved(2, ("x", 0, None), ("a", 10, None), ("a", 20, None))], "cups").values()
    assert [one.annotations["plan"] for one in record.episodes] == [SPEECH, PLAN, NEWER]
    (record,) = fold_shards([before, moved(2, ("a", 5, None), ("a", 15, None))], "cups").values()
    assert [one.annotations["plan"] for one in record.episodes] == [PLAN, NEWER]
    (record,) = fold_shards([before, moved(2, ("new", 10, None))], "cups").values()
    assert record.annotations == ()
