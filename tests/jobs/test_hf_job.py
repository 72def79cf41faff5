"""The batch job, end to end: submitted, killed half way, submitted again, pushed, pulled, rebuilt without a model.

The Hub is a process that really runs what is submitted; the model's server is another. A token is planted, and
everything that was written by anybody is searched for it at the end.
"""

import json
import shlex
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from tests.datasets import Recording
from tests.hub.conftest import REPO, TOKEN, RunningHub, reachable, running_hub
from tests.vlm.conftest import RunningServer, running_server

EPISODES = 6
SOURCE, ANNOTATED, BUCKET = "ada/cubes", "ada/cubes-in-words", "ada/logs"
COLUMNS = ["language_persistent", "language_events"]
ENDED_S = 180
ANSWERED_FIRST = 12
"""Calls that the server answers before it holds all others, so that the first job is killed half way."""


class Story(NamedTuple):
    """What became of it all."""

    hub: RunningHub
    server: RunningServer
    folder: Path
    original: Path
    first: str
    """Standard error of the first `job submit`; `second`, `third` likewise."""
    delivered: set[str]
    """Calls whose outcome was in the bucket when the first job was killed."""
    answered_first: int
    """Requests that the server had answered by then."""
    second: str
    answered_second: int
    third: str


def stage(hub: RunningHub, job: str) -> str:
    return str(hub.get(f"/api/jobs/ada/{job}")["status"]["stage"])


def await_until(true: Callable[[], bool], hub: RunningHub, job: str) -> None:
    until = time.monotonic() + ENDED_S
    while not true():
        assert time.monotonic() < until, (hub.folder / "jobs" / job / "output").read_text()
        time.sleep(0.1)


def hold(server: RunningServer, answers: int) -> None:
    """Let the server answer so many more requests, and keep those after them waiting; -1 answers all."""
    url = f"{server.api_base.removesuffix('/v1')}/control/hold"
    urllib.request.urlopen(url, data=str(answers).encode(), timeout=10).close()


def settled(server: RunningServer) -> int:
    """How many requests were answered, once nothing is in flight any more."""
    while server.counts["in_flight"]:
        time.sleep(0.05)
    return server.counts["answered"]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Tell it once; each test below looks at one side of it."""
    from tests.datasets import write_dataset

    folder = tmp_path_factory.mktemp("story")
    original = write_dataset(folder / "cubes", [Recording(seed) for seed in range(1, EPISODES + 1)])
    with (
        running_hub(folder / "hub") as hub,
        running_server("--horizon-s", "2.3") as server,
    ):
        hub.run("push", original, "--repo_id", SOURCE)
        order = (
            "--repo_id", SOURCE, "--flavor", "h200x2", "--code", "tree", "--bucket", f"hf://buckets/{BUCKET}/cubes",
            "--bucket_every_s", 0.4, "--vlm.model_id", "test-model", "--vlm.api_base", reachable(server),
            "--vlm.client_concurrency", 2, "--vqa.question_types", "count,attribute",
            "--push_to_hub", "--new_repo_id", ANNOTATED,
        )  # fmt: skip
        hold(server, ANSWERED_FIRST)
        first = hub.run("job", "submit", *order)
        assert first.stdout == "ada/job0\n"
        await_until(lambda: len(hub.calls(BUCKET, "cubes")) == ANSWERED_FIRST, hub, "job0")
        hub.kill("job0")
        answered_first, delivered = settled(server), hub.calls(BUCKET, "cubes")
        hold(server, -1)
        second = hub.run("job", "submit", *order)
        await_until(lambda: stage(hub, "job1") != "RUNNING", hub, "job1")
        assert stage(hub, "job1") == "COMPLETED", (hub.folder / "jobs" / "job1" / "output").read_text()
        answered_second = server.counts["answered"] - answered_first
        third = hub.run("job", "submit", *order)
        assert third.stdout == "", third.stderr
        yield Story(
            hub, server, folder, original, first.stderr, delivered, answered_first, second.stderr, answered_second,
            third.stderr,
        )  # fmt: skip


def submitted(story: Story) -> list[dict[str, Any]]:
    return [json.loads(one["body"]) for one in story.hub.requests("POST /api/jobs/ada$")]


def test_the_first_was_killed_half_way(story: Story) -> None:
    assert stage(story.hub, "job0") == "ERROR"
    assert ANNOTATED not in (story.hub.folder / "jobs" / "job0" / "output").read_text()
    total = len(story.hub.calls(BUCKET, "cubes"))
    assert len(story.delivered) == story.answered_first == ANSWERED_FIRST < total


def test_no_call_that_was_delivered_is_made_again(story: Story) -> None:
    assert stage(story.hub, "job1") == "COMPLETED"
    assert story.answered_second == len(story.hub.calls(BUCKET, "cubes") - story.delivered)


def test_what_is_submitted_is_pinned_and_has_a_timeout(story: Story) -> None:
    one, two = submitted(story)
    assert one["command"] == two["command"]
    script = shlex.split(one["command"][2])
    assert f"--revision={story.hub.head(SOURCE)}" in script and "--push_to_hub=true" in script
    assert not [word for word in script if str(story.folder) in word], "a place on this machine"
    assert one["timeoutSeconds"] == 3600 and one["flavor"] == "h200x2"
    assert one["volumes"] == [{"type": "bucket", "source": BUCKET, "mountPath": "/annotator-bucket", "readOnly": True}]
    assert "6 episodes" in story.first and "at most $10.00" in story.first


def test_the_job_runs_the_working_tree_that_was_uploaded(story: Story) -> None:
    said = (story.hub.folder / "jobs" / "job1" / "output").read_text()
    assert f"code: {story.hub.folder}/jobs/job1/installed/episode-annotator/annotator/__init__.py" in said


def test_with_nothing_left_to_call_no_job_is_submitted(story: Story) -> None:
    assert "no job is submitted: nothing is left to call" in story.third
    assert len(submitted(story)) == 2


def test_the_bucket_only_ever_gained_segments_and_what_the_job_installs(story: Story) -> None:
    files = [one["path"] for one in story.hub.get(f"/api/buckets/{BUCKET}/tree/")]
    assert {path.split("/")[1] for path in files} == {"journal", "code"}
    assert all(path.endswith((".parquet", ".tar.gz")) for path in files)


def test_pulled_into_an_empty_folder_the_columns_are_rebuilt_byte_for_byte(story: Story) -> None:
    hub, root = story.hub, story.folder / "pulled"
    hub.run("pull", ANNOTATED, "--root", root)
    shards = sorted((root / "data").rglob("*.parquet"))
    pushed = {shard: shard.read_bytes() for shard in shards}
    assert hub.tags(ANNOTATED) == {"v3.0": hub.head(ANNOTATED)}
    assert all(set(COLUMNS) <= set(pq.read_schema(shard).names) for shard in shards)
    for shard in shards:
        shard.write_bytes((story.original / shard.relative_to(root)).read_bytes())
    asked = settled(story.server)
    flags = ("--vlm.model_id", "test-model", "--vqa.question_types", "count,attribute")
    told = hub.run("sync", root, "--offline", *flags).stderr
    assert f"shards written  {len(shards)}" in told and "0 annotated, 6 up to date" in told
    assert settled(story.server) == asked
    assert {shard: shard.read_bytes() for shard in shards} == pushed
    assert hub.run("verify", root).stderr.endswith("nothing is wrong\n")


def test_jobs_are_listed_inspected_read_and_waited_for(story: Story) -> None:
    hub = story.hub
    assert [line.split()[:2] for line in hub.run("job", "status").stdout.splitlines()] == [
        ["ada/job0", "ERROR"], ["ada/job1", "COMPLETED"],
    ]  # fmt: skip
    assert "COMPLETED" in hub.run("job", "status", "job1").stdout
    assert f"pushed: {ANNOTATED}" in hub.run("job", "logs", "ada/job1").stdout
    assert "COMPLETED" in hub.run("job", "wait", "ada/job1").stdout
    assert "ERROR" in hub.run("job", "wait", "job0", status=1).stdout
    told = hub.run("job", "status", "job9", status=1).stderr
    assert "the job cannot be found – job9" in told and "HTTP 404" in told
    hub.refuse("POST /api/jobs/ada/job1/cancel", 500)
    assert "HTTP 500" in hub.run("job", "cancel", "ada/job1", status=1).stderr


def test_waiting_outlives_a_hub_that_stumbles(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    from annotator.jobs import monitor as watch

    monkeypatch.setattr(time, "sleep", lambda _: None)
    story.hub.refuse("GET /api/jobs/ada/job1", 502, times=3)
    assert "COMPLETED" in story.hub.run("job", "wait", "ada/job1").stdout
    story.hub.refuse("GET /api/jobs/ada/job1", 502, times=3)
    monkeypatch.setattr(watch.wait, "__kwdefaults__", {"every_s": 0.0, "give_up_after_s": -1.0})
    assert "HTTP 502" in story.hub.run("job", "wait", "ada/job1", status=1).stderr


def test_the_example_submits_the_same_way(story: Story) -> None:
    script = REPO / "examples" / "annotations" / "run_hf_job.py"
    told = story.hub.execute(
        [sys.executable, str(script), "--repo_id", SOURCE, "--bucket", f"{BUCKET}/cubes", "--vlm.model_id=test-model",
         "--vqa.question_types", "count,attribute", "--new_repo_id", ANNOTATED]
    ).stderr  # fmt: skip
    assert "no job is submitted: nothing is left to call" in told


def test_the_token_is_nowhere_but_in_headers_and_in_the_jobs_secrets(story: Story) -> None:
    """Last, so that it searches what all tests above have written."""
    secrets = [one.pop("secrets") for one in submitted(story)]
    assert secrets == [{"HF_TOKEN": TOKEN}] * 2
    assert not [text for text in story.hub.said if TOKEN in text]
    for one in story.hub.requests():
        assert one["headers"].pop("Authorization", f"Bearer {TOKEN}") == f"Bearer {TOKEN}"
        body = one["body"]
        if one["method"] == "POST" and one["path"] == "/api/jobs/ada":
            body = json.dumps({name: value for name, value in json.loads(body).items() if name != "secrets"})
        assert TOKEN not in json.dumps([one["path"], one["headers"], body]), one["path"]
    searched = 0
    for path in story.folder.rglob("*"):
        if path.is_file() and path.name != "requests.jsonl":
            searched += 1
            assert TOKEN.encode() not in path.read_bytes(), path
            if path.suffix == ".parquet":
                assert TOKEN not in str(pq.ParquetFile(path).read().to_pydict()), path
    assert searched > 100
    assert TOKEN not in json.dumps(story.server.headers())
