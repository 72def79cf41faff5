"""Options are read off the structs: names, types, ranges, texts."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from annotator.cli.parsing import parse
from annotator.config.options import POSITIONAL, Option, groups_of, options_of, texts_of
from annotator.config.settings import PositiveFloat, PositiveInt, Settings, SyncSettings
from annotator.errors import UsageError


class Inner(Settings, frozen=True, kw_only=True):
    """A group."""

    rate: PositiveFloat = 1.0
    """How fast,
    in Hz."""
    part: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """A share."""
    either: int | list[int] = 0
    """A type that only JSON can give."""


class Base(Settings, frozen=True, kw_only=True):
    """What another struct adds to."""

    where: Annotated[Path | None, POSITIONAL] = None
    """A folder."""


class Example(Base, frozen=True, kw_only=True):
    """One of each."""

    word: str
    """A word that must be given."""
    number: PositiveInt | None = None
    """A number, or none."""
    share: Annotated[int, Meta(ge=1, le=95)] = 5
    """A range with two ends."""
    several: tuple[Literal["a", "b"], ...] = ("a",)
    """Several choices."""
    open: Annotated[str, Meta(examples=["x", "y"])] = "x"
    """Choices that others may add to."""
    inner: Inner = Inner()


BY_NAME = {option.name: option for option in options_of(Example)}


def test_options_stand_in_the_order_of_the_fields_with_those_of_a_group_in_its_place() -> None:
    assert list(BY_NAME) == [
        "where",
        "word",
        "number",
        "share",
        "several",
        "open",
        "inner.rate",
        "inner.part",
        "inner.either",
    ]
    assert dict(groups_of(Example)) == {"inner": Inner}


@pytest.mark.parametrize(
    ("name", "takes", "limits"),
    [
        ("where", "path", ""),
        ("number", "integer", "1 or more"),
        ("share", "integer", "1 to 95"),
        ("several", "`a`, `b`, joined by commas", ""),
        ("open", "`x`, `y`", ""),
        ("inner.rate", "number", "above 0"),
        ("inner.part", "number", "above 0, at most 1"),
        ("inner.either", "JSON", ""),
    ],
)
def test_an_option_says_what_it_takes(name: str, takes: str, limits: str) -> None:
    option: Option = BY_NAME[name]
    assert (option.takes, option.range) == (takes, limits)


def test_a_word_without_a_flag_and_one_that_must_be_given_are_told() -> None:
    assert [name for name, option in BY_NAME.items() if option.positional] == ["where"]
    assert [name for name, option in BY_NAME.items() if option.default is msgspec.NODEFAULT] == ["word"]


def test_texts_come_from_the_source_also_of_the_struct_that_is_added_to() -> None:
    texts = texts_of(Example)
    assert texts["where"] == "A folder."
    assert texts_of(Inner)["rate"] == "How fast, in Hz."
    assert texts.keys() == {option.name for option in BY_NAME.values() if "." not in option.name}


def test_a_struct_that_was_made_while_running_has_no_texts() -> None:
    made: Any = msgspec.defstruct("Made", [("rate", float, 1.0)], bases=(Settings,), frozen=True, kw_only=True)
    assert texts_of(made) == {}
    assert [option.name for option in options_of(made)] == ["rate"]


def test_every_setting_has_a_text_and_a_default() -> None:
    for kind in (SyncSettings, *dict(groups_of(SyncSettings)).values()):
        texts = texts_of(kind)
        own = [option for option in options_of(kind) if "." not in option.name]
        assert all(texts.get(option.name) for option in own), kind
        assert all(option.default is not msgspec.NODEFAULT for option in own), kind


def test_the_command_line_reads_any_type_that_json_can_give() -> None:
    read = parse(
        "example", Example, ["--word", "w", "--inner.either", "[1, 2]", "--inner.part=0.5", "--open", "z", "d"]
    )
    assert (read.inner.either, read.inner.part, read.open, read.where) == ([1, 2], 0.5, "z", Path("d"))
    with pytest.raises(
        UsageError, match=r"out of range – --inner\.part – 2\.0\nhint: expected number, above 0, at most 1"
    ):
        parse("example", Example, ["--word", "w", "--inner.part", "2"])
