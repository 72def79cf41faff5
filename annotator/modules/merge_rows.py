"""Compose an episode's rows: what modules wrote anew, and what stands in the shard of all the others."""

from collections.abc import Mapping, Sequence

import msgspec

from annotator.modules.interjections import what_is_left
from annotator.modules.registry import INTERJECTIONS, PLAN, owners
from annotator_store.log.events import AnnotatedRow
from annotator_store.rows import Row, order_key
from annotator_store.validation.tables import CandidateRow


def merge_rows(held: Sequence[Row], new: Mapping[str, Sequence[AnnotatedRow]]) -> list[CandidateRow]:
    """Put `new` rows, by module, in the place of that module's rows among those `held`; in the rows' total order.

    Where a plan and an interjection's refresh of it fall on one time, the refresh stands: there can be only one. It
    says what the new plan leaves to do there, also where the interjection was made after another plan. A refresh whose
    interjection is gone remains, as the plan it repeats, unless the plan is written anew as well.
    """
    kept: list[CandidateRow] = []
    refreshes: set[float] = set()
    for row, owner in zip(held, owners(held), strict=True):
        orphan = owner == INTERJECTIONS.name and row.style == "plan" and PLAN.name not in new
        if owner not in new or orphan:
            kept.append(CandidateRow(row=row, module=owner, kept=True))
        if owner == INTERJECTIONS.name and row.style == "plan" and owner not in new:
            refreshes.add(row.timestamp)
    refreshes |= {one.row.timestamp for one in new.get(INTERJECTIONS.name, ()) if one.row.style == "plan"}
    fresh = [
        CandidateRow(row=one.row, call=one.call, module=module)
        for module, rows in new.items()
        for one in rows
        if module != PLAN.name or one.row.style != "plan" or one.row.timestamp not in refreshes
    ]
    if INTERJECTIONS.name in new:
        kept = [one for one in kept if one.row.style != "plan" or one.row.timestamp not in refreshes]
    planned = [one.row for one in new.get(PLAN.name, ())]
    return sorted((_following(one, planned) for one in (*kept, *fresh)), key=lambda one: order_key(one.row))


def _following(one: CandidateRow, planned: Sequence[Row]) -> CandidateRow:
    """Give a refresh the content that it has in the plan as it is now; any other row stays."""
    if one.module != INTERJECTIONS.name or one.row.style != "plan":
        return one
    content = what_is_left(planned, one.row.timestamp) or one.row.content
    row = msgspec.structs.replace(one.row, content=content)
    return msgspec.structs.replace(one, row=row)
