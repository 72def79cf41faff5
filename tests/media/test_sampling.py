"""Which frames are looked at: constant density, both ends, whatever the timestamps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.media.sampling import nearest, sample, windows
from tests.media.films import timestamps

gaps = st.lists(st.floats(0.01, 2.0), min_size=0, max_size=200)


@given(gaps=gaps, start=st.floats(0, 10), fps_wanted=st.floats(0.05, 60))
def test_samples_are_distinct_ascending_and_hold_both_ends(gaps: list[float], start: float, fps_wanted: float) -> None:
    times = (start + np.cumsum([0.0, *gaps])).astype(np.float32)
    chosen = sample(times, fps_wanted)
    assert chosen[0] == 0 and chosen[-1] == len(times) - 1
    assert (np.diff(chosen) > 0).all()
    assert len(chosen) <= (times[-1] - times[0]) * fps_wanted + 2


def test_a_regular_recording_is_sampled_at_even_distances() -> None:
    assert sample(timestamps(91, 30), 2).tolist() == list(range(0, 91, 15))
    assert sample(timestamps(95, 30), 2).tolist() == [0, 15, 30, 45, 60, 75, 94]
    assert sample(timestamps(101, 30), 2).tolist() == [0, 15, 30, 45, 60, 75, 90, 100]


def test_density_beyond_the_recordings_own_takes_every_frame_once() -> None:
    assert sample(timestamps(20, 10), 1000).tolist() == list(range(20))


@pytest.mark.parametrize(("count", "chosen"), [(1, [0]), (2, [0, 1]), (9, [0, 8])])
def test_an_episode_shorter_than_a_period_gives_its_ends(count: int, chosen: list[int]) -> None:
    assert sample(timestamps(count, 30), 1).tolist() == chosen


def test_density_follows_seconds_and_not_frame_numbers() -> None:
    times = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 5.0, 5.1, 5.5, 6.0], np.float32)
    assert sample(times, 1).tolist() == [0, 4, 5, 8]


def test_long_recordings_do_not_drift() -> None:
    times = timestamps(108_000, 30)
    assert (np.abs(times[sample(times, 2)] - np.arange(7200 + 1).clip(max=7199.933) / 2)[:-1] < 0.02).all()


@pytest.mark.parametrize(("count", "fps_wanted"), [(0, 1), (5, 0), (5, -1), (5, float("nan"))])
def test_what_cannot_be_sampled_is_refused(count: int, fps_wanted: float) -> None:
    with pytest.raises(ValueError, match="cannot sample"):
        sample(timestamps(count), fps_wanted)


@given(count=st.integers(0, 500), max_frames=st.integers(1, 100))
def test_windows_cover_every_frame_once_and_evenly(count: int, max_frames: int) -> None:
    indices = np.arange(count) * 3
    cut = windows(indices, max_frames)
    assert np.concatenate([np.empty(0, np.int64), *cut]).tolist() == indices.tolist()
    assert len(cut) == -(-count // max_frames)
    sizes = [len(window) for window in cut]
    assert all(0 < size <= max_frames for size in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_a_window_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        windows(np.arange(3), 0)


@given(times=st.lists(st.floats(-5, 50), min_size=1, max_size=20))
def test_of_all_frames_none_is_nearer_than_the_nearest(times: list[float]) -> None:
    seconds = timestamps(600, 29.97).astype(np.float64)
    indices = nearest(seconds, np.array(times))
    best = np.abs(seconds[None, :] - np.array(times)[:, None]).min(axis=1)
    assert np.allclose(np.abs(seconds[indices] - times), best, atol=0)


def test_a_time_between_two_frames_is_nearest_to_the_earlier() -> None:
    assert nearest(np.array([0, 0.5, 1]), np.array([0.25, 0.75, 9])).tolist() == [0, 1, 2]
    assert nearest(np.array([0, 0.5]), np.array(0.3)).shape == ()
