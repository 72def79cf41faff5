"""Whatever spans a model returns, what is written is a cover: contiguous, frame-exact, nothing twice."""

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from annotator.modules.plan.timeline import LEAST_SECONDS, Segment, cover
from annotator.prompting.answers import Span
from annotator.prompting.normalize import tidy_label

Clock = npt.NDArray[np.float32]

TEXTS = st.sampled_from(["reach", "Reach.", " grasp  it ", "lift", "place", "", " ", ".", "wait", "LIFT"]) | st.text(
    max_size=5
)
TIMES = st.floats(-5, 40) | st.floats(allow_nan=True, allow_infinity=True) | st.integers(0, 20).map(float)
SPANS = st.lists(st.builds(Span, TIMES, TIMES, TEXTS), max_size=30)
STEPS = st.lists(st.floats(0.01, 2), max_size=60)


def clock_of(steps: list[float], start: float = 0.0) -> Clock:
    clock = np.cumsum([start, *steps], dtype=np.float64).astype(np.float32)
    return clock[np.concatenate([[True], np.diff(clock) > 0])]


def length_s(segment: Segment, clock: Clock) -> float:
    """From its first frame to the next segment's; the last frame lasts as long as the one before it."""
    if segment.stop < len(clock):
        return float(clock[segment.stop]) - float(clock[segment.first])
    tail = float(clock[-1]) - float(clock[-2]) if len(clock) > 1 else 0.0
    return float(clock[-1]) - float(clock[segment.first]) + tail


def is_usable(span: Span, clock: Clock) -> bool:
    low, high = min(span.start, span.end), max(span.start, span.end)
    finite = math.isfinite(span.start) and math.isfinite(span.end)
    return finite and bool(tidy_label(span.subtask)) and high >= float(clock[0]) and low <= float(clock[-1])


def check_cover(segments: list[Segment], spans: list[Span], clock: Clock, min_seconds: float) -> None:
    usable = [span for span in spans if is_usable(span, clock)]
    assert bool(segments) == bool(usable)
    if not segments:
        return
    assert segments[0].first == 0
    assert segments[-1].stop == len(clock)
    assert all(a.stop == b.first for a, b in pairwise(segments))
    assert all(s.first < s.stop for s in segments)
    assert all(is_usable(spans[s.source], clock) and s.text == spans[s.source].subtask for s in segments)
    assert all(tidy_label(a.text).casefold() != tidy_label(b.text).casefold() for a, b in pairwise(segments))
    if len(segments) > 1:
        assert min(length_s(s, clock) for s in segments) >= max(min_seconds, LEAST_SECONDS)


@settings(max_examples=300, deadline=None)
@given(SPANS, STEPS, st.floats(0, 3), st.floats(0, 1e4, width=32))
@example([Span(0, math.nan, "a"), Span(math.inf, 1, "b")], [0.1] * 9, 0.5, 0.0)
@example([Span(-9, -8, "before"), Span(90, 99, "after")], [0.1] * 9, 0.5, 0.0)
@example([Span(0, 0, "only")], [], 1.5, 0.0)
def test_any_list_of_spans_becomes_a_contiguous_cover_of_the_frames_or_nothing(
    spans: list[Span], steps: list[float], min_seconds: float, start: float
) -> None:
    clock = clock_of(steps, start)
    moved = [Span(s.start + start, s.end + start, s.subtask) for s in spans]
    check_cover(cover(moved, clock, min_seconds=min_seconds), moved, clock, min_seconds)


@settings(max_examples=100, deadline=None)
@given(SPANS, STEPS, st.floats(0, 3))
def test_a_cover_covers_itself(spans: list[Span], steps: list[float], min_seconds: float) -> None:
    clock = clock_of(steps)
    segments = cover(spans, clock, min_seconds=min_seconds)
    ends = [float(clock[min(s.stop, len(clock) - 1)]) for s in segments]
    again = [Span(float(clock[s.first]), end, s.text) for s, end in zip(segments, ends, strict=True)]
    covered = cover(again, clock, min_seconds=min_seconds)
    assert [(s.first, s.stop, s.text) for s in covered] == [(s.first, s.stop, s.text) for s in segments]
    assert [s.source for s in covered] == list(range(len(segments)))


def test_a_thousand_spans_are_stitched_in_a_blink() -> None:
    random = np.random.default_rng(0)
    times = random.uniform(-3, 63, (1000, 2))
    spans = [Span(float(a), float(b), f"step {i % 17}") for i, (a, b) in enumerate(times)]
    clock = clock_of([1 / 30] * 1800)
    check_cover(cover(spans, clock, min_seconds=1.5), spans, clock, 1.5)


TEN = clock_of([0.5] * 20)
"""Ten seconds, a frame every half second: frame 2 t at time t."""


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(0, 4, "reach"), (4, 10, "lift")], [(0, 8, "reach"), (8, 21, "lift")]),
        ([(2, 4, "reach"), (6, 8, "lift")], [(0, 12, "reach"), (12, 21, "lift")]),
        ([(0, 7, "reach"), (5, 10, "lift")], [(0, 10, "reach"), (10, 21, "lift")]),
        ([(10, 4, "lift"), (4, 0, "reach")], [(0, 8, "reach"), (8, 21, "lift")]),
        ([(-3, 4.1, "reach"), (4.2, 99, "lift")], [(0, 8, "reach"), (8, 21, "lift")]),
        ([(0, 4, "reach"), (4, 4.5, "slip"), (4.5, 10, "lift")], [(0, 8, "reach"), (8, 21, "lift")]),
        ([(0, 5.5, "reach"), (5.5, 6, "slip"), (6, 10, "lift")], [(0, 12, "reach"), (12, 21, "lift")]),
        ([(0, 0.5, "start"), (0.5, 10, "lift")], [(0, 21, "lift")]),
        ([(0, 9.5, "lift"), (9.5, 10, "end")], [(0, 21, "lift")]),
        ([(0, 4, "Reach."), (4, 6, "reach"), (6, 10, "lift")], [(0, 12, "Reach."), (12, 21, "lift")]),
        ([(0, 10, "lift"), (0, 2, "reach")], [(0, 21, "lift")]),
        ([(0, 10, "lift"), (0.2, 2, "reach")], [(0, 21, "lift")]),
        ([(3, 5, "")], []),
        ([(11, 12, "late")], []),
        ([], []),
    ],
    ids=[
        "as it should be",
        "a gap goes to what was before it, and the head to the first",
        "of two that overlap the later start wins",
        "turned round and out of order",
        "clipped and snapped",
        "a short one joins its longer neighbour after it",
        "a short one joins its longer neighbour before it",
        "a short first joins the next",
        "a short last joins the one before",
        "equal texts become one",
        "of two that start together the longer stays",
        "of two that snap together the longer stays",
        "without a text",
        "outside",
        "none",
    ],
)
def test_spans_are_stitched_as_a_person_would(
    spans: list[tuple[float, float, str]], expected: list[tuple[int, int, str]]
) -> None:
    found = cover([Span(*span) for span in spans], TEN, min_seconds=1.5)
    assert [(s.first, s.stop, s.text) for s in found] == expected


@given(st.text(max_size=40))
def test_tidying_twice_changes_nothing_more(text: str) -> None:
    once = tidy_label(text)
    assert tidy_label(once) == once
    assert "\n" not in once
    assert not once.endswith((".", " "))


def test_a_tidy_label_keeps_its_words() -> None:
    assert tidy_label("  pick up\n the 0.5 l  bottle. . ") == "pick up the 0.5 l bottle"


@pytest.mark.parametrize("fps", [10, 30, 1000])
def test_two_subtasks_never_start_closer_together_than_a_reader_can_tell_apart(fps: int) -> None:
    clock = clock_of([1 / fps] * 3 * fps)
    spans = [Span(at / 20, (at + 1) / 20, f"step {at}") for at in range(60)]
    starts = [float(clock[s.first]) for s in cover(spans, clock, min_seconds=0)]
    assert len(starts) > 5
    assert min(b - a for a, b in pairwise(starts)) >= 0.2


def test_an_episode_too_short_for_two_subtasks_has_one() -> None:
    clock = clock_of([0.01] * 15)
    (segment,) = cover([Span(0, 0.05, "reach"), Span(0.05, 0.15, "grasp")], clock, min_seconds=0)
    assert (segment.first, segment.stop, segment.text) == (0, 16, "grasp")


def test_texts_are_kept_to_the_letter() -> None:
    (segment,) = cover([Span(0, 9, " Take the  0.5 l bottle. ")], TEN, min_seconds=1)
    assert segment.text == " Take the  0.5 l bottle. "
