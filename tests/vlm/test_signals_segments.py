"""Pieces: long enough, few enough, alike nowhere, the same in every window."""

from itertools import pairwise
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from annotator.vlm.signals.phases import Phase, PhaseKind
from annotator.vlm.signals.segments import Piece, cut_window, pieces_of

KINDS: list[PhaseKind] = list(get_args(PhaseKind))


def pieces(parts: list[tuple[PhaseKind, int]], min_s: float) -> list[Piece]:
    """Frames of a tenth of a second; each phase says its kind."""
    phases: list[Phase] = []
    for kind, frames in parts:
        start = phases[-1].end if phases else 0
        phases.append(Phase(kind=kind, start=start, end=start + frames))
    edges = [i / 10 for i in range(phases[-1].end + 1)]
    return pieces_of(tuple(phases), [p.kind for p in phases], edges, min_s)


def brief(result: list[Piece]) -> list[tuple[str, float]]:
    return [(p.text, round(p.start, 2)) for p in result]


def test_phases_that_are_long_enough_stay_as_they_are() -> None:
    result = pieces([("reach", 20), ("grasp", 15), ("carry", 30)], 1.5)
    assert brief(result) == [("reach", 0.0), ("grasp", 2.0), ("carry", 3.5)]


def test_what_a_gripper_does_grows_into_both_neighbours() -> None:
    result = pieces([("reach", 30), ("grasp", 5), ("carry", 30)], 1.5)
    assert brief(result) == [("reach", 0.0), ("grasp", 2.5), ("carry", 4.0)]


def test_a_short_leg_joins_the_transfer_and_never_the_gripper() -> None:
    result = pieces([("grasp", 20), ("lift", 5), ("carry", 20), ("release", 20)], 1.5)
    assert brief(result) == [("grasp", 0.0), ("carry", 2.0), ("release", 4.5)]


def test_a_short_leg_joins_the_transfer_rather_than_a_wait() -> None:
    result = pieces([("carry", 20), ("lower", 5), ("wait", 16), ("release", 20)], 1.5)
    assert brief(result) == [("carry", 0.0), ("wait", 2.5), ("release", 4.1)]


def test_legs_merged_for_shortness_make_room_for_the_gripper() -> None:
    result = pieces([("reach", 17), ("grasp", 6), ("lift", 7), ("carry", 12), ("lower", 8), ("release", 4),
                    ("retract", 13)], 1.5)  # fmt: skip
    assert [text for text, _ in brief(result)][:3] == ["reach", "grasp", "carry"]


def test_too_many_steps_lose_the_lightest_first() -> None:
    result = pieces([("wait", 10), ("reach", 30), ("grasp", 10), ("carry", 30), ("release", 10), ("retract", 30)], 0.5)
    cut = cut_window(result, 0.0, 12.0, 0.5, 4)
    assert [p.text for p in cut] == ["reach", "carry", "release", "retract"]


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 60)), min_size=1, max_size=20),
    st.floats(0, 4), st.floats(0, 20), st.floats(0.2, 40), st.integers(1, 12),
)  # fmt: skip
def test_any_window_is_covered_in_order_without_gaps(
    parts: list[tuple[PhaseKind, int]], min_s: float, start_s: float, lasts_s: float, most: int
) -> None:
    whole = pieces(parts, min_s)
    assert all(p.lasts >= min_s - 1e-5 for p in whole) or len(whole) == 1
    cut = cut_window(whole, start_s, start_s + lasts_s, min_s, most)
    if not cut:
        assert start_s >= whole[-1].end
        return
    assert (cut[0].start, cut[-1].end) == (start_s, start_s + lasts_s)
    assert all(a.end == b.start and a.text != b.text for a, b in pairwise(cut))
    assert len(cut) <= most


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 60)), min_size=2, max_size=20), st.floats(0.2, 0.8))
def test_two_windows_agree_on_the_boundaries_they_share(parts: list[tuple[PhaseKind, int]], share: float) -> None:
    whole = pieces(parts, 0.0)
    end = whole[-1].end
    early = {p.start for p in cut_window(whole, 0.0, end * share + 0.05, 0.0, 64)}
    late = {p.start for p in cut_window(whole, end * share - 0.05, end, 0.0, 64)}
    inside = {p.start for p in whole[1:]}
    assert (early | late) & inside >= {s for s in inside if abs(s - end * share) > 0.06}
