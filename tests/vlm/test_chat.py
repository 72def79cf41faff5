"""What engines that load a model share: template arguments, frame numbers of a video, how long a reply may get."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.vlm.chat import media_io, number_frames, reply_tokens, template_kwargs
from annotator_store.keys import Model
from tests.contracts.engine_contract import make_picture, make_request

THINKS = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"


def test_thinking_is_off_where_the_template_has_a_switch_and_nobody_set_it() -> None:
    model = Model(model_id="m")
    assert template_kwargs(model, THINKS) == {"enable_thinking": False}
    assert template_kwargs(model, "{{ messages }}") == {}
    assert template_kwargs(model, None) == {}


def test_what_was_set_is_passed_on_as_it_is() -> None:
    given = {"enable_thinking": True, "add_vision_id": True}
    assert template_kwargs(Model(model_id="m", chat_template_kwargs=given), THINKS) == given


@pytest.mark.parametrize(("effort", "thinks"), [("low", True), ("none", False)])
def test_a_reasoning_effort_switches_thinking(effort: str, thinks: bool) -> None:
    model = Model(model_id="m", reasoning_effort=effort)
    assert template_kwargs(model, THINKS) == {"reasoning_effort": effort, "enable_thinking": thinks}


def test_a_regular_video_is_numbered_from_where_it_begins() -> None:
    numbers = number_frames([60.0, 60.5, 61.0, 61.5])
    assert numbers.fps == 2
    assert numbers.indices == (120, 121, 122, 123)


@given(st.floats(0, 5000), st.floats(0.1, 30), st.integers(2, 60), st.integers(0, 1000))
def test_index_over_fps_is_each_frames_time_to_half_a_step(start: float, fps: float, count: int, jitter: int) -> None:
    times = [start + (i + (jitter * i % 7) / 20) / fps for i in range(count)]
    numbers = number_frames(times)
    assert len(numbers.indices) == count
    assert all(later > earlier for earlier, later in zip(numbers.indices, numbers.indices[1:], strict=False))
    assert abs(numbers.indices[0] / numbers.fps - times[0]) <= 0.5 / numbers.fps + 1e-6


def test_one_frame_is_numbered_too() -> None:
    assert number_frames([3.2]).indices == (3,)


def test_a_reply_gets_what_was_asked_for_but_no_more_than_the_context_leaves() -> None:
    limited, free = Model(model_id="m", max_new_tokens=100), Model(model_id="m")
    assert reply_tokens(limited, prompt_tokens=50, context_tokens=1000) == 100
    assert reply_tokens(limited, prompt_tokens=950, context_tokens=1000) == 50
    assert reply_tokens(free, prompt_tokens=50, context_tokens=1000) == 950


def test_videos_are_read_whole_and_at_their_times() -> None:
    assert media_io(make_request(pictures=(make_picture(),))) == {}
    video = make_picture("video", frames=4)
    told = media_io(make_request(pictures=(video,)))["video"]
    assert told == {"num_frames": -1, "fps": 2.0, "frames_indices": [0, 1, 2, 3], "total_num_frames": 4}


def test_videos_of_different_times_are_told_their_rate_alone() -> None:
    videos = (make_picture("video", frames=4), make_picture("video", frames=6))
    assert media_io(make_request(pictures=videos))["video"] == {"num_frames": -1, "fps": 2.0}
