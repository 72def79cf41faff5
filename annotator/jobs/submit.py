"""Submit a job on Hugging Face Jobs that annotates a dataset of the Hub."""

import math
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from annotator.config.settings import SyncSettings
from annotator.hub.bucket import Bucket, create_bucket, parse_bucket
from annotator.hub.client import HubError, find_token, hub_api
from annotator.hub.repo import check_writable, create_repo, edited_files, resolve_commit
from annotator.hub.sync import bucket_sync, fetch_dataset, push_target
from annotator.jobs.monitor import LABEL, refuse_duplicate
from annotator.jobs.package import BOOT_S, MOUNT, choose_code, flags_of, package_job
from annotator.jobs.request import Hardware, JobRequest, check_hardware, check_request, find_hardware, parse_duration
from annotator.modules.vocabulary.file import FILE
from annotator.pipeline.plan_run import plan_run
from annotator.pipeline.progress import Progress
from annotator.pipeline.work_plan import RunPlan
from annotator.vlm.registry import api_key

if TYPE_CHECKING:
    from huggingface_hub import JobInfo

GPU_S_PER_CALL = 2.0
"""How long a call keeps a GPU busy: some 3,000 tokens of text and pictures at a dense 32B model's published rate on one
H100 would be about 1 s. An assumption, not a measurement."""
SAFETY = 2.0


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was submitted."""

    job_id: str
    url: str
    timeout_s: int


def submit(request: JobRequest, progress: Progress) -> Submitted | None:
    """Submit one job; None where nothing is left to call.

    The dataset is pinned to a commit. The token travels as the job's secret and in no other way.

    Raises:
        UsageError: no job could carry the request out.
        HubError: the Hub refused, or cannot be reached.
    """
    settings, code = check_request(request), choose_code(request.code)
    given_s = None if request.timeout is None else parse_duration(request.timeout)
    with hub_api("the job cannot be submitted", request.namespace or "your namespace") as api:
        me = api.whoami()
    namespace, hardware = request.namespace or str(me["name"]), find_hardware(request.flavor)
    check_hardware(request, hardware)
    repo_id = settings.repo_id or ""
    if settings.bucket is None:
        url = f"hf://buckets/{namespace}/annotations/{repo_id.replace('/', '--')}"
        settings = msgspec.structs.replace(settings, bucket=url)
    bucket, labels = parse_bucket(settings.bucket or ""), labels_of(settings)
    if not request.again:
        refuse_duplicate(namespace, labels)
    settings = msgspec.structs.replace(settings, revision=resolve_commit(repo_id, settings.revision))
    plan = None
    if request.count:
        settings, plan = _plan_here(settings, progress.note)
        if not plan.episodes_to_ask:
            hint = f"from the log, here: {_offline_command(request.settings)}"
            progress.note(f"no job is submitted: nothing is left to call\nhint: {hint}")
            return None
    timeout_s = given_s or estimate_s(plan.estimated_calls if plan else 0, hardware.gpus)
    _announce(plan, timeout_s, hardware, request.flavor, progress.note)
    expires_at = (me.get("auth") or {}).get("expiresAt")
    if expires_at and datetime.fromisoformat(str(expires_at)) < datetime.now(UTC) + timedelta(seconds=timeout_s):
        hint = "put a token of your settings' access tokens into HF_TOKEN"
        progress.note(
            f"the token expires on {expires_at}, before the timeout of the job, which could not push then\nhint: {hint}"
        )
    target = push_target(settings)
    if target is not None:  # created and checked now: a token that may not write should fail before it costs anything
        if target != settings.repo_id:
            create_repo(target, like=settings.repo_id, private=settings.push_private)
        check_writable(target)
    create_bucket(bucket)
    package = package_job(settings, code, bucket, hardware)
    if package.files:
        with hub_api("the code cannot be uploaded", bucket.url) as api:
            api.batch_bucket_files(bucket.bucket_id, add=[(content, name) for name, content in package.files.items()])
    token = find_token()
    if token is None:
        hint = "hf auth login, or put a token into HF_TOKEN"
        raise HubError("a job needs a token", where="annotator job submit", got="none", hint=hint)
    secrets = {"HF_TOKEN": token}
    if settings.vlm.api_key_env is not None:
        secrets[settings.vlm.api_key_env] = api_key(settings.vlm)
    job = _start(request, namespace, bucket, package.command, secrets, timeout_s, labels)
    return Submitted(job_id=f"{namespace}/{job.id}", url=job.url, timeout_s=timeout_s)


def labels_of(settings: SyncSettings) -> dict[str, str]:
    """Return the labels of a job: what it works on."""
    place = (settings.bucket or "").removeprefix("hf://buckets/").strip("/")
    return LABEL | {"dataset": (settings.repo_id or "").replace("/", "--"), "bucket": place.replace("/", "--")}


def estimate_s(calls: int, gpus: int) -> int:
    """Estimate a job's timeout in seconds, in steps of 10 minutes, an hour at least.

    The job may end sooner, and what it had not done by then is asked by the next one.
    """
    seconds = BOOT_S + SAFETY * calls * GPU_S_PER_CALL / max(gpus, 1)
    return math.ceil(max(seconds, 2 * BOOT_S) / 600) * 600


def _offline_command(settings: SyncSettings) -> str:
    """Return the command that builds the columns from the log, and pushes them where the job would have."""
    local = {"root": settings.root, "prompts": settings.prompts, "validation.rules": settings.validation.rules}
    paths = [f"--{name}={path}" for name, path in local.items() if path not in (None, Path())]
    return shlex.join(["annotator", "sync", *flags_of(settings), *paths, "--offline"])


def _plan_here(settings: SyncSettings, note: Callable[[str], None]) -> tuple[SyncSettings, RunPlan]:
    """Plan on a local copy what is left to call, with the log of both sides; upload what only this side has."""
    settings = fetch_dataset(settings, note)
    bucket = bucket_sync(settings, note)
    bucket.download()
    plan = plan_run(settings)  # it closes the log, and so all of it is sealed
    uploaded = bucket.upload()
    if uploaded:
        note(f"uploaded {uploaded} segments of the local log to {settings.bucket}")
    # A vocabulary that was discovered is in the log, which the job reads; one that was edited here is not.
    unseen = [name for name in edited_files(settings.root) if name != FILE.as_posix() or plan.own_vocabulary]
    if unseen:
        hint = f"bring it to the Hub first: annotator push {settings.root}"
        note(f"a job does not see what was changed locally: {', '.join(unseen)}\nhint: {hint}")
    return settings, plan


def _announce(
    plan: RunPlan | None, timeout_s: int, hardware: Hardware, flavor: str, note: Callable[[str], None]
) -> None:
    if plan is not None:
        left = ", ".join(f"{name} {episodes}" for name, episodes in plan.count_by_module().items())
        note(f"left to annotate: {plan.episodes_to_ask} episodes ({left}), about {plan.estimated_calls} calls")
    cost = f", at most ${hardware.cost * timeout_s / 60:.2f}" if hardware.cost else ""
    note(f"{flavor}, timeout {timeout_s / 3600:.1f} h{cost}")


def _start(
    request: JobRequest, namespace: str, bucket: Bucket, command: list[str], secrets: dict[str, str], timeout_s: int,
    labels: dict[str, str],
) -> "JobInfo":  # fmt: skip
    with hub_api("the job cannot be submitted", f"{namespace}, {request.flavor}") as api:
        from huggingface_hub import Volume

        # Read-only: a job brings its log to the bucket by the Hub's API, file by file, never through the mount.
        volume = Volume(type="bucket", source=bucket.bucket_id, mount_path=MOUNT, read_only=True)
        environment = {"PYTHONUNBUFFERED": "1", "PIP_BREAK_SYSTEM_PACKAGES": "1"}
        return api.run_job(
            image=request.image, command=command, env=environment, secrets=secrets, flavor=request.flavor,
            timeout=timeout_s, labels=labels, volumes=[volume], namespace=namespace,
        )  # fmt: skip
