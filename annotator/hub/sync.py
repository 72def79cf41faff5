"""`annotator sync` with the Hub around it: download the dataset and the shared log, run, upload the log, push.

Without `--repo_id`, `--bucket` or `--push_to_hub` nothing of this happens, and `huggingface_hub` is not imported.
"""

import re
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from annotator.config.settings import SyncSettings
from annotator.config.store_path import STORE, store_path
from annotator.dataset.origin import read_source
from annotator.errors import UsageError
from annotator.hub.bucket import BucketSync, add_segment, parse_bucket
from annotator.hub.client import HubError, hub_api
from annotator.hub.repo import default_folder, pull, push
from annotator.pipeline.plan_run import plan_run
from annotator.pipeline.progress import Progress
from annotator.pipeline.run import Outcome
from annotator.pipeline.sync import sync
from annotator_store.log.log import JOURNAL
from annotator_store.log.segments import list_segments

_NAME = re.compile(r"[\w.-]+/[\w.-]+")

PUSH_AGAIN_AFTER_S = (5.0, 30.0, 120.0)
"""A run ends with its push, which should not fail for one bad minute of the Hub."""


def run_at_hub(settings: SyncSettings, progress: Progress) -> Outcome:
    """Run `sync` with what the settings ask of the Hub before and after it.

    The dataset is pushed when nothing is left to call; otherwise only its log is uploaded to the bucket. An upload that
    fails does not keep the dataset from being pushed, and is raised at the end.

    Raises:
        UsageError: the settings contradict each other, or an extra is missing.
        HubError: the Hub refused, or cannot be reached.
    """
    if not (settings.repo_id or settings.bucket or settings.push_to_hub):
        return sync(settings, progress)
    settings = fetch_dataset(settings, progress.note)
    target = push_target(settings)
    if target is not None:
        # Before anything is paid for: a missing token would only show at the push.
        with hub_api("no access to the Hub for the push", target) as api:
            api.whoami()
    outcome, upload_error = _run_shared(settings, progress)
    if upload_error is not None and target is not None:
        progress.note(f"the log is not uploaded, the dataset is pushed nevertheless: {upload_error.line}")
    if target is not None and _is_final(settings, target, outcome, progress.note):
        push_written(settings, target, progress.note)
    if upload_error is not None:
        raise upload_error
    return outcome


def _is_final(settings: SyncSettings, target: str, outcome: Outcome, note: Callable[[str], None]) -> bool:
    """Whether another run would have nothing to call: what is missing then was rejected, declined, or unreadable.

    A dataset that had to be complete could never be pushed after such a run.
    """
    if outcome == "done":
        return True
    plan = plan_run(settings)
    if plan.episodes_to_ask:
        folder = shlex.quote(str(settings.output or settings.root))
        again = "run again without --offline" if settings.offline else "run again"
        hint = f"{again} to ask for what failed, or push it as it is: annotator push {folder} --repo_id {target}"
        note(f"not pushed: the run is {outcome}, calls are missing in {plan.episodes_to_ask} episodes\nhint: {hint}")
    else:
        note(f"the run is {outcome}, but another run would have nothing to call: the dataset is pushed as it is")
    return not plan.episodes_to_ask


def _run_shared(settings: SyncSettings, progress: Progress) -> tuple[Outcome, HubError | None]:
    """Run, sharing the log through the bucket if one is named; also return why the last upload failed."""
    if settings.bucket is None:
        return sync(settings, progress), None
    bucket = bucket_sync(settings, progress.note)
    bucket.download()
    try:
        outcome = sync(settings, progress, bucket.uploading)
    except BaseException:  # an interrupt, too: what was answered so far should reach the next machine
        try:
            bucket.upload()
        except HubError as error:
            progress.note(f"the log is not uploaded: {error}")
        raise
    try:
        uploaded = bucket.upload()
    except HubError as error:
        return outcome, error
    progress.note(f"the log is in {settings.bucket}; {uploaded} segments were new at the end")
    return outcome, None


def bucket_sync(settings: SyncSettings, note: Callable[[str], None]) -> BucketSync:
    """Return what copies segments between this run's log and its bucket, which the settings must name."""
    assert settings.bucket is not None
    store = settings.log_folder
    return BucketSync(parse_bucket(settings.bucket), store, note, every_s=settings.bucket_every_s)


def fetch_dataset(settings: SyncSettings, note: Callable[[str], None]) -> SyncSettings:
    """Download the dataset that `--repo_id` names, if it does; return the settings with its folder as their root.

    Raises:
        UsageError: the settings contradict each other.
        HubError: the dataset cannot be downloaded.
    """
    check_hub(settings)
    if settings.repo_id is None:
        return settings
    root = default_folder(settings.repo_id) if settings.root == Path() else settings.root
    pull(settings.repo_id, settings.revision, root, note)
    settings = msgspec.structs.replace(settings, root=root)
    store = store_path(settings.output or root, settings.store)
    shipped, journal = root / STORE / JOURNAL, store / JOURNAL
    if shipped.resolve() != journal.resolve():  # the log is kept elsewhere: take in what came with the dataset
        for name in sorted(set(list_segments(shipped)) - set(list_segments(journal))):
            journal.mkdir(parents=True, exist_ok=True)
            copy = store / name
            shutil.copyfile(shipped / name, copy)
            add_segment(copy, journal)
    return settings


def check_hub(settings: SyncSettings) -> None:
    """Refuse settings of the Hub that contradict each other.

    Raises:
        UsageError: naming the setting and its value.
    """
    for name in ("repo_id", "new_repo_id"):
        value = getattr(settings, name)
        if value is not None and not _NAME.fullmatch(value):
            raise UsageError("not the name of a dataset", where=f"--{name}", got=value, hint="write ORG/NAME")
    if settings.revision is not None and settings.repo_id is None:
        hint = "name it: --repo_id"
        raise UsageError("a revision without a dataset", where="--revision", got=settings.revision, hint=hint)
    if settings.new_repo_id is not None and not settings.push_to_hub:
        hint = "add --push_to_hub"
        raise UsageError("a target without a push", where="--new_repo_id", got=settings.new_repo_id, hint=hint)
    if settings.bucket is not None:
        parse_bucket(settings.bucket)


def push_target(settings: SyncSettings) -> str | None:
    """Return the repository to push to; None where nothing is to be pushed.

    Raises:
        UsageError: it is not known.
    """
    if not settings.push_to_hub:
        return None
    source = read_source(settings.root)
    target = settings.new_repo_id or settings.repo_id or (source.repo_id if source else None)
    if target is None:
        hint = "name it: --new_repo_id ORG/NAME"
        raise UsageError("the target of the push is unknown", where="--push_to_hub", got=str(settings.root), hint=hint)
    return target


def push_written(settings: SyncSettings, target: str, note: Callable[[str], None]) -> str:
    """Push what a run has written, retrying transient errors of the Hub; return the commit.

    Raises:
        HubError: the Hub refused, or the last try failed.
    """
    folder = settings.output or settings.root
    store = store_path(folder, settings.store)
    if not store.resolve().is_relative_to(folder.resolve()):
        note("the log is not pushed: it is outside of the dataset, and other datasets may share it")
    waits_s = iter(PUSH_AGAIN_AFTER_S)
    while True:
        origin = read_source(settings.root)  # again at each try: one that broke off may have made its commit
        try:
            commit = push(folder, target, origin=origin, private=settings.push_private, store=store, note=note)
        except HubError as error:
            wait_s = next(waits_s, None)
            if not error.transient or wait_s is None:
                raise
            note(f"not pushed yet, trying again in {wait_s:.0f} s: {error.line}")
            time.sleep(wait_s)
        else:
            note(f"pushed: {target} at {commit}")
            return commit
