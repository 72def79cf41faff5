"""`annotator sync`: annotate what is not annotated yet, and bring the shards up to date."""

from collections.abc import Sequence

from annotator.api import sync
from annotator.cli.parsing import parse_sync


def run(args: Sequence[str]) -> int:
    """Sync a dataset; 0 where nothing is missing, else 1."""
    settings = parse_sync(args)
    from annotator.cli.progress import ConsoleProgress  # rich: not before the arguments are right

    with ConsoleProgress() as progress:
        return 0 if sync(settings, progress) == "done" else 1
