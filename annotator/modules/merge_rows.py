"""Merge an episode's rows: what modules wrote anew, and what stands in its shard of all the others."""

from collections.abc import Mapping, Sequence

import msgspec

from annotator.modules.base import Module
from annotator.modules.registry import all_modules
from annotator_store.log.events import AnnotatedRow
from annotator_store.rows import Row, order_key
from annotator_store.validation.tables import CandidateRow


class _Function(msgspec.Struct):
    name: str


class _Call(msgspec.Struct):
    function: _Function


_call = msgspec.json.Decoder(_Call)


# | a row of an episode                         | belongs to                                                      |
# | ------------------------------------------- | --------------------------------------------------------------- |
# | of a module's style, but for the next lines | that module                                                     |
# | `plan`, at the time of an `interjection`    | `interjections`: its refresh of the plan there (`Refresh`)      |
# | no style, calls `say` and nothing else      | `interjections`: that is speech, whose style is None            |
# | no style, calls another tool                | nobody                                                          |
# | of a style that no module writes            | nobody                                                          |
def owners(rows: Sequence[Row]) -> list[str | None]:
    """Return the name of the module that each of an episode's rows belongs to; None for nobody's."""
    by_style = {style: module.name for module in all_modules() for style in module.styles}
    refreshes = {
        (refresh.style, row.timestamp): module.name
        for module in all_modules()
        if (refresh := module.refresh)
        for row in rows
        if row.style == refresh.beside
    }

    def owner(row: Row) -> str | None:
        if row.style is None:
            return by_style.get(None) if _only_says(row) else None
        return refreshes.get((row.style, row.timestamp)) or by_style.get(row.style)

    return [owner(row) for row in rows]


def _only_says(row: Row) -> bool:
    try:
        names = {_call.decode(body).function.name for body in row.tool_calls or ()}
    except msgspec.DecodeError:  # also of another shape: ValidationError is one
        return False
    return names == {"say"}


# | row                                  | new: | nothing | the plan            | interjections    | both             |
# | ------------------------------------ | ---- | ------- | ------------------- | ---------------- | ---------------- |
# | of any other module, or nobody's     |      | stays   | stays               | stays            | stays            |
# | a plan that stands                   |      | stays   | goes                | stays, unless x  | goes             |
# | a refresh that stands                |      | stays   | stays, says the new | stays, unless x  | goes             |
# | other rows of the plan               |      | stays   | goes                | stays            | goes             |
# | other rows of interjections          |      | stays   | stays               | goes             | goes             |
# | a new plan                           |      |         | written, unless x   |                  | written, unless x|
# | a new refresh                        |      |         |                     | written          | written          |
#
# x: a refresh is at the same time. There can be only one plan at a time, and the refresh is the one: it belongs to the
# interjection, and says what the new plan leaves to do there, also where the interjection was made after another plan.
# A refresh whose interjection is gone stays as the plan that it repeats, until the plan is written anew as well.
def merge_rows(standing: Sequence[Row], new: Mapping[str, Sequence[AnnotatedRow]]) -> list[CandidateRow]:
    """Put `new` rows, by module, in place of that module's rows among those `standing`; return all in total order."""
    refreshers: dict[tuple[str | None, str | None], Module] = {
        (module.refresh.style, module.name): module for module in all_modules() if module.refresh
    }
    kept: list[CandidateRow] = []
    kept_refreshes: set[tuple[str | None, float]] = set()
    for row, owner in zip(standing, owners(standing), strict=True):
        refresher = refreshers.get((row.style, owner))
        if owner not in new or (refresher and refresher.follows not in new):
            kept.append(CandidateRow(row=row, module=owner, kept=True))
        if owner not in new and refresher:
            kept_refreshes.add((row.style, row.timestamp))
    written = [CandidateRow(row=r.row, call=r.call, module=module) for module, rows in new.items() for r in rows]
    new_refreshes = {(c.row.style, c.row.timestamp) for c in written if (c.row.style, c.module) in refreshers}
    refreshed = kept_refreshes | new_refreshes
    merged = [c for c in kept if (c.row.style, c.row.timestamp) not in new_refreshes]
    merged += [
        c for c in written if (c.row.style, c.row.timestamp) not in refreshed or (c.row.style, c.module) in refreshers
    ]
    for index, candidate in enumerate(merged):
        refresher = refreshers.get((candidate.row.style, candidate.module))
        if refresher and refresher.refresh and refresher.follows:
            followed = [r.row for r in new.get(refresher.follows, ())]
            content = refresher.refresh.content(followed, candidate.row.timestamp) or candidate.row.content
            row = msgspec.structs.replace(candidate.row, content=content)
            merged[index] = msgspec.structs.replace(candidate, row=row)
    return sorted(merged, key=lambda candidate: order_key(candidate.row))
