"""A separate output: a dataset of its own that shares what is unchanged, and a source that nobody touched."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from annotator.cli.main import main
from annotator.dataset import linked_copy as output_module
from annotator.dataset.linked_copy import link_dataset, refuse_overlap
from annotator.errors import UsageError
from tests.datasets import WRIST, edit_parquet, film_path, set_column, shard_path, snapshot

MakeDataset = Callable[..., Path]
SYNC = ("--vlm.backend", "signals", "--plan.n_task_rephrasings", "0")


def sync(root: Path, out: Path, *more: str) -> int:
    return main(["sync", str(root), "--output", str(out), *SYNC, *more])


@pytest.fixture
def source(make_dataset: MakeDataset, tmp_path: Path) -> Path:
    """A tiny dataset, written an hour ago."""
    root = make_dataset(tmp_path)
    for path in root.rglob("*"):
        if path.is_file():
            stamp = path.stat().st_mtime_ns - 3_600_000_000_000
            os.utime(path, ns=(stamp, stamp))
    return root


def links(root: Path, out: Path) -> set[str]:
    """The files that the output shares with the source."""
    shared = (p.relative_to(out) for p in out.rglob("*") if p.is_file())
    return {p.as_posix() for p in shared if (root / p).exists() and (root / p).samefile(out / p)}


def test_the_output_is_annotated_and_the_source_stays_byte_for_byte(source: Path, tmp_path: Path) -> None:
    before = snapshot(source)
    assert sync(source, tmp_path / "out") == 0
    assert snapshot(source) == before
    assert not (source / ".annotator").exists()
    for shard in (shard_path(0), shard_path(1)):
        table = pq.read_table(tmp_path / "out" / shard)
        assert all(table["language_persistent"].to_pylist())
        plain = table.drop_columns(["language_persistent", "language_events"])
        assert plain.equals(pq.read_table(source / shard))
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert "language_events" in info["features"]


def test_what_is_unchanged_is_linked_and_what_changes_is_not(source: Path, tmp_path: Path) -> None:
    assert sync(source, tmp_path / "out") == 0
    assert set(snapshot(tmp_path / "out")) == set(snapshot(source)) | {"README.md", "meta/annotations.lock.json"}
    changed = {shard_path(0), shard_path(1), "meta/info.json"}
    assert links(source, tmp_path / "out") == set(snapshot(source)) - changed
    assert film_path(0) in links(source, tmp_path / "out")


def test_what_a_run_writes_is_begun_as_a_copy_and_the_source_keeps_its_own(source: Path, tmp_path: Path) -> None:
    (source / "README.md").write_text("My own words.\n")
    assert sync(source, tmp_path / "out") == 0
    assert (source / "README.md").read_text() == "My own words.\n"
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("My own words.\n")
    assert "annotations.lock.json" in card


def test_the_log_lies_in_the_output_and_no_other_hidden_folder_is_taken_along(source: Path, tmp_path: Path) -> None:
    for name in (".git", ".cache", ".annotator"):
        (source / name).mkdir()
        (source / name / "own").write_text("x")
    assert sync(source, tmp_path / "out") == 0
    assert (tmp_path / "out/.annotator/journal").is_dir()
    assert not list((tmp_path / "out").rglob("own"))
    assert [p.name for p in (source / ".annotator").iterdir()] == ["own"]


def test_a_second_run_writes_nothing_on_either_side(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert sync(source, out) == 0
    before, kept = snapshot(source), snapshot(out)
    capsys.readouterr()
    assert sync(source, out) == 0
    assert snapshot(source) == before
    assert snapshot(out) == kept
    said = capsys.readouterr().err
    assert "3 up to date" in said
    assert "shards written  0" in said


def test_a_file_that_the_dataset_has_replaced_is_linked_anew(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert sync(source, out) == 0
    tasks = source / "meta/tasks.parquet"
    tasks.unlink()  # written anew, as tools do, not changed in place
    pq.write_table(pq.read_table(out / "meta/tasks.parquet"), tasks)
    edit_parquet(tasks, lambda t: set_column(t, "task", ["wave"]))
    assert sync(source, out) == 0
    assert (out / "meta/tasks.parquet").samefile(tasks)


def test_a_shard_that_the_dataset_has_replaced_is_annotated_anew(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert sync(source, out) == 0
    edit_parquet(source / shard_path(1), lambda t: set_column(t, "action", [[9.0, 9.0, 9.0]] * 24))
    assert sync(source, out) == 0
    table = pq.read_table(out / shard_path(1))
    assert table["action"].to_pylist() == [[9.0, 9.0, 9.0]] * 24
    assert all(table["language_persistent"].to_pylist())


def test_some_episodes_are_annotated_and_the_others_are_there_with_empty_rows(source: Path, tmp_path: Path) -> None:
    assert sync(source, tmp_path / "out", "--only_episodes", "2") == 0
    first, second = (pq.read_table(tmp_path / "out" / shard_path(i))["language_persistent"].to_pylist() for i in (0, 1))
    assert not any(first)
    assert all(second)
    assert len(first) == 48


def test_a_linked_folder_of_the_dataset_is_followed(source: Path, tmp_path: Path) -> None:
    (source / "videos").rename(tmp_path / "films elsewhere")
    (source / "videos").symlink_to(tmp_path / "films elsewhere")
    (source / "meta" / "up").symlink_to(source)  # a loop, which is not followed
    assert sync(source, tmp_path / "out") == 0
    assert (tmp_path / "out" / film_path(0)).samefile(source / film_path(0))
    assert not (tmp_path / "out/meta/up").exists()


def test_where_no_hard_link_can_be_made_a_symbolic_one_is(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(output_module.os, "link", no_link)
    link_dataset(source, tmp_path / "out", {shard_path(0), shard_path(1)})
    film = tmp_path / "out" / film_path(0)
    assert film.is_symlink()
    assert film.samefile(source / film_path(0))
    link_dataset(source, tmp_path / "out", {shard_path(0), shard_path(1)})
    assert film.is_symlink()


@pytest.mark.parametrize("where", ["tiny", "tiny/out", "tiny/data/out", ".", "alias", "alias/out", "tiny/../tiny/out"])
def test_an_output_that_overlaps_the_dataset_is_refused_and_nothing_is_made(
    source: Path, tmp_path: Path, where: str
) -> None:
    (tmp_path / "alias").symlink_to(source)
    before = snapshot(source)
    with pytest.raises(UsageError, match=r"overlaps the dataset – --output(.|\n)*beside"):
        refuse_overlap(source, tmp_path / where)
    assert snapshot(source) == before
    assert not (source / "out").exists()


def test_an_overlapping_output_is_a_usage_error_of_the_command(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(source)
    assert sync(source, source / "out") == 2
    assert "overlaps the dataset" in capsys.readouterr().err
    assert snapshot(source) == before


def test_an_output_that_cannot_be_written_is_a_usage_error(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="the output cannot be written"):
        link_dataset(source, tmp_path / "file" / "out", set())


def test_every_camera_comes_along(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(tmp_path, name="two", cameras=("observation.images.top", WRIST))
    link_dataset(root, tmp_path / "out", {shard_path(0), shard_path(1)})
    assert film_path(1, WRIST) in links(root, tmp_path / "out")
