"""Naming: a dataset is known by its path, by the log that lies in it, or by what stands in its shards."""

from pathlib import Path

import pytest

from annotator_store.digests import Digest
from annotator_store.log.dataset_names import alike_at, name_in_log
from annotator_store.parquet.rewrite import language_digest_or_none
from tests.store.test_ledger import NOTES, written

SHARD = "data/a.parquet"


def test_a_dataset_is_known_by_its_path_or_by_the_log_that_lies_in_it(tmp_path: Path) -> None:
    inside, outside, here = tmp_path / ".annotator", tmp_path.parent / "log", str(tmp_path.resolve())
    assert name_in_log({here, "cups"}, tmp_path, outside) == here
    assert name_in_log({"/elsewhere/cups"}, tmp_path, inside) == "/elsewhere/cups"
    assert name_in_log({"bowls", f"/elsewhere/{tmp_path.name}"}, tmp_path, inside) == f"/elsewhere/{tmp_path.name}"
    assert name_in_log({"org/cups", here}, tmp_path, inside, given="org/cups") == "org/cups"
    assert name_in_log({"/a", "/b"}, tmp_path, outside) is None
    assert name_in_log({"/a"}, tmp_path, outside) is None
    assert name_in_log(set(), tmp_path, inside) is None


def test_no_name_is_taken_over_that_came_through_a_bucket(tmp_path: Path) -> None:
    inside = tmp_path / ".annotator"
    assert name_in_log({"bowls"}, tmp_path, inside) == "bowls"
    assert name_in_log({"bowls"}, tmp_path, inside, shared=True) is None
    assert name_in_log({"bowls", tmp_path.name}, tmp_path, inside, shared=True) == tmp_path.name


def test_one_that_moved_is_known_by_what_the_lock_says_of_its_shards(tmp_path: Path) -> None:
    pinned: dict[str, Digest] = {SHARD: NOTES[1][1].language}
    alike = alike_at(tmp_path, [SHARD], NOTES, lambda: pinned, language_digest_or_none)
    assert [name for name in ("cups", "bowls", "mugs") if alike(name)] == ["cups"]
    assert name_in_log({"bowls", "cups"}, tmp_path, tmp_path.parent / "log", alike=alike) == "cups"


@pytest.mark.parametrize("shards", [[], ["data/b.parquet"], [SHARD]])
def test_shards_that_are_not_there_or_cannot_be_read_are_like_none(tmp_path: Path, shards: list[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / SHARD).write_bytes(b"no parquet")
    alike = alike_at(tmp_path, shards, NOTES, dict, language_digest_or_none)
    assert not alike(written(1).dataset)
