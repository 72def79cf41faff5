"""`--locked`: change nothing, and say what would have to change."""

from collections import Counter
from collections.abc import Sequence

from annotator.agenda import Job
from annotator.errors import OutOfDate
from annotator.lock import FILE, read_lock
from annotator.publish import Basis, lock_now
from annotator.run import Run
from store.log import Log

_HINT = "annotator sync without --locked brings it up to date"


def refuse_work(run: Run, jobs: Sequence[Job]) -> None:
    """Refuse a run that would have to annotate.

    Raises:
        OutOfDate: always, with what is left, by module.
    """
    left = Counter(name for job in jobs for name in job.todo for _ in job.copies)
    got = ", ".join(f"{name}: {count} episode{'s' * (count > 1)}" for name, count in left.items())
    raise OutOfDate("annotations are missing or out of date", where=str(run.target_root), got=got, hint=_HINT)


def refuse_changes(run: Run, log: Log, basis: Basis, shards: Sequence[str]) -> None:
    """Refuse a run that would have to write `shards`, or another lock.

    Raises:
        OutOfDate: naming them.
    """
    if shards:
        where, got = str(run.target_root), ", ".join(shards)
        raise OutOfDate("shards would have to be written", where=where, got=got, hint=_HINT)
    path = run.target_root / FILE
    held, (lock, _) = read_lock(path), lock_now(log, basis)
    if held != lock:
        got = "no lock" if held is None else ", ".join(_differences(held, lock))
        raise OutOfDate("the lock would have to be written", where=str(path), got=got, hint=_HINT)


def _differences(held: object, lock: object) -> list[str]:
    names: tuple[str, ...] = getattr(type(lock), "__struct_fields__")  # noqa: B009 a struct's own list of its fields
    return [f"another {name}" for name in names if name != "digest" and getattr(held, name) != getattr(lock, name)]
