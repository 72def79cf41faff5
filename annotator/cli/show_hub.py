"""Show what was pulled, pushed and submitted: names on stdout, talk on stderr."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.cli.hub_arguments import JobArguments, PullArguments, PushArguments, SubmitArguments
from annotator.cli.progress import ConsoleProgress
from annotator.config.settings import SyncSettings
from annotator.errors import UsageError

if TYPE_CHECKING:
    from annotator.jobs.monitor import JobStatus


def show_pull(arguments: PullArguments) -> int:
    """Pull a dataset and print its folder."""
    from annotator.hub.sync import fetch_dataset

    settings = SyncSettings(repo_id=arguments.repo_id, revision=arguments.revision, root=arguments.root)
    with ConsoleProgress() as report:
        sys.stdout.write(f"{fetch_dataset(settings, report.note).root}\n")
    return 0


def show_push(arguments: PushArguments) -> int:
    """Push a dataset and print its commit."""
    from annotator.dataset.metadata import open_dataset
    from annotator.hub.sync import check_hub, push_target, push_written

    root = open_dataset(arguments.root).root
    settings = SyncSettings(
        root=root, store=arguments.store, push_to_hub=True, new_repo_id=arguments.repo_id,
        push_private=arguments.push_private,
    )  # fmt: skip
    check_hub(settings)
    target = push_target(settings)
    assert target is not None
    with ConsoleProgress() as report:
        sys.stdout.write(f"{push_written(settings, target, report.note)}\n")
    return 0


def show_submit(arguments: SubmitArguments, settings: SyncSettings) -> int:
    """Submit a job and print its name; nothing is printed where none was needed."""
    from annotator.jobs.request import JobRequest
    from annotator.jobs.submit import submit

    order = JobRequest(
        settings=settings, flavor=arguments.flavor, timeout=arguments.timeout, image=arguments.image,
        code=arguments.code, namespace=arguments.namespace, count=arguments.count,
        again=arguments.again,
    )  # fmt: skip
    with ConsoleProgress() as report:
        submitted = submit(order, report)
        if submitted is not None:
            report.note(f"submitted: {submitted.url}\nhint: annotator job logs {submitted.job_id} --follow")
            sys.stdout.write(f"{submitted.job_id}\n")
    return 0


def show_job(arguments: JobArguments) -> int:
    """Show a job's state or output, wait for it, or cancel it."""
    from annotator.jobs import monitor as watch

    name, namespace = arguments.job_id, arguments.namespace
    if arguments.action == "status":
        return _write_jobs([watch.inspect(name, namespace)] if name else watch.list_jobs(namespace))
    if name is None:
        hint = "annotator job status lists them"
        raise UsageError("which job?", where=f"annotator job {arguments.action}", got="no name", hint=hint)
    if arguments.action == "logs":
        for line in watch.read_logs(name, namespace, follow=arguments.follow):
            sys.stdout.write(f"{line}\n")
    elif arguments.action == "cancel":
        watch.cancel(name, namespace)
        sys.stderr.write(f"cancelled: {name}; what it delivered to its bucket stays there\n")
    else:
        job = watch.wait(name, namespace)
        _write_jobs([job])
        return 0 if job.stage == "COMPLETED" else 1
    return 0


def _write_jobs(jobs: "Sequence[JobStatus]") -> int:
    for job in jobs:
        made = f"{job.created_at:%Y-%m-%d %H:%M}" if job.created_at else "-"
        sys.stdout.write(f"{job.job_id}  {job.stage}  {job.flavor}  {made}  {job.message}".rstrip() + "\n")
    return 0


def run_script(argv: Sequence[str], prog: Path) -> int:
    """Submit a job from a script of one's own, with the arguments of `annotator job submit`."""
    from annotator.cli.hub_arguments import parse_submit
    from annotator_store.errors import Problem

    try:
        return show_submit(*parse_submit(argv))
    except Problem as error:
        sys.stderr.write(f"{prog.name}: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
