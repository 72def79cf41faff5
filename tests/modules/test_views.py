"""What is shown of an episode: by one camera or several, in windows, and what is said about it."""

from collections.abc import Sequence
from typing import Literal

import pytest

from annotator.config.settings import PlanSettings
from annotator.modules.base import CameraView
from annotator.modules.views import NO_FOOTAGE, Window, windows_of
from annotator_store.digests import digest_parts
from tests.modules.planned import FOOTAGE, camera, episode

WRIST, SIDE = (digest_parts("footage", [name.encode()]) for name in ("wrist", "side"))
TWO = (camera(), camera("wrist", WRIST))
THREE = (*TWO, camera("side", SIDE))


def of(windows: list[Window], footage: str) -> list[float]:
    """The times that one camera shows, in all windows."""
    return [t for window in windows for item in window.media if item.footage == footage for t in item.timestamps]


def test_one_camera_is_spoken_of_as_the_only_one() -> None:
    (window,) = windows_of(episode(), PlanSettings())
    assert window.view == (
        "The 2 images above are contact sheets of one recording: 21 frames in all, to be read row by row, left to "
        "right, 5 to a row. The time since the recording's start is printed in a corner of each tile, in seconds."
    )
    (window,) = windows_of(episode(), PlanSettings(view="video"))
    assert window.view == (
        "The video above has 21 frames of one recording, in order. "
        "The time since the recording's start is printed in a corner of each frame, in seconds."
    )


def test_several_cameras_come_one_after_the_other_and_the_text_says_which_is_which() -> None:
    (window,) = windows_of(episode(cameras=TWO), PlanSettings())
    assert [item.footage for item in window.media] == [FOOTAGE, FOOTAGE, WRIST, WRIST]
    assert window.view == (
        "The 4 images above are contact sheets of one recording, seen by 2 cameras at the same times: the first 2 by "
        'the camera "top", the next 2 by the camera "wrist". Each camera shows the same 21 moments, to be read row by '
        "row, left to right, 5 to a row. The time since the recording's start is printed in a corner of each tile, in "
        "seconds; the same time by two cameras is the same moment."
    )


def test_several_cameras_on_video_are_one_block_each() -> None:
    (window,) = windows_of(episode(cameras=THREE), PlanSettings(view="video"))
    assert [item.footage for item in window.media] == [FOOTAGE, WRIST, SIDE]
    assert {item.render.kind for item in window.media} == {"video"}
    assert window.view.startswith(
        "The 3 videos above show one recording, seen by 3 cameras at the same times: the first by"
    )
    assert 'the next by the camera "side". Each camera shows the same 21 moments, in order.' in window.view


@pytest.mark.parametrize("view", ["contact_sheets", "video"])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("cameras", [(camera(),), TWO, THREE])
def test_the_cameras_show_the_same_times_and_share_what_a_prompt_may_hold(
    view: Literal["contact_sheets", "video"], whole: bool, cameras: Sequence[CameraView]
) -> None:
    settings = PlanSettings(view=view, max_video_frames=30, max_frames_per_prompt=30, contact_sheet_frames_per_sheet=4)
    windows = windows_of(episode(400, cameras=cameras), settings, whole=whole)
    frames = [sum(len(item.timestamps) for item in window.media) for window in windows]
    assert max(frames) <= 30
    assert len(windows) == (1 if whole else -(-81 // (30 // len(cameras))))
    assert all(of(windows, one.footage) == of(windows, FOOTAGE) for one in cameras)
    assert len(of(windows, FOOTAGE)) == (30 // len(cameras) if whole else 81)
    assert (of(windows, FOOTAGE)[0], of(windows, FOOTAGE)[-1]) == (0, pytest.approx(39.9))


def test_a_budget_smaller_than_the_number_of_cameras_still_shows_one_frame_of_each() -> None:
    windows = windows_of(episode(cameras=THREE), PlanSettings(max_frames_per_prompt=2))
    assert all([len(item.timestamps) for item in window.media] == [1, 1, 1] for window in windows)


def test_a_second_camera_changes_nothing_about_the_windows_but_their_number() -> None:
    one = windows_of(episode(400), PlanSettings(max_frames_per_prompt=20))
    two = windows_of(episode(400, cameras=TWO), PlanSettings(max_frames_per_prompt=40))
    assert [(w.start, w.end) for w in one] == [(w.start, w.end) for w in two]


def test_without_a_camera_there_is_one_window_of_text() -> None:
    (window,) = windows_of(episode(400, cameras=()), PlanSettings())
    assert (window.media, window.view) == ((), NO_FOOTAGE)
    assert (window.start, window.end) == (0, pytest.approx(39.9))


def test_a_camera_whose_key_has_no_prefix_is_named_as_it_is() -> None:
    (window,) = windows_of(episode(cameras=(camera(), camera("x", WRIST))), PlanSettings())
    assert '"x"' in window.view
