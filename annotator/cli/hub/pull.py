"""`annotator pull`: download a dataset of the Hub, with its log."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from annotator.cli.parsing import parse
from annotator.config.options import POSITIONAL
from annotator.config.settings import Settings, SyncSettings


class PullArguments(Settings, frozen=True, kw_only=True):
    """Download a dataset of the Hub with its log into a folder of plain files, and print that folder.

    A repeated pull downloads changed files only. The next `annotator sync` on the folder continues from the log.
    """

    repo_id: Annotated[str, POSITIONAL]
    """The dataset's name, org/name."""
    root: Path = Path()
    """The folder to download to; if unset, a cache folder."""
    revision: str | None = None
    """Branch, tag or commit; if unset, main."""


def run(args: Sequence[str]) -> int:
    """Pull a dataset and print its folder."""
    arguments = parse("pull", PullArguments, args)
    from annotator.cli.progress import ConsoleProgress
    from annotator.hub.sync import fetch_dataset

    settings = SyncSettings(repo_id=arguments.repo_id, revision=arguments.revision, root=arguments.root)
    with ConsoleProgress() as progress:
        print(fetch_dataset(settings, progress.note).root)
    return 0
