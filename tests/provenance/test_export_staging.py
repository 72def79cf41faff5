"""The staging export: the rows that the shards were made of, one file for each episode and module."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from annotator.cli.main import main
from annotator.dataset.metadata import open_dataset
from annotator.errors import UsageError
from annotator.provenance.export_staging import MARK, export_staging, render_rows
from annotator_store.errors import JournalDamaged, StoreError
from annotator_store.log.log import Log
from annotator_store.log.segments import list_segments
from annotator_store.parquet.rewrite import read_rows
from annotator_store.rows import EVENTS, PERSISTENT, Row, column_for_style, order_key
from tests.datasets import Recording, shard_path, write_dataset
from tests.store import facts

SYNC = (
    "--vlm.backend", "signals", "--plan.n_task_rephrasings", "2", "--interjections.interjection_min_t", "0.1",
    "--plan.min_subtask_seconds", "0.2",
)  # fmt: skip
OTHER = ("--vlm.backend", "signals", "--plan.n_task_rephrasings", "0")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_dataset(tmp_path_factory.mktemp("export") / "tiny", [Recording(n) for n in (1, 2, 3)], cameras=())
    assert main(["sync", str(root), *SYNC]) == 0
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "tiny"))


def export(root: Path, staging: Path) -> dict[str, bytes]:
    files = export_staging(open_dataset(root), root / ".annotator", staging)
    found = {p.relative_to(staging).as_posix(): p.read_bytes() for p in sorted(staging.rglob("*.jsonl"))}
    assert len(found) == files
    return found


def rows_of(lines: bytes) -> list[Row]:
    read = [json.loads(line) for line in lines.splitlines()]
    for row in read:
        calls = row["tool_calls"]
        row["tool_calls"] = calls and [json.dumps(c, sort_keys=True, separators=(",", ":")) for c in calls]
    return [msgspec.convert(row, Row) for row in read]


def test_what_is_exported_is_what_the_shards_were_made_of(root: Path, tmp_path: Path) -> None:
    found = export(root, tmp_path / "out")
    assert sorted(found) == [
        f"episode_{episode:06d}/{module}.jsonl" for episode in range(3) for module in ("interjections", "plan")
    ]
    held = [*read_rows(root / shard_path(0), [(0, 24), (24, 48)]), *read_rows(root / shard_path(1), [(0, 24)])]
    for episode in range(3):
        rows = {module: rows_of(found[f"episode_{episode:06d}/{module}.jsonl"]) for module in ("plan", "interjections")}
        assert sorted((*rows["plan"], *rows["interjections"]), key=order_key) == sorted(held[episode], key=order_key)


def test_persistent_rows_are_all_in_plan_with_one_plan_at_an_interjection(root: Path, tmp_path: Path) -> None:
    found = export(root, tmp_path / "out")
    for episode in range(3):
        plan = rows_of(found[f"episode_{episode:06d}/plan.jsonl"])
        others = rows_of(found[f"episode_{episode:06d}/interjections.jsonl"])
        assert {column_for_style(row.style) for row in plan} == {PERSISTENT}
        assert {column_for_style(row.style) for row in others} == {EVENTS}
        times = [row.timestamp for row in plan if row.style == "plan"]
        asked = {row.timestamp for row in others if row.style == "interjection"}
        assert asked, "the recordings are to have interjections"
        assert asked <= set(times)
        assert len(times) == len(set(times))


def test_a_plan_that_only_an_interjection_wrote_is_in_plan_too(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "cups", [Recording(1)], cameras=())
    assert main(["sync", str(root), *SYNC, "--plan.emit_plan", "false"]) == 0
    lines = export(root, tmp_path / "out")["episode_000000/plan.jsonl"].splitlines()
    assert any(b'"style":"plan"' in line for line in lines)


def test_a_line_has_every_field_with_sorted_keys_and_rows_are_in_order() -> None:
    speech = Row(role="assistant", content=None, style=None, timestamp=0.5, tool_calls=('{"type":"function"}',))
    lines = render_rows([speech, Row(role="user", content="é\n", style="vqa", timestamp=0.1, camera="c")])
    assert lines.decode() == (
        '{"camera":"c","content":"é\\n","role":"user","style":"vqa","timestamp":0.1,"tool_calls":null}\n'
        '{"camera":null,"content":null,"role":"assistant","style":null,"timestamp":0.5,"tool_calls":[{"type":"function"}]}\n'
    )


def test_exporting_again_replaces_all_and_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = export(root, out)
    (out / "episode_000099").mkdir()
    (out / "episode_000099" / "plan.jsonl").write_bytes(b"{}\n")
    assert export(root, out) == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "tiny"]


@pytest.mark.parametrize("name", ["notes.txt", "data"])
def test_a_folder_that_holds_other_things_is_refused_and_left_alone(root: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    export(root, out)
    (out / name).write_bytes(b"mine")
    with pytest.raises(UsageError, match=name):
        export(root, out)
    (out / MARK).unlink()
    (out / name).unlink()
    with pytest.raises(UsageError, match="episode_000000"):
        export(root, out)
    assert (out / "episode_000000" / "plan.jsonl").is_file()


def test_an_empty_folder_is_taken_and_a_file_is_not(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert export(root, tmp_path / "out")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="a file"):
        export(root, tmp_path / "file")


def test_annotating_one_episode_anew_keeps_the_others_in_the_export(root: Path, tmp_path: Path) -> None:
    first = export(root, tmp_path / "out")
    assert main(["sync", str(root), *OTHER, "--only_episodes", "0"]) == 0
    second = export(root, tmp_path / "out")
    assert second["episode_000000/plan.jsonl"] != first["episode_000000/plan.jsonl"]
    assert {k: v for k, v in second.items() if "000000" not in k} == {
        k: v for k, v in first.items() if "000000" not in k
    }


def test_a_module_that_was_switched_off_later_is_still_exported(root: Path, tmp_path: Path) -> None:
    first = export(root, tmp_path / "out")
    assert main(["sync", str(root), *OTHER, "--interjections.enabled", "false"]) == 0
    second = export(root, tmp_path / "out")
    assert second.keys() == first.keys()
    assert second["episode_000001/interjections.jsonl"] == first["episode_000001/interjections.jsonl"]


def test_a_log_that_does_not_say_what_shards_were_made_of_gives_what_counts(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "cups", [Recording(n) for n in (1, 2)], cameras=())
    with Log.open(root / ".annotator") as log:
        old, new = facts.annotated(1, 1), facts.annotated(1, 2, rows=(facts.row("pour"),))
        log.record(facts.seen(0), facts.seen(1), facts.seen(7), facts.annotated(0), old, new).result()
    found = export(root, tmp_path / "out")
    assert sorted(found) == ["episode_000000/plan.jsonl", "episode_000001/plan.jsonl"]
    assert b"pour" in found["episode_000001/plan.jsonl"]


def test_a_damaged_log_is_refused_with_the_command_that_says_more(root: Path, tmp_path: Path) -> None:
    (segment,) = list_segments(root / ".annotator" / "journal")
    path = root / ".annotator" / "journal" / segment
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(JournalDamaged, match="annotator verify"):
        export(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_log_without_an_annotation_it_names_is_refused_and_the_earlier_export_stays(
    root: Path, tmp_path: Path
) -> None:
    first = export(root, tmp_path / "out")
    with Log.open(root / ".annotator") as log:
        (_, written), *_ = log.shards_written()
        gone = tuple(msgspec.structs.replace(o, sources={"plan": facts.digest("gone")}) for o in written.made_of)
        log.record(msgspec.structs.replace(written, made_of=gone, recorded_at=facts.at(10**8))).result()
    with pytest.raises(StoreError, match="not in the log"):
        export(root, tmp_path / "out")
    assert {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.jsonl")} == set(first)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "tiny"]


def test_the_command_asks_for_a_folder_and_a_log(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(root)]) == 2
    assert main(["export", str(root), "--staging", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err.endswith("\n")
    shutil.rmtree(root / ".annotator")
    assert main(["export", str(root), "--staging", str(tmp_path / "more")]) == 2
