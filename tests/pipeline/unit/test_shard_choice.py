"""Which shards are written, what of them stays, and what is recorded and remembered of them; on real parquet files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from annotator.config.settings import SyncSettings, ValidationSettings
from annotator.dataset.episode_record import EpisodeRecord
from annotator.dataset.episodes import read_episodes
from annotator.dataset.metadata import Dataset, open_dataset
from annotator.errors import RulesBroken
from annotator.pipeline.validation_gate import ValidationGate
from annotator.pipeline.write_shards import EpisodeTarget, ShardWriter
from annotator_store.digests import Digest
from annotator_store.errors import ShardError
from annotator_store.log.events import ShardWritten
from annotator_store.log.log import Log
from annotator_store.parquet.rewrite import language_digest, read_rows
from annotator_store.validation.rules import Rule
from annotator_store.validation.run import RuleContext
from tests.datasets import Recording, shard_path, snapshot, write_dataset
from tests.pipeline.unit.values import annotation, record_annotations
from tests.store.facts import digest

NO_BAD = Rule(
    name="no_bad",
    severity="error",
    meaning="no row says bad",
    select="SELECT episode_index, \"timestamp\", content AS detail FROM rows WHERE content = 'bad'",
    where="no_bad.sql",
)
FIRST, SECOND = shard_path(0), shard_path(1)
QUARANTINE = SyncSettings(validation=ValidationSettings(on_error="quarantine"))


class Written:
    """A dataset of three episodes, 0 and 1 in the first shard and 2 in the second, and what writes it."""

    def __init__(self, root: Path, log: Log, target: Path | None = None, *, count: int = 3) -> None:
        self.root = target or root
        self.dataset: Dataset = open_dataset(root)
        self.log = log
        self.episodes: list[EpisodeRecord] = read_episodes(self.dataset, log, (), range(count), threads=1)
        self.gate = self.gate_of(SyncSettings())

    @staticmethod
    def gate_of(settings: SyncSettings) -> ValidationGate:
        return ValidationGate([NO_BAD], RuleContext(), settings)

    def annotate(self, index: int, text: str, module: str = "plan") -> Digest:
        recipe = digest(module, index, text)
        (event,) = record_annotations(self.log, annotation(self.episodes[index], module, recipe, text=text))
        return event

    def targets(self, sources: Sequence[dict[str, Digest] | None]) -> list[EpisodeTarget]:
        return [EpisodeTarget(record=e, sources=s) for e, s in zip(self.episodes, sources, strict=True)]

    def writer(self, settings: SyncSettings | None = None) -> ShardWriter:
        self.gate = self.gate_of(settings or SyncSettings())
        return ShardWriter(self.dataset, self.root, self.log, "run-2", self.gate)

    def project(self, targets: list[EpisodeTarget], settings: SyncSettings | None = None) -> list[str]:
        return list(self.writer(settings).project(targets, threads=1))

    def texts(self) -> list[list[str | None]]:
        rows: list[list[str | None]] = []
        for episode in self.episodes:
            (stored,) = read_rows(self.root / episode.shard, [(episode.start, episode.stop)])
            rows.append([row.content for row in stored])
        return rows

    def notes(self) -> list[ShardWritten]:
        return sorted((event for _, event in self.log.shards_written()), key=lambda event: event.recorded_at)


@pytest.fixture
def tiny(tmp_path: Path, log: Log) -> Written:
    return Written(write_dataset(tmp_path / "tiny", cameras=()), log)


@pytest.fixture
def annotated(tiny: Written) -> tuple[Written, list[EpisodeTarget]]:
    """The dataset, written once with a plan for every episode."""
    targets = tiny.targets([{"plan": tiny.annotate(index, f"plan {index}")} for index in range(3)])
    assert tiny.project(targets) == [FIRST, SECOND]
    return tiny, targets


Annotated = tuple[Written, list[EpisodeTarget]]


def test_every_shard_is_written_once_and_none_the_second_time(annotated: Annotated) -> None:
    tiny, targets = annotated
    assert tiny.texts() == [["plan 0"], ["plan 1"], ["plan 2"]]
    before = snapshot(tiny.root)
    assert tiny.writer().pending(targets) == []
    assert tiny.project(targets) == []
    assert snapshot(tiny.root) == before


def test_of_each_shard_it_is_recorded_what_its_rows_come_from(annotated: Annotated) -> None:
    tiny, targets = annotated
    notes = {note.path: note for note in tiny.notes()}
    frames = tiny.episodes[0].frame_count
    assert {path: (note.episodes, note.frames) for path, note in notes.items()} == {
        FIRST: (2, 2 * frames),
        SECOND: (1, frames),
    }
    made_of = [made for path in (FIRST, SECOND) for made in notes[path].made_of]
    assert [(made.episode, made.start, made.stop, made.sources) for made in made_of] == [
        (target.record.digest, *target.bounds, target.sources) for target in targets
    ]
    bounds = [target.bounds for target in targets[:2]]
    assert notes[FIRST].language == language_digest(tiny.root / FIRST, bounds)
    assert {note.run_id for note in notes.values()} == {"run-2"}


def test_only_the_shard_of_an_episode_with_new_rows_is_written(annotated: Annotated) -> None:
    tiny, targets = annotated
    newer = [*targets[:2], *tiny.targets([None, None, {"plan": tiny.annotate(2, "another plan")}])[2:]]
    assert tiny.writer().pending(newer) == [SECOND]
    assert tiny.project(newer) == [SECOND]
    assert tiny.texts() == [["plan 0"], ["plan 1"], ["another plan"]]


def test_an_episode_that_was_not_asked_for_keeps_its_rows(annotated: Annotated) -> None:
    tiny, _ = annotated
    assert tiny.project(tiny.targets([None, {"plan": tiny.annotate(1, "another plan")}, None])) == [FIRST]
    assert tiny.texts() == [["plan 0"], ["another plan"], ["plan 2"]]
    assert [made.sources is None for made in tiny.notes()[-1].made_of] == [True, False]


def test_a_module_that_has_no_annotation_keeps_the_rows_it_has(annotated: Annotated) -> None:
    tiny, _ = annotated
    spoken = {"interjections": tiny.annotate(2, "the other one", "interjections")}
    assert tiny.project(tiny.targets([{}, {}, spoken])) == [SECOND]
    assert tiny.texts()[2] == ["plan 2", "the other one"]


def spoil(path: Path) -> None:
    """Ruin a file, under the size and the time that it had."""
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_shard_that_is_remembered_as_right_is_not_opened(annotated: Annotated) -> None:
    tiny, targets = annotated
    spoil(tiny.root / FIRST)
    tiny.writer().refuse_unwritable(targets)
    assert tiny.writer().pending(targets) == []


@pytest.mark.parametrize("settings", [QUARANTINE, SyncSettings(skip_validation=True)], ids=["quarantine", "skip"])
def test_a_shard_that_other_rules_let_through_is_opened_again(annotated: Annotated, settings: SyncSettings) -> None:
    tiny, targets = annotated
    spoil(tiny.root / FIRST)
    with pytest.raises(ShardError):
        tiny.writer(settings).pending(targets)


def test_a_shard_of_another_time_is_opened_found_right_and_remembered_again(annotated: Annotated) -> None:
    tiny, targets = annotated
    os.utime(tiny.root / FIRST, ns=(1, 10**18))
    notes = tiny.notes()
    assert tiny.project(targets) == []
    assert tiny.notes() == notes
    spoil(tiny.root / FIRST)
    assert tiny.writer().pending(targets) == []


def test_a_shard_that_is_right_is_recorded_where_its_rows_come_from_another_annotation(annotated: Annotated) -> None:
    tiny, targets = annotated
    earlier = tiny.notes()
    (same_rows,) = record_annotations(
        tiny.log, annotation(tiny.episodes[2], "plan", digest("another recipe"), text="plan 2", second=9)
    )
    assert tiny.project([*targets[:2], EpisodeTarget(record=tiny.episodes[2], sources={"plan": same_rows})]) == []
    (news,) = [note for note in tiny.notes() if note not in earlier]
    assert (news.path, news.made_of[0].sources) == (SECOND, {"plan": same_rows})


def test_one_bad_episode_keeps_all_shards_from_being_written(tiny: Written) -> None:
    targets = tiny.targets([{"plan": tiny.annotate(index, text)} for index, text in enumerate(("good", "fine", "bad"))])
    before = snapshot(tiny.root)
    with pytest.raises(RulesBroken):
        tiny.project(targets)
    assert snapshot(tiny.root) == before
    assert tiny.notes() == []


def test_a_quarantined_episode_keeps_its_rows_and_the_others_of_its_shard_are_written(annotated: Annotated) -> None:
    tiny, _ = annotated
    targets = tiny.targets([{"plan": tiny.annotate(index, text)} for index, text in enumerate(("bad", "fine", "good"))])
    assert tiny.project(targets, QUARANTINE) == [FIRST, SECOND]
    assert tiny.texts() == [["plan 0"], ["fine"], ["good"]]
    note = next(note for note in reversed(tiny.notes()) if note.path == FIRST)
    assert [made.sources for made in note.made_of] == [None, targets[1].sources]


def test_a_shard_with_a_quarantined_episode_is_looked_at_again_by_the_next_run(annotated: Annotated) -> None:
    tiny, _ = annotated
    targets = tiny.targets([{"plan": tiny.annotate(index, text)} for index, text in enumerate(("bad", "fine", "good"))])
    tiny.project(targets, QUARANTINE)
    again = tiny.writer(QUARANTINE)
    assert again.pending(targets) == []
    assert tiny.gate.violations() == {"no_bad": 1}


def test_many_shards_are_validated_in_portions_and_written_all(tmp_path: Path, log: Log) -> None:
    recordings = [Recording(seed, frames=5) for seed in range(10)]
    shards = [[index] for index in range(10)]
    wide = Written(write_dataset(tmp_path / "wide", recordings, cameras=(), shards=shards), log, count=10)
    targets = wide.targets([{"plan": wide.annotate(index, f"plan {index}")} for index in range(10)])
    assert wide.project(targets) == list(wide.dataset.shards)
    assert wide.texts() == [[f"plan {index}"] for index in range(10)]


def test_a_separate_output_is_written_and_the_dataset_stays(tmp_path: Path, log: Log) -> None:
    source, target = write_dataset(tmp_path / "tiny", cameras=()), write_dataset(tmp_path / "output", cameras=())
    for shard in (FIRST, SECOND):
        os.utime(source / shard, ns=(1, 10**18))
    tiny = Written(source, log, target)
    targets = tiny.targets([{"plan": tiny.annotate(index, f"plan {index}")} for index in range(3)])
    before = snapshot(source)
    assert tiny.writer().project(targets, threads=1) == {FIRST: target / FIRST, SECOND: target / SECOND}
    assert snapshot(source) == before
    assert tiny.texts() == [["plan 0"], ["plan 1"], ["plan 2"]]


def test_rows_of_a_separate_output_outlive_a_newer_shard_of_the_dataset_with_the_same_frames(
    tmp_path: Path, log: Log
) -> None:
    source, target = write_dataset(tmp_path / "tiny", cameras=()), write_dataset(tmp_path / "output", cameras=())
    tiny = Written(source, log, target)
    tiny.project(tiny.targets([{"plan": tiny.annotate(index, f"plan {index}")} for index in range(3)]))
    later = (target / FIRST).stat().st_mtime_ns + 10**9
    os.utime(source / FIRST, ns=(later, later))
    assert tiny.project(tiny.targets([{"plan": tiny.annotate(0, "another plan")}, None, None])) == [FIRST]
    assert tiny.texts() == [["another plan"], ["plan 1"], ["plan 2"]]


def test_a_shard_that_cannot_be_read_is_refused_before_anything_is_paid_for(tiny: Written) -> None:
    targets: list[Any] = tiny.targets([None, None, None])
    tiny.writer().refuse_unwritable(targets)
    spoil(tiny.root / SECOND)
    with pytest.raises(ShardError):
        tiny.writer().refuse_unwritable(targets)
