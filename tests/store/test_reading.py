"""A log that is open to read: it answers as one that may record does, and leaves the store as it is."""

from pathlib import Path

import pytest

from annotator_store.errors import StoreError
from annotator_store.log.cache import CACHE
from annotator_store.log.log import Log
from annotator_store.log.read_only import ReadingLog
from tests.store import facts


def files(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Every file, with its bytes and when it was last changed."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with an episode, its annotation, and a memo."""
    with Log.open(tmp_path / "log") as log:
        log.record(facts.seen(0), facts.annotated(0)).result()
        log.memo_put("sizes.v1", {"a": ("1", "one")})
    return tmp_path / "log"


@pytest.mark.parametrize("cache", ["up to date", "missing", "damaged"])
def test_it_knows_what_the_log_knows_whatever_state_the_cache_is_in(store: Path, cache: str) -> None:
    with Log.open(store) as log:
        expected = log.seen_episodes(), log.current()
    if cache == "missing":
        (store / CACHE).unlink()
    if cache == "damaged":
        (store / CACHE).write_bytes(b"no database")
    before = files(store)
    with ReadingLog.open(store) as log:
        assert (log.seen_episodes(), log.current()) == expected
    assert files(store) == before


def test_what_is_in_a_file_that_another_process_is_writing_is_known_too(store: Path) -> None:
    with Log.open(store) as writing, ReadingLog.open(store) as empty:
        writing.record(facts.seen(7)).result()
        with ReadingLog.open(store) as log:
            assert log.seen_episodes() - empty.seen_episodes()


def test_it_remembers_for_itself_and_refuses_to_record(store: Path) -> None:
    with ReadingLog.open(store) as log:
        log.memo_put("sizes.v1", {"b": ("2", "two")})
        assert log.memo_get("sizes.v1", ["a", "b", "c"]) == {"a": ("1", "one"), "b": ("2", "two")}
        log.seal().result()
        with pytest.raises(StoreError, match="EpisodeSeen"):
            log.record(facts.seen(1))
    with Log.open(store) as log:
        assert log.memo_get("sizes.v1", ["b"]) == {}
        assert len(log.seen_episodes()) == 1


def test_the_footage_that_was_last_seen_is_given_camera_by_camera(store: Path) -> None:
    with ReadingLog.open(store) as log:
        ((episode, dataset, index),) = log.seen_episodes()
        assert log.footage(dataset) == {
            (episode, index): {one.camera: one.footage for one in facts.seen(0).cameras},
        }
        assert log.footage("another") == {}
