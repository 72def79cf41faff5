"""A run at the Hub: fetch the dataset and the shared log, run, deliver the log, push the dataset.

Without `--repo_id`, `--bucket` or `--push_to_hub` nothing of this happens, and nothing of it is imported.
"""

import re
import shlex
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import msgspec

from annotator.config.settings import SyncSettings
from annotator.dataset.origin import read_source
from annotator.errors import UsageError
from annotator.hub.bucket import BucketSync, adopt_segment, parse_bucket
from annotator.hub.client import HubError, at_the_hub
from annotator.hub.repo import default_folder, pull, push
from annotator.pipeline.progress import Progress
from annotator.pipeline.run import Outcome
from annotator_store.log.log import Log
from annotator_store.log.segments import list_segments

_NAME = re.compile(r"[\w.-]+/[\w.-]+")

PUSH_AGAIN_AFTER_S = (5.0, 30.0, 120.0)
"""A push is what a run ends with: it should not fail for one bad minute of the Hub."""

Beside = Callable[[Log], AbstractContextManager[object]]


class Sync(Protocol):
    """What runs: `annotator.pipeline.sync.sync`. What it is given as `beside` is entered while its log is open."""

    def __call__(self, settings: SyncSettings, progress: Progress, beside: Beside = nullcontext) -> Outcome:
        """Annotate."""
        ...


def run_at_hub(settings: SyncSettings, progress: Progress, sync: Sync) -> Outcome:
    """Run `sync` with what the settings want of the Hub around it.

    A dataset is pushed when nothing is left to call; else it is not, and its log is delivered all the same. A delivery
    that fails keeps nothing from being pushed, and is said at the end.

    Raises:
        UsageError: the settings contradict each other, or an extra is missing.
        HubError: the Hub refused, or cannot be reached.
    """
    if not (settings.repo_id or settings.bucket or settings.push_to_hub):
        return sync(settings, progress)
    settings = fetched(settings, progress.note)
    target = push_target(settings)
    if target is not None:
        # Before anything is paid for: is there somebody who could push?
        with at_the_hub("the Hub does not know who is to push", target) as api:
            api.whoami()
    outcome, undelivered = _run_shared(settings, progress, sync)
    if undelivered is not None and target is not None:
        progress.note(f"not delivered, to be pushed all the same: {undelivered.line}")
    if target is not None and _is_final(settings, target, outcome, progress.note):
        push_written(settings, target, progress.note)
    if undelivered is not None:
        raise undelivered
    return outcome


def _is_final(settings: SyncSettings, target: str, outcome: Outcome, note: Callable[[str], None]) -> bool:
    """Say whether running again would ask for nothing more: what is missing then was rejected, declined, or unreadable.

    Such a dataset could never be pushed if it had to be whole.
    """
    from annotator.pipeline.plan_run import plan_run

    if outcome == "done":
        return True
    plan = plan_run(settings)
    if plan.episodes_to_ask:
        folder = shlex.quote(str(settings.output or settings.root))
        anew = "run again without --offline" if settings.offline else "run again"
        again = f"{anew} to ask for what failed, or push it as it is: annotator push {folder} --repo_id {target}"
        note(f"not pushed: the run is {outcome}, calls are missing in {plan.episodes_to_ask} episodes\nhint: {again}")
    else:
        note(f"the run is {outcome}, but asking again would bring nothing more: it is pushed as it is")
    return not plan.episodes_to_ask


def _run_shared(settings: SyncSettings, progress: Progress, sync: Sync) -> tuple[Outcome, HubError | None]:
    """Run with the log shared through the bucket, where one is named; also give why its end was not delivered."""
    if settings.bucket is None:
        return sync(settings, progress), None
    courier = courier_of(settings, progress.note)
    courier.fetch()
    try:
        outcome = sync(settings, progress, courier.delivering)
    except BaseException:
        try:
            courier.deliver()
        except HubError as error:
            progress.note(f"not delivered: {error}")
        raise
    try:
        delivered = courier.deliver()
    except HubError as error:
        return outcome, error
    progress.note(f"the log is in {settings.bucket}; {delivered} segments were new at the end")
    return outcome, None


def courier_of(settings: SyncSettings, note: Callable[[str], None]) -> BucketSync:
    """Make the courier between this run's store and its bucket."""
    assert settings.bucket is not None
    return BucketSync(parse_bucket(settings.bucket), store_of(settings), note, every_s=settings.bucket_every_s)


def store_of(settings: SyncSettings) -> Path:
    """Where the log of a run lives."""
    return settings.store or (settings.output or settings.root) / ".annotator"


def fetched(settings: SyncSettings, note: Callable[[str], None]) -> SyncSettings:
    """Download the dataset that is named, and give the settings with its folder as their root.

    Raises:
        UsageError: the settings contradict each other.
        HubError: it cannot be downloaded.
    """
    check_hub(settings)
    if settings.repo_id is None:
        return settings
    root = default_folder(settings.repo_id) if settings.root == Path() else settings.root
    pull(settings.repo_id, settings.revision, root, note)
    settings = msgspec.structs.replace(settings, root=root)
    _adopt_log(root, store_of(settings))
    return settings


def check_hub(settings: SyncSettings) -> None:
    """Refuse settings of the Hub that no run could mean.

    Raises:
        UsageError: naming the setting and what was found.
    """
    for name in ("repo_id", "new_repo_id"):
        value = getattr(settings, name)
        if value is not None and not _NAME.fullmatch(value):
            raise UsageError("no name of a dataset", where=f"--{name}", got=value, hint="write ORG/NAME")
    if settings.revision is not None and settings.repo_id is None:
        raise UsageError("a revision of what?", where="--revision", got=settings.revision, hint="name it: --repo_id")
    if settings.new_repo_id is not None and not settings.push_to_hub:
        hint = "add --push_to_hub"
        raise UsageError("nothing is to be pushed", where="--new_repo_id", got=settings.new_repo_id, hint=hint)
    if settings.bucket is not None:
        parse_bucket(settings.bucket)
        if not settings.bucket_every_s > 0:
            got, hint = str(settings.bucket_every_s), "must be above 0"
            raise UsageError("setting out of range", where="--bucket_every_s", got=got, hint=hint)


def push_target(settings: SyncSettings) -> str | None:
    """Name the repository to push to; None where nothing is to be pushed.

    Raises:
        UsageError: it is not known.
    """
    if not settings.push_to_hub:
        return None
    source = read_source(settings.root)
    target = settings.new_repo_id or settings.repo_id or (source.repo_id if source else None)
    if target is None:
        hint = "name it: --new_repo_id ORG/NAME"
        raise UsageError("where is the dataset to be pushed?", where="--push_to_hub", got=str(settings.root), hint=hint)
    return target


def push_written(settings: SyncSettings, target: str, note: Callable[[str], None]) -> str:
    """Push what a run has written, and return its commit; a Hub that stumbles is asked again.

    Raises:
        HubError: the Hub refused.
    """
    folder = settings.output or settings.root
    if not store_of(settings).resolve().is_relative_to(folder.resolve()):
        note("the log is not pushed: it lies outside of the dataset, and other datasets may share it")
    for wait_s in PUSH_AGAIN_AFTER_S:
        try:
            return _push(settings, target, note)
        except HubError as error:
            if not error.passing:
                raise
            note(f"not pushed yet, will be tried again in {wait_s:.0f} s: {error.line}")
            time.sleep(wait_s)
    return _push(settings, target, note)


def _push(settings: SyncSettings, target: str, note: Callable[[str], None]) -> str:
    folder, origin = settings.output or settings.root, read_source(settings.root)
    commit = push(folder, target, origin=origin, private=settings.push_private, store=store_of(settings), note=note)
    note(f"pushed: {target} at {commit}")
    return commit


def _adopt_log(root: Path, store: Path) -> None:
    """Copy the segments that came with a dataset to where its log is kept, where that is elsewhere."""
    here, there = root / ".annotator" / "journal", store / "journal"
    if here.resolve() == there.resolve():
        return
    for name in sorted(set(list_segments(here)) - set(list_segments(there))):
        there.mkdir(parents=True, exist_ok=True)
        beside = store / name
        shutil.copyfile(here / name, beside)
        adopt_segment(beside, there)
