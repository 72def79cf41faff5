"""A real server process, a copy of real footage, and a way to run the command as a person would."""

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from annotator.cli.main import main
from tests.vlm.conftest import RunningServer, running_server

REPO = Path(__file__).parents[2]
BANANA = REPO / "tests" / "data" / "cr5_banana"


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The base URL of an OpenAI-compatible server that runs as a process of its own."""
    command = [sys.executable, str(REPO / "tests/fakes/openai_server.py"), "--leave-with-parent", "--horizon-s", "34"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.fixture
def answered(server: str) -> Callable[[], int]:
    """Count the requests the server has answered so far."""
    return lambda: int(_control(server, "stats")["answered"])


def _control(server: str, what: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.removesuffix('/v1')}/control/{what}") as reply:
        return json.load(reply)


@pytest.fixture
def banana(tmp_path: Path) -> Path:
    """A copy of the real dataset: 12 episodes, AV1, one camera."""
    return Path(shutil.copytree(BANANA, tmp_path / "banana"))


@pytest.fixture
def annotator() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `annotator` as a process; fails the test on another exit status than expected."""

    def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "annotator", *(str(a) for a in arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPO)
        assert done.returncode == status, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def storyteller() -> Iterator[RunningServer]:
    """A server process that can be told what to answer; see tests/pipeline/story.py."""
    with running_server("--horizon-s", "34") as server:
        yield server


@pytest.fixture
def teller(storyteller: RunningServer) -> Iterator[RunningServer]:
    """The server, which forgets after each test what it was told and which faults were wanted."""
    storyteller.set_faults()
    yield storyteller
    storyteller.set_faults()


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `annotator` inside this process, which costs no start; gives back what it said on stderr."""

    def run(*arguments: object, status: int = 0) -> str:
        capsys.readouterr()
        done = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert done == status, said.err
        return said.err

    return run
