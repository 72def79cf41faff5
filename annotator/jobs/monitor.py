"""Look after jobs that were submitted: their state, their output, their end."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from annotator.config.settings import VlmSettings
from annotator.errors import UsageError
from annotator.hub.client import HubError, at_the_hub, unsaid
from annotator.vlm.registry import api_key

if TYPE_CHECKING:
    from huggingface_hub import JobInfo

LABEL = {"made-with": "episode-annotator"}
PATIENCE_S = 600.0
"""How long a Hub that does not answer is asked again."""
_ENDED = frozenset({"COMPLETED", "CANCELED", "ERROR", "DELETED"})


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the Hub describes it. `job_id` is owner/name; `stage` is RUNNING, COMPLETED, ERROR, ..."""

    job_id: str
    stage: str
    flavor: str
    created_at: datetime | None
    message: str

    @property
    def ended(self) -> bool:
        """Say whether it will never run on."""
        return self.stage in _ENDED


def inspect(job_id: str, namespace: str | None) -> JobStatus:
    """Look a job up.

    Raises:
        HubError: there is no such job, or the Hub cannot be reached.
    """
    namespace, job_id = _split(job_id, namespace)
    with at_the_hub("the job cannot be found", job_id) as api:
        return _watched(api.inspect_job(job_id=job_id, namespace=namespace))


def list_jobs(namespace: str | None, labels: Mapping[str, str] = LABEL) -> list[JobStatus]:
    """List the jobs that annotate, or those that have all these labels, as the Hub lists them.

    Raises:
        HubError: the Hub refused, or cannot be reached.
    """
    with at_the_hub("the jobs cannot be listed", namespace or "your namespace") as api:
        # Named, since without a namespace the client asks the public service, whatever endpoint it was made for.
        owner = namespace or str(api.whoami()["name"])
        found = api.list_jobs(namespace=owner)
        return [_watched(job) for job in found if labels.items() <= (job.labels or {}).items()]


def refuse_twice(namespace: str, labels: Mapping[str, str]) -> None:
    """Refuse to submit what a job that has not ended works on.

    Raises:
        UsageError: there is one with these labels.
        HubError: the Hub refused, or cannot be reached.
    """
    running = [job for job in list_jobs(namespace, labels) if not job.ended]
    if running:
        name = running[0].job_id
        hint = f"annotator job wait {name}; --again submits another one beside it, which would ask much of it twice"
        raise UsageError("a job works on this dataset and bucket", where=name, got=running[0].stage, hint=hint)


def read_logs(job_id: str, namespace: str | None, *, follow: bool) -> Iterator[str]:
    """Read what a job printed, line by line, without any token in it, nor its secrets that are set here.

    Raises:
        HubError: there is no such job, or the Hub cannot be reached.
    """
    namespace, job_id = _split(job_id, namespace)
    with at_the_hub("the job's output cannot be read", job_id) as api:
        names = getattr(api.inspect_job(job_id=job_id, namespace=namespace), "secrets", None) or {}
        secrets = [found for name in names if (found := _set_here(name))]
        for line in api.fetch_job_logs(job_id=job_id, namespace=namespace, follow=follow):
            yield unsaid(line, secrets)


def _set_here(name: str) -> str | None:
    with suppress(UsageError):
        return api_key(VlmSettings(api_key_env=name))
    return None


def cancel(job_id: str, namespace: str | None) -> None:
    """Cancel a job. What it delivered to the bucket stays.

    Raises:
        HubError: there is no such job, or the Hub cannot be reached.
    """
    namespace, job_id = _split(job_id, namespace)
    with at_the_hub("the job cannot be cancelled", job_id) as api:
        api.cancel_job(job_id=job_id, namespace=namespace)


def wait(job_id: str, namespace: str | None, *, every_s: float = 10.0, patience_s: float = PATIENCE_S) -> JobStatus:
    """Wait until a job has ended. A Hub that stumbles is asked again; one that is gone for long is not.

    Raises:
        HubError: there is no such job, or the Hub could not be reached for `patience_s`.
    """
    heard = time.monotonic()
    while True:
        try:
            job = inspect(job_id, namespace)
        except HubError as error:
            if not error.passing or time.monotonic() - heard > patience_s:
                raise
        else:
            heard = time.monotonic()
            if job.ended:
                return job
        time.sleep(every_s)


def _watched(job: "JobInfo") -> JobStatus:
    return JobStatus(
        job_id=f"{job.owner.name}/{job.id}",
        stage=str(getattr(job.status.stage, "value", job.status.stage)),
        flavor=str(getattr(job.flavor, "value", job.flavor)),
        created_at=job.created_at,
        message=unsaid(job.status.message or ""),
    )


def _split(job_id: str, namespace: str | None) -> tuple[str | None, str]:
    owner, slash, name = job_id.partition("/")
    return (owner, name) if slash else (namespace, job_id)
