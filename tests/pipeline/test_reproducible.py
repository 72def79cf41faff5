"""One log and one dataset give the same bytes, whatever differs between two machines; and `verify` finds them right."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from annotator_store.rows import EVENTS, PERSISTENT
from tests.datasets import edit_parquet, set_column, shard_path
from tests.pipeline.conftest import BANANA, REPO

LOCK = "meta/annotations.lock.json"
WORDS = "meta/canonical_vocabulary.json"
HERE = {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
THERE = {"PYTHONHASHSEED": "4711", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "LANG": "tr_TR.ISO-8859-9"} | dict.fromkeys(
    ("PYTHONUTF8", "PYTHONCOERCECLOCALE"), "0"
)
"""Where files are not read as UTF-8 unless told to be."""
THREADS = ("--executor.decode_threads", "1", "--executor.write_threads", "1", "--executor.episode_parallelism", "3")
ALONE = """
import importlib.abc, socket, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"openai", "httpx2", "vllm", "torch", "transformers", "PIL"}:
            raise ImportError(f"{name} is not installed here")
        if name in {"annotator.vlm.scripted.engine", "annotator.vlm.signals.engine"}:
            raise ImportError(f"{name} must not be asked")

def refuse(*_arguments):
    raise OSError("there is no network here")

sys.meta_path.insert(0, Refuse())
socket.socket.connect = refuse
from annotator.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
"""No engine, no pictures and no network."""


class Made(msgspec.Struct, frozen=True):
    """A dataset as one machine annotated it, with its export beside it, and how to begin anew elsewhere."""

    root: Path
    staging: Path
    flags: tuple[str, ...]
    begin: Callable[[Path], Path]
    parts: tuple[str, ...]

    @property
    def shards(self) -> list[str]:
        """Its shards, relative to the root."""
        return [path.relative_to(self.root).as_posix() for path in sorted(self.root.glob("data/*/*.parquet"))]

    def same_in(self, root: Path) -> None:
        """Fail unless shards, lock, card and `meta/` have the same bytes in `root`."""
        meta = [f"meta/{path.name}" for path in (self.root / "meta").iterdir() if path.is_file()]
        for name in (*self.shards, *meta, "README.md"):
            assert (root / name).read_bytes() == (self.root / name).read_bytes(), name


def run(environment: dict[str, str], folder: Path, *arguments: object, alone: bool = False) -> str:
    """Run the command in a folder of its own, as another machine would; gives what it said on stderr."""
    command = [sys.executable, *(["-c", ALONE] if alone else ["-m", "tests.pipeline.told"]), *map(str, arguments)]
    environment = {"PYTHONPATH": str(REPO), "PATH": os.environ["PATH"], "NO_COLOR": "1"} | environment
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stderr


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def twelve(root: Path) -> Path:
    """Copy the real dataset of twelve episodes."""
    return Path(shutil.copytree(BANANA, root))


def six(root: Path) -> Path:
    """Copy the other real dataset, its six episodes parted into two shards, so that threads have something to do."""
    shutil.copytree(BANANA.parent / "so101_static", root)
    whole = pq.ParquetFile(root / shard_path(0)).read()
    for file, last in enumerate((pc.field("episode_index") < 4, pc.field("episode_index") >= 4)):
        pq.write_table(whole.filter(last), root / shard_path(file))
    episodes = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    edit_parquet(episodes, lambda table: set_column(table, "data/file_index", [0, 0, 0, 0, 1, 1]))
    return root


@pytest.fixture(scope="module", params=["signals", "scripted"])
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A real dataset, annotated on one machine: by signals, and by scripted answers to all that modules may ask."""
    folder = tmp_path_factory.mktemp("here")
    begin, parts = (twelve, ("8-11", "0-7")) if request.param == "signals" else (six, ("4,5", "0-3"))
    made = Made(folder / "cups", folder / "staging", ("--vlm.backend", request.param), begin, parts)
    begin(made.root)
    run(HERE, folder, "sync", made.root, *made.flags)
    run(HERE, folder, "export", made.root, "--staging", made.staging)
    return made


def moved_log(here: Made, folder: Path) -> Path:
    """Another copy of the dataset as it was before, with the log alone, and no cache."""
    root = here.begin(folder / "some where" / "cups of tea")
    shutil.copytree(here.root / ".annotator" / "journal", root / ".annotator" / "journal")
    return root


def test_another_machine_makes_the_same_columns_export_and_lock_of_the_same_log(here: Made, tmp_path: Path) -> None:
    root = moved_log(here, tmp_path)
    run(THERE, tmp_path, "sync", root, *here.flags, "--offline", *THREADS)
    run(THERE, tmp_path, "export", root, "--staging", "staging")
    here.same_in(root)
    assert files(tmp_path / "staging") == files(here.staging)
    assert len(files(tmp_path / "staging")) > 12
    assert run(THERE, tmp_path, "verify", root, "--rebuild").endswith("nothing is wrong\n")


def test_what_is_compared_here_has_every_style(here: Made) -> None:
    """Else the same bytes elsewhere would say little."""
    styles: set[Any] = set()
    for shard in here.shards:
        for column in (PERSISTENT, EVENTS):
            lists = pq.ParquetFile(here.root / shard).read([column])[column].combine_chunks()
            styles |= set(lists.flatten().field("style").to_pylist())
    everything = {"subtask", "plan", "memory", "task_aug", "interjection", "vqa", None}
    signals = here.flags[-1] == "signals"  # it sees no pixels
    assert styles == (everything - {"vqa"} if signals else everything)
    assert (here.root / WORDS).exists() is not signals


def test_deleting_the_cache_and_running_again_changes_no_byte(here: Made, tmp_path: Path) -> None:
    root = Path(shutil.copytree(here.root, tmp_path / "cups"))
    stamps = {name: (root / name).stat().st_mtime_ns for name in (*here.shards, LOCK, "README.md", "meta/info.json")}
    (root / ".annotator" / "cache.duckdb").unlink()
    run(THERE, tmp_path, "sync", root, *here.flags, "--offline")
    here.same_in(root)
    assert {name: (root / name).stat().st_mtime_ns for name in stamps} == stamps
    run(HERE, tmp_path, "export", root, "--staging", "staging")
    assert files(tmp_path / "staging") == files(here.staging)


def test_the_log_alone_rebuilds_what_was_stripped_with_no_engine_and_no_network(here: Made, tmp_path: Path) -> None:
    root = Path(shutil.copytree(here.root, tmp_path / "cups"))
    for shard in here.shards:
        edit_parquet(root / shard, lambda table: table.drop_columns([PERSISTENT, EVENTS]))
    for name in (LOCK, WORDS, "README.md", ".annotator/cache.duckdb"):
        (root / name).unlink(missing_ok=True)
    said = run(THERE, tmp_path, "sync", root, *here.flags, "--offline", *THREADS, alone=True)
    assert "engine          none needed" in said
    for shard in here.shards:
        assert language(root / shard).equals(language(here.root / shard))
    for name in (LOCK, "README.md", *([WORDS] if here.flags[-1] == "scripted" else [])):
        assert (root / name).read_bytes() == (here.root / name).read_bytes(), name


def language(shard: Path) -> pa.Table:
    return pq.ParquetFile(shard).read([PERSISTENT, EVENTS]).combine_chunks()


def test_two_runs_without_a_common_log_agree_as_well_where_the_engine_does(here: Made, tmp_path: Path) -> None:
    root = here.begin(tmp_path / "cups")
    run(THERE, tmp_path, "sync", root, *here.flags, "--executor.episode_parallelism", "2")
    here.same_in(root)


def test_partial_runs_pin_the_same_lock_as_one_whole_run(here: Made, tmp_path: Path) -> None:
    root = moved_log(here, tmp_path)
    for episodes in here.parts:
        run(HERE, tmp_path, "sync", root, *here.flags, "--offline", "--only_episodes", episodes)
    here.same_in(root)
    assert run(HERE, tmp_path, "verify", root).endswith("nothing is wrong\n")
