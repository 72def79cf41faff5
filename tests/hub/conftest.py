"""A Hub of one's own as a process, a token that must never be seen, and `annotator` as a command that speaks to it."""

import contextlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow.parquet as pq
import pytest

from annotator.cli.main import main
from tests.vlm.conftest import RunningServer

REPO = Path(__file__).parents[2]
TOKEN = "hf_PlantedTokenThatNobodyMaySee0123"

T = TypeVar("T")


class Said(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


class RunningHub:
    """A stand-in for the Hub, what it was asked, and what it keeps."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.home = folder / "client"
        self.said: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to find it, and nothing of the machine the tests run on."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return kept | {
            "HOME": str(self.home), "HF_HOME": str(self.home), "HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": TOKEN, "NO_COLOR": "1",
        }  # fmt: skip

    def run(self, *arguments: object, status: int = 0, **environment: str) -> Said:
        """Run `annotator` inside this process, which costs no start; fails on another exit status than expected.

        The Hub's client reads its settings when it is loaded, so they are changed where it keeps them.
        """
        words, out, err = [str(argument) for argument in arguments], io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            done = self.call(lambda: main(words), **environment)
        self.said += [out.getvalue(), err.getvalue(), " ".join(words)]
        assert done == status, err.getvalue()
        return Said(out.getvalue(), err.getvalue())

    def call(self, what: Callable[[], T], **environment: str) -> T:
        """Do something inside this process as a client of this Hub."""
        from huggingface_hub import constants

        self.home.mkdir(exist_ok=True)
        env = self.environment | environment
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            for name in os.environ:
                if name.startswith("HF_"):
                    patch.delenv(name)
            for name in ("HF_TOKEN", "HOME", "NO_COLOR", *environment):
                patch.setenv(name, env[name])
            patch.setattr(constants, "ENDPOINT", env["HF_ENDPOINT"])
            template = f"{env['HF_ENDPOINT']}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            patch.setattr(constants, "HF_HOME", env["HF_HOME"])
            patch.setattr(constants, "HF_TOKEN_PATH", f"{env['HF_HOME']}/token")
            patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
            warnings.simplefilter("ignore", DeprecationWarning)  # the client's use of its own HTTP library
            return what()

    def execute(self, command: list[str], *, status: int = 0, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a command as a client of this Hub."""
        self.home.mkdir(exist_ok=True)
        env = {name: value for name, value in (self.environment | environment).items() if value}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.home, env=env)
        self.said += [done.stdout, done.stderr, " ".join(command)]
        assert done.returncode == status, done.stderr
        return done

    def refuse(
        self, path: str, refused_with: int, message: str = "refused", times: int = 1, *, answer: str | None = None,
        after: bool = False,
    ) -> None:  # fmt: skip
        """Answer the next requests that match `METHOD path` with an error, or this body; `after` they were done."""
        rules = [
            {"path": path, "status": refused_with, "message": message, "times": times, "answer": answer, "after": after}
        ]
        self.control("refuse", json.dumps(rules).encode())

    def kill(self, job: str) -> None:
        """Kill a job as a machine dies: with all it started, and nothing said."""
        self.control(f"kill/{job}", b"")

    def control(self, what: str, body: bytes) -> None:
        """Ask the stand-in itself."""
        urllib.request.urlopen(f"{self.url}/control/{what}", data=body, timeout=10).close()

    def requests(self, pattern: str = "") -> list[dict[str, Any]]:
        """What it was asked so far, as `METHOD path` matches; with time, headers and body."""
        lines = (self.folder / "requests.jsonl").read_text().splitlines()
        found: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [one for one in found if re.search(pattern, f"{one['method']} {one['path']}")]

    def get(self, path: str) -> Any:
        """Ask the Hub's own API, as somebody with a token."""
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            content = answer.read()
        return json.loads(content) if answer.headers.get_content_type() == "application/json" else content

    def tree(self, repo_id: str, revision: str = "main") -> dict[str, str]:
        """The files of a dataset there: path → what the Hub calls their content."""
        listed = self.get(f"/api/datasets/{repo_id}/tree/{revision}")
        return {one["path"]: one.get("lfs", one)["oid"] for one in listed}

    def tags(self, repo_id: str) -> dict[str, str]:
        """The tags of a dataset there: name → commit."""
        return {one["name"]: one["targetCommit"] for one in self.get(f"/api/datasets/{repo_id}/refs")["tags"]}

    def head(self, repo_id: str) -> str:
        """The newest commit of a dataset there."""
        return str(self.get(f"/api/datasets/{repo_id}")["sha"])

    def segments(self, bucket_id: str) -> list[str]:
        """The paths of the segments in a bucket."""
        return [one["path"] for one in self.get(f"/api/buckets/{bucket_id}/tree/") if "/journal/" in f"/{one['path']}"]

    def calls(self, bucket_id: str, folder: str) -> set[str]:
        """The calls whose outcome lies in the segments of a bucket's folder, by key."""
        keys: set[str] = set()
        for path in self.segments(bucket_id):
            if path.startswith(f"{folder}/"):
                content = io.BytesIO(self.get(f"/buckets/{bucket_id}/resolve/{path}"))
                for one in pq.read_table(content, columns=["type", "body"]).to_pylist():
                    if one["type"].startswith(("call_answered", "answer_rejected")):
                        keys.add(json.loads(one["body"])["key"])
        return keys


@contextmanager
def running_hub(folder: Path) -> Generator[RunningHub, None, None]:
    """Run the stand-in until the block is left."""
    folder.mkdir(parents=True)
    command = [sys.executable, str(Path(__file__).parents[1] / "fakes" / "hub_server.py"), "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield RunningHub(process.stdout.readline().strip(), folder)
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def shared_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """One Hub for all tests that name what they keep there after themselves."""
    with running_hub(tmp_path_factory.mktemp("hub") / "hub") as running:
        yield running


def reachable(server: RunningServer) -> str:
    """The address of a model's server as a job is told it: one that is not refused for being this machine's own."""
    return server.api_base.replace("127.0.0.1", "0.0.0.0")


_numbers = itertools.count()


class Published(NamedTuple):
    """A dataset on the Hub, and the folder it was pushed from."""

    repo_id: str
    root: Path


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A push that is tried again is tried at once."""
    monkeypatch.setattr("annotator.hub.sync.PUSH_AGAIN_AFTER_S", (0.0, 0.0, 0.0))


@pytest.fixture
def watched_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    """`job wait` looks ten times a second."""
    from annotator.jobs import monitor as watch

    monkeypatch.setattr(watch.wait, "__kwdefaults__", {"every_s": 0.1, "give_up_after_s": watch.GIVE_UP_AFTER_S})


@pytest.fixture
def hub(shared_hub: RunningHub) -> Iterator[RunningHub]:
    """The shared Hub, which refuses nothing."""
    yield shared_hub
    shared_hub.control("refuse", b"[]")


@pytest.fixture
def published(hub: RunningHub, make_dataset: Callable[..., Path], tmp_path: Path) -> Published:
    """A tiny dataset of its own name on the Hub."""
    root, repo_id = make_dataset(tmp_path / "original"), f"ada/tiny-{next(_numbers)}"
    hub.run("push", root, "--repo_id", repo_id)
    return Published(repo_id, root)
