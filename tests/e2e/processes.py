"""A model server and `annotator`, each as a process of its own: to be watched, stopped and killed."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from annotator.dataset.linked_copy import OURS
from annotator_store.log.query import run_query

REPO = Path(__file__).parents[2]
BANANA = REPO / "tests" / "data" / "cr5_banana"
SERVER = REPO / "tests" / "fakes" / "openai_server.py"
EPISODES = "0-2"
PATIENCE_S = 120.0
POLL_S = 0.002
QUICKER = (
    *("--vlm.backend", "openai", "--vlm.model_id", "test-model", "--only_episodes", EPISODES),
    *("--plan.frames_per_second", "0.5", "--plan.contact_sheet_frame_width", "64", "--vlm.client_concurrency", "2"),
)
"""Three real episodes through the whole path, with few and small pictures: what is decoded is not in question here."""


class Answer(msgspec.Struct, frozen=True):
    """One line of the server's log: when the answer's bytes had left (seconds, Unix), and what was asked."""

    at: float
    step: str
    request: str
    fault: str | None


class Server:
    """A running test server, and what it has answered."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        assert process.stdout is not None
        self.process = process
        self.api_base = process.stdout.readline().strip()
        self._log = log
        self._begin = 0

    def forget(self) -> None:
        """Begin anew: what was answered until now is not counted any more."""
        self.settle()
        self._begin = self._log.stat().st_size if self._log.exists() else 0

    def answers(self) -> list[Answer]:
        """Read what it has answered so far, oldest first."""
        return [msgspec.json.decode(line, type=Answer) for line in self._logged().split(b"\n")[:-1]]

    def count(self) -> int:
        """Count the answers without reading them."""
        return self._logged().count(b"\n")

    def _logged(self) -> bytes:
        return self._log.read_bytes()[self._begin :] if self._log.exists() else b""

    def control(self, what: str, body: object = None) -> Any:
        """Get what it tells of itself (`stats`), or, with a body, post what it is to do (`faults`, `hold`, `reset`)."""
        url = f"{self.api_base.removesuffix('/v1')}/control/{what}"
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=60) as reply:
            return json.loads(reply.read() or b"null")

    @contextmanager
    def held(self, answers: int) -> Generator[None]:
        """Answer so many requests and no more; afterwards go on. What is asked meanwhile waits."""
        self.control("hold", answers)
        try:
            yield
        finally:
            self.control("hold", -1)

    def settle(self) -> None:
        """Wait until nothing is in flight and nothing more comes in: what a killed client had sent is dealt with."""
        wait_for(self._is_quiet, "a quiet server")

    def _is_quiet(self) -> bool:
        before = self._counts()
        time.sleep(0.1)
        return self._counts() == before and before[1] == 0

    def _counts(self) -> tuple[int, int]:
        """How many requests were received, and how many are in flight."""
        stats = self.control("stats")
        return stats["received"], stats["in_flight"]


@contextmanager
def model_server(log: Path, *, delay_ms: float, env: Mapping[str, str]) -> Generator[Server]:
    """Run a server on a port of its own; every answer takes `delay_ms`."""
    command = [sys.executable, str(SERVER), "--leave-with-parent", "--horizon-s", "34", "--log", str(log)]
    command += ["--delay-ms", str(delay_ms)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(env))
    try:
        yield Server(process, log)
    finally:
        process.kill()
        process.communicate()


def copy_banana(target: Path) -> Path:
    """Copy the real dataset, of its footage only the file in which the first episodes lie."""
    return Path(shutil.copytree(BANANA, target, ignore=shutil.ignore_patterns("file-001.mp4", "file-002.mp4")))


def environment(temporary: pytest.TempPathFactory) -> dict[str, str]:
    """Give processes a place for bytecode where the environment forbids it: a start then takes half the time."""
    env = dict(os.environ)
    if env.pop("PYTHONDONTWRITEBYTECODE", None):
        base = temporary.getbasetemp()  # workers of one test run have theirs side by side, and share
        env["PYTHONPYCACHEPREFIX"] = str((base.parent if "PYTEST_XDIST_WORKER" in env else base) / "bytecode")
    return env


def start_sync(
    root: Path, api_base: str, *more: object, env: Mapping[str, str], before: Callable[[], object] | None = None
) -> "subprocess.Popen[str]":
    """Start `annotator sync` as a person would; stderr is piped. `before` runs in the process before the command."""
    return start("sync", root, *QUICKER, "--vlm.api_base", api_base, *more, env=env, before=before)


def start(
    *arguments: object, env: Mapping[str, str], before: Callable[[], object] | None = None
) -> "subprocess.Popen[str]":
    """Start an `annotator` command, with stdout and stderr piped."""
    command = [sys.executable, "-m", "annotator", *(str(argument) for argument in arguments)]
    piped = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=piped, stderr=piped, text=True, cwd=REPO, env=dict(env),
        preexec_fn=before,  # noqa: PLW1509
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]", *, status: int = 0) -> str:
    """Wait for a process, check how it ended, and return what it said on stderr."""
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == status, said
    return said


def wait_for(happened: Callable[[], bool], what: str, process: "subprocess.Popen[str] | None" = None) -> float:
    """Poll until something has happened. Returns the longest that a poll came late, seconds: the machine's lag.

    Raises:
        AssertionError: it did not happen, or `process` ended before.
    """
    deadline, lag_s, last = time.monotonic() + PATIENCE_S, 0.0, time.monotonic()
    while not happened():
        assert time.monotonic() < deadline, f"no {what} within {PATIENCE_S} s"
        assert process is None or process.poll() is None, f"ended before {what}: {finish(process)}"
        time.sleep(POLL_S)
        lag_s, last = max(lag_s, time.monotonic() - last - POLL_S), time.monotonic()
    return lag_s


def fsync_s(folder: Path) -> float:
    """How long this disk takes at the moment to keep a few bytes, seconds."""
    started = time.monotonic()
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"a few bytes")
        file.flush()
        os.fsync(file.fileno())
    return time.monotonic() - started


def ask_log(root: Path, sql: str) -> list[dict[str, Any]]:
    """Query a dataset's log in this process."""
    return run_query(root / ".annotator", sql).to_pylist()


def kept_steps(root: Path) -> Counter[str]:
    """Count the answers that the log of a dataset holds, by step as the server names it (`plan_task`)."""
    found = ask_log(root, "SELECT step, count(*) AS n FROM calls WHERE outcome = 'answered' GROUP BY step")
    return Counter({row["step"].replace(".", "_"): row["n"] for row in found})


def shown(root: Path) -> dict[str, bytes]:
    """Read what a reader of the dataset sees of the annotation: every data shard and `meta/info.json`, in bytes."""
    files = [*root.glob("data/**/*.parquet"), root / "meta" / "info.json"]
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(files)}


def litter(root: Path) -> list[str]:
    """Name every file under a dataset that neither came with it nor belongs to an idle store."""
    came = {path.relative_to(BANANA) for path in BANANA.rglob("*") if path.is_file()}
    found = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    return sorted(str(path) for path in found if path not in came and not _belongs(path))


def _belongs(path: Path) -> bool:
    folder, name = path.parent.as_posix(), path.name
    if path.as_posix() in OURS:
        return True
    if folder == ".annotator":
        return name in ("lock", "cache.duckdb")
    return folder == ".annotator/journal" and path.suffix == ".parquet" and len(path.stem) == 32
