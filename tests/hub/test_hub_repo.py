"""Datasets of the Hub: what is downloaded, what is pushed, and what is said when the Hub refuses."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.hub.conftest import TOKEN, Published, RunningHub

SIGNALS = ("--vlm.backend", "signals")
COLUMNS = ["language_persistent", "language_events"]


def shards(root: Path) -> list[Path]:
    return sorted((root / "data").rglob("*.parquet"))


def language(root: Path) -> list[object]:
    return [pq.read_table(shard, columns=COLUMNS).to_pydict() for shard in shards(root)]


def test_a_dataset_is_downloaded_annotated_and_pushed_back_and_then_nothing_is_left_to_do(
    hub: RunningHub, published: Published, tmp_path: Path
) -> None:
    before, first = hub.tree(published.repo_id), hub.head(published.repo_id)
    root = tmp_path / "copy"
    arguments = ("sync", "--repo_id", published.repo_id, "--root", root, *SIGNALS, "--push_to_hub")
    hub.run(*arguments)
    after = hub.tree(published.repo_id)
    changed = {path for path in after if after[path] != before.get(path)}
    assert {path for path in changed if not path.startswith(".annotator/journal/")} == {
        "README.md", "meta/annotations.lock.json", "meta/info.json", *(p for p in before if p.startswith("data/"))
    }  # fmt: skip
    assert any(path.startswith(".annotator/journal/") for path in changed)
    assert not [path for path in after if path.endswith((".duckdb", ".jsonl", "lock"))]
    assert hub.tags(published.repo_id) == {"v3.0": hub.head(published.repo_id)} != {"v3.0": first}

    commits, downloads = len(hub.requests("POST .*/commit/")), len(hub.requests("GET /datasets/.*/resolve/"))
    told = hub.run(*arguments).stderr
    assert "shards written  0" in told and "pushing 1 of" in told, "only the log of the run that did nothing"
    assert len(hub.requests("GET /datasets/.*/resolve/")) == downloads
    assert len(hub.requests("POST .*/commit/")) == commits + 1


def test_the_next_machine_starts_from_the_log_that_was_pushed(
    hub: RunningHub, published: Published, tmp_path: Path
) -> None:
    hub.run(
        "sync",
        published.root,
        *SIGNALS,
        "--push_to_hub",
        "--new_repo_id",
        f"{published.repo_id}-words",
        "--push_private",
    )
    assert hub.get(f"/api/datasets/{published.repo_id}-words")["private"] is True
    there = Path(hub.run("pull", f"{published.repo_id}-words").stdout.strip())
    assert there.is_relative_to(hub.home) and not there.is_relative_to(published.root)
    assert [path.read_bytes() for path in shards(there)] == [path.read_bytes() for path in shards(published.root)]
    told = hub.run("sync", there, "--offline", *SIGNALS).stderr
    assert "3 up to date" in told and "shards written  0" in told

    bare = tmp_path / "bare"
    hub.run("pull", published.repo_id, "--root", bare)
    assert COLUMNS[0] not in pq.read_schema(shards(bare)[0]).names
    shutil.copytree(there / ".annotator" / "journal", bare / ".annotator" / "journal")
    hub.run("sync", bare, "--offline", *SIGNALS)
    assert language(bare) == language(published.root)


def test_the_commit_is_pinned_and_is_in_the_log(hub: RunningHub, published: Published, tmp_path: Path) -> None:
    first = hub.head(published.repo_id)
    (published.root / "meta" / "note.txt").write_text("new")
    hub.run("push", published.root, "--repo_id", published.repo_id)
    assert hub.head(published.repo_id) != first
    root = tmp_path / "old"
    hub.run("sync", "--repo_id", published.repo_id, "--revision", first, "--root", root, *SIGNALS)
    assert not (root / "meta" / "note.txt").exists()
    seen = hub.run("query", "select distinct revision from episodes", "--root", root).stdout
    assert first in seen


def test_a_newer_revision_brings_what_changed_and_keeps_what_a_person_wrote(
    hub: RunningHub, published: Published, tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    hub.run("pull", published.repo_id, "--root", root)
    words = root / "meta" / "canonical_vocabulary.json"
    words.write_text('{"subtasks": ["mine"], "memories": []}')
    (published.root / "meta" / "note.txt").write_text("new")
    hub.run("push", published.root, "--repo_id", published.repo_id)
    start = len(hub.requests())
    hub.run("pull", published.repo_id, "--root", root)
    fetched = [one["path"] for one in hub.requests()[start:] if "/resolve/" in one["path"] and one["method"] == "GET"]
    assert len(fetched) == 1 and fetched[0].endswith("meta/note.txt")
    assert "mine" in words.read_text()

    theirs = published.root / "meta" / "canonical_vocabulary.json"
    theirs.write_text('{"subtasks": ["theirs"], "memories": []}')
    hub.run("push", published.root, "--repo_id", published.repo_id)
    told = hub.run("pull", published.repo_id, "--root", root, status=1).stderr
    assert "changed here and on the Hub" in told and str(words) in told and "mine" in words.read_text()


def test_a_push_onto_a_revision_that_moved_on_is_refused(hub: RunningHub, published: Published, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    hub.run("pull", published.repo_id, "--root", root)
    (published.root / "meta" / "note.txt").write_text("new")
    hub.run("push", published.root, "--repo_id", published.repo_id)
    head = hub.head(published.repo_id)
    (root / "meta" / "own.txt").write_text("mine")
    told = hub.run("push", root, status=1).stderr
    assert "HTTP 412" in told and "pull the new revision" in told
    assert hub.head(published.repo_id) == head


def test_another_dataset_there_is_not_mixed_with_this_one(
    hub: RunningHub, published: Published, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_dataset(tmp_path / "other", shards=[[0, 1, 2]])
    told = hub.run("push", other, "--repo_id", published.repo_id, status=1).stderr
    assert "holds another dataset" in told and "file-001.parquet" in told


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "hf auth login"), (403, "allowed to write"), (404, "check its name"), (429, "wait a few minutes"),
     (500, "trouble of its own")],
)  # fmt: skip
@pytest.mark.usefixtures("no_waiting")
def test_a_refusal_says_what_where_and_what_helps_and_never_the_token(
    hub: RunningHub, published: Published, status: int, hint: str
) -> None:
    hub.refuse(f"GET /api/datasets/{published.repo_id}", status, f"who is Bearer {TOKEN}?", times=9)
    told = hub.run("push", published.root, "--repo_id", published.repo_id, status=1).stderr
    assert f"the dataset cannot be pushed – {published.repo_id}" in told and f"HTTP {status}" in told and hint in told
    assert TOKEN not in told and "Traceback" not in told


def test_without_a_token_or_a_network_that_is_what_is_said(hub: RunningHub, published: Published) -> None:
    told = hub.run(
        "sync", published.root, *SIGNALS, "--push_to_hub", "--new_repo_id", "ada/x", status=1, HF_TOKEN=""
    ).stderr
    assert "hf auth login" in told
    assert not (published.root / ".annotator").exists(), "found out before anything was done"
    told = hub.run("pull", published.repo_id, status=1, HF_ENDPOINT="http://127.0.0.1:9").stderr
    assert f"cannot be read from the Hub – {published.repo_id} at main" in told and "check the network" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--repo_id", "nothing"), "write ORG/NAME"), (("--push_to_hub",), "--new_repo_id ORG/NAME"),
     (("--new_repo_id", "a/b", "--repo_id", "a/c"), "add --push_to_hub"), (("--bucket", "s3://x/y"), "hf://buckets/OWNER/NAME"),
     (("--bucket", "hf://buckets/a/b", "--revision", "x"), "--repo_id")],
)  # fmt: skip
def test_settings_that_no_run_could_mean_are_refused(
    hub: RunningHub, published: Published, arguments: tuple[str, ...], said: str
) -> None:
    told = hub.run("sync", "--root", published.root, *SIGNALS, *arguments, status=2).stderr
    assert said in told
