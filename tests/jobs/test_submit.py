"""What is found out before a job is paid for, and what is done when there is nothing to pay for."""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from annotator.config.settings import PlanSettings, SyncSettings, VlmSettings, VocabularySettings, VqaSettings
from annotator.pipeline.plan_run import plan_run
from annotator_store.log.segments import list_segments
from tests.hub.conftest import TOKEN, Published, RunningHub, reachable
from tests.vlm.conftest import SERVER, RunningServer, running_server

QUICK = ("--vlm.model_id", "test-model", "--vocabulary.enabled", "false", "--vqa.question_types", "count,attribute")
MISFIT = {"step": "plan_segment", "answer": {"subtasks": "none"}}
SUBMIT = ("job", "submit", "--flavor", "h200x2", "--code", "tree", "--repo_id")


def submitted(hub: RunningHub) -> list[dict[str, Any]]:
    return [json.loads(one["body"]) for one in hub.requests("POST /api/jobs/ada$")]


def flags_of(hub: RunningHub) -> list[str]:
    return shlex.split(submitted(hub)[-1]["command"][2])


def stage(hub: RunningHub, job: str) -> str:
    return str(hub.get(f"/api/jobs/{job}")["status"]["stage"])


def bucket_of(repo_id: str) -> str:
    return f"hf://buckets/ada/annotations/{repo_id.replace('/', '--')}"


def quick(root: Path, api_base: str) -> SyncSettings:
    return SyncSettings(
        root=root, vocabulary=VocabularySettings(enabled=False), vqa=VqaSettings(question_types=("count", "attribute")),
        vlm=VlmSettings(model_id="test-model", api_base=api_base),
    )  # fmt: skip


def test_answers_that_were_rejected_are_nothing_to_rent_a_machine_for_and_what_there_is_is_pushed_from_here(
    hub: RunningHub, published: Published, tmp_path: Path
) -> None:
    repo_id, there, before = published.repo_id, f"{published.repo_id}-words", len(submitted(hub))
    with running_server("--horizon-s", "2.3") as server:
        server.tell(MISFIT)
        hub.run(
            "sync", "--repo_id", repo_id, "--root", tmp_path / "first", *QUICK, "--vlm.api_base", server.api_base,
            "--bucket", bucket_of(repo_id), status=1,
        )  # fmt: skip
    push = ("--push_to_hub", "--new_repo_id", there)
    said = hub.run(*SUBMIT, repo_id, *QUICK, "--root", tmp_path / "second", *push)
    assert said.stdout == "" and "nothing is left to call" in said.stderr
    assert len(submitted(hub)) == before
    command = shlex.split(said.stderr.partition("from the log, here: ")[2].splitlines()[0])
    assert command[0] == "annotator" and there in " ".join(command)
    hub.run(*command[1:], status=1)
    assert hub.tags(there) == {"v3.0": hub.head(there)}


def test_what_the_log_can_make_up_another_way_is_no_work_and_a_count_leaves_recording_it_to_the_run(
    hub: RunningHub, published: Published
) -> None:
    root = published.root
    with running_server("--horizon-s", "2.3") as server:
        hub.run("sync", root, *QUICK, "--vlm.api_base", server.api_base)
    segments = list_segments(root / ".annotator" / "journal")
    other = msgspec.structs.replace(quick(root, server.api_base), plan=PlanSettings(emit_plan=False))
    assert plan_run(other).episodes_to_ask == 0
    assert list_segments(root / ".annotator" / "journal") == segments
    assert "3 annotated" in hub.run("sync", root, *QUICK, "--plan.emit_plan", "false", "--offline").stderr


def test_a_count_names_the_modules_that_would_ask(hub: RunningHub, published: Published) -> None:
    root = published.root
    with running_server("--horizon-s", "2.3") as server:
        server.set_faults({"fault": "http_400", "step": "vqa_count"})
        server.tell(MISFIT)
        settings = quick(root, server.api_base)
        fresh = plan_run(settings)
        assert fresh.count_by_module() == {"plan": 3, "interjections": 3, "vqa": 3} and fresh.episodes_to_ask == 3
        hub.run("sync", root, *QUICK, "--vlm.api_base", server.api_base, status=1)
        asked = server.counts["received"]
        plan = plan_run(settings)
        assert plan.count_by_module().keys() == {"vqa"} and 0 < plan.estimated_calls < fresh.estimated_calls
        assert server.counts["received"] == asked
        server.set_faults()
        server.tell(MISFIT)
        hub.run("sync", root, *QUICK, "--vlm.api_base", server.api_base, status=1)
        assert plan_run(settings).episodes_to_ask == 0


def test_what_was_answered_here_reaches_the_job_and_what_was_edited_here_is_named(
    hub: RunningHub, published: Published, tmp_path: Path
) -> None:
    repo_id, root = published.repo_id, tmp_path / "copy"
    with running_server("--horizon-s", "2.3") as server:
        words = ("--vlm.model_id", "test-model", "--vqa.enabled", "false", "--interjections.enabled", "false")
        asked = ("--vlm.api_base", server.api_base, "--only_episodes", "0")
        hub.run("sync", "--repo_id", repo_id, "--root", root, *words, *asked)
    here = set(list_segments(root / ".annotator" / "journal"))
    told = hub.run(*SUBMIT, repo_id, "--root", root, *words, "--timeout", "1h").stderr
    there = {Path(path).name for path in hub.segments("ada/annotations") if repo_id.replace("/", "--") in path}
    assert here and here <= there and "uploaded" in told
    assert "left to annotate: 2 episodes" in told and "changed locally" not in told
    (root / "meta" / "canonical_vocabulary.json").write_text('{"subtasks": ["mine"], "memories": []}')
    told = hub.run(*SUBMIT, repo_id, "--root", root, *words, "--timeout", "1h", "--again").stderr
    assert "a job does not see what was changed locally: meta/canonical_vocabulary.json" in told


def test_without_a_count_nothing_is_downloaded_and_the_commit_is_pinned(hub: RunningHub, published: Published) -> None:
    hub.run(*SUBMIT, published.repo_id, "--count", "false", "--timeout", "2h")
    assert not (hub.home / "annotator" / published.repo_id).exists()
    assert f"--revision={hub.head(published.repo_id)}" in flags_of(hub)


def test_settings_of_the_machine_are_raised_one_by_one_and_those_given_stay(
    hub: RunningHub, published: Published
) -> None:
    order = (*SUBMIT, published.repo_id, "--count", "false", "--timeout", "2h", "--again")
    hub.run(*order)
    assert {
        "--vlm.client_concurrency=64", "--vlm.serve_ready_timeout_s=1800.0", "--vlm.backend=serve",
        "--executor.episode_parallelism=64", "--executor.decode_threads=8",
    } <= set(flags_of(hub))  # fmt: skip
    hub.run(*order, "--executor.decode_threads", 3, "--vlm.serve_ready_timeout_s", 60, "--vlm.client_concurrency", 5)
    assert {
        "--vlm.client_concurrency=5", "--vlm.serve_ready_timeout_s=60.0", "--executor.episode_parallelism=64",
        "--executor.decode_threads=3",
    } <= set(flags_of(hub))  # fmt: skip


@pytest.mark.parametrize("refused", ["POST /api/repos/create", "GET /api/datasets/.*/auth-check/write"])
def test_a_token_that_may_not_write_there_fails_before_anything_is_paid_for(
    hub: RunningHub, published: Published, refused: str
) -> None:
    before = len(submitted(hub))
    hub.refuse(refused, 403)
    push = ("--push_to_hub", "--new_repo_id", f"{published.repo_id}-words")
    told = hub.run(*SUBMIT, published.repo_id, "--count", "false", "--timeout", "2h", *push, status=1).stderr
    assert "HTTP 403" in told and "the token must be allowed to write there" in told and len(submitted(hub)) == before


def test_a_second_job_on_the_same_dataset_and_bucket_is_refused_while_the_first_goes_on(
    hub: RunningHub, published: Published
) -> None:
    order = (*SUBMIT, published.repo_id, "--count", "false", "--timeout", "2h", *QUICK)
    own = ("--vlm.serve_command", "sleep 60 {port}", "--vlm.parallel_servers", 1)
    job = hub.run(*order, *own).stdout.strip()
    assert submitted(hub)[-1]["labels"]["dataset"] == published.repo_id.replace("/", "--")
    told = hub.run(*order, status=2).stderr
    assert job in told and "--again" in told
    other = hub.run(*order, "--bucket", f"ada/{published.repo_id.partition('/')[2]}-own").stdout.strip()
    beside = hub.run(*order, "--again").stdout.strip()
    assert len({job, other, beside}) == 3 and other and beside
    for one in (job, other, beside):
        hub.kill(one.partition("/")[2])
    assert "submitted: " in hub.run(*order).stderr


def test_a_token_that_expires_before_the_job_ends_is_mentioned(hub: RunningHub, published: Published) -> None:
    me = {"type": "user", "name": "ada", "auth": {"type": "oauth", "expiresAt": "2020-01-01T00:00:00.000Z"}}
    hub.refuse("GET /api/whoami-v2", 200, answer=json.dumps(me), times=9)
    told = hub.run(*SUBMIT, published.repo_id, "--count", "false", "--timeout", "2h", "--again").stderr
    assert "the token expires on 2020-01-01" in told


def test_waiting_without_a_token_fails_at_once(hub: RunningHub) -> None:
    started = time.monotonic()
    assert "hf auth login" in hub.run("job", "wait", "ada/job0", status=1, HF_TOKEN="").stderr
    assert time.monotonic() - started < 30


@pytest.mark.usefixtures("watched_closely")
def test_a_job_starts_the_servers_it_is_told_to_start(hub: RunningHub, published: Published) -> None:
    there = f"{published.repo_id}-words"
    serve = shlex.join([sys.executable, str(SERVER), "--port", "{port}", "--horizon-s", "2.3", "--leave-with-parent"])
    job = hub.run(
        *SUBMIT, published.repo_id, *QUICK, "--vlm.serve_command", serve.replace("'{port}'", "{port}"),
        "--vlm.parallel_servers", 2, "--push_to_hub", "--new_repo_id", there,
    ).stdout.strip()  # fmt: skip
    assert "COMPLETED" in hub.run("job", "wait", job).stdout, hub.run("job", "logs", job).stdout
    logs = hub.run("job", "logs", job).stdout
    # The first one may have answered everything before the second is ready.
    assert "starting 2 servers of" in logs and 1 <= logs.count("is ready at http://127.0.0.1:") <= 2
    assert hub.tags(there) == {"v3.0": hub.head(there)}


@pytest.mark.usefixtures("watched_closely")
class TestAJobThatGoesOn:
    """Followed, then cancelled in the middle of its work."""

    @pytest.fixture
    def server(self) -> Any:
        with running_server("--horizon-s", "2.3", "--delay-ms", "80", "--api-key", "sk-planted-0123") as server:
            yield server

    def submit(self, hub: RunningHub, published: Published, server: RunningServer, *more: object) -> str:
        order = (*SUBMIT, published.repo_id, *QUICK, "--bucket_every_s", 0.3, "--vlm.api_key_env", "PLANTED_KEY")
        base = ("--vlm.api_base", reachable(server))
        return hub.run(*order, *base, *more, PLANTED_KEY="sk-planted-0123").stdout.strip()

    def test_its_output_is_followed_to_its_end(
        self, hub: RunningHub, published: Published, server: RunningServer
    ) -> None:
        job = self.submit(hub, published, server, "--only_episodes", "0")
        said = hub.run("job", "logs", job, "--follow").stdout
        assert stage(hub, job) == "COMPLETED" and "shards written" in said

    def test_cancelled_it_delivers_what_it_had_and_the_next_asks_the_rest(
        self, hub: RunningHub, published: Published, server: RunningServer
    ) -> None:
        job = self.submit(hub, published, server, "--vlm.client_concurrency", 1)
        folder = published.repo_id.replace("/", "--")
        until = time.monotonic() + 60
        while not hub.calls("ada/annotations", folder) and time.monotonic() < until:
            time.sleep(0.05)
        told = hub.run("job", "cancel", job).stderr
        assert f"cancelled: {job}" in told and "CANCELED" in hub.run("job", "status", job).stdout
        assert "terminated" in hub.run("job", "logs", job, "--follow").stdout
        answered, delivered = server.counts["answered"], hub.calls("ada/annotations", folder)
        assert answered - 1 <= len(delivered) <= answered, "all but the one in flight"
        second = self.submit(hub, published, server)
        assert "COMPLETED" in hub.run("job", "wait", second).stdout
        total = hub.calls("ada/annotations", folder)
        assert 0 < server.counts["answered"] - answered == len(total - delivered)
        assert self.submit(hub, published, server) == ""

    def test_its_key_is_a_secret_and_masked_where_it_was_printed(
        self, hub: RunningHub, published: Published, server: RunningServer
    ) -> None:
        job = self.submit(hub, published, server, "--only_episodes", "0")
        one = submitted(hub)[-1]
        assert one.pop("secrets") == {"HF_TOKEN": TOKEN, "PLANTED_KEY": "sk-planted-0123"}
        assert "sk-planted" not in msgspec.json.encode(one).decode()
        hub.run("job", "wait", job)
        assert "sk-planted" not in hub.run("job", "logs", job).stdout
        line = json.dumps({"timestamp": "2026-01-01T00:00:00.000Z", "data": f"key sk-planted-0123, token {TOKEN}"})
        hub.refuse("GET /api/jobs/.*/logs", 200, answer=f"data: {line}\n\n")
        said = hub.run("job", "logs", job, PLANTED_KEY="sk-planted-0123").stdout
        assert said == "key …, token hf_…\n"
