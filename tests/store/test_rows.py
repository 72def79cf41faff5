"""Styles: one list, which a package may add to; columns and rules then know the new one."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from annotator_store import rows
from annotator_store.log.events import AnnotatedRow
from annotator_store.parquet.episode_language import arrange
from annotator_store.rows import EVENTS, PERSISTENT, Row, Style, column_for_style, register_style, styles
from annotator_store.validation.rules import digest_rules, load_rules
from annotator_store.validation.run import check_rows
from tests.store.annotated import FRAMES, KNOWN, TOP, at, write_frames

GAZE = Style(name="gaze", column=EVENTS, roles=("assistant",), has_camera=True)
MOOD = Style(name="mood", column=PERSISTENT, roles=("user",), one_at_a_time=True)
LOOK = Row(role="assistant", content="the cup", style="gaze", timestamp=at(3), camera=TOP)
CALM = Row(role="user", content="calm", style="mood", timestamp=at(0))


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    known = {style.name: style for style in styles()}
    monkeypatch.setattr(rows, "_styles", known)
    yield


def judged(folder: Path, *given: Row) -> set[str]:
    shard = write_frames(folder / "shard.parquet", [0])
    report = check_rows([(shard, {0: [AnnotatedRow(row=row) for row in given]})], load_rules(), KNOWN)
    return {finding.rule for finding in report.findings}


def test_the_styles_are_those_of_the_format() -> None:
    assert {style.name for style in styles() if style.column == PERSISTENT} == {
        "subtask", "plan", "memory", "motion", "task_aug",
    }  # fmt: skip
    assert {style.name for style in styles() if style.column == EVENTS} == {"interjection", "vqa", "trace", None}
    assert {style.name for style in styles() if style.has_camera} == {"vqa", "trace"}


def test_a_style_from_outside_has_its_column_and_passes_the_rules(tmp_path: Path) -> None:
    assert "known_style" in judged(tmp_path, LOOK, CALM)
    register_style(GAZE)
    register_style(MOOD)
    assert judged(tmp_path, LOOK, CALM) == set()
    assert (column_for_style("gaze"), column_for_style("mood")) == (EVENTS, PERSISTENT)
    language = arrange([LOOK, CALM], FRAMES)
    assert (language.runs[0].rows, language.events[0].rows) == ((CALM,), (LOOK,))


@pytest.mark.parametrize(
    ("broken", "rules"),
    [
        ([msgspec.structs.replace(LOOK, role="user")], {"style_role"}),
        ([msgspec.structs.replace(LOOK, camera=None)], {"style_camera"}),
        ([msgspec.structs.replace(LOOK, camera="elsewhere")], {"style_camera"}),
        ([msgspec.structs.replace(CALM, camera=TOP)], {"style_camera"}),
        ([CALM, msgspec.structs.replace(CALM, content="busy")], {"one_row_per_time"}),
        ([CALM, msgspec.structs.replace(CALM, timestamp=at(1))], {"rows_apart"}),
    ],
)
def test_rows_of_a_style_from_outside_are_held_to_what_it_says(
    tmp_path: Path, broken: list[Row], rules: set[str]
) -> None:
    register_style(GAZE)
    register_style(MOOD)
    assert judged(tmp_path, *broken) == rules


def test_a_style_that_is_registered_changes_the_digest_of_the_rules() -> None:
    before = digest_rules(load_rules())
    assert digest_rules(load_rules()) == before
    register_style(GAZE)
    after = digest_rules(load_rules())
    register_style(GAZE)
    assert before != after == digest_rules(load_rules())


@pytest.mark.parametrize(
    ("style", "message"),
    [
        (msgspec.structs.replace(GAZE, name="vqa", roles=()), "a name of its own"),
        (msgspec.structs.replace(GAZE, name=""), "a name of its own"),
        (msgspec.structs.replace(GAZE, name=None), "a name of its own"),
        (msgspec.structs.replace(GAZE, column=PERSISTENT), "name no camera"),
    ],
)
def test_a_style_that_cannot_be_is_refused(style: Style, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register_style(style)
    assert "gaze" not in {known.name for known in styles()}
