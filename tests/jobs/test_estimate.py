"""The figures of an estimate, worked out by hand: calls of an episode, and the timeout of a job that makes them."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from annotator.config.settings import InterjectionsSettings, PlanSettings, SyncSettings, VqaSettings
from annotator.dataset.cameras import select_cameras
from annotator.dataset.metadata import Camera
from annotator.jobs.submit import estimate_s
from annotator.modules.registry import module_named


def calls(name: str, seconds: float, settings: SyncSettings, cameras: int = 2) -> int:
    """Estimate over that many cameras and one more that shows depth."""
    shown = [
        Camera(key=f"{n}", stored="video", height_px=8, width_px=8, depth=n == cameras) for n in range(cameras + 1)
    ]
    dataset = cast("Any", SimpleNamespace(cameras=shown))
    module = module_named(name)
    selection = select_cameras(dataset, settings, {module.cameras})
    return module.estimate_calls(seconds, len(module.cameras_of(selection)), module.own_settings(settings))


# An episode of 60 s at 2 frames a second has 3 windows of 60 frames, and at most 24 subtasks at 8 a window.
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (PlanSettings(), 3 * 2 + 24 + 2),
        (PlanSettings(emit_memory=False), 3 * 2 + 2),
        (PlanSettings(subtask_seeded_relabel=True), 3 * 2 + 24 * 2 + 2),
        (PlanSettings(subtask_seeded_relabel=True, emit_memory=False), 3 * 2 + 24 + 2),
        (PlanSettings(subtask_describe_first=False), 3 + 24 + 2),
        (PlanSettings(view="video"), 2 + 8 + 2),
    ],
)
def test_a_plan_asks_once_a_window_and_once_a_subtask_for_memory_and_relabelling(
    settings: PlanSettings, expected: int
) -> None:
    assert calls("plan", 60.0, SyncSettings(plan=settings)) == expected


def test_interjections_are_asked_for_once_and_once_each() -> None:
    settings = SyncSettings(interjections=InterjectionsSettings(max_interjections_per_episode=5))
    assert calls("interjections", 60.0, settings) == 1 + 5


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (VqaSettings(), 61 * 2),
        (VqaSettings(K=3), 61 * 3 * 2),
        (VqaSettings(vqa_emission_hz=0.5), 31 * 2),
        (VqaSettings(restrict_to_default_camera=True), 61),
    ],
)
def test_questions_are_asked_at_every_tick_of_every_camera_that_shows_no_depth(
    settings: VqaSettings, expected: int
) -> None:
    assert calls("vqa", 60.0, SyncSettings(vqa=settings)) == expected


@pytest.mark.parametrize(
    ("number_of_calls", "gpus", "expected_s"),
    [
        (0, 1, 3600),  # an hour at least: twice the 30 minutes of the start
        (3600, 2, 1800 + 2 * 3600 * 2 // 2),  # twice 2 s a call, on two GPUs
        (3600, 1, 1800 + 2 * 3600 * 2),
        (3601, 2, 9600),  # 9002 s, in steps of 10 minutes
        (3600, 0, 1800 + 2 * 3600 * 2),  # an endpoint elsewhere counts as one
    ],
)
def test_the_timeout_is_the_start_and_twice_the_time_of_the_calls_on_each_gpu(
    number_of_calls: int, gpus: int, expected_s: int
) -> None:
    assert estimate_s(number_of_calls, gpus) == expected_s
