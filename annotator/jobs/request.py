"""What is asked of a job, and the requests that are refused because no job could carry them out."""

import math
import re
from pathlib import Path

import msgspec

from annotator.config.settings import SyncSettings
from annotator.errors import UsageError
from annotator.hub.client import hub_api
from annotator.hub.sync import check_hub
from annotator.pipeline.run import shareable
from annotator.vlm.registry import needs_gpu

_LOOPBACK = re.compile(r"(?i)https?://(localhost|127\.[\d.]+|\[::1\])([:/]|$)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be submitted. `timeout` as in 90m or 6h."""

    settings: SyncSettings
    flavor: str
    timeout: str | None = None
    image: str
    code: str | None = None
    namespace: str | None = None
    count: bool = True
    again: bool = False


class Hardware(msgspec.Struct, frozen=True):
    """A machine that can be rented. `cost` is in US dollars a minute; 0 where it is not known."""

    gpus: int
    cost: float


def check_request(request: JobRequest) -> SyncSettings:
    """Refuse what no job could do, and what would show a secret to everybody who sees the job; return the settings.

    Raises:
        UsageError: naming the setting and its value.
    """
    settings = request.settings
    if settings.repo_id is None:
        hint = "--repo_id ORG/NAME; one that is only here: annotator push DATASET --repo_id ORG/NAME"
        raise UsageError("a job downloads its dataset from the Hub", where="--repo_id", got="nothing", hint=hint)
    for name in ("output", "store"):
        if getattr(settings, name) is not None:
            got = str(getattr(settings, name))
            raise UsageError("a job has no local folders", where=f"--{name}", got=got, hint="leave it out")
    if not request.count and request.timeout is None:
        hint = "--timeout 6h"
        raise UsageError("without a count the timeout cannot be estimated", where="--timeout", got="nothing", hint=hint)
    check_hub(settings)
    _refuse_secrets(settings)
    vlm = settings.vlm
    for base in (vlm.api_base or "").split(","):
        if _LOOPBACK.match(base.strip()):
            hint = "leave it out, and the job starts servers of its own; or name an endpoint that the job can reach"
            raise UsageError("a job cannot reach a server on this machine", where="--vlm.api_base", got=base, hint=hint)
    if vlm.api_base is None and Path(vlm.model_id).expanduser().exists():
        hint = "name a model of the Hub, ORG/NAME"
        raise UsageError("a job has no folder of this machine", where="--vlm.model_id", got=vlm.model_id, hint=hint)
    return settings


def _refuse_secrets(settings: SyncSettings) -> None:
    """Whatever a log or a card would leave out must not stand in a job's command either."""
    vlm, shown = settings.vlm, shareable(settings).vlm
    bases = None if vlm.api_base is None else ",".join(base.rstrip("/") for base in vlm.api_base.split(","))
    given = {"api_base": bases, "serve_command": vlm.serve_command, "engine_kwargs": vlm.engine_kwargs}
    for name, value in given.items():
        got = getattr(shown, name)
        if value != got:
            hint = "a secret in it would be readable in the job's command: name a variable with --vlm.api_key_env"
            raise UsageError("the setting may hold a secret", where=f"--vlm.{name}", got=str(got), hint=hint)


def find_hardware(flavor: str) -> Hardware:
    """Look a flavor up in the Hub's list.

    Raises:
        UsageError: there is no such flavor.
        HubError: the Hub refused, or cannot be reached.
    """
    with hub_api("the hardware cannot be listed", flavor) as api:
        flavors = {hardware.name: hardware for hardware in api.list_jobs_hardware()}
    if flavor not in flavors:
        hint = f"one of {', '.join(sorted(flavors))}"
        raise UsageError("there is no such hardware", where="--flavor", got=flavor, hint=hint)
    hardware = flavors[flavor]
    gpus = int(hardware.accelerator.quantity) if hardware.accelerator else 0
    per_minute = str(getattr(hardware, "unit_label", "") or "").startswith("min")
    return Hardware(gpus, float(hardware.unit_cost_usd or 0.0) if per_minute else 0.0)


def check_hardware(request: JobRequest, hardware: Hardware) -> None:
    """Refuse hardware on which the run could start no model.

    Raises:
        UsageError: it has no GPU.
    """
    if needs_gpu(request.settings.vlm) and not hardware.gpus:
        hint = "--flavor h200, or name an endpoint that the job can reach: --vlm.api_base"
        raise UsageError("a job that runs a model needs a GPU", where="--flavor", got=request.flavor, hint=hint)


def parse_duration(text: str) -> int:
    """Parse `90m`, `6h`, `1d` or a number of seconds; return whole seconds, rounded up.

    Raises:
        UsageError: it is not a duration, or less than a second.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    seconds = float(match[1]) * _UNIT_S[match[2]] if match else 0.0
    if seconds < 1:
        raise UsageError("not a duration", where="--timeout", got=text, hint="write 90m, 6h or 1d")
    return math.ceil(seconds)
