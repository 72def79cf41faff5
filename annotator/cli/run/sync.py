"""`annotator sync`: annotate what is not annotated yet, and bring the shards up to date."""

from collections.abc import Sequence

from annotator.api import sync
from annotator.cli.parsing import parse_sync
from annotator.cli.progress import ConsoleProgress


def run(args: Sequence[str]) -> int:
    """Sync a dataset; 0 where nothing is missing, else 1."""
    with ConsoleProgress() as progress:
        outcome = sync(parse_sync(args), progress)
    return 0 if outcome == "done" else 1
