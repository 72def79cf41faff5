"""What a run shows on stderr while it goes on, and at its end."""

import io
from itertools import count

import pytest
from rich.console import Console

from annotator.cli import progress as module
from annotator.cli.progress import PLAIN_EVERY_S, ConsoleProgress, calls_line, closing_lines
from annotator.pipeline.run_stats import RunStats


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def progress(written: io.StringIO) -> ConsoleProgress:
    return ConsoleProgress(Console(file=written, width=200, highlight=False, emoji=False))


def counts(done: int = 0, failed: int = 0, skipped: int = 0, total: int = 10) -> RunStats:
    stats = RunStats()
    stats.episodes_total, stats.episodes_skipped = total, skipped
    stats.episode("done", done)
    stats.episode("failed", failed)
    return stats


def shown(progress: ConsoleProgress, stats: RunStats, monkeypatch: pytest.MonkeyPatch) -> None:
    """Show a change after 6 s at least."""
    seconds = count(0.0, PLAIN_EVERY_S + 1)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    progress.begin(stats)
    progress.changed()


def test_a_failed_episode_counts_as_gone_through_and_the_time_left_is_reckoned_with_it(
    progress: ConsoleProgress, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(progress, counts(done=1, failed=2, skipped=4), monkeypatch)
    line = "episodes 7/10 | calls: 0 answered, 0 in the log, 0 failed | 0k tokens | about 18 s left\n"
    assert written.getvalue() == line


def test_nothing_is_said_of_the_time_left_before_the_first_episode_or_after_the_last(
    progress: ConsoleProgress, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(progress, counts(skipped=4), monkeypatch)
    shown(progress, counts(done=6, skipped=4), monkeypatch)
    assert [line.rpartition(" | ")[2] for line in written.getvalue().splitlines()] == ["0k tokens", "0k tokens"]


def test_a_plain_line_comes_now_and_then_only(progress: ConsoleProgress, written: io.StringIO) -> None:
    progress.begin(counts())
    for _ in range(50):
        progress.changed()
    assert written.getvalue() == ""


def test_a_live_bar_goes_on_to_the_last_episode_that_failed(written: io.StringIO) -> None:
    console = Console(file=written, width=200, force_terminal=True, color_system=None)
    with ConsoleProgress(console) as progress:
        stats = counts(done=1, failed=2, total=3)
        progress.begin(stats)
        progress.changed()
    assert "3/3" in written.getvalue()


def test_a_note_is_shown_once(progress: ConsoleProgress, written: io.StringIO) -> None:
    for text in ("[b]one[/b]", "two", "[b]one[/b]"):
        progress.note(text)
    assert written.getvalue() == "[b]one[/b]\ntwo\n"


def test_the_calls_are_told_in_one_line() -> None:
    stats = counts()
    stats.calls.answered("plan.segment", 1400, 200)
    stats.calls.count("hit")
    stats.calls.failed("timeout")
    assert calls_line(stats) == "calls: 1 answered, 1 in the log, 1 failed | 2k tokens"


def test_the_closing_table_tells_what_became_of_episodes_and_calls() -> None:
    stats = counts(done=1, failed=2, skipped=4)
    stats.calls.answered("plan.segment", 1400, 200)
    for outcome in ("asked again", "rejected"):
        stats.calls.count(outcome)
    stats.calls.failed("timeout")
    stats.calls.failed("http_500")
    stats.calls.missing("plan.describe")
    stats.calls.decoded(7)
    stats.shards_written = 2
    assert closing_lines(stats, engine="scripted", elapsed_s=1.25) == [
        ("engine", "scripted"),
        ("episodes", "1 annotated, 4 up to date, 2 failed"),
        ("calls", "1 answered, 2 failed, 1 asked again, 1 rejected, 1 not in the log"),
        ("failures", "http_500 1, timeout 1"),
        ("tokens", "1400 in, 200 out"),
        ("frames decoded", "7"),
        ("shards written", "2"),
        ("time", "1.2 s"),
    ]
