"""Digests: tagged, canonical, pinned, the same in every process."""

import os
import subprocess
import sys
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator_store.digests import Keyed, as_uuid, canonical, digest_parts, digest_struct


class Thing(Keyed, frozen=True):
    tag_v: ClassVar[str] = "thing.v1"
    number: float = 0.0
    names: dict[str, int] = {}  # noqa: RUF012


class SameFields(Keyed, frozen=True):
    tag_v: ClassVar[str] = "same.v1"
    number: float = 0.0
    names: dict[str, int] = {}  # noqa: RUF012


def test_golden_digests() -> None:
    assert digest_parts("event.v1", [b"{}"]) == "22388d11bdb1b508a116b476e30b180f"
    assert digest_struct(Thing(number=1.5, names={"b": 2, "a": 1})) == "a2444b0aae09e4065a8634edff44b3c9"
    assert canonical(Thing(number=1, names={"b": 2, "a": 1})) == b'{"names":{"a":1,"b":2},"number":1.0}'


def test_the_tag_participates() -> None:
    assert digest_struct(Thing()) != digest_struct(SameFields())


def test_an_int_in_a_float_field_is_that_float() -> None:
    assert digest_struct(Thing(number=0)) == digest_struct(Thing(number=0.0))


def test_the_order_of_a_mapping_does_not_participate() -> None:
    assert digest_struct(Thing(names={"a": 1, "b": 2})) == digest_struct(Thing(names={"b": 2, "a": 1}))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_json_cannot_name_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="cannot cover"):
        digest_struct(Thing(number=number))


def test_boundaries_between_parts_participate() -> None:
    assert digest_parts("t", [b"ab", b"c"]) != digest_parts("t", [b"a", b"bc"]) != digest_parts("t", [b"abc"])
    assert digest_parts("t", [b"", b"a"]) != digest_parts("t", [b"a"])


@given(st.binary(max_size=40))
def test_a_digest_survives_the_way_through_a_uuid(data: bytes) -> None:
    digest = digest_parts("t", [data])
    assert as_uuid(digest).hex == digest
    assert as_uuid(digest).bytes == bytes.fromhex(digest)


def test_digests_do_not_depend_on_the_hash_seed() -> None:
    code = (
        "from annotator_store.keys import *; from annotator_store.log.folds import rows_digest\n"
        "from tests.store.facts import annotated\n"
        "from annotator_store.log.lines import entry_of; from tests.store.facts import answered\n"
        "m = Model(model_id='m', mm_processor_kwargs={c: i for i, c in enumerate('zyxw')})\n"
        "print(digest_struct(m), rows_digest(annotated(1)), entry_of(answered(1, 1)).id)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "424242")
    }
    assert len(outputs) == 1
