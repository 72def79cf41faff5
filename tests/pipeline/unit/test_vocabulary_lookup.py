"""Which vocabulary a run uses, from its file and its log; and what it may do about it with --locked."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from annotator.config.settings import PlanSettings, VlmSettings, VocabularySettings
from annotator.dataset.episode_record import EpisodeRecord
from annotator.dataset.episodes import read_episodes
from annotator.errors import CallError, OutOfDate, VocabularyError
from annotator.modules.vocabulary.discovery import sample_episodes
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.modules.vocabulary.file import FILE, write_vocabulary
from annotator.pipeline.progress import SilentProgress
from annotator.pipeline.resolve_vocabulary import (
    VocabularyLookup,
    look_up_vocabulary,
    resolve_vocabulary,
    uses_vocabulary,
)
from annotator.pipeline.run import Run
from annotator.prompting.answers import Discovered
from annotator.vlm.scripted.engine import ScriptedEngine
from annotator_store.digests import Digest
from annotator_store.log.events import VocabularyDiscovered, VocabularyEdited
from annotator_store.log.log import Log
from tests.datasets import Recording, film_path, write_dataset
from tests.pipeline.unit.values import client, indices, prepared
from tests.store.facts import at, digest

WORDS = Vocabulary(subtasks=("reach", "grasp"), memories=("I hold the cup.",))
EDITED = Vocabulary(subtasks=("reach", "grip"), memories=("I hold the cup.",))
ANSWER = Discovered(["open the lid"], ["I opened the lid."])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five episodes without a camera; the last is the recording of the first, with another task."""
    recordings = [Recording(seed, task="stack the cups") for seed in (1, 2, 3, 4)]
    return write_dataset(tmp_path / "tiny", [*recordings, Recording(1, task="open the lid")], cameras=())


def episodes(run: Run, log: Log) -> list[EpisodeRecord]:
    return read_episodes(run.dataset, log, run.cameras.all, run.episodes, threads=1)


def look_up(run: Run, log: Log) -> VocabularyLookup:
    return look_up_vocabulary(run, log, episodes(run, log))


def fingerprint(run: Run, log: Log) -> Digest:
    """What a discovery of this run's vocabulary depends on; its file, if any, is passed over."""
    anew = msgspec.structs.replace(run.settings.vocabulary, reuse_existing=False)
    settings = msgspec.structs.replace(run.settings, vocabulary=anew)
    discovery = look_up(msgspec.structs.replace(run, settings=settings), log).discovery
    assert discovery is not None
    return discovery.fingerprint


def discovered(
    run: Run, recipe: Digest, words: Vocabulary = WORDS, *, second: float = 0, dataset: str | None = None
) -> VocabularyDiscovered:
    return VocabularyDiscovered(
        recorded_at=at(second),
        run_id="run-1",
        dataset=dataset or run.dataset.name,
        recipe=recipe,
        vocabulary=words.digest,
        call=digest("call"),
        episodes=(),
        subtasks=words.subtasks,
        memories=words.memories,
    )


def resolve(run: Run, log: Log, engine: ScriptedEngine | None = None) -> Vocabulary | None:
    asking = client(log, run.prompts, engine=engine, model=run.model)
    return asyncio.run(resolve_vocabulary(run, log, episodes(run, log), asking, SilentProgress()))


def on_file(root: Path, words: Vocabulary = WORDS) -> Vocabulary:
    write_vocabulary(root / FILE, words)
    return words


@pytest.mark.parametrize(
    ("changes", "uses"),
    [
        ({}, True),
        ({"vocabulary": VocabularySettings(enabled=False)}, False),
        ({"plan": PlanSettings(enabled=False)}, False),
        ({"vlm": VlmSettings(backend="signals")}, False),
    ],
    ids=["by default", "switched off", "no module that uses one", "no model"],
)
def test_a_run_uses_a_vocabulary_where_a_module_does_and_a_model_can_find_it(
    root: Path, log: Log, changes: dict[str, Any], uses: bool
) -> None:
    run = prepared(root, **changes)
    assert uses_vocabulary(run) == uses
    on_file(root)
    assert (look_up(run, log) == VocabularyLookup()) == (not uses)


def test_without_a_file_and_a_log_it_is_to_be_discovered_from_each_recording_once(root: Path, log: Log) -> None:
    run = prepared(root, vocabulary=VocabularySettings(sample_episodes=9))
    lookup = look_up(run, log)
    assert (lookup.vocabulary, lookup.on_file, lookup.edit, lookup.logged) == (None, None, None, None)
    assert lookup.discovery is not None
    by_digest = {record.digest: record.index for record in episodes(run, log)}
    assert len(by_digest) == 4
    order = [by_digest[name] for name in sample_episodes(by_digest, 9, run.settings.seed)]
    watched = indices(lookup.discovery.records)
    # Of two episodes that are the same recording, the one with the first task in order of the alphabet is watched.
    assert watched == [4 if index in (0, 4) else index for index in order]


def test_so_many_episodes_are_watched_as_are_to_be_sampled_whichever_the_run_is_about(root: Path, log: Log) -> None:
    few = look_up(prepared(root, vocabulary=VocabularySettings(sample_episodes=2)), log).discovery
    more = look_up(prepared(root, only_episodes="1", vocabulary=VocabularySettings(sample_episodes=3)), log).discovery
    assert few is not None and more is not None
    assert len(few.records) == 2
    assert indices(more.records)[:2] == indices(few.records)
    assert few.fingerprint != more.fingerprint


def test_what_lies_in_the_file_is_used_and_recorded_as_an_edit_where_it_is_news(root: Path, log: Log) -> None:
    run, words = prepared(root), on_file(root)
    lookup = look_up(run, log)
    assert (lookup.vocabulary, lookup.on_file, lookup.discovery) == (words, words, None)
    assert lookup.edit is not None and lookup.edit.vocabulary == words.digest
    log.record(discovered(run, digest("any"))).result()
    assert look_up(run, log).edit is None
    on_file(root, EDITED)
    edit = look_up(run, log).edit
    assert edit is not None and edit.before == WORDS.digest


def test_a_file_that_is_not_to_be_used_again_is_set_aside_and_its_edit_is_still_recorded(root: Path, log: Log) -> None:
    run, words = prepared(root, vocabulary=VocabularySettings(reuse_existing=False)), on_file(root)
    lookup = look_up(run, log)
    assert (lookup.vocabulary, lookup.on_file) == (None, words)
    assert lookup.discovery is not None and lookup.edit is not None


def test_a_discovery_that_is_in_the_log_is_used_without_asking(root: Path, log: Log) -> None:
    run = prepared(root)
    event = discovered(run, fingerprint(run, log), dataset="another dataset")
    log.record(event, discovered(run, digest("another recipe"), EDITED)).result()
    lookup = look_up(run, log)
    assert (lookup.vocabulary, lookup.logged, lookup.discovery) == (WORDS, event, None)


def test_a_dataset_without_an_episode_that_can_be_watched_has_no_vocabulary(root: Path, log: Log) -> None:
    run = prepared(root)
    with pytest.raises(VocabularyError) as refused:
        look_up_vocabulary(run, log, [])
    assert refused.value.got == "the dataset has no episodes"


def test_an_episode_whose_film_cannot_be_read_is_passed_over_and_told(tmp_path: Path, log: Log) -> None:
    root = write_dataset(tmp_path / "filmed")
    (root / film_path(1)).write_bytes(b"no film")
    notes: list[str] = []

    class Listening(SilentProgress):
        def note(self, message: str) -> None:
            notes.append(message)

    run = prepared(root)
    records = episodes(run, log)
    lookup = look_up_vocabulary(run, log, records)
    assert lookup.discovery is not None
    assert (sorted(indices(lookup.discovery.records)), list(lookup.discovery.passed_over)) == ([0, 1], [2])
    asking = client(log, run.prompts, engine=ScriptedEngine({"vocabulary.discover": ANSWER}), model=run.model)
    asyncio.run(resolve_vocabulary(run, log, records, asking, Listening()))
    assert notes[0].startswith("vocabulary: episode 2 passed over: ")
    assert notes[1].startswith("finding the vocabulary in episodes ")


def recorded(log: Log, run: Run) -> VocabularyDiscovered | VocabularyEdited | None:
    return log.vocabulary(run.dataset.name)


def test_a_vocabulary_that_is_asked_for_is_recorded_with_its_setup_and_written(root: Path, log: Log) -> None:
    run = prepared(root, vocabulary=VocabularySettings(sample_episodes=2))
    expected = Vocabulary(subtasks=("open the lid",), memories=("I opened the lid.",))
    engine, recipe = ScriptedEngine({"vocabulary.discover": ANSWER}), fingerprint(run, log)
    assert resolve(run, log, engine) == expected
    event = recorded(log, run)
    assert isinstance(event, VocabularyDiscovered) and event.setup is not None
    assert (event.recipe, event.vocabulary) == (recipe, expected.digest)
    assert event.setup.settings == {"vocabulary.sample_episodes": 2}
    assert set(event.setup.prompts) == {"vocabulary.discover", "system", "retry"}
    assert (len(event.episodes), len(engine.requests)) == (2, 1)
    (root / FILE).unlink()
    assert resolve(run, log, engine) == expected
    assert ((root / FILE).is_file(), len(engine.requests)) == (True, 1)


def test_a_discovery_of_before_is_restated_where_something_else_was_recorded_since(root: Path, log: Log) -> None:
    run = prepared(root)
    first = discovered(run, fingerprint(run, log), second=1)
    log.record(first, discovered(run, digest("other settings"), EDITED, second=2)).result()
    assert resolve(run, log) == WORDS
    restated = recorded(log, run)
    assert restated == msgspec.structs.replace(first, recorded_at=restated.recorded_at, run_id=run.run_id)  # type: ignore[union-attr]
    again = prepared(root)
    (root / FILE).unlink()
    assert resolve(again, log) == WORDS
    assert recorded(log, run) == restated


def test_an_edit_is_recorded_and_the_file_stays_as_it_is(root: Path, log: Log) -> None:
    run, words = prepared(root), on_file(root)
    before = (root / FILE).stat().st_mtime_ns
    assert resolve(run, log) == words
    event = recorded(log, run)
    assert isinstance(event, VocabularyEdited) and event.vocabulary == words.digest
    assert (root / FILE).stat().st_mtime_ns == before


def test_a_failure_to_find_one_says_what_else_can_be_done(root: Path, log: Log) -> None:
    engine = ScriptedEngine({"vocabulary.discover": CallError("no reply", kind="timeout", retryable=True)})
    with pytest.raises(CallError) as failed:
        resolve(prepared(root), log, engine)
    assert failed.value.hint == f"or write {FILE} by hand, or use --vocabulary.enabled=false"
    assert not (root / FILE).exists()


def locked(root: Path, **changes: Any) -> Run:
    return prepared(root, locked=True, **changes)


def test_locked_refuses_to_find_and_to_write_a_vocabulary_and_takes_the_one_on_file(root: Path, log: Log) -> None:
    with pytest.raises(OutOfDate, match="would have to be found"):
        resolve(locked(root), log)
    on_file(root)
    assert resolve(locked(root), log) == WORDS
    assert recorded(log, locked(root)) is None
    anew = locked(root, vocabulary=VocabularySettings(reuse_existing=False))
    log.record(discovered(anew, fingerprint(anew, log), EDITED)).result()
    with pytest.raises(OutOfDate, match="would have to be written"):
        resolve(anew, log)
    on_file(root, EDITED)
    assert resolve(anew, log) == EDITED
    without = locked(root, vocabulary=VocabularySettings(enabled=False))
    assert resolve(without, log) is None
