"""The whole command over real engines: servers that it starts, the same answers for vLLM in this process."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from annotator_store.log.query import run_query
from tests.vlm.real.conftest import CONTEXT, ON_A_CPU, server_options

BANANA = Path(__file__).parents[2] / "data" / "cr5_banana"
SMALL = (
    *("--plan.contact_sheet_frame_width", "64", "--vlm.max_new_tokens", "1024", "--vqa.vqa_emission_hz", "0.25"),
    *("--vocabulary.enabled", "false"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared") / "store"


@pytest.fixture(scope="module")
def first(tiny_model: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of real footage, annotated through a server that the run starts and stops."""
    root = _copy(tmp_path_factory.mktemp("first") / "cr5_banana")
    said = _sync(root, store, tiny_model, *_through_a_server())
    assert "server 0 is ready at http://127.0.0.1:" in said
    assert "2 annotated" in said
    return root


def test_a_run_through_its_own_server_completes_and_leaves_none_behind(first: Path, store: Path) -> None:
    steps = dict(_rows(store, "SELECT step, count(*) FROM calls WHERE outcome = 'answered' GROUP BY step"))
    assert {"plan.describe": 2, "plan.segment": 2, "plan.task_rephrasings": 2}.items() <= steps.items()
    assert any(step.startswith("vqa.") for step in steps)
    engines = _rows(store, "SELECT DISTINCT engine, starts_with(endpoint, 'http://127.0.0.1:') FROM calls")
    assert engines == [("serve", True)]
    assert _rows(store, "SELECT count(DISTINCT episode_index) FROM rows WHERE style = 'subtask'") == [(2,)]
    left = [p for p in psutil.process_iter(["cmdline"]) if str(store) in " ".join(p.info["cmdline"] or ())]
    assert left == []


def test_a_rerun_asks_nothing_and_starts_nothing(first: Path, store: Path, tiny_model: Path) -> None:
    before = _shard(first)
    said = _sync(first, store, tiny_model, *_through_a_server())
    assert _asked(said) == 0
    assert "engine          none needed" in said
    assert _shard(first) == before


def test_vllm_in_this_process_reuses_every_answer_for_another_copy_and_asks_for_what_is_new(
    first: Path, store: Path, tiny_model: Path, tmp_path: Path
) -> None:
    second = _copy(tmp_path / "again")
    loaded = ("--vlm.backend", "vllm", "--vlm.max_model_len", str(CONTEXT), "--vlm.gpu_memory_utilization", "0.3")
    loaded += ("--vlm.engine_kwargs", json.dumps(ON_A_CPU))
    assert _asked(_sync(second, store, tiny_model, *loaded)) == 0
    assert _shard(second) == _shard(first)
    assert _asked(_sync(second, store, tiny_model, *loaded, episodes="0-2")) > 0
    by_vllm = _rows(store, "SELECT episode_index, sum(attempts) FROM calls WHERE engine = 'vllm' GROUP BY ALL")
    assert [index for index, _ in by_vllm] == [2]


def _through_a_server() -> tuple[str, ...]:
    """The CPU build's `vllm serve` does not start; the module that it would run does."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "{model}", "--port", "{port}"]
    return "--vlm.backend", "serve", "--vlm.serve_command", shlex.join([*command, *server_options()])


def _copy(root: Path) -> Path:
    shutil.copytree(BANANA, root)
    return root


def _sync(root: Path, store: Path, model: Path, *arguments: str, episodes: str = "0-1") -> str:
    """Sync, and give what it said. Status 1 is for rejected answers: some of a model with random weights are."""
    command = [sys.executable, "-m", "annotator", "sync", str(root), "--store", str(store), *SMALL]
    asked = ("--only_episodes", episodes, "--vlm.model_id", str(model), *arguments)
    done = subprocess.run([*command, *asked], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stderr


def _asked(said: str) -> int:
    found = re.search(r"^calls +(\d+) answered", said, re.MULTILINE)
    assert found, said
    return int(found[1])


def _rows(store: Path, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in run_query(store, sql).to_pylist()]


def _shard(root: Path) -> bytes:
    (shard,) = (root / "data").glob("chunk-*/file-*.parquet")
    return shard.read_bytes()
