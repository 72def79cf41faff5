"""What a run tells the person at the keyboard: a protocol, so that a program can listen in its own way."""

from typing import Protocol

from annotator.pipeline.run_stats import RunStats


class Progress(Protocol):
    """Shows a run. The command line's own is `annotator.cli.progress.ConsoleProgress`."""

    def note(self, message: str) -> None:
        """Show a message; the same one is shown once in a run."""
        ...

    def begin(self, stats: RunStats) -> None:
        """Start showing the progress of `stats`."""
        ...

    def changed(self) -> None:
        """Show the present state of the counts; called after every call, so it must be cheap."""
        ...

    def end(self) -> None:
        """Stop showing progress. Safe to call twice."""
        ...

    def close(self, stats: RunStats, *, engine: str, elapsed_s: float) -> None:
        """Show the closing figures of a run that took `elapsed_s` seconds."""
        ...


class SilentProgress:
    """Shows nothing."""

    def note(self, message: str) -> None:
        """Drop the message."""

    def begin(self, stats: RunStats) -> None:
        """Show nothing."""

    def changed(self) -> None:
        """Show nothing."""

    def end(self) -> None:
        """Show nothing."""

    def close(self, stats: RunStats, *, engine: str, elapsed_s: float) -> None:
        """Show nothing."""
