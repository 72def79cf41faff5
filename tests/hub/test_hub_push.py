"""A push that breaks off somewhere, what is pushed of a log and to whom, and what is never published."""

import io
import shlex
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from annotator_store.log.segments import list_segments
from tests.hub.conftest import Published, RunningHub
from tests.vlm.conftest import running_server

SIGNALS = ("--vlm.backend", "signals")
MODEL = (
    "--vlm.model_id", "test-model", "--vocabulary.enabled", "false", "--vqa.question_types", "count,attribute"
)  # fmt: skip
MISFIT = {"step": "plan_segment", "answer": {"subtasks": "none"}}


def commits(hub: RunningHub, repo_id: str) -> int:
    return len(hub.requests(f"POST /api/datasets/{repo_id}/commit/"))


@pytest.fixture
def annotated(hub: RunningHub, published: Published, tmp_path: Path) -> Path:
    """A working copy of the published dataset, annotated."""
    hub.run("sync", "--repo_id", published.repo_id, "--root", tmp_path / "copy", *SIGNALS)
    return tmp_path / "copy"


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("step", ["commit", "tag"])
def test_a_push_that_the_hub_stumbles_over_is_tried_again(
    hub: RunningHub, published: Published, annotated: Path, step: str
) -> None:
    hub.refuse(f"POST /api/datasets/{published.repo_id}/{step}/", 503, times=2)
    told = hub.run("push", annotated).stderr
    assert "not pushed yet, trying again" in told
    assert hub.tags(published.repo_id) == {"v3.0": hub.head(published.repo_id)}
    assert ".annotator/journal" in " ".join(hub.tree(published.repo_id))


def test_what_the_hub_refuses_is_not_tried_again(hub: RunningHub, published: Published, annotated: Path) -> None:
    before, made = hub.tags(published.repo_id), commits(hub, published.repo_id)
    hub.refuse(f"POST /api/datasets/{published.repo_id}/commit/", 403, times=9)
    told = hub.run("push", annotated, status=1).stderr
    assert "the dataset cannot be pushed" in told and "HTTP 403" in told and "again" not in told
    assert commits(hub, published.repo_id) == made + 1 and hub.tags(published.repo_id) == before


def test_a_push_that_could_not_tag_tags_its_own_commit_the_next_time(
    hub: RunningHub, published: Published, annotated: Path
) -> None:
    old = hub.head(published.repo_id)
    hub.refuse(f"POST /api/datasets/{published.repo_id}/tag/", 403)
    assert "HTTP 403" in hub.run("push", annotated, status=1).stderr
    new, made = hub.head(published.repo_id), commits(hub, published.repo_id)
    assert new != old and hub.tags(published.repo_id) == {}
    hub.run("push", annotated)
    assert commits(hub, published.repo_id) == made
    assert hub.tags(published.repo_id) == {"v3.0": new} and hub.head(published.repo_id) == new


def annotated_episodes(hub: RunningHub, repo_id: str) -> set[int]:
    """The episodes that have language rows there."""
    found: set[int] = set()
    for name in hub.tree(repo_id):
        if name.startswith("data/"):
            frames = pq.read_table(io.BytesIO(hub.get(f"/datasets/{repo_id}/resolve/main/{name}"))).to_pylist()
            found |= {frame["episode_index"] for frame in frames if frame.get("language_persistent")}
    return found


def test_a_push_removes_no_rows_of_episodes_that_it_does_not_bring(
    hub: RunningHub, published: Published, tmp_path: Path
) -> None:
    target = f"{published.repo_id}-annotated"
    order = ("sync", "--repo_id", published.repo_id, "--new_repo_id", target, "--push_to_hub", *SIGNALS)
    hub.run(*order, "--root", tmp_path / "one", "--only_episodes", "0")
    assert annotated_episodes(hub, target) == {0}

    head = hub.head(target)
    told = hub.run(*order, "--root", tmp_path / "two", "--only_episodes", "1", status=1).stderr
    assert f"the push would remove rows that are there – {target} – episode 0\nhint: build on what is there" in told
    assert hub.head(target) == head and annotated_episodes(hub, target) == {0}

    hub.run(
        *order[:1], "--repo_id", target, "--push_to_hub", *SIGNALS, "--root", tmp_path / "on", "--only_episodes", "1"
    )
    assert annotated_episodes(hub, target) == {0, 1}
    hub.run(*order, "--root", tmp_path / "all")
    assert annotated_episodes(hub, target) >= {0, 1, 2}


def cut_short(shard: Path) -> None:
    """Leave a shard no footer."""
    shard.write_bytes(b"PAR1 and no more")


def damage_a_page(shard: Path) -> None:
    """Leave a shard its footer, and of its language nothing that can be decoded."""
    group = pq.read_metadata(shard).row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    content = bytearray(shard.read_bytes())
    for one in columns:
        if one.path_in_schema.startswith("language_persistent"):
            start = one.dictionary_page_offset or one.data_page_offset
            content[start : start + 16] = b"\xff" * 16
    shard.write_bytes(content)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("damage", [cut_short, damage_a_page])
def test_a_shard_that_cannot_be_read_there_is_not_replaced_without_a_word(
    hub: RunningHub, published: Published, annotated: Path, damage: Callable[[Path], None]
) -> None:
    target = f"{published.repo_id}-broken"
    damage(next(annotated.glob("data/**/*.parquet")))
    hub.run("push", annotated, "--repo_id", target)
    head = hub.head(target)
    told = hub.run("push", published.root, "--repo_id", target, status=1).stderr
    assert f"a shard cannot be read – {target}: data/" in told and "hint: repair or remove that file" in told
    assert "again" not in told and hub.head(target) == head


def test_a_file_beside_the_shards_is_no_shard_and_is_replaced(hub: RunningHub, published: Published) -> None:
    target, notes = f"{published.repo_id}-notes", published.root / "data" / "notes.txt"
    for said in ("first", "then"):
        notes.write_text(said)
        hub.run("push", published.root, "--repo_id", target)
    assert hub.get(f"/datasets/{target}/resolve/main/data/notes.txt") == b"then"


@pytest.mark.usefixtures("no_waiting")
def test_a_commit_whose_answer_was_lost_is_not_made_twice(
    hub: RunningHub, published: Published, annotated: Path
) -> None:
    before = commits(hub, published.repo_id)
    hub.refuse(f"POST /api/datasets/{published.repo_id}/commit/", 504, after=True)
    hub.run("push", annotated)
    assert commits(hub, published.repo_id) == before + 1
    assert hub.tags(published.repo_id) == {"v3.0": hub.head(published.repo_id)}


def test_a_push_that_broke_off_between_two_commits_goes_on_where_it_was(
    hub: RunningHub, published: Published, annotated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (annotated / "extra").mkdir()
    for name in ("a", "b"):
        (annotated / "extra" / name).write_text(name)
    monkeypatch.setattr("annotator.hub.repo.COMMIT_FILES", 1)
    hub.refuse(f"POST /api/datasets/{published.repo_id}/commit/", 500, after=True)
    monkeypatch.setattr("annotator.hub.sync.PUSH_AGAIN_AFTER_S", ())
    hub.run("push", annotated, status=1)
    assert {"extra/a", "extra/b"} & set(hub.tree(published.repo_id)) == {"extra/a"}
    hub.run("push", annotated)
    assert {"extra/a", "extra/b"} <= set(hub.tree(published.repo_id))
    assert hub.tags(published.repo_id) == {"v3.0": hub.head(published.repo_id)}


def test_a_copy_of_a_private_dataset_is_private_unless_told_otherwise(
    hub: RunningHub, published: Published, tmp_path: Path
) -> None:
    source = f"{published.repo_id}-secret"
    assert "which is private" in hub.run("push", published.root, "--repo_id", source, "--push_private").stderr
    root = tmp_path / "copy"
    push = ("sync", "--repo_id", source, "--root", root, *SIGNALS, "--push_to_hub", "--new_repo_id")
    assert f"to {source}-a, which is private" in hub.run(*push, f"{source}-a").stderr
    assert f"to {source}-b, which is public" in hub.run(*push, f"{source}-b", "--push_private", "false").stderr
    assert [hub.get(f"/api/datasets/{source}-{one}")["private"] for one in "ab"] == [True, False]
    assert "which is public" in hub.run("push", published.root, "--repo_id", f"{source}-c").stderr


def test_of_a_log_inside_the_dataset_only_segments_are_pushed_wherever_it_lies(
    hub: RunningHub, published: Published
) -> None:
    root, there = published.root, f"{published.repo_id}-words"
    store = root / "meta" / "mylog"
    hub.run("sync", root, *SIGNALS, "--store", store, "--push_to_hub", "--new_repo_id", there)
    hub.run("push", root, "--repo_id", f"{there}-again", "--store", store)
    segments = {f".annotator/journal/{name}" for name in list_segments(store / "journal")}
    for repo_id in (there, f"{there}-again"):
        pushed = hub.tree(repo_id)
        assert segments and {path for path in pushed if "journal" in path} == segments
        assert not [path for path in pushed if "mylog" in path or path.endswith((".duckdb", "lock"))]


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("path", "status", "answer", "said"),
    [
        ("POST /api/validate-yaml", 400, '{"errors": [{"message": "license is a number"}]}', "license is a number"),
        ("GET /api/datasets/{repo}$", 200, "<html>come back later</html>", "not JSON"),
        ("POST /api/validate-yaml", 502, "<html>come back later</html>", "not JSON"),
    ],
)
def test_an_answer_that_the_client_cannot_take_is_said_and_no_traceback(
    hub: RunningHub, published: Published, annotated: Path, path: str, status: int, answer: str, said: str
) -> None:
    hub.refuse(path.format(repo=published.repo_id), status, times=99, answer=answer)
    told = hub.run("push", annotated, status=1).stderr
    assert f"the dataset cannot be pushed – {published.repo_id}" in told and said in told


def test_a_run_whose_gaps_no_further_run_would_fill_is_pushed_and_says_so(
    hub: RunningHub, published: Published, tmp_path: Path
) -> None:
    there = f"{published.repo_id}-words"
    with running_server("--horizon-s", "2.3") as server:
        sync = (
            "sync", "--repo_id", published.repo_id, "--root", tmp_path / "copy", *MODEL, "--vlm.api_base",
            server.api_base, "--push_to_hub", "--new_repo_id", there,
        )  # fmt: skip
        server.set_faults({"fault": "http_400", "step": "vqa_count"})
        server.tell(MISFIT)
        told = hub.run(*sync, status=1).stderr
        assert "not pushed: the run is incomplete, calls are missing in" in told
        hint = told.partition("annotator push ")[2].splitlines()[0]
        assert shlex.split(hint) == [str(tmp_path / "copy"), "--repo_id", there]
        server.set_faults()
        server.tell(MISFIT)
        told = hub.run(*sync, status=1).stderr
    assert "another run would have nothing to call: the dataset is pushed as it is" in told
    assert hub.tags(there) == {"v3.0": hub.head(there)}


def test_where_the_last_delivery_fails_the_dataset_is_pushed_all_the_same(
    hub: RunningHub, published: Published, tmp_path: Path
) -> None:
    bucket, there = f"ada/{tmp_path.name.replace('_', '-')}", f"{published.repo_id}-words"
    hub.refuse(f"POST /api/buckets/{bucket}/batch", 403, times=9)
    push = ("--push_to_hub", "--new_repo_id", there)
    told = hub.run("sync", published.root, *SIGNALS, "--bucket", bucket, *push, status=1).stderr
    assert f"pushed: {there}" in told and "the log's segments cannot be uploaded" in told
    assert hub.tags(there) == {"v3.0": hub.head(there)}


def test_no_secret_of_a_setting_is_recorded_or_published(
    hub: RunningHub, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    root, secret = make_dataset(tmp_path), "hunter2hunter2"
    hub.run(
        "sync", root, *SIGNALS, "--vlm.api_base", f"http://ada:{secret}@one.invalid/v1,http://two.invalid/v1?key={secret}",
        "--vlm.serve_command", f"KEY={secret} vllm serve x --api-key {secret} '{secret}' --port {{port}}",
    )  # fmt: skip
    (segment,) = (root / ".annotator" / "journal").glob("*.parquet")
    recorded = str(pq.read_table(segment).to_pydict())
    assert "http://one.invalid/v1,http://two.invalid/v1" in recorded and "--api-key … --port {port}" in recorded
    assert secret not in recorded
