"""The test server as a real process."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

SERVER = Path(__file__).parents[1] / "fakes" / "openai_server.py"


class RunningServer:
    """A test server process, and its control endpoints."""

    def __init__(self, process: "subprocess.Popen[str]", api_base: str) -> None:
        self.process = process
        self.api_base = api_base

    def set_faults(self, *rules: dict[str, Any]) -> None:
        """Replace the fault plan, and forget what was counted so far."""
        self._call("/control/faults", json.dumps(rules).encode())

    def tell(self, *told: dict[str, Any]) -> None:
        """Replace what is answered: see `Told` in the server."""
        self._call("/control/answers", json.dumps(told).encode())

    def hold(self, count: int) -> None:
        """Let the server answer so many more requests and hold the rest; -1 lets all go, as `set_faults` does."""
        self._call("/control/hold", json.dumps(count).encode())

    @property
    def counts(self) -> dict[str, int]:
        """How many requests were received, answered, aborted."""
        return cast("dict[str, int]", self._call("/control/stats"))

    def bodies(self) -> list[dict[str, Any]]:
        """The latest requests' bodies, oldest first."""
        return [json.loads(request["body"]) for request in self._call("/control/requests")]

    def headers(self) -> dict[str, str]:
        """The latest request's headers, names in lower case."""
        return {name.lower(): value for name, value in self._call("/control/requests")[-1]["headers"].items()}

    def _call(self, path: str, body: bytes | None = None) -> Any:
        url = self.api_base.removesuffix("/v1") + path
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=10) as answer:
            return json.loads(answer.read() or b"null")


@contextmanager
def running_server(*arguments: str) -> Generator[RunningServer, None, None]:
    """Run `python tests/fakes/openai_server.py --port 0 <arguments>` and wait until it is ready."""
    command = [sys.executable, str(SERVER), "--port", "0", "--leave-with-parent", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield RunningServer(process, process.stdout.readline().strip())
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RunningServer]:
    """One server for all tests that need no options of their own."""
    with running_server() as server:
        yield server


@pytest.fixture
def server(shared_server: RunningServer) -> RunningServer:
    """The shared server, without faults, all counts at 0."""
    shared_server.set_faults()
    return shared_server
