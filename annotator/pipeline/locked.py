"""`--locked`: refuse a run that would have to change anything, and name what."""

from collections.abc import Sequence

from annotator.errors import OutOfDate
from annotator.pipeline.run import Run
from annotator.pipeline.work_plan import RunPlan
from annotator.provenance.card import read_card, with_section
from annotator.provenance.lock import FILE, compute_lock, read_lock, render_lock
from annotator.provenance.publish import CARD, PublishedFrom
from annotator_store.log.log import Log
from annotator_store.parquet.info_json import declares_language

_HINT = "annotator sync without --locked brings it up to date"


def refuse_unannotated(run: Run) -> None:
    """Refuse a dataset without a log, before one is made for it.

    Raises:
        OutOfDate: it has none.
    """
    if not run.store.is_dir():
        raise OutOfDate("nothing was annotated here", where=str(run.target_root), got=f"no {run.store}", hint=_HINT)


def refuse_work(run: Run, plan: RunPlan) -> None:
    """Refuse a run that would have to annotate.

    Raises:
        OutOfDate: always, with what is left, by module.
    """
    got = ", ".join(f"{name}: {count} episode{'s' * (count > 1)}" for name, count in plan.count_by_module().items())
    raise OutOfDate("annotations are missing or out of date", where=str(run.target_root), got=got, hint=_HINT)


def refuse_changes(run: Run, log: Log, basis: PublishedFrom, shards: Sequence[str]) -> None:
    """Refuse a run that would have to write `shards`, or anything that goes with them.

    Raises:
        OutOfDate: naming them.
    """
    if shards:
        where, got = str(run.target_root), ", ".join(shards)
        raise OutOfDate("shards would have to be written", where=where, got=got, hint=_HINT)
    info = run.target_root / "meta" / "info.json"
    if not declares_language(info):
        raise OutOfDate("the language columns would have to be declared", where=str(info), hint=_HINT)
    path, (lock, rows) = run.target_root / FILE, compute_lock(log, basis.dataset, basis.shards)
    stored = read_lock(path)
    if stored is None or path.read_bytes() != render_lock(lock):
        differ = [name for name in lock.__struct_fields__ if stored and getattr(stored, name) != getattr(lock, name)]
        # The digest covers all other fields, so it is named only where none of them differs.
        fields = ", ".join(f"another {name}" for name in differ if name != "digest" or len(differ) == 1)
        got = "no lock" if stored is None else fields or "another form"
        raise OutOfDate("the lock would have to be written", where=str(path), got=got, hint=_HINT)
    card = read_card(run.target_root / CARD)
    if with_section(card, lock, rows) not in (card, None):
        where = str(run.target_root / CARD)
        raise OutOfDate("the section of the dataset card would have to be written", where=where, hint=_HINT)
