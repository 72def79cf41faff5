"""Compose an episode's rows: what modules wrote anew, and what stands in the shard of all the others."""

from collections.abc import Mapping, Sequence

from annotator.registry import INTERJECTIONS, PLAN, owners
from store.events import AnnotatedRow
from store.rows import Row, order_key


def compose(held: Sequence[Row], new: Mapping[str, Sequence[AnnotatedRow]]) -> list[AnnotatedRow]:
    """Put `new` rows, by module, in the place of that module's rows among those `held`; in the rows' total order.

    Where a plan and an interjection's refresh of it fall on one time, the refresh stands: there can be only one. A
    refresh whose interjection is gone remains, as the plan it repeats, unless the plan is written anew as well.
    """
    kept: list[Row] = []
    refreshes: set[float] = set()
    for row, owner in zip(held, owners(held), strict=True):
        orphan = owner == INTERJECTIONS.name and row.style == "plan" and PLAN.name not in new
        if owner not in new or orphan:
            kept.append(row)
        if owner == INTERJECTIONS.name and row.style == "plan" and owner not in new:
            refreshes.add(row.timestamp)
    refreshes |= {one.row.timestamp for one in new.get(INTERJECTIONS.name, ()) if one.row.style == "plan"}
    planned = [one for one in new.get(PLAN.name, ()) if one.row.style != "plan" or one.row.timestamp not in refreshes]
    fresh = [one for module, rows in new.items() if module != PLAN.name for one in rows]
    if INTERJECTIONS.name in new:
        kept = [row for row in kept if row.style != "plan" or row.timestamp not in refreshes]
    stale = [AnnotatedRow(row=row) for row in kept]
    return sorted([*stale, *planned, *fresh], key=lambda one: order_key(one.row))
