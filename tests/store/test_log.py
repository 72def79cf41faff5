"""The log: what is recorded is known, durable, and shared by nobody else while it is being written."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from annotator_store.digests import Digest
from annotator_store.errors import NewerEvent, StoreError
from annotator_store.log import pending as recent
from annotator_store.log.cache import NO_EXTENSIONS, Cache
from annotator_store.log.events import event_id
from annotator_store.log.folds import Answered, CachedAnnotation, DeclinedBefore, rows_digest
from annotator_store.log.lines import Entry, entry_of, render_line
from annotator_store.log.log import Log
from annotator_store.log.segments import list_actives, list_segments, read_journal
from tests.store.facts import annotated, answered, declined, digest, discovered, edited, rejected, row, seen

ROOT = Path(__file__).parents[2]


def python(code: str, *arguments: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "store")},
    )


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in (folder / "journal").iterdir()}


def test_an_answer_is_known_as_soon_as_it_is_durable(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        event = answered(1, 1)
        log.record(event).result()
        assert log.known(event.episode) == {
            event.key: Answered(event.key, event.reply, event.finish_reason, event.engine, event.model_id)
        }
        assert log.known(digest("episode", 2)) == {}


def test_answers_refusals_and_rejections_are_known_to_the_next_process(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        log.record(answered(1, 1), declined(1, 2), rejected(1, 1), answered(2, 1)).result()
        before = log.known(digest("episode", 1))
        assert log.rejected_keys(digest("episode", 1)) == {digest("key", 1, 1)}
    with Log.open(tmp_path) as log:
        assert log.known(digest("episode", 1)) == before
        assert before[digest("key", 1, 2)] == DeclinedBefore(digest("key", 1, 2), "cannot see", "signals")
        assert log.rejected_keys(digest("episode", 1)) == {digest("key", 1, 1)}
        assert log.rejected_keys(digest("episode", 2)) == set()


def test_what_was_recorded_before_and_now_is_folded_together(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        log.record(answered(1, 1, 5, reply="late"), declined(1, 2, 1)).result()
    with Log.open(tmp_path) as log:
        log.record(answered(1, 1, 2, reply="early"), answered(1, 2, 9)).result()
        known = log.known(digest("episode", 1))
        assert {key: getattr(item, "reply", None) for key, item in known.items()} == {
            digest("key", 1, 1): "early",
            digest("key", 1, 2): answered(1, 2).reply,
        }


def test_events_reach_duckdb_in_the_background_and_are_known_all_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "_INGEST_EVENTS", 16)
    with Log.open(tmp_path) as log:
        for call in range(200):
            log.record(answered(1, call), rejected(1, call)).result()
            assert len(log.known(digest("episode", 1))) == call + 1
            assert len(log.rejected_keys(digest("episode", 1))) == call + 1


def test_odd_text_comes_back_exactly(tmp_path: Path) -> None:
    odd = 'a\0b\n\r\t"quoted" \\ \u2028 é 🤖 {"a": 1.50}'
    with Log.open(tmp_path) as log:
        log.record(answered(1, 1, reply=odd), annotated(1, rows=(row(odd),))).result()
    with Log.open(tmp_path) as log:
        known = log.known(digest("episode", 1))[digest("key", 1, 1)]
        assert isinstance(known, Answered)
        assert known.reply == odd
        (current,) = log.current().values()
        assert log.annotation(current.event_id).rows[0].row.content == odd


def test_current_recipes_and_annotations_agree(tmp_path: Path) -> None:
    old, new, other = annotated(1, 1, rows=(row("old"),)), annotated(1, 2), annotated(2, 1, module="vqa", recipe="b")
    with Log.open(tmp_path) as log:
        log.record(old, new, other).result()
        current = log.current()
        assert {place: item.event_id for place, item in current.items()} == {
            (new.episode, "plan"): entry_of(new).id,
            (other.episode, "vqa"): entry_of(other).id,
        }
        assert current[new.episode, "plan"].recorded_at == new.recorded_at
        assert log.recipes([new.recipe, other.recipe, digest("unheard of")]) == {
            new.recipe: CachedAnnotation(entry_of(new).id, rows_digest(new)),
            other.recipe: CachedAnnotation(entry_of(other).id, rows_digest(other)),
        }
        assert log.annotation(entry_of(old).id) == old


def test_annotations_come_in_the_order_asked_for(tmp_path: Path) -> None:
    events = [annotated(episode) for episode in range(300)]
    with Log.open(tmp_path) as log:
        log.record(*events).result()
        asked = [*reversed(events), events[7], events[7]]
        assert list(log.annotations([entry_of(event).id for event in asked])) == asked


def test_an_unknown_annotation_is_an_error(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        log.record(answered(1, 1)).result()
        for event_id in (digest("nothing"), entry_of(answered(1, 1)).id):
            with pytest.raises(StoreError, match=event_id):
                log.annotation(event_id)


def test_an_index_belongs_to_the_episode_last_seen_there(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        log.record(seen(1, 1, index=0), seen(2, 1, index=1), seen(2, 2, index=0), seen(1, 1, dataset="bowls")).result()
        assert log.seen_episodes() == {
            (digest("episode", 2), "cups", 0),
            (digest("episode", 2), "cups", 1),
            (digest("episode", 1), "bowls", 1),
        }


def test_the_vocabulary_of_a_dataset_is_the_last_one_recorded(tmp_path: Path) -> None:
    found, changed, other = discovered(1), edited(2), discovered(9, dataset="bowls", recipe="other")
    with Log.open(tmp_path) as log:
        assert log.vocabulary("cups") is None
        log.record(found, other).result()
        assert log.vocabulary("cups") == found
        log.record(changed).result()
        assert (log.vocabulary("cups"), log.vocabulary("bowls"), log.vocabulary("mugs")) == (changed, other, None)
    (tmp_path / "cache.duckdb").unlink()
    with Log.open(tmp_path) as log:
        assert (log.vocabulary("cups"), log.vocabulary("bowls"), log.vocabulary("mugs")) == (changed, other, None)


def test_a_discovery_is_found_again_by_its_recipe_whatever_was_edited_since(tmp_path: Path) -> None:
    first, again = discovered(1), discovered(5, dataset="bowls")
    with Log.open(tmp_path) as log:
        log.record(again, first, edited(9), annotated(1, recipe="recipe")).result()
        assert log.discovered(first.recipe) == first
        assert log.discovered(digest("unheard of")) is None
        assert log.discovered(annotated(1, recipe="recipe").recipe) is None


def test_memos_are_kept_and_replaced(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        log.memo_put("footage", {"a.mp4": ("1", "x"), "b.mp4": ("1", "y")})
        log.memo_put("footage", {"a.mp4": ("2", "z")})
        log.memo_put("footage", {})
    with Log.open(tmp_path) as log:
        assert log.memo_get("footage", ["a.mp4", "b.mp4", "c.mp4"]) == {"a.mp4": ("2", "z"), "b.mp4": ("1", "y")}
        assert log.memo_get("other", ["a.mp4"]) == {}
        assert log.memo_get("footage", []) == {}


HOLDING = """
import sys
from pathlib import Path
from annotator_store.log.log import Log

with Log.open(Path(sys.argv[1])):
    print("open", flush=True)
    input()
"""


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    with python(HOLDING, tmp_path) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with pytest.raises(StoreError, match=f"pid {first.pid} ") as caught:
            Log.open(tmp_path)
        assert "hint:" in str(caught.value)
        first.communicate(b"\n")
    Log.open(tmp_path).close()


def test_a_run_that_records_nothing_leaves_the_journal_untouched(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        log.record(answered(1, 1), annotated(1)).result()
    before = snapshot(tmp_path)
    with Log.open(tmp_path) as log:
        log.current()
        log.known(digest("episode", 1))
        log.memo_put("footage", {"a": ("1", "x")})
    assert snapshot(tmp_path) == before
    assert len(before) == 1


KILLED = """
import itertools, sys
from pathlib import Path
from annotator_store.log import pending as recent
from annotator_store.log.lines import entry_of
from annotator_store.log.log import Log
from tests.store.facts import answered

recent._INGEST_EVENTS = 64
with Log.open(Path(sys.argv[1])) as log:
    for call in itertools.count(int(sys.argv[2])):
        event = answered(call % 5, call)
        log.record(event).result()
        sys.stdout.write(event.key + "\\n")
        sys.stdout.flush()
"""


def test_kill_9_again_and_again_loses_no_acknowledged_answer(tmp_path: Path) -> None:
    told: set[Digest] = set()
    for turn, moment in enumerate([1, 90, 200, 333]):
        with python(KILLED, tmp_path, turn * 100_000) as child:
            assert child.stdout is not None
            printed = [child.stdout.readline() for _ in range(moment)]
            child.send_signal(signal.SIGKILL)
            printed += child.stdout.read().splitlines(keepends=True)
        told |= {Digest(line.decode().strip()) for line in printed if line.endswith(b"\n")}
    with Log.open(tmp_path) as log:
        known = {key for episode in range(5) for key in log.known(digest("episode", episode))}
    assert len(told) >= 624
    assert told <= known
    assert list_actives(tmp_path / "journal") == []


def test_closing_ingests_what_it_seals_so_that_the_next_opening_has_nothing_to_do(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        log.record(answered(1, 1)).result()
    cache = Cache.open_read_only(tmp_path / "cache.duckdb", NO_EXTENSIONS)
    assert cache.ingested() == set(list_segments(tmp_path / "journal"))
    assert len(cache.select("select_known", {"episode": digest("episode", 1)})) == 1
    cache.close()


def test_a_journal_of_a_newer_release_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    body = b'{"type":"row_praised.v1","recorded_at":"2026-01-01T00:00:00Z","run_id":"r"}'
    (tmp_path / "journal" / "active-host-1.jsonl").write_bytes(render_line(Entry(event_id(body), body)))
    for _ in range(2):
        with pytest.raises(NewerEvent, match=r"row_praised\.v1"):
            Log.open(tmp_path)
    assert [entry.body for _, entries in read_journal(tmp_path / "journal") for entry in entries] == [body]


def test_a_folder_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file"):
        Log.open(tmp_path / "file" / "store")


def test_a_closed_log_says_so(tmp_path: Path) -> None:
    log = Log.open(tmp_path)
    log.close()
    log.close()
    with pytest.raises(StoreError, match="closed"):
        log.known(digest("episode", 1))
    with pytest.raises(StoreError, match="closed"):
        log.record(answered(1, 1))


def test_many_tasks_and_threads_record_and_ask_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "_INGEST_EVENTS", 50)
    with Log.open(tmp_path) as log:

        async def work(episode: int) -> None:
            for call in range(20):
                await asyncio.wrap_future(log.record(answered(episode, call)))
                assert len(log.known(digest("episode", episode))) == call + 1

        async def all_work(first: int) -> None:
            await asyncio.gather(*(work(episode) for episode in range(first, first + 4)))

        threads = [threading.Thread(target=lambda n=n: asyncio.run(all_work(n * 10))) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(len(log.known(digest("episode", n * 10 + e))) for n in range(3) for e in range(4)) == 240


def test_the_store_imports_without_the_heavy_libraries(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('av', 'PIL', 'openai', 'vllm', 'torch', 'transformers', 'annotator'): sys.modules[name] = None\n"
        "from annotator_store.log import cache, journal, log, query\n"
        "print('pyarrow' in sys.modules)"
    )
    with python(code) as child:
        out, _ = child.communicate()
    assert (child.returncode, out.strip()) == (0, b"False")
