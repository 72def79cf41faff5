"""A log shared through a bucket: fetched before a run, delivered during it, and only ever added to."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from annotator.errors import UsageError
from annotator.hub.bucket import Bucket, BucketSync, add_segment, parse_bucket
from annotator_store.errors import StoreError
from annotator_store.log.log import Log
from annotator_store.log.segments import list_segments
from tests.hub.conftest import TOKEN, RunningHub
from tests.vlm.conftest import running_server

SIGNALS = ("--vlm.backend", "signals")
MODEL = (
    "--vlm.model_id", "test-model", "--vocabulary.enabled", "false", "--vqa.question_types", "count,attribute"
)  # fmt: skip
"""Boxes that are made up hardly fit pictures of 24 by 32 pixels."""


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    """A bucket of this test's own; the Hub does not have it yet."""
    return f"ada/{tmp_path.name.replace('_', '-')}"


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("hf://buckets/ada/log", Bucket("ada/log", "")),
        ("hf://buckets/ada/log/", Bucket("ada/log", "")),
        ("hf://buckets/ada/log/a/b", Bucket("ada/log", "a/b/")),
        ("ada/log/a", Bucket("ada/log", "a/")),
    ],
)
def test_a_bucket_is_named_by_its_address(url: str, read: Bucket) -> None:
    assert parse_bucket(url) == read
    assert parse_bucket(read.url) == read


@pytest.mark.parametrize("url", ["", "ada", "hf://buckets/ada", "s3://ada/log", "ada/log/../other", "hf://ada/log"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="hf://buckets/OWNER/NAME"):
        parse_bucket(url)


def test_a_second_machine_asks_nothing_that_the_first_was_answered(
    hub: RunningHub, bucket: str, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = (make_dataset(tmp_path / name) for name in ("first", "second"))
    with running_server("--horizon-s", "2.3") as server:
        shared = (*MODEL, "--vlm.api_base", server.api_base, "--bucket", f"hf://buckets/{bucket}/words")
        hub.run("sync", first, *shared)
        asked = server.counts["answered"]
        told = hub.run("sync", second, *shared).stderr
        assert asked > 0 and server.counts["answered"] == asked
    assert "downloaded 1 segments" in told and "3 up to date" in told
    assert [p.read_bytes() for p in sorted((first / "data").rglob("*.parquet"))] == [
        p.read_bytes() for p in sorted((second / "data").rglob("*.parquet"))
    ]
    assert all(path.startswith("words/journal/") for path in hub.segments(bucket))
    there = {Path(path).name for path in hub.segments(bucket)}
    assert there == set(list_segments(first / ".annotator/journal")) | set(list_segments(second / ".annotator/journal"))


def test_what_is_answered_reaches_the_bucket_while_the_run_goes_on(
    hub: RunningHub, bucket: str, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_dataset(tmp_path / "one")
    with running_server("--horizon-s", "2.3", "--delay-ms", "120") as server:
        hub.run(
            "sync", root, *MODEL, "--vlm.api_base", server.api_base, "--vlm.client_concurrency", 1,
            "--bucket", bucket, "--bucket_every_s", 0.3,
        )  # fmt: skip
    delivered = [one["at"] for one in hub.requests(f"POST /api/buckets/{bucket}/batch")]
    assert len(delivered) >= 3
    assert len(hub.segments(bucket)) == len(delivered) == len(list_segments(root / ".annotator" / "journal"))
    assert hub.run("verify", root).stderr.endswith("nothing is wrong\n")


def test_a_delivery_that_fails_is_tried_again_and_the_run_goes_on(
    hub: RunningHub, bucket: str, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_dataset(tmp_path / "one")
    hub.refuse(f"POST /api/buckets/{bucket}/batch", 403, f"not with {TOKEN}")
    with running_server("--horizon-s", "2.3", "--delay-ms", "60") as server:
        told = hub.run(
            "sync", root, *MODEL, "--vlm.api_base", server.api_base, "--vlm.client_concurrency", 1,
            "--bucket", bucket, "--bucket_every_s", 0.3,
        ).stderr  # fmt: skip
    assert "the log is not uploaded yet, trying again" in told and "HTTP 403" in told and TOKEN not in told
    assert {Path(path).name for path in hub.segments(bucket)} == set(list_segments(root / ".annotator" / "journal"))


@pytest.mark.parametrize("trouble", [StoreError("the disk is full"), OSError("too many open files")])
def test_deliveries_go_on_after_trouble_that_is_not_the_hubs(
    hub: RunningHub, bucket: str, make_dataset: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    trouble: Exception,
) -> None:  # fmt: skip
    real, raised = Log.seal, [trouble]

    def seal(log: Log) -> object:
        if raised:
            raise raised.pop()
        return real(log)

    monkeypatch.setattr(Log, "seal", seal)
    with running_server("--horizon-s", "2.3", "--delay-ms", "60") as server:
        told = hub.run(
            "sync", make_dataset(tmp_path), *MODEL, "--vlm.api_base", server.api_base, "--vlm.client_concurrency", 1,
            "--bucket", bucket, "--bucket_every_s", 0.2,
        ).stderr  # fmt: skip
    assert f"the log is not uploaded yet, trying again: {trouble}" in told
    assert len(hub.requests(f"POST /api/buckets/{bucket}/batch")) >= 2


def test_a_batch_of_which_the_hub_took_only_a_part_is_named_by_its_files(
    hub: RunningHub, bucket: str, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    failed = {"success": False, "processed": 1, "succeeded": 0, "failed": [{"path": "journal/x", "error": "no room"}]}
    hub.refuse(f"POST /api/buckets/{bucket}/batch", 200, answer=json.dumps(failed), times=9)
    told = hub.run("sync", make_dataset(tmp_path), *SIGNALS, "--bucket", bucket, status=1).stderr
    assert "journal/x: no room" in told and "HTTP 200" not in told


def test_two_runs_that_fetch_into_one_store_at_once_take_nothing_from_each_other(
    hub: RunningHub, bucket: str, make_dataset: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (make_dataset(tmp_path / name) for name in ("first", "second"))
    hub.run("sync", first, *SIGNALS, "--bucket", bucket)
    place, store = parse_bucket(bucket), second / ".annotator"
    fetched: list[int] = []

    def meanwhile(path: Path, journal: Path) -> None:
        monkeypatch.undo()
        fetched.append(hub.call(lambda: BucketSync(place, store, print, every_s=1).download()))
        add_segment(path, journal)

    monkeypatch.setattr("annotator.hub.bucket.add_segment", meanwhile)
    fetched.append(hub.call(lambda: BucketSync(place, store, print, every_s=1).download()))
    assert fetched == [1, 1] and list_segments(store / "journal") == list_segments(first / ".annotator" / "journal")
    assert [path.name for path in store.iterdir()] == ["journal"]


def test_where_the_last_delivery_fails_the_run_says_so_and_all_is_kept_here(
    hub: RunningHub, bucket: str, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_dataset(tmp_path / "one")
    hub.refuse(f"POST /api/buckets/{bucket}/batch", 403, times=9)
    told = hub.run("sync", root, *SIGNALS, "--bucket", bucket, status=1).stderr
    assert "the log's segments cannot be uploaded – hf://buckets/" in told
    hub.control("refuse", b"[]")
    told = hub.run("sync", root, *SIGNALS, "--bucket", bucket).stderr
    assert "3 up to date" in told
    assert {Path(path).name for path in hub.segments(bucket)} == set(list_segments(root / ".annotator" / "journal"))


def test_an_interrupted_run_delivers_what_it_had(
    hub: RunningHub, bucket: str, make_dataset: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from annotator.pipeline.sync import ShardWriter

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ShardWriter, "project", interrupt)
    root = make_dataset(tmp_path / "one")
    hub.run("sync", root, *SIGNALS, "--bucket", bucket, status=130)
    assert len(hub.segments(bucket)) == 1


def test_datasets_that_share_a_bucket_keep_their_own_locks(
    hub: RunningHub, bucket: str, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    from tests.datasets import Recording

    alone = make_dataset(tmp_path / "alone", [Recording(7), Recording(8)], name="zebra")
    shutil.copytree(alone, shared := tmp_path / "shared" / "zebra")
    other = make_dataset(tmp_path / "other", name="apple")
    hub.run("sync", other, *SIGNALS, "--bucket", bucket)
    hub.run("sync", alone, *SIGNALS)
    hub.run("sync", shared, *SIGNALS, "--bucket", bucket)
    lock = Path("meta") / "annotations.lock.json"
    assert (shared / lock).read_bytes() == (alone / lock).read_bytes()
    assert "shards written  0" in hub.run("sync", shared, *SIGNALS).stderr
    assert hub.run("verify", shared).stderr.endswith("nothing is wrong\n")


def test_a_segment_that_is_not_what_its_name_says_is_not_taken_in(
    hub: RunningHub, bucket: str, make_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = (make_dataset(tmp_path / name) for name in ("first", "second"))
    hub.run("sync", first, *SIGNALS)
    (segment,) = list_segments(first / ".annotator" / "journal")
    wrong = first / ".annotator" / "journal" / f"{'0' * 32}.parquet"
    (first / ".annotator" / "journal" / segment).rename(wrong)
    _deliver(hub, wrong, bucket)
    told = hub.run("sync", second, *SIGNALS, "--bucket", bucket, status=1).stderr
    assert "a segment is not what its name says" in told
    assert not (second / ".annotator" / "journal" / wrong.name).exists()


def _deliver(hub: RunningHub, path: Path, bucket: str) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.url, token=TOKEN)
    api.create_bucket(bucket)
    api.batch_bucket_files(bucket, add=[(path, f"journal/{path.name}")])
