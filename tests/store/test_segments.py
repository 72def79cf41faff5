"""Segments: named by what is in them, written whole or not at all, checked when read."""

import random
import shutil
from datetime import UTC
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from annotator_store.errors import JournalDamaged, StoreError
from annotator_store.log import segments
from annotator_store.log.events import decode_event
from annotator_store.log.lines import Entry, entry_of, render_line
from annotator_store.log.segments import (
    list_actives,
    list_segments,
    read_journal,
    read_segment,
    recover,
    seal,
    write_segment,
)
from tests.store.facts import annotated, answered, rendered, seen

ENTRIES = [entry_of(event) for event in (answered(1, 1, 3), annotated(1, 2), seen(1, 1), rendered(1, 0))]


def all_of(path: Path) -> list[Entry]:
    return [entry for batch in read_segment(path) for entry in batch]


def test_the_name_does_not_depend_on_order_or_repetition(tmp_path: Path) -> None:
    name = write_segment(tmp_path, ENTRIES)
    assert write_segment(tmp_path, [*reversed(ENTRIES), *ENTRIES]) == name
    assert write_segment(tmp_path, ENTRIES[1:]) != name
    assert name == "eb5c70a8659006371aba26c0ae589846.parquet"


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / write_segment(tmp_path, ENTRIES)
    assert sorted(entry.id for entry in all_of(path)) == sorted(entry.id for entry in ENTRIES)
    assert {entry.body for entry in all_of(path)} == {entry.body for entry in ENTRIES}


def test_a_segment_can_be_read_with_pyarrow_alone(tmp_path: Path) -> None:
    table = pq.read_table(tmp_path / write_segment(tmp_path, ENTRIES))
    assert table.column_names == ["id", "type", "recorded_at", "run_id", "body"]
    assert str(table.schema.field("recorded_at").type) == "timestamp[us, tz=UTC]"
    for got in table.to_pylist():
        event = decode_event(got["body"].encode())
        assert got["recorded_at"].astimezone(UTC) == event.recorded_at
        assert got["type"] == event.__struct_config__.tag
        assert got["id"].hex == entry_of(event).id
    assert table["recorded_at"].to_pylist() == sorted(table["recorded_at"].to_pylist())


def test_any_changed_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / write_segment(tmp_path, ENTRIES)
    good, want = path.read_bytes(), all_of(path)
    rng, damaged = random.Random(7), 0
    for _ in range(150):
        at = rng.randrange(len(good))
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :])
        try:
            assert all_of(path) == want
        except JournalDamaged as damage:
            assert str(path) in str(damage)
            damaged += 1
    assert damaged > 30


def test_a_changed_body_is_noticed_before_it_is_handed_out(tmp_path: Path) -> None:
    path = tmp_path / write_segment(tmp_path, ENTRIES)
    table = pq.read_table(path)
    bodies = [body.replace("run-1", "run-2") for body in table["body"].to_pylist()]
    pq.write_table(table.set_column(4, "body", [bodies]), path)
    with pytest.raises(JournalDamaged, match="an event that is not"):
        next(read_segment(path))


def test_a_segment_under_another_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / write_segment(tmp_path, ENTRIES)
    other = path.rename(path.with_name("0" * 32 + ".parquet"))
    with pytest.raises(JournalDamaged, match="another segment"):
        all_of(other)


def test_a_crash_between_rename_and_removal_leaves_each_event_once_after_recovery(tmp_path: Path) -> None:
    active = tmp_path / "active-host-1.jsonl"
    active.write_bytes(b"".join(map(render_line, ENTRIES)))
    copy = shutil.copy(active, tmp_path / "copy")
    name = seal(active)
    Path(copy).rename(active)
    assert recover(tmp_path) == {active.name: name}
    assert list_segments(tmp_path) == [name]
    assert sum(len(entries) for _, entries in read_journal(tmp_path)) == len(ENTRIES)


def test_a_crash_before_the_rename_loses_nothing(tmp_path: Path) -> None:
    active = tmp_path / "active-host-1.jsonl"
    active.write_bytes(b"".join(map(render_line, ENTRIES)))
    (tmp_path / ("0" * 32 + ".tmp")).write_bytes(b"half a parquet fi")
    recover(tmp_path)
    assert {entry.id for _, entries in read_journal(tmp_path) for entry in entries} == {e.id for e in ENTRIES}
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"]


def test_a_disk_that_refuses_leaves_the_active_file_and_no_half_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    active = tmp_path / "active-host-1.jsonl"
    active.write_bytes(b"".join(map(render_line, ENTRIES)))
    monkeypatch.setattr(segments, "sync_path", full)
    with pytest.raises(StoreError, match="No space left"):
        seal(active)
    assert [path.name for path in tmp_path.iterdir()] == [active.name]


def test_a_file_sealed_between_listing_and_reading_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = tmp_path / "active-host-1.jsonl"
    active.write_bytes(b"".join(map(render_line, ENTRIES)))
    real, listings = segments.list_segments, [0]

    def list_then_seal(journal: Path) -> list[str]:
        names = real(journal)
        listings[0] += 1
        if listings[0] == 1:
            seal(active)
        return names

    monkeypatch.setattr(segments, "list_segments", list_then_seal)
    assert {entry.id for _, entries in read_journal(tmp_path) for entry in entries} == {e.id for e in ENTRIES}
    assert listings[0] >= 2


def test_other_files_in_the_folder_are_not_segments(tmp_path: Path) -> None:
    for name in ("notes.txt", "short.parquet", "active.jsonl"):
        (tmp_path / name).touch()
    assert list_segments(tmp_path) == []
    assert list_actives(tmp_path) == []
