"""What a job is told to do, and which orders are refused before anything is sent."""

import sys
import tarfile
from pathlib import Path

import msgspec
import pytest

from annotator.cli.hub.job import parse_submit
from annotator.cli.parsing import parse_sync
from annotator.config.settings import PlanSettings, SyncSettings, VlmSettings, VqaSettings
from annotator.errors import UsageError
from annotator.hub.bucket import Bucket
from annotator.hub.client import redact
from annotator.jobs.package import choose_code, flags_of, install_line, job_command, pack_folder, pack_tree
from annotator.jobs.request import parse_duration
from annotator.jobs.submit import estimate_s
from annotator.pipeline.run import shareable
from annotator.vlm.redact import shown_command, shown_endpoint
from tests.hub.conftest import REPO, Published, RunningHub

BUCKET = Bucket("ada/log", "x/")


def test_settings_travel_as_flags_that_give_the_same_settings_but_for_places_on_this_machine() -> None:
    settings = SyncSettings(
        repo_id="ada/x", only_episodes="0,5-9", push_to_hub=True, seed=3,
        plan=PlanSettings(emit_memory=False, frames_per_second=1.5),
        vqa=VqaSettings(question_types=("count", "bbox")),
        vlm=VlmSettings(model_id="it's; a $(model)", chat_template_kwargs={"enable_thinking": False, "a b": [1]}),
    )  # fmt: skip
    here = msgspec.structs.replace(settings, root=Path("/here"), prompts=Path("/mine"))
    assert parse_sync(flags_of(settings)) == settings
    assert flags_of(here) == flags_of(settings)
    assert flags_of(SyncSettings()) == []


def test_a_command_is_one_line_that_no_setting_can_break_out_of() -> None:
    install = install_line("git+https://host/repo@v1", None)
    assert install.endswith("'episode-annotator[hub] @ git+https://host/repo@v1'")
    shell, option, line = job_command(install, ["--vlm.model_id=a'b; rm -rf $HOME"])
    assert (shell, option) == ("bash", "-c") and "\n" not in line
    assert line.startswith("python3 -m pip install") and " && exec python3 -P -m annotator sync " in line
    assert line.endswith("""'--vlm.model_id=a'"'"'b; rm -rf $HOME'""")
    assert job_command("", ["--seed=1"])[2] == "exec python3 -P -m annotator sync --seed=1"


def test_the_tree_is_packed_alike_each_time_and_holds_what_is_shipped_and_nothing_else(tmp_path: Path) -> None:
    parcel, again = pack_tree(BUCKET), pack_tree(BUCKET)
    assert parcel == again
    ((name, packed),) = parcel.files.items()
    assert name.startswith("x/code/") and parcel.path == f"/annotator-bucket/{name}"
    (tmp_path / "tree.tar.gz").write_bytes(packed)
    with tarfile.open(tmp_path / "tree.tar.gz") as tar:
        names = tar.getnames()
    tops = {one.removeprefix("episode-annotator/").split("/")[0] for one in names}
    assert tops == {"pyproject.toml", "README.md", "LICENSE", "annotator", "store", "prompts"}
    assert "episode-annotator/store/annotator_store/log/sql/views/calls.sql" in names
    assert not [one for one in names if "__pycache__" in one]


def test_own_prompts_travel_under_the_digest_of_their_content(tmp_path: Path) -> None:
    (tmp_path / "plan_segment.md").write_text("one")
    (tmp_path / "notes.txt").write_text("not a prompt")
    first = pack_folder(BUCKET, tmp_path, "*.md")
    (tmp_path / "plan_segment.md").write_text("two")
    second = pack_folder(BUCKET, tmp_path, "*.md")
    assert [path.split("/")[-1] for path in first.files] == ["plan_segment.md"]
    assert first.path != second.path and first.path.startswith("/annotator-bucket/x/given/")


@pytest.mark.parametrize("code", ["pip", "git+https://ada:secret@host/repo", "/a/folder"])
def test_code_that_cannot_be_installed_or_would_show_a_password_is_refused(code: str) -> None:
    with pytest.raises(UsageError) as refused:
        choose_code(code)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("6h", 21600), ("1.5h", 5400), ("1d", 86400), ("45", 45)])
def test_a_timeout_is_read_with_its_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "6 hours", "-1h", "h"])
def test_a_timeout_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--timeout"):
        parse_duration(text)


def test_an_estimate_is_never_the_platforms_half_hour_and_grows_with_the_calls_on_each_gpu() -> None:
    assert estimate_s(0, 0) == estimate_s(1, 8) == 3600
    assert estimate_s(100_000, 2) > estimate_s(100_000, 4) > estimate_s(10_000, 4) > 3600
    assert estimate_s(100_000, 2) % 600 == 0


def test_the_jobs_own_arguments_and_those_of_sync_may_be_mixed() -> None:
    own, settings = parse_submit(
        ["--seed", "5", "--flavor=l4x1", "--repo-id", "ada/x", "--count", "false", "--push_to_hub", "--timeout", "2h"]
    )
    assert (own.flavor, own.count, own.timeout) == ("l4x1", False, "2h")
    assert (settings.seed, settings.repo_id, settings.push_to_hub) == (5, "ada/x", True)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("vllm serve m --api-key one two --port 1", "vllm serve m --api-key … --port 1"),
        ("vllm serve m --api-key=one --port 1", "vllm serve m --api-key … --port 1"),
        ("HF_TOKEN='o n e' run --token \"t w o\"", "HF_TOKEN=… run --token …"),
        ("run --tokenizer t --max-num-batched-tokens 9 --port {port}",) * 2,
    ],
)
def test_a_command_is_recorded_without_keys_and_tokens(command: str, shown: str) -> None:
    assert shown_command(command) == shown


def test_secrets_within_other_words_are_left_out_too() -> None:
    command = """run -H 'Authorization: Bearer s3cr3t' '{"hf_token": "s3cr3t", "dtype": "half"}'"""
    assert shown_command(command) == """run -H 'Authorization: Bearer …' '{"hf_token": "…", "dtype": "half"}'"""
    settings = SyncSettings(root=Path("x"), vlm=VlmSettings(engine_kwargs={"hf_token": "s3cr3t", "max_num_seqs": 8}))
    assert shareable(settings).vlm.engine_kwargs == {"hf_token": "…", "max_num_seqs": 8}


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("http://ada:pw@host:1/v1/?key=pw#pw", "http://host:1/v1"),
        ("ada:pw@host/v1", "host/v1"),
        ("http://ada:pw@[::1/v1?pw", "[::1/v1"),
    ],
)
def test_an_endpoint_is_recorded_without_credentials(endpoint: str, shown: str) -> None:
    assert shown_endpoint(endpoint) == shown


def test_a_token_is_taken_out_of_what_others_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "oddly-shaped-token")
    assert redact("no oddly-shaped-token, no hf_abcdefGHIJ0123 here") == "no hf_…, no hf_… here"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "annotator push DATASET"),
        (("--repo_id", "ada/x", "--output", "y"), "--output"),
        (("--repo_id", "ada/x", "--count", "false"), "--timeout 6h"),
        (("--repo_id", "ada/x", "--flavor", "z9x1"), "one of cpu-basic, h200x2"),
        (("--repo_id", "ada/x", "--code", "z"), "release, tree, image"),
        (("--repo_id", "ada/x", "--flavor", "cpu-basic"), "needs a GPU"),
        (("--repo_id", "ada/x", "--flavor", "cpu-basic", "--vlm.backend", "serve"), "needs a GPU"),
        (("--repo_id", "ada/x", "--vlm.api_base", "http://far.invalid/v1,http://localhost:8000/v1"), "cannot reach"),
        (("--repo_id", "ada/x", "--vlm.api_base", "http://[::1]:80/v1"), "cannot reach"),
        (("--repo_id", "ada/x", "--vlm.model_id", str(REPO)), "no folder of this machine"),
        (("--repo_id", "ada/x", "--vlm.api_base", "http://ada:hunter2@far.invalid/v1"), "--vlm.api_key_env"),
        (("--repo_id", "ada/x", "--vlm.serve_command", "vllm serve m --api-key hunter2"), "--vlm.api_key_env"),
    ],
)
def test_an_order_that_cannot_be_meant_is_refused(hub: RunningHub, arguments: tuple[str, ...], said: str) -> None:
    before = len(hub.requests("POST /api/jobs"))
    told = hub.run("job", "submit", *arguments, status=2).stderr
    assert said in told and "hunter2" not in told
    assert len(hub.requests("POST /api/jobs")) == before


def test_a_job_starts_its_own_servers_unless_an_endpoint_is_named(hub: RunningHub, published: Published) -> None:
    order = (
        "job",
        "submit",
        "--repo_id",
        published.repo_id,
        "--flavor",
        "h200x2",
        "--code",
        "image",
        "--timeout",
        "2h",
    )
    told = hub.run(*order, "--prompts", REPO / "prompts").stderr
    assert "left to annotate: 3 episodes" in told and "finding the vocabulary" not in told, "nothing is asked here"
    hub.run(*order, "--vlm.api_base", "http://model.invalid/v1", "--executor.decode_threads", 3, "--again")
    one, two = (msgspec.json.decode(request["body"]) for request in hub.requests("POST /api/jobs/ada$")[-2:])
    assert "--vlm.backend=serve" in one["command"][2] and "--executor.episode_parallelism=64" in one["command"][2]
    assert f"--bucket=hf://buckets/ada/annotations/{published.repo_id.replace('/', '--')}" in one["command"][2]
    assert "--prompts=/annotator-bucket/annotations" not in one["command"][2]
    assert "--prompts=/annotator-bucket/" in one["command"][2] and str(REPO) not in one["command"][2]
    assert "serve" not in two["command"][2] and "--executor.decode_threads=3" in two["command"][2]
    assert one["timeoutSeconds"] == 7200


def test_a_missing_extra_gives_the_one_command_that_installs_it(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from annotator.cli.main import main

    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["pull", "ada/x"]) == 2
    assert "python -m pip install 'episode-annotator[hub]'" in capsys.readouterr().err
