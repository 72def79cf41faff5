"""`annotator job`: annotate on Hugging Face Jobs, and look after the jobs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotator.cli.parsing import Words, build, build_sync, parse, split_words
from annotator.cli.progress import ConsoleProgress
from annotator.cli.tables import print_table
from annotator.config.options import POSITIONAL
from annotator.config.settings import Settings, SyncSettings
from annotator.errors import UsageError
from annotator.modules.third_party import sync_settings
from annotator_store.errors import Problem

if TYPE_CHECKING:
    from annotator.jobs.monitor import JobStatus


class SubmitArguments(Settings, frozen=True, kw_only=True):
    """Annotate a dataset of the Hub on Hugging Face Jobs. Takes all options of `annotator sync` beside these.

    One job installs the code, starts a model server for each GPU, runs `annotator sync` with the same options, delivers
    what is answered to a bucket every minute, and pushes at the end. First, what is left to do is counted on a local
    copy: where that is nothing, no job is submitted. Prints the job's name.
    """

    flavor: str = "h200"
    """The hardware: see `hf jobs hardware`."""
    timeout: str | None = None
    """End the job after this long, such as 90m or 6h; unset takes an estimate from episodes, calls and GPUs."""
    image: str = "vllm/vllm-openai:v0.32.0"
    """The container image: Python 3.11 or newer, and vLLM."""
    code: str | None = None
    """What the job installs: release, tree (the code at hand), image (it is in there), or git+https://HOST/REPO@REF.
    Unset takes tree where this runs from a source tree, else release."""
    namespace: str | None = None
    """Whose job it is: a user or an organization; unset takes the token's own."""
    count: bool = True
    """Count what is left to do first. Without a count, name the timeout."""
    again: bool = False
    """Submit it also where a job that has not ended works on the same dataset and bucket."""


class JobArguments(Settings, frozen=True, kw_only=True):
    """Look after jobs. wait: exit status 0 where the job completed, else 1.

    annotator job status|logs|wait|cancel ID
    """

    action: Annotated[Literal["status", "logs", "wait", "cancel"], POSITIONAL]
    """status, logs, wait or cancel."""
    job_id: Annotated[str | None, POSITIONAL] = None
    """The job's name, as `submit` printed it. Without one, status lists the jobs that annotate."""
    namespace: str | None = None
    """Whose job it is, where its name does not say."""
    follow: bool = False
    """logs: go on until the job ends."""


def parse_submit(args: Sequence[str]) -> tuple[SubmitArguments, SyncSettings]:
    """Part the job's own arguments from those of `annotator sync`, and read both.

    Raises:
        UsageError: the settings file cannot be read, a value cannot be meant, or more than one dataset is named.
        SystemExit: status 2 for an option that there is not, or that lacks its value; 0 after --help.
    """
    words = split_words(args, SubmitArguments, sync_settings())
    own = {"help", *SubmitArguments.__struct_fields__} & words.options.keys()
    mine = Words({name: words.options.pop(name) for name in own}, [])
    return build("job submit", SubmitArguments, mine), build_sync(words)


def run(args: Sequence[str]) -> int:
    """Submit a job and print its name; or show a job's state or output, wait for it, cancel it."""
    from annotator.jobs import monitor

    if args[:1] == ["submit"]:
        return submit_job(args[1:])
    if args[:1] in (["-h"], ["--help"]):
        try:
            parse("job", JobArguments, args)
        except SystemExit:
            parse_submit(args)
    arguments = parse("job", JobArguments, args)
    name, namespace = arguments.job_id, arguments.namespace
    if name is None and arguments.action != "status":
        hint = "annotator job status lists them"
        raise UsageError("which job?", where=f"annotator job {arguments.action}", got="no name", hint=hint)
    if name is None:
        _print_jobs(monitor.list_jobs(namespace))
    elif arguments.action == "status":
        _print_jobs([monitor.inspect(name, namespace)])
    elif arguments.action == "logs":
        for line in monitor.read_logs(name, namespace, follow=arguments.follow):
            print(line)
    elif arguments.action == "cancel":
        monitor.cancel(name, namespace)
        sys.stderr.write(f"cancelled: {name}; what it delivered to its bucket stays there\n")
    else:
        job = monitor.wait(name, namespace)
        _print_jobs([job])
        return 0 if job.stage == "COMPLETED" else 1
    return 0


def submit_job(args: Sequence[str]) -> int:
    """Submit a job and print its name; nothing is printed where none was needed."""
    from annotator.jobs.request import JobRequest
    from annotator.jobs.submit import submit

    arguments, settings = parse_submit(args)
    request = JobRequest(
        settings=settings, flavor=arguments.flavor, timeout=arguments.timeout, image=arguments.image,
        code=arguments.code, namespace=arguments.namespace, count=arguments.count, again=arguments.again,
    )  # fmt: skip
    with ConsoleProgress() as progress:
        submitted = submit(request, progress)
        if submitted is not None:
            progress.note(f"submitted: {submitted.url}\nhint: annotator job logs {submitted.job_id} --follow")
            print(submitted.job_id)
    return 0


def _print_jobs(jobs: "Sequence[JobStatus]") -> None:
    print_table(
        (job.job_id, job.stage, job.flavor, f"{job.created_at:%Y-%m-%d %H:%M}" if job.created_at else "-", job.message)
        for job in jobs
    )


def run_script(argv: Sequence[str], prog: Path) -> int:
    """Submit a job from a script of one's own, with the arguments of `annotator job submit`."""
    try:
        return submit_job(argv)
    except Problem as error:
        sys.stderr.write(f"{prog.name}: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
