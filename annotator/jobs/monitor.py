"""Jobs that were submitted: their state, their output, their end."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from annotator.config.settings import VlmSettings
from annotator.errors import UsageError
from annotator.hub.client import HubError, hub_api, redact
from annotator.vlm.registry import api_key

if TYPE_CHECKING:
    from huggingface_hub import JobInfo

LABEL = {"made-with": "episode-annotator"}
GIVE_UP_AFTER_S = 600.0
"""How long requests to a Hub that does not respond are repeated."""
_TERMINAL = frozenset({"COMPLETED", "CANCELED", "ERROR", "DELETED"})


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the Hub describes it. `job_id` is owner/name; `stage` is RUNNING, COMPLETED, ERROR, ..."""

    job_id: str
    stage: str
    flavor: str
    created_at: datetime | None
    message: str

    @classmethod
    def of(cls, job: "JobInfo") -> "JobStatus":
        """Convert the client's own type, of which some releases have enums where others have strings."""
        return cls(
            job_id=f"{job.owner.name}/{job.id}",
            stage=str(getattr(job.status.stage, "value", job.status.stage)),
            flavor=str(getattr(job.flavor, "value", job.flavor)),
            created_at=job.created_at,
            message=redact(job.status.message or ""),
        )

    @property
    def ended(self) -> bool:
        """Whether the job has reached a terminal state."""
        return self.stage in _TERMINAL


def inspect(job_id: str, namespace: str | None) -> JobStatus:
    """Return the state of a job.

    Raises:
        HubError: there is no such job, or the Hub cannot be reached.
    """
    namespace, job_id = _split(job_id, namespace)
    with hub_api("the job cannot be found", job_id) as api:
        return JobStatus.of(api.inspect_job(job_id=job_id, namespace=namespace))


def list_jobs(namespace: str | None, labels: Mapping[str, str] = LABEL) -> list[JobStatus]:
    """Return the jobs that have all these labels, by default those that annotate, in the Hub's order.

    Raises:
        HubError: the Hub refused, or cannot be reached.
    """
    with hub_api("the jobs cannot be listed", namespace or "your namespace") as api:
        # Named, since without a namespace the client asks the public service, whatever endpoint it was made for.
        owner = namespace or str(api.whoami()["name"])
        jobs = api.list_jobs(namespace=owner)
        return [JobStatus.of(job) for job in jobs if labels.items() <= (job.labels or {}).items()]


def refuse_duplicate(namespace: str, labels: Mapping[str, str]) -> None:
    """Refuse to submit a job beside one with the same labels that has not ended.

    Raises:
        UsageError: there is one.
        HubError: the Hub refused, or cannot be reached.
    """
    running = [job for job in list_jobs(namespace, labels) if not job.ended]
    if running:
        name = running[0].job_id
        hint = f"annotator job wait {name}; --again submits another one beside it, which would ask much of it twice"
        raise UsageError("a job is running for this dataset and bucket", where=name, got=running[0].stage, hint=hint)


def read_logs(job_id: str, namespace: str | None, *, follow: bool) -> Iterator[str]:
    """Yield what a job printed, line by line, without tokens, and without those of its secrets that are set here.

    Raises:
        HubError: there is no such job, or the Hub cannot be reached.
    """
    namespace, job_id = _split(job_id, namespace)
    with hub_api("the job's output cannot be read", job_id) as api:
        # The Hub returns the names of secrets alone; a value is known where a variable of that name is set here.
        secrets: list[str] = []
        for name in getattr(api.inspect_job(job_id=job_id, namespace=namespace), "secrets", None) or {}:
            with suppress(UsageError):
                secrets.append(api_key(VlmSettings(api_key_env=name)))
        for line in api.fetch_job_logs(job_id=job_id, namespace=namespace, follow=follow):
            yield redact(line, secrets)


def cancel(job_id: str, namespace: str | None) -> None:
    """Cancel a job. What it uploaded to the bucket stays.

    Raises:
        HubError: there is no such job, or the Hub cannot be reached.
    """
    namespace, job_id = _split(job_id, namespace)
    with hub_api("the job cannot be cancelled", job_id) as api:
        api.cancel_job(job_id=job_id, namespace=namespace)


def wait(
    job_id: str, namespace: str | None, *, every_s: float = 10.0, give_up_after_s: float = GIVE_UP_AFTER_S
) -> JobStatus:
    """Poll a job until it has ended, and return its state. Transient errors of the Hub are retried.

    Raises:
        HubError: there is no such job, or the Hub could not be reached for `give_up_after_s`.
    """
    last_response = time.monotonic()
    while True:
        try:
            job = inspect(job_id, namespace)
        except HubError as error:
            if not error.transient or time.monotonic() - last_response > give_up_after_s:
                raise
        else:
            last_response = time.monotonic()
            if job.ended:
                return job
        time.sleep(every_s)


def _split(job_id: str, namespace: str | None) -> tuple[str | None, str]:
    owner, slash, name = job_id.partition("/")
    return (owner, name) if slash else (namespace, job_id)
