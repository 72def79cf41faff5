"""Settings are read from a file and checked; episodes are read from text."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from annotator.config.load import parse_episodes, read_toml, spell_episodes, validated
from annotator.config.settings import PlanSettings, Settings, SyncSettings, TaskAugAxesSettings
from annotator.errors import UsageError


def test_a_settings_file_names_several_as_a_list_and_groups_inside_groups_as_tables(tmp_path: Path) -> None:
    file = tmp_path / "annotator.toml"
    file.write_text('[vlm]\ncamera_keys = ["a", "b"]\n[plan.task_aug_axes]\nenabled = true\nomit_arm = 1\n')
    settings = read_toml(file)
    assert settings.vlm.camera_keys == ("a", "b")
    assert settings.plan.task_aug_axes == TaskAugAxesSettings(enabled=True, omit_arm=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, [0, 1, 2, 5, 6]), ("0", [0]), ("0,5-6", [0, 5, 6]), ("[0, 5]", [0, 5]), ("5,0,0-1", [0, 1, 5])],
)
def test_episodes_are_listed_singly_or_by_ranges(text: str | None, expected: list[int]) -> None:
    assert parse_episodes(text, [0, 1, 2, 5, 6]) == expected


@pytest.mark.parametrize(
    ("indices", "text"), [([4], "episode 4"), ([0, 1], "episodes 0-1"), ([0, 2, 5, 6, 7], "episodes 0, 2, 5-7")]
)
def test_episodes_are_spelled_as_they_are_read(indices: list[int], text: str) -> None:
    assert spell_episodes(indices) == text
    assert parse_episodes(text.partition(" ")[2], list(range(9))) == indices


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1,,2", "3-1", "1.5", "²", "0x1", "1--2"])
def test_episodes_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be read – --only_episodes(.|\n)*hint: write 0,5-9"):
        parse_episodes(text, [0, 1, 2, 3])


@pytest.mark.parametrize(("text", "missing"), [("0,7", "7"), ("2-6", "3"), ("0-99999999999999", "3")])
def test_an_episode_the_dataset_does_not_have_is_refused(text: str, missing: str) -> None:
    with pytest.raises(UsageError, match=rf"no such episode – --only_episodes – {missing}\nhint: .* episodes 0 to 6"):
        parse_episodes(text, [0, 1, 2, 5, 6])


def test_a_value_built_in_python_gets_the_type_of_its_setting() -> None:
    settings = validated(SyncSettings(plan=PlanSettings(frames_per_second=2, min_subtask_seconds=0)))
    assert msgspec.json.encode(settings.plan.frames_per_second) == b"2.0"
    assert msgspec.json.encode(settings.plan.min_subtask_seconds) == b"0.0"
    with pytest.raises(UsageError, match="cannot be read – --seed – True"):
        validated(SyncSettings(seed=True))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"frames_per_second": 0.0}, "--plan.frames_per_second"),
        ({"frames_per_second": float("nan")}, "--plan.frames_per_second"),
        ({"frames_per_second": float("inf")}, "--plan.frames_per_second"),
        ({"max_video_frames": 0}, "--plan.max_video_frames"),
        ({"contact_sheet_columns": -1}, "--plan.contact_sheet_columns"),
        ({"contact_sheet_quality": 96}, "--plan.contact_sheet_quality"),
        ({"n_task_rephrasings": -1}, "--plan.n_task_rephrasings"),
        ({"min_subtask_seconds": float("nan")}, "--plan.min_subtask_seconds"),
    ],
)
def test_a_setting_out_of_range_is_named(change: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=f"out of range – {name} – ") as caught:
        validated(SyncSettings(plan=PlanSettings(**change)))
    assert caught.value.hint


def test_the_defaults_are_in_range() -> None:
    validated(SyncSettings())


def test_a_settings_file_is_read_as_whatever_struct_is_asked_for(tmp_path: Path) -> None:
    """As where a package brings a module of its own, with a group of its own."""
    own = msgspec.defstruct("Own", [("scale", float, 1.0)], bases=(Settings,), frozen=True, kw_only=True)
    wider: Any = msgspec.defstruct("Wider", [("own", own, own())], bases=(SyncSettings,), frozen=True, kw_only=True)
    file = tmp_path / "annotator.toml"
    file.write_text("seed = 3\n[own]\nscale = 2\n")
    settings = read_toml(file, wider)
    assert (settings.seed, settings.own.scale) == (3, 2.0)
    assert validated(settings) == settings
