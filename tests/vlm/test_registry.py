"""Which engine a run gets, and what it says of it: why that one, what it lacks, what of the settings goes unused."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from annotator.config.settings import VlmSettings
from annotator.errors import NoEngine
from annotator.vlm import registry as choose
from annotator.vlm.registry import choose_engine
from annotator.vlm.unused import USED_BY, unused
from tests.vlm.conftest import SERVER, RunningServer

NOWHERE = "http://127.0.0.1:1/v1"
COMMAND = f"{sys.executable} {SERVER} --port {{port}}"


@pytest.fixture(autouse=True)
def nothing_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server at the usual place, no GPU."""
    monkeypatch.setattr(choose, "DEFAULT_API_BASE", NOWHERE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def said(vlm: VlmSettings, logs: Path, *, offline: bool = False) -> list[str]:
    """Open an engine and close it; what was said until then."""
    notes: list[str] = []

    async def scenario() -> None:
        await (await choose_engine(vlm, notes.append, offline=offline, logs=logs)).aclose()

    asyncio.run(scenario())
    return notes


def test_auto_says_why_it_asks_a_server(server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = said(VlmSettings(api_base=server.api_base, model_id="test-model"), tmp_path)
    assert named[0] == "auto: openai, since --vlm.api_base names where to ask"
    monkeypatch.setattr(choose, "DEFAULT_API_BASE", server.api_base)
    assert said(VlmSettings(model_id="test-model"), tmp_path) == [
        f"auto: openai, since a server answers at {server.api_base}",
        f"engine: openai at {server.api_base}, model test-model",
    ]
    chosen = VlmSettings(backend="openai", model_id="test-model")
    assert said(chosen, tmp_path) == [f"engine: openai at {server.api_base}, model test-model"]


def test_auto_says_why_it_starts_servers(tmp_path: Path) -> None:
    notes = said(VlmSettings(model_id="test-model", serve_command=COMMAND), tmp_path)
    assert notes[0] == f"auto: serve, since no server answers at {NOWHERE}, and --vlm.serve_command starts one"


@pytest.mark.parametrize(
    ("settings", "gpus", "missing"),
    [
        ({}, "", f"no server answers at {NOWHERE}, no GPU, no command vllm"),
        ({}, "0", f"no server answers at {NOWHERE}, no command vllm"),
        ({"auto_serve": False}, "", f"no server answers at {NOWHERE}, no GPU, no vLLM"),
    ],
)
def test_where_auto_finds_nothing_it_says_what_was_looked_for(
    settings: dict[str, Any], gpus: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))  # programs beside it count as found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(NoEngine) as caught:
        said(VlmSettings(**settings), tmp_path)
    assert caught.value.got == missing
    assert "--vlm.backend signals" in caught.value.hint


CHANGED: dict[str, Any] = {
    "api_base": NOWHERE,
    "api_key_env": "PATH",
    "request_timeout_s": 7.0,
    "request_max_retries": 7,
    "client_concurrency": 7,
    "parallel_servers": 1,
    "num_gpus": 7,
    "serve_command": COMMAND,
    "serve_ready_timeout_s": 60.0,
    "tensor_parallel_size": 7,
    "max_model_len": 7,
    "gpu_memory_utilization": 0.7,
    "engine_kwargs": {"max_num_seqs": 7},
}


@pytest.mark.parametrize("name", USED_BY)
def test_a_setting_that_the_backend_does_not_use_is_named_and_a_default_is_not(name: str, tmp_path: Path) -> None:
    vlm = VlmSettings(**{name: CHANGED[name]})
    backends = ("openai", "serve", "vllm", "transformers", "signals")
    noted = {backend: list(unused(vlm, backend)) for backend in backends}
    assert {backend for backend in backends if not noted[backend]} == USED_BY[name]
    assert noted["signals"] == [f"note: --vlm.{name} is not used by signals"]
    assert not list(unused(VlmSettings(), "signals"))


def test_what_goes_unused_is_said_at_the_start_and_not_where_the_log_alone_answers(tmp_path: Path) -> None:
    vlm = VlmSettings(backend="signals", num_gpus=4)
    assert said(vlm, tmp_path)[0] == "note: --vlm.num_gpus is not used by signals"
    assert said(vlm, tmp_path, offline=True) == []


@pytest.mark.parametrize(
    ("gpus", "settings", "noted"),
    [
        ("0,1,2,3", {}, ["note: vllm uses 1 of 4 GPUs, the others stay idle; --vlm.backend serve uses them all"]),
        ("0", {}, []),
        ("0,1", {"tensor_parallel_size": 2}, []),
        ("0,1", {"engine_kwargs": {"data_parallel_size": 2}}, []),
    ],
)
def test_vllm_says_which_gpus_it_leaves_idle(
    gpus: str, settings: dict[str, Any], noted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vLLM that is found here breaks when it is imported."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('broken')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    for name in ("VLLM_WORKER_MULTIPROC_METHOD", "VLLM_LOGGING_STREAM", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")  # what is set before vLLM is imported goes again with the test
    notes: list[str] = []
    with pytest.raises(NoEngine, match="vLLM does not start"):
        asyncio.run(choose_engine(VlmSettings(backend="vllm", **settings), notes.append, offline=False))
    assert [note for note in notes if note.startswith("note:")] == noted
