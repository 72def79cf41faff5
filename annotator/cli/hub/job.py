"""`annotator job`: submit annotation jobs to Hugging Face Jobs, and monitor them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotator.cli.parsing import Words, build, build_sync, parse, split_words
from annotator.cli.tables import print_table
from annotator.config.options import POSITIONAL
from annotator.config.settings import Settings, SyncSettings
from annotator.errors import UsageError
from annotator.modules.third_party import sync_settings
from annotator_store.errors import Problem

if TYPE_CHECKING:
    from annotator.jobs.monitor import JobStatus


class SubmitArguments(Settings, frozen=True, kw_only=True):
    """Annotate a dataset of the Hub on Hugging Face Jobs. Takes all options of `annotator sync` as well.

    The job installs the code, starts one model server per GPU, runs `annotator sync` with the same options, uploads new
    answers to a bucket every minute, and pushes the dataset at the end. The remaining work is counted on a local copy
    first; if there is none, no job is submitted. Prints the job's name.
    """

    flavor: str = "h200"
    """Hardware flavor, see `hf jobs hardware`."""
    timeout: str | None = None
    """Timeout of the job, such as 90m or 6h; if unset, estimated from episodes, calls and GPUs."""
    image: str = "vllm/vllm-openai:v0.32.0"
    """Container image, with Python 3.11 or newer and vLLM."""
    code: str | None = None
    """What the job installs: release, tree (this source tree), image (nothing, the image has it), or
    git+https://HOST/REPO@REF. If unset, tree when run from a source tree, else release."""
    namespace: str | None = None
    """User or organization that owns the job; if unset, the token's own."""
    count: bool = True
    """Count the remaining work first. Without a count, --timeout must be given."""
    again: bool = False
    """Submit even if an unfinished job works on the same dataset and bucket."""


class JobArguments(Settings, frozen=True, kw_only=True):
    """Show, follow, wait for or cancel jobs: annotator job status|logs|wait|cancel ID

    wait: exit status 0 if the job completed, else 1.
    """

    action: Annotated[Literal["status", "logs", "wait", "cancel"], POSITIONAL]
    """status, logs, wait or cancel."""
    job_id: Annotated[str | None, POSITIONAL] = None
    """Name of the job, as printed by `submit`. Without one, status lists all annotation jobs."""
    namespace: str | None = None
    """User or organization that owns the job, if its name does not include it."""
    follow: bool = False
    """logs: follow the output until the job ends."""


def parse_submit(args: Sequence[str]) -> tuple[SubmitArguments, SyncSettings]:
    """Return the job's own arguments and those of `annotator sync`.

    Raises:
        UsageError: the settings file cannot be read, a value is invalid, or more than one dataset is named.
        SystemExit: with status 2 for an unknown option or a missing value, 0 after --help.
    """
    words = split_words(args, SubmitArguments, sync_settings())
    # `--help` is about the job's own options: those of `annotator sync` have their own help.
    own = {"help", *SubmitArguments.__struct_fields__} & words.options.keys()
    mine = Words({name: words.options.pop(name) for name in own}, [])
    return build("job submit", SubmitArguments, mine), build_sync(words)


def run(args: Sequence[str]) -> int:
    """Submit a job, show its state or output, wait for it, or cancel it."""
    from annotator.jobs import monitor

    if args[:1] == ["submit"]:
        return submit_job(args[1:])
    if args[:1] in (["-h"], ["--help"]):
        try:
            parse("job", JobArguments, args)
        except SystemExit:
            parse_submit(args)  # `job --help` shows the options of both
    arguments = parse("job", JobArguments, args)
    name, namespace = arguments.job_id, arguments.namespace
    if name is None and arguments.action != "status":
        hint = "annotator job status lists them"
        raise UsageError("no job is named", where=f"annotator job {arguments.action}", hint=hint)
    if name is None:
        _print_jobs(monitor.list_jobs(namespace))
    elif arguments.action == "status":
        _print_jobs([monitor.inspect(name, namespace)])
    elif arguments.action == "logs":
        for line in monitor.read_logs(name, namespace, follow=arguments.follow):
            print(line)
    elif arguments.action == "cancel":
        monitor.cancel(name, namespace)
        sys.stderr.write(f"cancelled: {name}; answers it has uploaded stay in the bucket\n")
    else:
        job = monitor.wait(name, namespace)
        _print_jobs([job])
        return 0 if job.stage == "COMPLETED" else 1
    return 0


def submit_job(args: Sequence[str]) -> int:
    """Submit a job and print its name; print nothing if there is no work left."""
    arguments, settings = parse_submit(args)
    from annotator.cli.progress import ConsoleProgress
    from annotator.jobs.request import JobRequest
    from annotator.jobs.submit import submit

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
    """Submit a job from a script, with the arguments of `annotator job submit`, and return the exit status."""
    try:
        return submit_job(argv)
    except Problem as error:
        sys.stderr.write(f"{prog.name}: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
