"""The cache can be lost or ruined at any time: the journal makes it again."""

import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from annotator_store.log import cache as cache_module
from annotator_store.log import rebuild as rebuild_module
from annotator_store.log import segments as segments_module
from annotator_store.log.cache import Cache, CacheDamaged
from annotator_store.log.events import AnyEvent
from annotator_store.log.lines import entry_of
from annotator_store.log.log import Log
from annotator_store.log.segments import list_segments, read_segment
from tests.store.facts import annotated, answered, digest, seen

EVENTS: list[AnyEvent] = [
    event
    for episode in range(8)
    for event in (
        seen(episode),
        *(answered(episode, call, call, reply=f"{episode} {call} " + "long " * 200) for call in range(12)),
        annotated(episode, 20),
    )
]


def everything(log: Log) -> object:
    ids = [item.event_id for item in log.current().values()]
    return log.current(), [log.known(digest("episode", e)) for e in range(8)], list(log.annotations(ids))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with Log.open(tmp_path / "store") as log:
        log.record(*EVENTS).result()
    return tmp_path / "store"


@pytest.fixture
def want(store: Path) -> object:
    with Log.open(store) as log:
        return everything(log)


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def flip_all_blocks(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(12288 + 4096, len(data), 4096):
        data[place] ^= 0x40
    path.write_bytes(data)


def zero_wal(path: Path) -> None:
    path.with_name(path.name + ".wal").write_bytes(bytes(10_000))


def garbage_wal(path: Path) -> None:
    path.with_name(path.name + ".wal").write_bytes(random.Random(3).randbytes(10_000))


def other_format(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE cache_format SET version = version + 1")
        connection.execute("UPDATE outcomes SET declined = true, id = uuid()")


def foreign_tables(path: Path) -> None:
    path.unlink()
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE events (something INTEGER)")


RUIN = [
    delete,
    truncate,
    empty,
    garble,
    flip_all_blocks,
    zero_wal,
    garbage_wal,
    other_format,
    foreign_tables,
]


@pytest.mark.parametrize("ruin", RUIN, ids=lambda ruin: ruin.__name__)
def test_a_ruined_cache_is_made_again(store: Path, want: object, ruin: Callable[[Path], None]) -> None:
    ruin(store / "cache.duckdb")
    with Log.open(store) as log:
        assert everything(log) == want


def test_a_byte_flipped_anywhere_changes_no_answer(store: Path, want: object) -> None:
    path, rng = store / "cache.duckdb", random.Random(11)
    good = path.read_bytes()
    for _ in range(6):
        at = rng.choice([rng.randrange(12288), rng.randrange(len(good))])
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :])
        with Log.open(store) as log:
            assert everything(log) == want


def test_damage_found_while_reading_is_answered_by_a_rebuild(
    store: Path, want: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, broken = Cache.select, [True]

    def select(self: Cache, name: str, parameters: object = None) -> object:
        if name == "select_known" and broken.pop():
            broken.append(False)
            raise CacheDamaged("a block does not match its checksum")
        broken.append(False)
        return real(self, name, parameters)  # type: ignore[arg-type]

    with Log.open(store) as log:
        monkeypatch.setattr(Cache, "select", select)
        assert log.known(digest("episode", 3))
        monkeypatch.undo()
        assert everything(log) == want


def test_a_cache_that_holds_what_the_journal_lost_is_made_again(store: Path) -> None:
    (segment,) = (store / "journal").glob("*.parquet")
    segment.unlink()
    with Log.open(store) as log:
        assert log.current() == {}
        assert log.known(digest("episode", 3)) == {}


def test_a_segment_copied_in_is_ingested_without_a_rebuild(
    store: Path, want: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Log.open(tmp_path / "other") as other:
        other.record(answered(99, 1)).result()
    (segment,) = (tmp_path / "other" / "journal").glob("*.parquet")
    segment.rename(store / "journal" / segment.name)

    def no_rebuild(*_: object) -> Cache:
        raise AssertionError("rebuilt")

    monkeypatch.setattr(rebuild_module, "rebuild", no_rebuild)
    with Log.open(store) as log:
        assert list(log.known(digest("episode", 99))) == [answered(99, 1).key]
        assert everything(log) == want


def test_a_warm_opening_reads_no_segment(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_reading(*_: object) -> None:
        raise AssertionError("read a segment")

    monkeypatch.setattr(rebuild_module, "read_segment", no_reading)
    monkeypatch.setattr(rebuild_module, "read_journal", no_reading)
    Log.open(store).close()


def test_ingesting_twice_is_ingesting_once() -> None:
    cache = Cache.in_memory()
    entries = [entry_of(event) for event in EVENTS[:20]]
    cache.ingest(entries)
    cache.ingest([*entries, *entries])
    assert cache.connection.execute("SELECT count(*) FROM events").fetchall() == [(20,)]
    cache.close()


def test_a_reader_that_keeps_the_cache_open_does_not_stop_a_writer(
    store: Path, want: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_BUSY_TIMEOUT_S", 0.2)
    hold = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True); print('open', flush=True); input()"
    command = [sys.executable, "-c", hold, str(store / "cache.duckdb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        with Log.open(store) as log:
            assert everything(log) == want
        reader.communicate(b"\n")
        assert reader.returncode == 0


@pytest.mark.parametrize("way", [rebuild_module.fill, rebuild_module.catch_up], ids=["fill", "catch up"])
def test_a_file_is_noted_as_ingested_only_once_all_of_it_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[Cache, Path], object]
) -> None:
    """A process may end after any transaction, and a file that is noted by then is never read again."""
    for batch in (EVENTS[:5], EVENTS[5:6]):
        with Log.open(tmp_path / "store") as log:
            log.record(*batch).result()
    monkeypatch.setattr(segments_module, "BATCH_ROWS", 2)
    journal = tmp_path / "store" / "journal"
    ids = {name: {e.id for part in read_segment(journal / name) for e in part} for name in list_segments(journal)}
    assert sorted(map(len, ids.values())) == [1, 5]
    real, noted = Cache.ingest, list[set[str]]()

    def ingest(self: Cache, *arguments: Any, **news: Any) -> None:
        real(self, *arguments, **news)
        stored = {event_id.hex for (event_id,) in self.connection.execute("SELECT id FROM events").fetchall()}
        noted.append(self.ingested())
        assert all(ids[name] <= stored for name in noted[-1])

    monkeypatch.setattr(Cache, "ingest", ingest)
    with closing(Cache.in_memory()) as cache:
        way(cache, journal)
    assert noted[0] == set()
    assert noted[-1] == set(ids)
