"""Progress, notes and the closing table of a run, on stderr."""

import sys
import time
from types import TracebackType

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn

from annotator.cli.tables import rows_table
from annotator.pipeline.run_stats import RunStats

PLAIN_EVERY_S = 5.0


class ConsoleProgress:
    """Shows a run: a live progress bar on a terminal, else one line every few seconds."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr, highlight=False, emoji=False)
        self._noted: set[str] = set()
        self._stats: RunStats | None = None
        self._progress: rich.progress.Progress | None = None
        self._task: TaskID | None = None
        self._last = self._started = time.monotonic()

    def note(self, message: str) -> None:
        """Print a message, unless it was printed before."""
        if message not in self._noted:
            self._noted.add(message)
            self._console.print(message, markup=False, soft_wrap=True)

    def begin(self, stats: RunStats) -> None:
        """Start showing progress of `stats`."""
        self._stats = stats
        self._started = self._last = time.monotonic()
        if self._console.is_terminal:
            columns = (TextColumn("episodes"), BarColumn(12), MofNCompleteColumn(), TextColumn("{task.fields[calls]}"))
            self._progress = rich.progress.Progress(
                *columns, TimeRemainingColumn(), console=self._console, transient=True
            )
            self._task = self._progress.add_task("episodes", total=stats.episodes_total, calls="")
            self._progress.start()

    def changed(self) -> None:
        """Update what is shown; cheap enough to call after every model call."""
        if self._stats is None:
            return
        if self._progress is not None and self._task is not None:
            done = self._stats.episodes_finished
            self._progress.update(self._task, completed=done, calls=calls_line(self._stats))
        elif time.monotonic() - self._last >= PLAIN_EVERY_S:  # a log file should not fill with progress
            self._last = time.monotonic()
            self._console.print(self._plain(self._stats), soft_wrap=True)

    def _plain(self, stats: RunStats) -> str:
        done, total = stats.episodes_finished, stats.episodes_total
        worked = stats.episodes_done + stats.episodes_failed
        line = f"episodes {done}/{total} | {calls_line(stats)}"
        # Episodes that were up to date took no time, so only the others say how fast the run is.
        if worked and done < total:
            left_s = (time.monotonic() - self._started) / worked * (total - done)
            line += f" | about {left_s:.0f} s left"
        return line

    def end(self) -> None:
        """Stop showing progress."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._stats = None, None

    def close(self, stats: RunStats, *, engine: str, elapsed_s: float) -> None:
        """Print the closing table."""
        self._console.print(rows_table(closing_lines(stats, engine=engine, elapsed_s=elapsed_s)))

    def __enter__(self) -> "ConsoleProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def calls_line(stats: RunStats) -> str:
    """Return the counts of calls so far in one line."""
    calls = stats.calls.outcomes
    text = f"calls: {calls['answered']} answered, {calls['hit']} in the log, {calls['failed']} failed"
    return f"{text} | {(stats.calls.tokens_in + stats.calls.tokens_out) / 1000:.0f}k tokens"


def closing_lines(stats: RunStats, *, engine: str, elapsed_s: float) -> list[tuple[str, str]]:
    """Return the rows of the closing table."""
    calls = stats.calls.outcomes
    outcomes = ("answered", "hit", "failed", "declined", "asked again", "rejected", "missing")
    shown = {"hit": "from the log", "missing": "not in the log"}
    episodes = {"annotated": stats.episodes_done, "up to date": stats.episodes_skipped, "failed": stats.episodes_failed}
    lines = [
        ("engine", engine),
        ("episodes", _joined(episodes)),
        ("calls", _joined({shown.get(outcome, outcome): calls[outcome] for outcome in outcomes})),
        ("tokens", f"{stats.calls.tokens_in} in, {stats.calls.tokens_out} out"),
        ("frames decoded", str(stats.calls.frames_decoded)),
        ("shards written", str(stats.shards_written)),
        ("time", f"{elapsed_s:.1f} s"),
    ]
    if stats.calls.failures_by_kind:
        lines.insert(
            3, ("failures", ", ".join(f"{kind} {n}" for kind, n in sorted(stats.calls.failures_by_kind.items())))
        )
    return lines


def _joined(counts: dict[str, int]) -> str:
    """Join counts by name, leaving out zeros except for the first."""
    first, *rest = counts.items()
    return ", ".join(f"{count} {name}" for name, count in [first, *(item for item in rest if item[1])])
