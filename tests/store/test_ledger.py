"""The ledger: what each shard was last made of, whatever order its notes come in."""

from itertools import permutations
from pathlib import Path

import msgspec
import pytest

from store.digest import Digest
from store.events import EpisodeSources, ShardWritten
from store.ledger import fold_shards, name_in_log, says_more
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
    assert says_more(None, same)
    assert not says_more(record, same)
    assert not says_more(record, written(2, None, {}))
    assert says_more(record, written(2, {"plan": PLAN}, None))
    assert says_more(record, written(2, {"vqa": NEWER}, None))
    assert says_more(record, written(2, {"plan": NEWER}))
    assert says_more(record, msgspec.structs.replace(same, language=facts.digest("other")))


def test_a_dataset_is_known_by_its_path_or_by_the_log_that_lies_in_it(tmp_path: Path) -> None:
    inside, outside, here = tmp_path / ".annotator", tmp_path.parent / "log", str(tmp_path.resolve())
    assert name_in_log({here, "cups"}, tmp_path, outside) == here
    assert name_in_log({"cups", "/elsewhere/bowls"}, tmp_path, inside) == "cups"
    assert name_in_log({"/elsewhere/cups"}, tmp_path, inside) == "/elsewhere/cups"
    assert name_in_log({"/a", "/b"}, tmp_path, outside) is None
    assert name_in_log(set(), tmp_path, inside) is None
