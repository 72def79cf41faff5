"""`annotator push`: push a dataset to the Hub, with its card, lock and log."""

from collections.abc import Sequence
from pathlib import Path

from annotator.cli.parsing import DatasetArguments, parse
from annotator.cli.progress import ConsoleProgress
from annotator.config.settings import SyncSettings


class PushArguments(DatasetArguments, frozen=True, kw_only=True):
    """Push a dataset as it is, with its card, lock and log, and tag it with its codebase version. Prints the commit."""

    repo_id: str | None = None
    """Where to, org/name; unset takes the dataset it was downloaded from."""
    store: Path | None = None
    """Where its log lies; unset takes .annotator in the dataset."""
    push_private: bool | None = None
    """A dataset that is made on the Hub is private; unset takes what the one is that this one was downloaded from."""


def run(args: Sequence[str]) -> int:
    """Push a dataset and print its commit."""
    from annotator.dataset.metadata import open_dataset
    from annotator.hub.sync import check_hub, push_target, push_written

    arguments = parse("push", PushArguments, args)
    settings = SyncSettings(
        root=open_dataset(arguments.folder).root, store=arguments.store, push_to_hub=True,
        new_repo_id=arguments.repo_id, push_private=arguments.push_private,
    )  # fmt: skip
    check_hub(settings)
    target = push_target(settings)
    assert target is not None
    with ConsoleProgress() as progress:
        print(push_written(settings, target, progress.note))
    return 0
