"""Which frame a timestamp names."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from annotator_store.parquet.frame_times import frames_at, repeats_of

few_times = st.lists(st.sampled_from([0.0, 0.1, 0.2, 1.0, 1e9]), max_size=12)


@settings(deadline=None)
@given(times=few_times)
def test_each_frame_is_found_again_by_its_timestamp_and_repeat(times: list[float]) -> None:
    stamps = np.array(times, np.float32)
    found = frames_at(stamps, stamps.astype(np.float64), repeats_of(stamps))
    assert found.tolist() == list(range(len(times)))


@settings(deadline=None)
@given(times=few_times, wanted=st.lists(st.floats(width=64, allow_nan=True), max_size=5))
def test_a_time_is_found_only_where_a_frame_has_exactly_it(times: list[float], wanted: list[float]) -> None:
    stamps = np.array(times, np.float32)
    found = frames_at(stamps, np.array(wanted, np.float64), np.zeros(len(wanted), np.int64))
    first = {float(stamp): index for index, stamp in reversed(list(enumerate(stamps)))}
    assert found.tolist() == [first.get(time, -1) for time in wanted]


def test_a_repeat_beyond_the_last_such_frame_finds_nothing() -> None:
    stamps = np.array([0.0, 0.5, 0.5], np.float32)
    assert frames_at(stamps, np.array([0.5, 0.5, 0.5, 0.0]), np.array([0, 1, 2, 1])).tolist() == [1, 2, -1, -1]
