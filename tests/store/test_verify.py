"""Every planted fault is found, at its place, and nothing else is; what is right is said to be right."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotator.cli.main import main
from annotator.dataset.metadata import open_dataset
from annotator.provenance.lock import FILE
from annotator.provenance.publish import PublishedFrom, publish
from annotator.verify.run import verify_dataset
from annotator_store.keys import Call, call_key
from annotator_store.log.events import (
    AnswerRejected,
    CallAnswered,
    EpisodeAnnotated,
    ShardWritten,
    decode_event,
    event_id,
)
from annotator_store.log.lines import Entry, entry_of, render_line
from annotator_store.log.log import Log
from annotator_store.log.segments import list_segments, read_segment, segment_name, write_segment
from annotator_store.parquet.columns import language_field
from annotator_store.parquet.episode_language import EpisodeRows
from annotator_store.parquet.rewrite import language_digest, prepare_shard, read_rows
from annotator_store.rows import Row
from annotator_store.verify.findings import Finding, VerifyReport
from tests.datasets import Recording, shard_path, write_dataset
from tests.store import facts

SHARD = shard_path(0)
BOUNDS = [(0, 24), (24, 48)]
"""The rows of the two episodes of the first shard."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset that `sync` annotated, with its log and its lock; nobody changes it."""
    root = write_dataset(tmp_path_factory.mktemp("verify") / "tiny", [Recording(n, frames=24) for n in (1, 2, 3)])
    assert main(["sync", str(root), "--vlm.backend", "signals", "--plan.min_subtask_seconds", "0.2"]) == 0
    with Log.open(root / ".annotator") as log:
        publish(root, log, PublishedFrom(dataset="tiny", shards=(SHARD, shard_path(1))))
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """A copy of it to plant a fault in."""
    return Path(shutil.copytree(template, tmp_path / "tiny"))


def verify(root: Path, **options: Any) -> VerifyReport:
    return verify_dataset(open_dataset(root), root / ".annotator", **options)


def only(report: VerifyReport) -> Finding:
    assert len(report.findings) == 1, report.findings
    return report.findings[0]


def journal(root: Path) -> Path:
    return root / ".annotator" / "journal"


def entries(root: Path) -> list[Entry]:
    return [e for name in list_segments(journal(root)) for batch in read_segment(journal(root) / name) for e in batch]


def bodies_changed(root: Path, change: Callable[[bytes], bytes]) -> str:
    """Rewrite the one segment with other bodies under the same ids and name; give its name."""
    (name,) = list_segments(journal(root))
    table = pq.ParquetFile(journal(root) / name).read()
    bodies = [change(body.encode()).decode() for body in table["body"].to_pylist()]
    index = table.column_names.index("body")
    pq.write_table(table.set_column(index, "body", pa.array(bodies)), journal(root) / name, compression="zstd")
    return name


def as_active(root: Path, lines: Sequence[bytes]) -> Path:
    """Leave the journal as a crash does: an active file, and no segment."""
    for name in list_segments(journal(root)):
        (journal(root) / name).unlink()
    path = journal(root) / "active-there-1.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def first_of(root: Path, kind: type[Any]) -> tuple[Entry, Any]:
    return next((e, v) for e in entries(root) if isinstance(v := decode_event(e.body), kind))


def record(root: Path, *events: Any) -> None:
    with Log.open(root / ".annotator") as log:
        log.record(*events).result()


def rows_changed(root: Path, change: Callable[[Row], Row], *, episode: int = 0) -> None:
    """Rewrite the first shard with other rows for one episode, well formed in all else."""
    start, stop = BOUNDS[episode]
    rows = tuple(change(row) for row in read_rows(root / SHARD, BOUNDS)[episode])
    prepare_shard(root / SHARD, root / SHARD, [EpisodeRows(start=start, stop=stop, rows=rows)]).commit()


def column_changed(root: Path, column: Any, change: Callable[[list[Any]], None]) -> None:
    """Change the lists of single frames of a language column."""
    table = pq.ParquetFile(root / SHARD).read()
    lists = table[column].to_pylist()
    change(lists)
    index, field = table.schema.get_field_index(column), language_field(column)
    texts = pa.list_(pa.string())
    plain = pa.list_(pa.struct([one.with_type(texts) if one.name == "tool_calls" else one for one in fields(field)]))
    changed = table.set_column(index, field, pa.array(lists, plain).cast(field.type))
    pq.write_table(changed, root / SHARD)


def fields(column: pa.Field) -> list[pa.Field]:
    row = column.type.value_type
    return [row.field(index) for index in range(row.num_fields)]


def flipped(text: str, at: int = 0) -> str:
    return text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]


def test_what_sync_wrote_is_right(root: Path) -> None:
    report = verify(root, rebuild=True)
    assert report.findings == []
    assert report.withheld == 0
    assert report.notes == []
    assert report.counts["shards"] == 2
    assert report.counts["episodes"] == 3
    assert report.counts["events"] == len(entries(root))
    assert report.counts["rows"] == sum(len(found) for found in read_rows(root / SHARD, BOUNDS)) + len(
        read_rows(root / shard_path(1), [(0, 24)])[0]
    )


def test_verifying_changes_no_byte_and_no_time(root: Path) -> None:
    def everything() -> dict[str, tuple[bytes, int]]:
        return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(root.rglob("*")) if p.is_file()}

    before = everything()
    verify(root, rebuild=True)
    assert everything() == before


NO_ENGINE = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"av", "PIL", "openai", "httpx2", "vllm", "torch", "transformers"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
from annotator.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_command_needs_no_engine_and_no_decoder(root: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", NO_ENGINE, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    right = run("verify", root)
    assert (right.returncode, right.stdout) == (0, ""), right.stderr
    assert right.stderr.endswith("nothing is wrong\n")
    assert run("export", root, "--staging", tmp_path / "staging").returncode == 0
    (root / SHARD).unlink()
    wrong = run("verify", root, "--format", "json")
    assert wrong.returncode == 1
    assert json.loads(wrong.stdout)["where"] == SHARD
    assert run("verify", tmp_path).returncode == 1
    shutil.rmtree(root / ".annotator")
    assert run("verify", root).returncode == 2


def test_a_flipped_byte_of_a_reply_is_named_with_its_field(root: Path) -> None:
    entry, call = first_of(root, CallAnswered)
    reply = json.dumps(call.reply).encode()
    changed = entry.body.replace(reply, reply[:5] + bytes([reply[5] ^ 1]) + reply[6:])
    assert changed != entry.body
    name = bodies_changed(root, lambda body: changed if body == entry.body else body)
    finding = only(verify(root))
    row = [e.id for e in entries_by_row(root, name)].index(entry.id) + 1
    assert finding.kind == "event"
    assert finding.where.startswith(f"journal/{name}, row {row}, call_answered.v1 {call.step} {call.key}")
    assert finding.where.endswith("field reply")
    assert finding.expected != finding.found
    assert finding.expected.replace(" ", "")[:4] in call.reply.replace(" ", "")


def entries_by_row(root: Path, name: str) -> list[Entry]:
    table = pq.ParquetFile(journal(root) / name).read(columns=["id", "body"])
    ids = [value.hex() for value in table["id"].combine_chunks().storage.to_pylist()]
    return [Entry(name, body.encode()) for name, body in zip(ids, table["body"].to_pylist(), strict=True)]


def test_without_a_cache_the_event_is_named_and_its_digest(root: Path) -> None:
    entry, call = first_of(root, CallAnswered)
    bodies_changed(root, lambda body: body.replace(b'"tokens_in":0', b'"tokens_in":1') if body == entry.body else body)
    (root / ".annotator" / "cache.duckdb").unlink()
    finding = only(verify(root))
    assert call.key in finding.where
    assert finding.expected == f"the event {entry.id}"


def test_a_flipped_byte_of_an_active_line_is_named_with_line_and_offset(root: Path) -> None:
    lines = [render_line(entry) for entry in entries(root)]
    broken = lines[7].replace(b'"recorded_at"', b'"recorded_au"')
    as_active(root, [*lines[:7], broken, *lines[8:]])
    finding = only(verify(root))
    assert finding.where.startswith(f"journal/active-there-1.jsonl, line 8, byte {sum(map(len, lines[:7]))}")


def test_the_last_line_of_an_active_file_is_no_torn_line_if_it_is_whole(root: Path) -> None:
    lines = [render_line(entry) for entry in entries(root)]
    as_active(root, [*lines[:-1], lines[-1].replace(b'"run_id"', b'"run_ie"')])
    assert only(verify(root)).kind == "event"


@pytest.mark.parametrize("tail", [b"0123abcd", b"\0" * 512, b"", render_line(entry_of(facts.answered(1, 1)))[:-40]])
def test_what_a_crash_leaves_at_the_end_is_no_fault(root: Path, tail: bytes) -> None:
    as_active(root, [*(render_line(entry) for entry in entries(root)), tail])
    assert verify(root).findings == []


@pytest.mark.parametrize("at", [0.1, 0.3, 0.5, 0.7])
def test_a_raw_byte_flipped_inside_a_segment_is_one_kind_of_finding(root: Path, at: float) -> None:
    (name,) = list_segments(journal(root))
    path = journal(root) / name
    data = bytearray(path.read_bytes())
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(4)
    assert chunk.path_in_schema == "body"
    data[(chunk.dictionary_page_offset or chunk.data_page_offset) + int(at * chunk.total_compressed_size)] ^= 1
    path.write_bytes(data)
    found = verify(root).findings
    assert found
    assert all(finding.where.startswith(f"journal/{name}") for finding in found)


def test_a_column_beside_an_event_is_held_against_it(root: Path) -> None:
    (name,) = list_segments(journal(root))
    table = pq.ParquetFile(journal(root) / name).read()
    runs = table["run_id"].to_pylist()
    index = table.column_names.index("run_id")
    runs[3] = flipped(runs[3])
    pq.write_table(table.set_column(index, "run_id", pa.array(runs)), journal(root) / name)
    assert only(verify(root)).where == f"journal/{name}, row 4, column run_id"


def test_a_segment_that_lacks_an_event_does_not_fit_its_name(root: Path) -> None:
    (name,) = list_segments(journal(root))
    kept = entries(root)[:-1]
    (journal(root) / name).unlink()
    (journal(root) / write_segment(journal(root), kept)).rename(journal(root) / name)
    report = verify(root)
    assert only(report).kind == "segment"
    assert only(report).expected.endswith(name.removesuffix(".parquet"))


def test_a_flipped_byte_of_an_annotated_row_is_named_and_nothing_that_follows_from_it(root: Path) -> None:
    entry, found = first_of(root, EpisodeAnnotated)
    text = found.rows[0].row.content
    changed = entry.body.replace(json.dumps(text).encode(), json.dumps(flipped(text)).encode())
    assert changed != entry.body
    bodies_changed(root, lambda body: changed if body == entry.body else body)
    report = verify(root)
    assert f"episode_annotated.v1 {found.module}" in only(report).where
    assert only(report).where.endswith("field rows")
    assert report.withheld > 0


@pytest.mark.parametrize("part", ["episode", "prompt", "model", "seed", "frames", "key"])
def test_a_key_that_its_parts_do_not_give_is_named(root: Path, part: str) -> None:
    _, call = first_of(root, CallAnswered)
    wrong = 1 if part == "seed" else facts.digest("another")
    forged = msgspec.structs.replace(call, **{part: wrong})
    record(root, forged)
    kinds = {finding.kind: finding for finding in verify(root).findings}
    parts = {name: getattr(forged, name) for name in ("episode", "prompt", "model", "seed", "frames")}
    assert kinds["call"].where.endswith("field key")
    assert kinds["call"].expected == call_key(Call(**parts))
    assert kinds["call"].found == forged.key
    assert set(kinds) <= {"call", "pre-image"}


def test_an_answer_without_the_text_of_its_prompt_is_named(root: Path) -> None:
    record(root, rekeyed(root, prompt=facts.digest("lost")))
    finding = only(verify(root))
    assert finding.kind == "pre-image"
    assert finding.expected == f"the pre-image of prompt.v1 {facts.digest('lost')}"


def rekeyed(root: Path, **changes: Any) -> CallAnswered:
    """An answer like one in the log, with other parts and the key that they give."""
    _, call = first_of(root, CallAnswered)
    call = msgspec.structs.replace(call, **changes)
    parts = {name: getattr(call, name) for name in ("episode", "prompt", "model", "seed", "frames")}
    return msgspec.structs.replace(call, key=call_key(Call(**parts)))


def test_a_pre_image_that_does_not_give_its_digest_is_named(root: Path) -> None:
    record(root, facts.rendered(1))
    finding = only(verify(root))
    assert finding.kind == "pre-image"
    assert finding.expected == facts.digest("prompt", 1)


def test_a_rejected_reply_must_be_the_one_that_was_answered(root: Path) -> None:
    _, call = first_of(root, CallAnswered)
    fields: dict[str, Any] = {
        "key": call.key, "episode": call.episode, "step": call.step, "reason": "r", "run_id": "r"
    }  # fmt: skip
    record(root, AnswerRejected(**fields, recorded_at=facts.NOON, reply=call.reply))
    assert verify(root).findings == []
    record(root, AnswerRejected(**fields, recorded_at=facts.NOON, reply=call.reply + " "))
    assert only(verify(root)).kind == "rejection"


def test_an_annotation_that_cites_a_call_the_log_has_not_is_named(root: Path) -> None:
    record(root, facts.annotated(1))
    finding = only(verify(root))
    assert finding.kind == "call"
    assert finding.expected == f"the call {facts.digest('key', 1, 0)}"


CHANGES: dict[str, Callable[[Row], Row]] = {
    "content": lambda row: msgspec.structs.replace(row, content=flipped(row.content or "")),
    "role": lambda row: msgspec.structs.replace(row, role=flipped(row.role)),
    "timestamp": lambda row: msgspec.structs.replace(row, timestamp=float(pa.scalar(0.3, pa.float32()).as_py())),
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_row_of_a_shard_is_named_with_episode_and_field(root: Path, field: str) -> None:
    target = next(row for row in read_rows(root / SHARD, BOUNDS)[1] if row.style == "task_aug" and not row.timestamp)
    rows_changed(root, lambda row: CHANGES[field](row) if row == target else row, episode=1)
    finding = only(verify(root))
    assert finding.kind == "row"
    assert finding.where == f"{SHARD}, episode 1 (rows 24–48), task_aug at 0 s, field {field}"
    assert finding.expected == repr(getattr(target, field))
    assert finding.found == repr(getattr(CHANGES[field](target), field))


def test_one_frame_with_another_list_is_named(root: Path) -> None:
    def change(lists: list[Any]) -> None:
        lists[30] = [dict(row, content=flipped(row["content"])) if i == 2 else row for i, row in enumerate(lists[30])]

    column_changed(root, "language_persistent", change)
    finding = only(verify(root))
    assert "episode 1 (rows 24–48), frames 6–7" in finding.where
    assert finding.where.endswith("field content")


def test_a_changed_event_row_is_named(root: Path) -> None:
    def change(lists: list[Any]) -> None:
        (speech,) = lists[0]
        lists[0] = [dict(speech, tool_calls=[speech["tool_calls"][0].replace("say", "sax")])]

    column_changed(root, "language_events", change)
    finding = only(verify(root))
    assert finding.where == f"{SHARD}, episode 0 (rows 0–24), speech at 0 s, field tool_calls"


def test_a_row_that_is_missing_and_one_too_many_are_named(root: Path) -> None:
    start, stop = BOUNDS[0]
    first, *rows = read_rows(root / SHARD, BOUNDS)[0]
    extra = Row(role="user", style="task_aug" if first.style == "plan" else "plan", content="x", timestamp=0.5)
    written = [EpisodeRows(start=start, stop=stop, rows=(*rows, extra))]
    prepare_shard(root / SHARD, root / SHARD, written).commit()
    found = verify(root).findings
    assert sorted((finding.expected == "no such row", finding.found == "no such row") for finding in found) == [
        (False, True),
        (True, False),
    ]


def test_a_shard_that_cannot_be_read_is_one_finding(root: Path) -> None:
    (root / SHARD).write_bytes((root / SHARD).read_bytes()[:-100])
    assert (only(verify(root)).kind, only(verify(root)).where) == ("shard", SHARD)


def test_rows_of_other_tools_are_counted_and_their_change_is_named_by_the_shard(root: Path) -> None:
    foreign = Row(role="assistant", style="motion", content="slow", timestamp=0.0)
    start, stop = BOUNDS[0]
    rows = (*read_rows(root / SHARD, BOUNDS)[0], foreign)
    image = prepare_shard(root / SHARD, root / SHARD, [EpisodeRows(start=start, stop=stop, rows=rows)]).commit()
    assert image.episodes == 1
    finding = only(verify(root))
    assert finding.kind == "shard"
    assert "every row that the log has is in its place" in finding.where

    (root / FILE).unlink()
    note_as_written(root)
    report = verify(root)
    assert report.findings == []
    assert report.counts["rows of others"] == 1


def note_as_written(root: Path) -> ShardWritten:
    """Record that the first shard is as it should be, as a sync that finds it right does."""
    events = (decode_event(entry.body) for entry in entries(root))
    event = next(event for event in events if isinstance(event, ShardWritten) and event.path == SHARD)
    language = language_digest(root / SHARD, BOUNDS)
    assert language is not None
    event = msgspec.structs.replace(event, language=language, recorded_at=facts.at(10**8))
    record(root, event)
    return event


def test_rows_that_the_last_writing_left_as_they_stood_are_not_held_against_an_older_one(root: Path) -> None:
    rows_changed(root, lambda row: msgspec.structs.replace(row, content="by hand") if row.style == "memory" else row)
    (root / FILE).unlink()
    assert verify(root).findings
    written = note_as_written(root)
    assert verify(root).findings
    kept = tuple(msgspec.structs.replace(one, sources=None) if one.start == 0 else one for one in written.made_of)
    record(root, msgspec.structs.replace(written, made_of=kept, recorded_at=facts.at(10**8 + 1)))
    assert verify(root).findings == []


def test_a_changed_fold_of_the_cache_is_named_and_a_rebuilt_one_is_right(root: Path) -> None:
    with duckdb.connect(str(root / ".annotator" / "cache.duckdb")) as connection:
        connection.execute("UPDATE annotations SET module = 'plax' WHERE id = (SELECT min(id) FROM annotations)")
    report = verify(root, rebuild=True)
    assert only(report).kind == "cache"
    assert only(report).where.startswith("cache.duckdb, table annotations, ")


@pytest.mark.parametrize("table", ["events", "outcomes"])
def test_what_the_cache_has_lost_is_named(root: Path, table: str) -> None:
    with duckdb.connect(str(root / ".annotator" / "cache.duckdb")) as connection:
        connection.execute(f"DELETE FROM {table} WHERE key = (SELECT min(key) FROM {table} WHERE key IS NOT NULL)")
    found = verify(root).findings
    assert found
    assert {finding.kind for finding in found} == {"cache"}
    assert all(f"table {table}" in finding.where for finding in found)


def test_a_cache_that_is_behind_or_gone_is_no_fault(root: Path) -> None:
    write_segment(journal(root), [entry_of(facts.finished(1))])
    assert verify(root).findings == []
    assert "behind" in verify(root).notes[0]
    (root / ".annotator" / "cache.duckdb").unlink()
    assert verify(root).findings == []


def test_an_event_of_a_newer_release_is_noted_and_passed_over(root: Path) -> None:
    body = b'{"type":"robot_danced.v1","recorded_at":"2030-01-01T00:00:00Z","run_id":"r"}'
    write_segment(journal(root), [Entry(event_id(body), body)])
    report = verify(root)
    assert report.findings == []
    assert any("robot_danced" in note for note in report.notes)


def test_two_segments_that_share_events_are_one_log(root: Path) -> None:
    kept = entries(root)
    write_segment(journal(root), kept[:5])
    assert segment_name([entry.id for entry in kept[:5]]) in list_segments(journal(root))
    report = verify(root)
    assert report.findings == []
    assert report.counts["events"] == len(kept)
