"""`annotator push`: push a dataset to the Hub, with its card, lock and log."""

from collections.abc import Sequence
from pathlib import Path

from annotator.cli.parsing import DatasetArguments, parse
from annotator.config.settings import SyncSettings


class PushArguments(DatasetArguments, frozen=True, kw_only=True):
    """Push a dataset with its card, lock and log, tag it with its codebase version, and print the commit."""

    repo_id: str | None = None
    """Dataset on the Hub to push to, org/name; if unset, the one it was downloaded from."""
    store: Path | None = None
    """Folder of the log; if unset, .annotator in the dataset."""
    push_private: bool | None = None
    """Whether a dataset created on the Hub is private; if unset, as the dataset it was downloaded from."""


def run(args: Sequence[str]) -> int:
    """Push a dataset and print its commit."""
    arguments = parse("push", PushArguments, args)
    from annotator.cli.progress import ConsoleProgress
    from annotator.dataset.metadata import open_dataset
    from annotator.hub.sync import check_hub, push_target, push_written

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
