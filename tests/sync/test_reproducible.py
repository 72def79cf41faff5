"""One log and one dataset give the same bytes, whatever differs between two machines; and `verify` finds them right."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sync.conftest import BANANA, REPO

SHARD = "data/chunk-000/file-000.parquet"
LOCK = "meta/annotations.lock.json"
SYNC = ("--vlm.backend", "signals")
HERE = {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C"}
THERE = {"PYTHONHASHSEED": "4711", "TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}


def run(environment: dict[str, str], folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder of its own, as another machine would."""
    command = [sys.executable, "-m", "annotator.cli", *map(str, arguments)]
    environment = {"PYTHONPATH": str(REPO), "PATH": os.environ["PATH"], "NO_COLOR": "1"} | environment
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr + done.stdout
    return done


def staged(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real dataset, annotated on one machine, and exported beside."""
    folder = tmp_path_factory.mktemp("here")
    shutil.copytree(BANANA, folder / "banana")
    run(HERE, folder, "sync", "banana", *SYNC)
    run(HERE, folder, "export", "banana", "--staging", "staging")
    return folder


def moved_log(here: Path, folder: Path) -> Path:
    """Another copy of the dataset as it was before, with the log alone, and no cache."""
    root = Path(shutil.copytree(BANANA, folder / "some where" / "cup-data"))
    shutil.copytree(here / "banana" / ".annotator" / "journal", root / ".annotator" / "journal")
    return root


def test_another_machine_makes_the_same_columns_export_and_lock_of_the_same_log(here: Path, tmp_path: Path) -> None:
    root = moved_log(here, tmp_path)
    threads = ("--executor.decode_threads", "1", "--executor.write_threads", "1", "--executor.episode_parallelism", "3")
    run(THERE, tmp_path, "sync", root, *SYNC, "--offline", *threads)
    run(THERE, tmp_path, "export", root, "--staging", "staging")
    assert (root / SHARD).read_bytes() == (here / "banana" / SHARD).read_bytes()
    assert (root / LOCK).read_bytes() == (here / "banana" / LOCK).read_bytes()
    assert staged(tmp_path / "staging") == staged(here / "staging")
    assert len(staged(tmp_path / "staging")) > 12
    assert run(THERE, tmp_path, "verify", root, "--rebuild").stderr.endswith("nothing is wrong\n")


def test_deleting_the_cache_and_running_again_changes_no_byte(here: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(here / "banana", tmp_path / "banana"))
    before = {name: (root / name).read_bytes() for name in (SHARD, LOCK, "README.md", "meta/info.json")}
    stamps = {name: (root / name).stat().st_mtime_ns for name in before}
    (root / ".annotator" / "cache.duckdb").unlink()
    run(THERE, tmp_path, "sync", root, *SYNC, "--offline")
    assert {name: (root / name).read_bytes() for name in before} == before
    assert {name: (root / name).stat().st_mtime_ns for name in before} == stamps
    run(HERE, tmp_path, "export", root, "--staging", "staging")
    assert staged(tmp_path / "staging") == staged(here / "staging")


def test_two_runs_without_a_common_log_agree_as_well_where_the_engine_does(here: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(BANANA, tmp_path / "banana"))
    run(THERE, tmp_path, "sync", root, *SYNC, "--executor.episode_parallelism", "2")
    assert (root / LOCK).read_bytes() == (here / "banana" / LOCK).read_bytes()
    assert (root / SHARD).read_bytes() == (here / "banana" / SHARD).read_bytes()


def test_partial_runs_pin_the_same_lock_as_one_whole_run(here: Path, tmp_path: Path) -> None:
    root = moved_log(here, tmp_path)
    for episodes in ("0-4", "8-11", "5-7"):
        run(HERE, tmp_path, "sync", root, *SYNC, "--offline", "--only_episodes", episodes)
    assert (root / SHARD).read_bytes() == (here / "banana" / SHARD).read_bytes()
    assert (root / LOCK).read_bytes() == (here / "banana" / LOCK).read_bytes()
    assert run(HERE, tmp_path, "verify", root).stderr.endswith("nothing is wrong\n")
