"""Hugging Face Jobs: submit one that annotates a dataset of the Hub."""

import math
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from annotator.config.settings import ExecutorSettings, Settings, SyncSettings, VlmSettings
from annotator.errors import UsageError
from annotator.hub.bucket import Bucket, make_bucket, parse_bucket
from annotator.hub.client import HubError, at_the_hub, token
from annotator.hub.repo import changed_here, check_writable, commit_of, make_repo
from annotator.hub.sync import courier_of, fetched, push_target
from annotator.jobs.count import WorkEstimate, count_work
from annotator.jobs.monitor import LABEL, refuse_twice
from annotator.jobs.package import (
    MOUNT,
    JobUpload,
    code_of,
    flags_of,
    install_line,
    job_command,
    pack_folder,
    pack_tree,
)
from annotator.jobs.request import Hardware, JobRequest, check_hardware, check_order, parse_duration
from annotator.modules.vocabulary.file import FILE
from annotator.pipeline.progress import Progress
from annotator.vlm.registry import api_key, engine_named

if TYPE_CHECKING:
    from huggingface_hub import JobInfo

Group = TypeVar("Group", bound=Settings)
VOCABULARY = FILE.as_posix()
BOOT_S = 30 * 60
"""Scheduling aside: pulling the image, installing, downloading dataset and model, loading the model."""
GPU_S_PER_CALL = 2.0
"""How long one GPU is taken to be busy with one call: some 3,000 tokens of text and pictures at a dense 32B model's
published rate on one H100 would be about 1 s."""
SAFETY = 2.0


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was submitted."""

    job_id: str
    url: str
    timeout_s: int


def submit(order: JobRequest, report: Progress) -> Submitted | None:
    """Submit one job; None where nothing is left to call.

    The dataset is pinned to a commit. The token travels as the job's secret and in no other way.

    Raises:
        UsageError: the order cannot be meant.
        HubError: the Hub refused, or cannot be reached.
    """
    settings, code = check_order(order), code_of(order.code)
    given_s = None if order.timeout is None else parse_duration(order.timeout)
    with at_the_hub("the job cannot be submitted", order.namespace or "your namespace") as api:
        me = api.whoami()
    namespace, hardware = order.namespace or str(me["name"]), _hardware(order.flavor)
    check_hardware(order, hardware)
    settings = _with_bucket(settings, namespace)
    bucket, labels = parse_bucket(settings.bucket or ""), labels_of(settings)
    if not order.again:
        refuse_twice(namespace, labels)
    settings, work = _counted(settings, report.note) if order.count else (_pinned(settings), None)
    if work is not None and not work.episodes:
        report.note(f"no job is submitted: nothing is left to call\nhint: from the log, here: {_finish_here(order)}")
        return None
    timeout_s = given_s or estimate_s(work.calls if work else 0, hardware.gpus)
    _announce(work, timeout_s, hardware, order, report.note)
    _warn_of_expiry(me, timeout_s, report.note)
    _prepare_push(settings)
    make_bucket(bucket)
    parcels, install = _parcels(bucket, settings, code)
    _upload(bucket, list(parcels.values()))
    command = job_command(install, [*_job_flags(settings, hardware), *_given_flags(parcels)])
    done = _run(order, namespace, bucket, command, _secrets(settings), timeout_s, labels)
    return Submitted(job_id=f"{namespace}/{done.id}", url=done.url, timeout_s=timeout_s)


def labels_of(settings: SyncSettings) -> dict[str, str]:
    """Label a job with what it works on."""
    place = (settings.bucket or "").removeprefix("hf://buckets/").strip("/")
    return LABEL | {"dataset": (settings.repo_id or "").replace("/", "--"), "bucket": place.replace("/", "--")}


def _prepare_push(settings: SyncSettings) -> None:
    """Make the repository that is to be pushed to now, so that a token which may not write fails before it costs."""
    target = push_target(settings)
    if target is None:
        return
    if target != settings.repo_id:
        make_repo(target, like=settings.repo_id, private=settings.push_private)
    check_writable(target)


def _finish_here(order: JobRequest) -> str:
    """Write the command that builds the columns from the log, and pushes them where the job would have."""
    settings = order.settings
    here = {"root": settings.root, "prompts": settings.prompts, "validation.rules": settings.validation.rules}
    places = [f"--{name}={place}" for name, place in here.items() if place not in (None, Path())]
    return shlex.join(["annotator", "sync", *flags_of(settings), *places, "--offline"])


def _warn_of_expiry(me: dict[str, Any], timeout_s: int, note: Callable[[str], None]) -> None:
    """Say where the token that the job is given is told to expire before the job does."""
    until = (me.get("auth") or {}).get("expiresAt")
    if until is not None and datetime.fromisoformat(str(until)) < datetime.now(UTC) + timedelta(seconds=timeout_s):
        hint = "put a token of your settings' access tokens into HF_TOKEN"
        note(f"the token expires on {until}, before the job is ended: it could not push then\nhint: {hint}")


def estimate_s(calls: int, gpus: int) -> int:
    """Estimate a job's timeout: it may end sooner, and what it had not done by then is asked by the next one."""
    seconds = BOOT_S + SAFETY * calls * GPU_S_PER_CALL / max(gpus, 1)
    return math.ceil(max(seconds, 2 * BOOT_S) / 600) * 600


def _hardware(flavor: str) -> Hardware:
    with at_the_hub("the hardware cannot be listed", flavor) as api:
        found = {one.name: one for one in api.list_jobs_hardware()}
    if flavor not in found:
        hint = f"one of {', '.join(sorted(found))}"
        raise UsageError("there is no such hardware", where="--flavor", got=flavor, hint=hint)
    one = found[flavor]
    gpus = int(one.accelerator.quantity) if one.accelerator else 0
    per_minute = str(getattr(one, "unit_label", "") or "").startswith("min")
    return Hardware(gpus, float(one.unit_cost_usd or 0.0) if per_minute else 0.0)


def _with_bucket(settings: SyncSettings, namespace: str) -> SyncSettings:
    if settings.bucket is not None:
        return settings
    folder = (settings.repo_id or "").replace("/", "--")
    return msgspec.structs.replace(settings, bucket=f"hf://buckets/{namespace}/annotations/{folder}")


def _pinned(settings: SyncSettings) -> SyncSettings:
    return msgspec.structs.replace(settings, revision=commit_of(settings.repo_id or "", settings.revision))


def _counted(settings: SyncSettings, note: Callable[[str], None]) -> tuple[SyncSettings, WorkEstimate]:
    """Count on a copy here what is left to call, with the log of both sides; what was only here is delivered."""
    settings = fetched(_pinned(settings), note)
    courier = courier_of(settings, note)
    courier.fetch()
    work = count_work(settings)  # its log is closed then, and so all of it is sealed
    delivered = courier.deliver()
    if delivered:
        note(f"delivered {delivered} segments of the log here to {settings.bucket}")
    unseen = [name for name in changed_here(settings.root) if name != VOCABULARY or work.own_vocabulary]
    if unseen:
        hint = f"bring it to the Hub first: annotator push {settings.root}"
        note(f"a job does not see what was changed here: {', '.join(unseen)}\nhint: {hint}")
    return settings, work


def _announce(
    work: WorkEstimate | None, timeout_s: int, hardware: Hardware, order: JobRequest, note: Callable[[str], None]
) -> None:
    if work is not None:
        left = ", ".join(f"{name} {episodes}" for name, episodes in work.todo.items())
        note(f"left to annotate: {work.episodes} episodes ({left}), about {work.calls} calls")
    cost = f", at most ${hardware.cost * timeout_s / 60:.2f}" if hardware.cost else ""
    note(f"{order.flavor}, ended after {timeout_s / 3600:.1f} h at the latest{cost}")


def _parcels(bucket: Bucket, settings: SyncSettings, code: str) -> tuple[dict[str, JobUpload], str]:
    """Pack what the job cannot get elsewhere: by flag, "" for the code; and say how the code is installed."""
    parcels: dict[str, JobUpload] = {}
    if code == "tree":
        parcels[""] = pack_tree(bucket)
    if settings.prompts is not None:
        parcels["--prompts"] = pack_folder(bucket, settings.prompts, "*.md")
    if settings.validation.rules is not None:
        parcels["--validation.rules"] = pack_folder(bucket, settings.validation.rules, "*.sql")
    return parcels, install_line(code, parcels.get(""))


def _given_flags(parcels: dict[str, JobUpload]) -> list[str]:
    return [f"{flag}={parcel.path}" for flag, parcel in parcels.items() if flag]


def _upload(bucket: Bucket, parcels: list[JobUpload]) -> None:
    files = {name: content for parcel in parcels for name, content in parcel.files.items()}
    if files:
        with at_the_hub("the code cannot be uploaded", bucket.url) as api:
            api.batch_bucket_files(bucket.bucket_id, add=[(content, name) for name, content in files.items()])


def _job_flags(settings: SyncSettings, hardware: Hardware) -> list[str]:
    """Write the run's flags: the dataset at its commit, a server for each GPU, the machine put to use.

    Only what is no part of a key is added, and nothing that was given is changed.
    """
    vlm = _raised(settings.vlm, VlmSettings(), {"client_concurrency": 64})
    if vlm.api_base is None:
        vlm = _raised(vlm, VlmSettings(), {"backend": "serve"})
        if "serve_ready_timeout_s" in engine_named(vlm.backend).options:
            vlm = _raised(vlm, VlmSettings(), {"serve_ready_timeout_s": float(BOOT_S)})
    busy = {"episode_parallelism": 32 * max(hardware.gpus, 1), "decode_threads": 8}
    executor = _raised(settings.executor, ExecutorSettings(), busy)
    return flags_of(msgspec.structs.replace(settings, vlm=vlm, executor=executor))


def _raised(given: Group, default: Group, raised: dict[str, Any]) -> Group:
    """Set the fields that were left at their defaults."""
    left = {name: value for name, value in raised.items() if getattr(given, name) == getattr(default, name)}
    return msgspec.structs.replace(given, **left)


def _secrets(settings: SyncSettings) -> dict[str, str]:
    held = token()
    if held is None:
        hint = "hf auth login, or put a token into HF_TOKEN"
        raise HubError("a job needs a token to work with", where="annotator job submit", got="none", hint=hint)
    named = settings.vlm.api_key_env
    return {"HF_TOKEN": held, **({named: api_key(settings.vlm)} if named else {})}


def _run(
    order: JobRequest, namespace: str, bucket: Bucket, command: list[str], secrets: dict[str, str], timeout_s: int,
    labels: dict[str, str],
) -> "JobInfo":  # fmt: skip
    with at_the_hub("the job cannot be submitted", f"{namespace}, {order.flavor}") as api:
        from huggingface_hub import Volume

        # Read-only: a job brings its log to the bucket by the Hub's API, file by file, never through the mount.
        volume = Volume(type="bucket", source=bucket.bucket_id, mount_path=MOUNT, read_only=True)
        environment = {"PYTHONUNBUFFERED": "1", "PIP_BREAK_SYSTEM_PACKAGES": "1"}
        return api.run_job(
            image=order.image, command=command, env=environment, secrets=secrets, flavor=order.flavor,
            timeout=timeout_s, labels=labels, volumes=[volume], namespace=namespace,
        )  # fmt: skip
