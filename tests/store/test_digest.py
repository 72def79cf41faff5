"""Digests: tagged, canonical, pinned, the same in every process."""

import os
import subprocess
import sys
from typing import ClassVar

import msgspec
import pytest

from annotator_store.digests import Keyed, KeyPart, canonical, digest_parts, digest_struct


class Thing(Keyed, frozen=True):
    tag_v: ClassVar[str] = "thing.v1"
    number: float = 0.0
    names: dict[str, int] = {}  # noqa: RUF012


class Tile(KeyPart, frozen=True, tag="tile"):
    """A part as it was first released, and below with fields that came later."""

    width_px: int


class Sheet(Keyed, frozen=True, kw_only=True):
    tag_v: ClassVar[str] = "sheet.v1"
    tiles: tuple[Tile, ...]
    by_camera: dict[str, Tile]


class LaterTile(KeyPart, frozen=True, tag="tile"):
    added: ClassVar[frozenset[str]] = frozenset({"gamma", "labels"})
    width_px: int
    gamma: float = 1  # pyright: ignore[reportAssignmentType]  # an int, as a person may write it
    labels: tuple[str, ...] = ()


class LaterSheet(Keyed, frozen=True, kw_only=True):
    tag_v: ClassVar[str] = "sheet.v1"
    added: ClassVar[frozenset[str]] = frozenset({"options"})
    tiles: tuple[LaterTile, ...]
    by_camera: dict[str, LaterTile]
    options: dict[str, int] = msgspec.field(default_factory=dict[str, int])


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


FIRST = Sheet(tiles=(Tile(320),), by_camera={"top": Tile(640)})
LATER = LaterSheet(tiles=(LaterTile(320),), by_camera={"top": LaterTile(640)})
GOLDEN = "b24126a0f24f61ac93186b12187740df"


def test_a_field_that_was_added_is_left_out_while_it_has_its_default() -> None:
    assert digest_struct(FIRST) == digest_struct(LATER) == GOLDEN
    assert canonical(LATER) == canonical(FIRST)
    assert msgspec.json.decode(canonical(LATER), type=LaterSheet) == LATER


@pytest.mark.parametrize("gamma", [1, 1.0])
def test_a_default_that_is_given_is_a_default_however_it_is_written(gamma: float) -> None:
    given = msgspec.structs.replace(LATER, tiles=(LaterTile(320, gamma=gamma),), options={})
    assert digest_struct(given) == GOLDEN


def test_an_added_field_participates_once_it_differs_wherever_it_stands() -> None:
    others = [
        msgspec.structs.replace(LATER, options={"a": 1}),
        msgspec.structs.replace(LATER, tiles=(LaterTile(320, gamma=2.0),)),
        msgspec.structs.replace(LATER, tiles=(LaterTile(320, labels=("a",)),)),
        msgspec.structs.replace(LATER, by_camera={"top": LaterTile(640, gamma=2.0)}),
    ]
    assert len({GOLDEN, *(digest_struct(other) for other in others)}) == len(others) + 1
    assert digest_struct(others[0]) == "6fd79ba15bb5116729397c209a27226f"


def test_a_field_that_was_there_from_the_start_is_never_left_out() -> None:
    assert b'"number":0.0' in canonical(Thing())


@pytest.mark.parametrize("names", [{"late"}, {"missing"}])
def test_an_added_field_without_a_default_is_refused(names: set[str]) -> None:
    with pytest.raises(TypeError, match="no field with a default"):

        class Broken(Keyed, frozen=True):  # pyright: ignore[reportUnusedClass]
            added: ClassVar[frozenset[str]] = frozenset(names)
            late: int
