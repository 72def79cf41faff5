"""Hugging Face Jobs: submit one that annotates a dataset of the Hub."""

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from annotator.engine.choose import api_key
from annotator.errors import UsageError
from annotator.hub import check_hub, courier_of, fetched, push_target
from annotator.hub_bucket import Bucket, make_bucket, parse_bucket
from annotator.hub_client import HubError, at_the_hub, token
from annotator.hub_source import read_source
from annotator.jobs.command import (
    MOUNT,
    Parcel,
    code_of,
    flags_of,
    install_line,
    job_command,
    pack_folder,
    pack_tree,
)
from annotator.jobs.count import Work, count_work
from annotator.report import Report
from annotator.settings import ExecutorSettings, SyncSettings

if TYPE_CHECKING:
    from huggingface_hub import JobInfo

LABEL = {"made-with": "episode-annotator"}
BOOT_S = 30 * 60
"""Scheduling aside: pulling the image, installing, downloading dataset and model, loading the model."""
GPU_S_PER_CALL = 2.0
"""How long one GPU is taken to be busy with one call: some 3,000 tokens of text and pictures at a dense 32B model's
published rate on one H100 would be about 1 s."""
SAFETY = 2.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be submitted. `timeout` as in 90m or 6h."""

    settings: SyncSettings
    flavor: str
    timeout: str | None = None
    image: str
    code: str | None = None
    namespace: str | None = None
    count: bool = True


class Hardware(msgspec.Struct, frozen=True):
    """A machine that can be rented. `cost` is in US dollars a minute; 0 where it is not known."""

    gpus: int
    cost: float


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was submitted."""

    job_id: str
    url: str
    timeout_s: int


def submit(order: Order, report: Report) -> Submitted | None:
    """Submit one job; None where nothing is left to call.

    The dataset is pinned to a commit. The token travels as the job's secret and in no other way.

    Raises:
        UsageError: the order cannot be meant.
        HubError: the Hub refused, or cannot be reached.
    """
    settings, code = _checked(order), code_of(order.code)
    given_s = None if order.timeout is None else parse_duration(order.timeout)
    with at_the_hub("the job cannot be submitted", order.namespace or "your namespace") as api:
        namespace = order.namespace or str(api.whoami()["name"])
    hardware = _hardware(order.flavor)
    settings = _with_bucket(settings, namespace)
    bucket = parse_bucket(settings.bucket or "")
    settings = fetched(settings, report.note)
    work = _counted(settings, report) if order.count else None
    if work is not None and not work.episodes:
        hint = "annotator sync --offline builds the columns from the log, here; add --push_to_hub to push them"
        report.note(f"no job is submitted: nothing is left to call\nhint: {hint}")
        return None
    timeout_s = given_s or estimate_s(work.calls if work else 0, hardware.gpus)
    _announce(work, timeout_s, hardware, order, report.note)
    make_bucket(bucket)
    parcels, install = _parcels(bucket, settings, code)
    _upload(bucket, list(parcels.values()))
    command = job_command(install, [*_job_flags(settings, hardware), *_given_flags(parcels)])
    done = _run(order, namespace, bucket, command, _secrets(settings), timeout_s)
    return Submitted(job_id=f"{namespace}/{done.id}", url=done.url, timeout_s=timeout_s)


def _checked(order: Order) -> SyncSettings:
    settings = order.settings
    if settings.repo_id is None:
        hint = "--repo_id ORG/NAME; one that is only here: annotator push DATASET --repo_id ORG/NAME"
        raise UsageError("a job downloads its dataset from the Hub", where="--repo_id", got="nothing", hint=hint)
    for name in ("output", "store"):
        if getattr(settings, name) is not None:
            got = str(getattr(settings, name))
            raise UsageError("a job has no such folder", where=f"--{name}", got=got, hint="leave it out")
    if not order.count and order.timeout is None:
        hint = "--timeout 6h"
        raise UsageError("without a count there is no estimate", where="--timeout", got="nothing", hint=hint)
    check_hub(settings)
    push_target(settings)
    return settings


def parse_duration(text: str) -> int:
    """Read `90m`, `6h`, `1d` or seconds as seconds.

    Raises:
        UsageError: it is no such time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else 0.0
    if seconds < 1:
        raise UsageError("no duration", where="--timeout", got=text, hint="write 90m, 6h or 1d")
    return math.ceil(seconds)


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


def _counted(settings: SyncSettings, report: Report) -> Work:
    courier_of(settings, report.note).fetch()
    return count_work(settings, report)


def _announce(work: Work | None, timeout_s: int, hardware: Hardware, order: Order, note: Callable[[str], None]) -> None:
    if work is not None:
        left = ", ".join(f"{name} {episodes}" for name, episodes in work.todo.items())
        note(f"left to annotate: {work.episodes} episodes ({left}), about {work.calls} calls")
    cost = f", at most ${hardware.cost * timeout_s / 60:.2f}" if hardware.cost else ""
    note(f"{order.flavor}, ended after {timeout_s / 3600:.1f} h at the latest{cost}")


def _parcels(bucket: Bucket, settings: SyncSettings, code: str) -> tuple[dict[str, Parcel], str]:
    """Pack what the job cannot get elsewhere: by flag, "" for the code; and say how the code is installed."""
    parcels: dict[str, Parcel] = {}
    if code == "tree":
        parcels[""] = pack_tree(bucket)
    if settings.prompts is not None:
        parcels["--prompts"] = pack_folder(bucket, settings.prompts, "*.md")
    if settings.validation.rules is not None:
        parcels["--validation.rules"] = pack_folder(bucket, settings.validation.rules, "*.sql")
    return parcels, install_line(code, parcels.get(""))


def _given_flags(parcels: dict[str, Parcel]) -> list[str]:
    return [f"{flag}={parcel.path}" for flag, parcel in parcels.items() if flag]


def _upload(bucket: Bucket, parcels: list[Parcel]) -> None:
    files = {name: content for parcel in parcels for name, content in parcel.files.items()}
    if files:
        with at_the_hub("the code cannot be uploaded", bucket.url) as api:
            api.batch_bucket_files(bucket.bucket_id, add=[(content, name) for name, content in files.items()])


def _job_flags(settings: SyncSettings, hardware: Hardware) -> list[str]:
    """Write the run's flags: the dataset at its commit, a server for each GPU, the machine put to use.

    Only what is no part of a key is added.
    """
    source = read_source(settings.root)
    changes: dict[str, object] = {"revision": source.commit if source else settings.revision}
    vlm = settings.vlm
    if vlm.backend == "auto" and vlm.api_base is None:
        changes["vlm"] = msgspec.structs.replace(vlm, backend="serve")
    if settings.executor == ExecutorSettings():
        busy = ExecutorSettings(episode_parallelism=32 * max(hardware.gpus, 1), decode_threads=8)
        changes["executor"] = busy
    return flags_of(msgspec.structs.replace(settings, **changes))


def _secrets(settings: SyncSettings) -> dict[str, str]:
    held = token()
    if held is None:
        hint = "hf auth login, or put a token into HF_TOKEN"
        raise HubError("a job needs a token to work with", where="annotator job submit", got="none", hint=hint)
    named = settings.vlm.api_key_env
    return {"HF_TOKEN": held, **({named: api_key(settings.vlm)} if named else {})}


def _run(
    order: Order, namespace: str, bucket: Bucket, command: list[str], secrets: dict[str, str], timeout_s: int
) -> "JobInfo":
    with at_the_hub("the job cannot be submitted", f"{namespace}, {order.flavor}") as api:
        from huggingface_hub import Volume

        # Read-only: a job brings its log to the bucket by the Hub's API, file by file, never through the mount.
        volume = Volume(type="bucket", source=bucket.bucket_id, mount_path=MOUNT, read_only=True)
        environment = {"PYTHONUNBUFFERED": "1", "PIP_BREAK_SYSTEM_PACKAGES": "1"}
        return api.run_job(
            image=order.image, command=command, env=environment, secrets=secrets, flavor=order.flavor,
            timeout=timeout_s, labels=LABEL, volumes=[volume], namespace=namespace,
        )  # fmt: skip
