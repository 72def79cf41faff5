"""`annotator sync`: annotate new and changed episodes and update the shards."""

from collections.abc import Sequence

from annotator.api import sync
from annotator.cli.parsing import parse_sync


def run(args: Sequence[str]) -> int:
    """Sync a dataset, and return 0 if it is complete, else 1."""
    settings = parse_sync(args)
    from annotator.cli.progress import ConsoleProgress  # imports rich, which --help does not need

    with ConsoleProgress() as progress:
        return 0 if sync(settings, progress) == "done" else 1
