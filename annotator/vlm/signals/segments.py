"""From an episode's phases to the spans of one window: long enough, few enough, no two alike in a row.

Phases too short are grown or merged over the whole episode first, and the window is cut last, so that two windows
of one episode agree wherever they overlap.
"""

import msgspec

from annotator.vlm.signals.phases import ACTS, Phase, PhaseKind

_WEIGHT: dict[PhaseKind, float] = {"wait": 0.7, "lift": 0.8, "lower": 0.8}
_ACT_WEIGHT = 2.0  # an act is merged away later than its length says, but no text may outlive most of its span


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds [start, end) of one text; `kind` is that of the phase the text is of."""

    kind: PhaseKind
    start: float
    end: float
    text: str

    @property
    def lasts(self) -> float:
        return self.end - self.start

    @property
    def weight(self) -> float:
        """How much would be lost by merging it away."""
        return self.lasts * (_ACT_WEIGHT if self.kind in ACTS else _WEIGHT.get(self.kind, 1.0))


def pieces_of(phases: tuple[Phase, ...], texts: list[str], edges: list[float], min_s: float) -> list[Piece]:
    """Turn phases into pieces no shorter than `min_s` seconds, as far as the episode allows.

    `edges`: T + 1 seconds; frame i lasts from `edges[i]` to `edges[i + 1]`.
    """
    whole = [
        Piece(kind=p.kind, start=edges[p.start], end=edges[p.end], text=text)
        for p, text in zip(phases, texts, strict=True)
    ]
    while (merged := _merge_shortest(_grow_acts(whole, min_s), min_s)) != whole:
        whole = merged
    return whole


def cut_window(pieces: list[Piece], start_s: float, end_s: float, min_s: float, max_steps: int) -> list[Piece]:
    """Cut pieces to [start_s, end_s] without a gap, then merge until there are at most `max_steps`."""
    inside = [
        msgspec.structs.replace(p, start=max(p.start, start_s), end=min(p.end, end_s))
        for p in pieces
        if p.start < end_s and p.end > start_s
    ]
    if not inside:
        return []
    inside[0] = msgspec.structs.replace(inside[0], start=start_s)
    inside[-1] = msgspec.structs.replace(inside[-1], end=end_s)
    while (merged := _merge_shortest(inside, min_s)) != inside:
        inside = merged
    while len(inside) > max_steps:
        inside = _unlike(_merge(inside, min(range(len(inside)), key=lambda i: (inside[i].weight, i))))
    return inside


def _grow_acts(pieces: list[Piece], min_s: float) -> list[Piece]:
    """Lengthen what a gripper does to `min_s`, from both neighbours alike, where they have time to spare."""
    grown = list(pieces)
    for i, piece in enumerate(pieces):
        lack = min_s - grown[i].lasts
        if piece.kind not in ACTS or lack <= 1e-6:
            continue
        before = _spare(grown, i - 1, min_s)
        after = _spare(grown, i + 1, min_s)
        if before + after < lack:
            continue
        from_before = min(before, max(lack / 2, lack - after))
        _move_start(grown, i, -from_before)
        _move_start(grown, i + 1, lack - from_before)
    return grown


def _spare(pieces: list[Piece], i: int, min_s: float) -> float:
    if not 0 <= i < len(pieces) or pieces[i].kind in ACTS:
        return 0.0
    return max(pieces[i].lasts - min_s, 0.0)


def _move_start(pieces: list[Piece], i: int, by: float) -> None:
    if 0 < i < len(pieces):
        edge = pieces[i].start + by
        pieces[i - 1] = msgspec.structs.replace(pieces[i - 1], end=edge)
        pieces[i] = msgspec.structs.replace(pieces[i], start=edge)


def _merge_shortest(pieces: list[Piece], min_s: float) -> list[Piece]:
    """Merge away the least of the pieces shorter than `min_s`, if there is one."""
    found = _unlike(pieces)
    short = [i for i, p in enumerate(found) if p.lasts < min_s - 1e-6]
    if not short or len(found) == 1:
        return found
    return _unlike(_merge(found, min(short, key=lambda i: (found[i].weight, i))))


def _merge(pieces: list[Piece], i: int) -> list[Piece]:
    """Merge piece `i` into a neighbour; the text of the weightier of the two stays."""
    j = _neighbour(pieces, i)
    first, second = pieces[min(i, j)], pieces[max(i, j)]
    kept = first if first.weight >= second.weight else second
    merged = msgspec.structs.replace(kept, start=first.start, end=second.end)
    return [*pieces[: min(i, j)], merged, *pieces[max(i, j) + 1 :]]


def _neighbour(pieces: list[Piece], i: int) -> int:
    """Legs of a transfer go together; else the neighbour that is no gripper's act, else the lighter one."""
    around = [j for j in (i - 1, i + 1) if 0 <= j < len(pieces)]
    legs = ("lift", "carry", "lower")
    return min(
        around,
        key=lambda j: (
            not (pieces[i].kind in legs and pieces[j].kind in legs),
            pieces[j].kind in ACTS,
            pieces[j].weight,
            j,
        ),
    )


def _unlike(pieces: list[Piece]) -> list[Piece]:
    """Join neighbours that say the same."""
    found: list[Piece] = []
    for piece in pieces:
        if found and found[-1].text == piece.text:
            found[-1] = msgspec.structs.replace(found[-1], end=piece.end)
        else:
            found.append(piece)
    return found
