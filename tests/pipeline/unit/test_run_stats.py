"""The counts of a run: what makes it incomplete, and which episodes need nothing more."""

from collections.abc import Callable

import pytest

from annotator.pipeline.run_stats import RunStats


@pytest.mark.parametrize(
    "happens",
    [
        lambda stats: stats.episode("failed"),
        lambda stats: stats.calls.failed("timeout"),
        lambda stats: stats.calls.count("rejected"),
        lambda stats: stats.violations.update({"no_bad": 1}),
    ],
    ids=["a failed episode", "a failed call", "a rejected answer", "a broken rule"],
)
def test_a_run_that_lacks_anything_is_incomplete(happens: Callable[[RunStats], None]) -> None:
    stats = RunStats()
    assert not stats.incomplete()
    happens(stats)
    assert stats.incomplete()


@pytest.mark.parametrize(
    "happens",
    [
        lambda stats: stats.episode("done"),
        lambda stats: stats.calls.answered("plan.segment", 10, 2),
        lambda stats: stats.calls.count("hit"),
        lambda stats: stats.calls.count("asked again"),
        lambda stats: stats.calls.declined("vqa.bbox", "sees nothing"),
        lambda stats: stats.calls.decoded(5),
    ],
    ids=["a done episode", "an answer", "a hit", "a second ask", "a refusal", "decoded frames"],
)
def test_what_is_as_it_should_be_leaves_a_run_complete(happens: Callable[[RunStats], None]) -> None:
    stats = RunStats()
    happens(stats)
    assert not stats.incomplete()


def test_failed_and_skipped_episodes_need_nothing_more_either() -> None:
    stats = RunStats()
    stats.episodes_skipped = 4
    stats.episode("done", 3)
    stats.episode("failed", 2)
    stats.episode("failed")
    assert (stats.episodes_done, stats.episodes_failed, stats.episodes_finished) == (3, 3, 10)


def test_who_watches_hears_of_every_change() -> None:
    heard: list[tuple[int, int]] = []
    stats = RunStats(lambda: heard.append((stats.episodes_finished, stats.calls.outcomes.total())))
    stats.episode("done", 2)
    stats.episode("failed")
    stats.calls.answered("plan.segment", 10, 2)
    stats.calls.failed("timeout")
    stats.calls.declined("vqa.bbox", "sees nothing")
    stats.calls.missing("plan.segment")
    assert heard == [(2, 0), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4)]


def test_calls_are_counted_by_outcome_and_by_what_distinguishes_them() -> None:
    calls = RunStats().calls
    calls.answered("plan.segment", 10, 2)
    calls.answered("vqa.bbox", 5, 1)
    calls.failed("timeout")
    calls.missing("plan.describe")
    assert [calls.declined("vqa.count", why) for why in ("too dark", "too bright")] == [True, False]
    assert calls.outcomes == {"answered": 2, "failed": 1, "missing": 1, "declined": 2}
    assert (calls.tokens_in, calls.tokens_out) == (15, 3)
    assert (calls.answered_by_step, calls.failures_by_kind) == ({"plan.segment": 1, "vqa.bbox": 1}, {"timeout": 1})
    assert (calls.missing_by_step, calls.declined_steps) == ({"plan.describe": 1}, {"vqa.count": "too dark"})
