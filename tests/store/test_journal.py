"""The journal: durable when done, whole lines only, whatever happens in between."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotator_store.digests import Digest
from annotator_store.errors import JournalDamaged, StoreError
from annotator_store.log.events import AnyEvent
from annotator_store.log.journal import Journal
from annotator_store.log.lines import entry_of, parse_lines, render_line
from annotator_store.log.segments import list_actives, list_segments, read_journal, recover
from tests.store.facts import answered, at, rendered

LINES = [render_line(entry_of(answered(1, call, reply="é" * call))) for call in range(4)]


def ids_in(folder: Path) -> set[Digest]:
    return {entry.id for _, entries in read_journal(folder) for entry in entries}


def ids_of(events: Sequence[AnyEvent]) -> set[Digest]:
    return {entry_of(event).id for event in events}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    path.mkdir()
    return path


def test_an_event_is_in_the_file_when_its_future_is_done(folder: Path) -> None:
    journal = Journal(folder)
    event = answered(1, 1)
    journal.append([event]).result()
    (active,) = list_actives(folder)
    assert active.read_bytes() == render_line(entry_of(event))
    journal.close()


def test_closing_seals_and_leaves_no_active_file(folder: Path) -> None:
    events = [answered(1, call) for call in range(5)]
    journal = Journal(folder)
    for event in events:
        journal.append([event])
    journal.close()
    assert list_actives(folder) == []
    assert len(list_segments(folder)) == 1
    assert ids_in(folder) == ids_of(events)


def test_a_journal_that_recorded_nothing_leaves_no_file(folder: Path) -> None:
    journal = Journal(folder)
    journal.append([]).result()
    journal.close()
    assert list(folder.iterdir()) == []


def test_one_fsync_serves_all_that_arrived_during_the_one_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on, count = threading.Event(), threading.Event(), [0]
    real = os.fsync

    def slow(descriptor: int) -> None:
        count[0] += 1
        entered.set()
        assert go_on.wait(10)
        real(descriptor)

    journal = Journal(folder)
    journal.append([answered(0, 0)]).result()
    monkeypatch.setattr(os, "fsync", slow)
    first = journal.append([answered(1, 0)])
    assert entered.wait(10)
    rest = [journal.append([answered(1, call)]) for call in range(1, 50)]
    go_on.set()
    for done in [first, *rest]:
        done.result(10)
    assert count[0] == 2
    monkeypatch.undo()
    journal.close()


def test_cancelling_a_future_neither_unrecords_nor_breaks_the_writer(folder: Path) -> None:
    journal = Journal(folder)
    done = journal.append([answered(1, 1)])
    assert not done.cancel()
    journal.append([answered(1, 2)]).result()
    journal.close()
    assert ids_in(folder) == ids_of([answered(1, 1), answered(1, 2)])


def test_appending_after_closing_is_refused(folder: Path) -> None:
    journal = Journal(folder)
    journal.close()
    with pytest.raises(StoreError, match="closed"):
        journal.append([answered(1, 1)])


def test_a_full_disk_fails_the_append_and_leaves_no_torn_line(folder: Path) -> None:
    journal = Journal(folder)
    small = answered(1, 0)
    journal.append([small]).result()
    (active,) = list_actives(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (active.stat().st_size + 4096, hard))
    try:
        refused = journal.append([answered(1, 1, reply="x" * 100_000)]).exception(10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(refused, StoreError)
    assert str(active) in str(refused)
    assert "hint:" in str(refused)
    assert active.read_bytes() == render_line(entry_of(small))
    later = answered(1, 2)
    journal.append([later]).result()
    journal.close()
    assert ids_in(folder) == ids_of([small, later])


def test_what_cannot_be_cut_off_stops_all_later_appends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    journal = Journal(folder)
    journal.append([answered(1, 0)]).result()
    monkeypatch.setattr(os, "fsync", broken)
    assert isinstance(journal.append([answered(1, 1)]).exception(10), StoreError)
    monkeypatch.undo()
    assert isinstance(journal.append([answered(1, 2)]).exception(10), StoreError)
    journal.close()


def test_what_was_appended_is_a_segment_when_sealing_is_done_and_appending_goes_on(folder: Path) -> None:
    sealed: list[str | None] = []
    journal = Journal(folder, on_sealed=lambda _, segment: sealed.append(segment))
    before, after = [answered(1, call) for call in range(3)], [answered(1, call) for call in range(3, 5)]
    journal.append(before)
    journal.seal().result()
    assert list_actives(folder) == [] and list_segments(folder) == sealed
    assert ids_in(folder) == ids_of(before)
    journal.append(after).result()
    journal.seal().result()
    journal.seal().result()  # with nothing new there is nothing to seal
    journal.close()
    assert len(list_segments(folder)) == 2 and ids_in(folder) == ids_of([*before, *after])


def test_sealing_after_closing_is_refused(folder: Path) -> None:
    journal = Journal(folder)
    journal.close()
    with pytest.raises(StoreError, match="closed"):
        journal.seal()


def test_nothing_is_lost_or_doubled_while_many_threads_append_and_one_seals(folder: Path) -> None:
    journal, done = Journal(folder), threading.Event()
    events = {thread: [answered(thread, call) for call in range(40)] for thread in range(4)}

    def append(mine: Sequence[AnyEvent]) -> None:
        for event in mine:
            journal.append([event]).result()

    def seal() -> None:
        while not done.is_set():
            journal.seal().result()

    threads = [threading.Thread(target=append, args=(mine,)) for mine in events.values()]
    sealer = threading.Thread(target=seal)
    for thread in [sealer, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    sealer.join()
    journal.close()
    kept = [entry.id for _, entries in read_journal(folder) for entry in entries]
    assert sorted(kept) == sorted(ids_of([event for mine in events.values() for event in mine]))
    assert len(list_segments(folder)) > 2


def test_a_file_that_grew_large_is_sealed_while_appending_goes_on(folder: Path) -> None:
    sealed: list[tuple[str, str | None]] = []
    journal = Journal(folder, seal_bytes=2000, on_sealed=lambda active, segment: sealed.append((active, segment)))
    events = [answered(1, call) for call in range(40)]
    for event in events:
        journal.append([event]).result()
    journal.close()
    assert len(sealed) > 5
    assert len({active for active, _ in sealed}) == len(sealed)
    assert ids_in(folder) == ids_of(events)
    assert list_actives(folder) == []


@given(st.integers(0, sum(map(len, LINES))))
def test_cut_at_any_byte_every_whole_line_is_read_and_nothing_else(cut: int) -> None:
    data = b"".join(LINES)[:cut]
    ends = [sum(map(len, LINES[: n + 1])) for n in range(len(LINES))]
    whole = sum(end <= cut for end in ends)
    entries, good = parse_lines(data, where="here")
    assert [render_line(entry) for entry in entries] == LINES[:whole]
    assert good == ([0, *ends])[whole]


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, sum(map(len, LINES))), garbage=st.sampled_from([b"", b"\0" * 5000, b"\xff\n\xfe\n", b"{}\n"]))
def test_a_journal_cut_at_any_byte_is_recovered(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    data = b"".join(LINES)[:cut]
    (folder / "active-elsewhere-1.jsonl").write_bytes(data + garbage)
    recover(folder)
    assert list_actives(folder) == []
    assert ids_in(folder) == {entry.id for entry in parse_lines(data, where="")[0]}


def test_damage_in_the_middle_is_an_error_with_its_place(folder: Path) -> None:
    path = folder / "active-elsewhere-1.jsonl"
    bad = LINES[1].replace(b"openai", b"OpenAI")
    path.write_bytes(LINES[0] + bad + LINES[2])
    before = path.read_bytes()
    with pytest.raises(JournalDamaged) as caught:
        recover(folder)
    assert f"{path}, line 2, byte {len(LINES[0])}" in str(caught.value)
    assert "hint:" in str(caught.value)
    assert path.read_bytes() == before


def test_a_file_that_a_living_process_holds_is_left_alone(folder: Path) -> None:
    journal = Journal(folder)
    journal.append([answered(1, 1)]).result()
    assert recover(folder) == {}
    assert len(list_actives(folder)) == 1
    journal.close()


def test_a_reader_sees_every_durable_event_while_files_are_sealed_beneath_it(folder: Path) -> None:
    journal = Journal(folder, seal_bytes=3000)
    durable: list[Digest] = []
    stop = threading.Event()

    def append() -> None:
        for call in range(10_000):
            if stop.is_set():
                return
            event = answered(1, call)
            journal.append([event]).result()
            durable.append(entry_of(event).id)

    thread = threading.Thread(target=append)
    thread.start()
    try:
        while len(list_segments(folder)) < 4:
            assert thread.is_alive()
            before = list(durable)
            assert set(before) <= ids_in(folder)
    finally:
        stop.set()
        thread.join()
        journal.close()
    assert set(durable) <= ids_in(folder)


def test_durable_events_are_announced_before_their_future_is_done(folder: Path) -> None:
    order: list[str] = []
    journal = Journal(folder, on_durable=lambda _name, recorded: order.extend(item.entry.id for item in recorded))
    done = journal.append([rendered(1)])
    done.add_done_callback(lambda _done: order.append("done"))
    done.result()
    journal.close()
    assert order[0] == entry_of(rendered(1)).id


CHILD = """
import itertools, sys
from pathlib import Path
from annotator_store.log.journal import Journal
from annotator_store.log.lines import entry_of
from tests.store.facts import answered

journal = Journal(Path(sys.argv[1]), seal_bytes=20_000)
print("ready", flush=True)
for call in itertools.count():
    events = [answered(1, call), answered(2, call)]
    journal.append(events).result()
    sys.stdout.write("".join(entry_of(event).id + "\\n" for event in events))
    sys.stdout.flush()
"""


@pytest.mark.parametrize("acknowledged", [1, 7, 60, 150, 400])
def test_kill_9_loses_no_acknowledged_event(folder: Path, acknowledged: int) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", CHILD, str(folder)]
    env = {**os.environ, "PYTHONPATH": str(root / "store")}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, env=env)
    assert child.stdout is not None
    printed = [child.stdout.readline() for _ in range(acknowledged + 1)]
    child.send_signal(signal.SIGKILL)
    printed += child.stdout.read().splitlines(keepends=True)
    child.wait()
    child.stdout.close()
    told = {line.decode().strip() for line in printed[1:] if line.endswith(b"\n")}
    assert len(told) >= acknowledged
    recover(folder)
    assert told <= ids_in(folder)
    assert list_actives(folder) == []


def test_events_of_many_threads_are_all_kept(folder: Path) -> None:
    journal = Journal(folder)
    futures: list[Future[None]] = []

    def appender(episode: int) -> Callable[[], None]:
        return lambda: futures.extend(journal.append([answered(episode, call, at(0).second)]) for call in range(50))

    threads = [threading.Thread(target=appender(episode)) for episode in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for done in futures:
        done.result(10)
    journal.close()
    assert len(ids_in(folder)) == 400
