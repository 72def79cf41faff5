"""Real engines over a tiny model. Collected where torch is installed: see tests/vlm/real_engines.py."""

import asyncio
import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vlm.tiny_model import make_tiny_model

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py"]

CONTEXT = 8192
SERVER = {
    "dtype": "float32",
    "max-model-len": str(CONTEXT),
    "max-num-seqs": "16",
    "max-num-batched-tokens": str(CONTEXT),
    "limit-mm-per-prompt": json.dumps({"image": 16, "video": 2}),
    "structured-outputs-config": json.dumps({"backend": "guidance", "disable_any_whitespace": True}),
}
"""What a server needs to be told, for one that runs on a CPU: there, prefill in chunks breaks sampling with a seed."""


ON_A_CPU = {
    "dtype": "float32",
    "enforce_eager": True,
    "enable_chunked_prefill": False,
    "max_num_batched_tokens": CONTEXT,
    "max_num_seqs": 16,
    "limit_mm_per_prompt": {"image": 16, "video": 2},
}
"""The same for vLLM in this process."""


class KeptEngine:
    """An engine that many tests share: closing it closes nothing."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.name, self.looks, self.reads_evidence = engine.name, engine.looks, engine.reads_evidence
        self.generate = engine.generate

    async def aclose(self) -> None:
        """Left to whoever started it."""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, made afresh."""
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="class")
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for all tests of a class, for engines that live on one."""
    with asyncio.Runner() as runner:
        yield runner


def server_options() -> list[str]:
    """The options of a vLLM server on a CPU, as words of its command line."""
    options = [word for name, value in SERVER.items() for word in (f"--{name}", value)]
    return [*options, "--host", "127.0.0.1", "--enforce-eager", "--no-enable-chunked-prefill"]


@contextlib.contextmanager
def vllm_server(model: Path, log: Path) -> Generator[str]:
    """Run vLLM's server as a process of its own until it is healthy, and give its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", port]
    flags = ["--served-model-name", "tiny", "--trust-request-mm-kwargs"]
    with log.open("wb") as out:
        process = subprocess.Popen([*command, *flags, *server_options()], stdout=out, stderr=out)
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + 280
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(url, timeout=2).close()
            return
        time.sleep(1)
    raise AssertionError(log.read_text()[-3000:])
