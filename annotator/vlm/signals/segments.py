"""From an episode's phases to the spans of one window: long enough, few enough, no two alike in a row.

Phases too short are grown or merged over the whole episode first, and the window is cut last, so that two windows
of one episode agree wherever they overlap.
"""

import msgspec

from annotator.vlm.signals.phases import ACTS, Phase, PhaseKind

# How much of its length counts when something must be merged away: waits and short legs of a transfer go first.
_WEIGHT: dict[PhaseKind, float] = {"wait": 0.7, "lift": 0.8, "lower": 0.8}
_ACT_WEIGHT = 2.0  # an act is merged away later than its length says, but no text may outlive most of its span


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds [start, end) of one text, from the episode's first frame; `kind` is that of the phase the text is of."""

    kind: PhaseKind
    start: float
    end: float
    text: str

    @property
    def lasts(self) -> float:
        """Its length in seconds."""
        return self.end - self.start

    @property
    def weight(self) -> float:
        """How much would be lost by merging it away."""
        return self.lasts * (_ACT_WEIGHT if self.kind in ACTS else _WEIGHT.get(self.kind, 1.0))

    def spare(self, min_s: float) -> float:
        """Return how many seconds it can give to a neighbour and still last `min_s`; an act gives none."""
        return 0.0 if self.kind in ACTS else max(self.lasts - min_s, 0.0)


def pieces_of(phases: tuple[Phase, ...], texts: list[str], edges: list[float], min_s: float) -> list[Piece]:
    """Return pieces no shorter than `min_s` seconds, as far as the episode allows, in order and without gaps.

    `texts`: one a phase. `edges`: T + 1 seconds; frame i lasts from `edges[i]` to `edges[i + 1]`.
    """
    whole = [
        Piece(kind=p.kind, start=edges[p.start], end=edges[p.end], text=text)
        for p, text in zip(phases, texts, strict=True)
    ]
    while (merged := _merge_shortest(_grow_acts(whole, min_s), min_s)) != whole:
        whole = merged
    return whole


def cut_window(pieces: list[Piece], start_s: float, end_s: float, min_s: float, max_steps: int) -> list[Piece]:
    """Return the pieces of [start_s, end_s], without gaps, merged until there are at most `max_steps`."""
    inside = [
        msgspec.structs.replace(p, start=max(p.start, start_s), end=min(p.end, end_s))
        for p in pieces
        if p.start < end_s and p.end > start_s
    ]
    if not inside:
        return []
    # The window may reach beyond the episode's own edges by parts of a frame.
    inside[0] = msgspec.structs.replace(inside[0], start=start_s)
    inside[-1] = msgspec.structs.replace(inside[-1], end=end_s)
    while (merged := _merge_shortest(inside, min_s)) != inside:
        inside = merged
    while len(inside) > max_steps:
        inside = _join_alike(_merge(inside, min(range(len(inside)), key=lambda i: (inside[i].weight, i))))
    return inside


def _grow_acts(pieces: list[Piece], min_s: float) -> list[Piece]:
    """Lengthen what a gripper does to `min_s`, from both neighbours alike, where they have time to spare."""
    grown = list(pieces)
    for i, piece in enumerate(pieces):
        lack = min_s - grown[i].lasts
        if piece.kind not in ACTS or lack <= 1e-6:
            continue
        before = grown[i - 1].spare(min_s) if i > 0 else 0.0
        after = grown[i + 1].spare(min_s) if i + 1 < len(grown) else 0.0
        if before + after < lack:
            continue
        from_before = min(before, max(lack / 2, lack - after))
        _move_start(grown, i, -from_before)
        _move_start(grown, i + 1, lack - from_before)
    return grown


def _move_start(pieces: list[Piece], i: int, by: float) -> None:
    if 0 < i < len(pieces):
        edge = pieces[i].start + by
        pieces[i - 1] = msgspec.structs.replace(pieces[i - 1], end=edge)
        pieces[i] = msgspec.structs.replace(pieces[i], start=edge)


def _merge_shortest(pieces: list[Piece], min_s: float) -> list[Piece]:
    """Merge away the lightest of the pieces shorter than `min_s`, if there is one."""
    distinct = _join_alike(pieces)
    short = [i for i, p in enumerate(distinct) if p.lasts < min_s - 1e-6]
    if not short or len(distinct) == 1:
        return distinct
    return _join_alike(_merge(distinct, min(short, key=lambda i: (distinct[i].weight, i))))


def _merge(pieces: list[Piece], i: int) -> list[Piece]:
    """Merge piece `i` into a neighbour; the text of the weightier of the two stays."""
    # Legs of a transfer go together; else into the neighbour that is no gripper's act, else into the lighter one.
    legs = ("lift", "carry", "lower")
    j = min(
        (j for j in (i - 1, i + 1) if 0 <= j < len(pieces)),
        key=lambda j: (
            not (pieces[i].kind in legs and pieces[j].kind in legs),
            pieces[j].kind in ACTS,
            pieces[j].weight,
            j,
        ),
    )
    first, second = pieces[min(i, j)], pieces[max(i, j)]
    kept = first if first.weight >= second.weight else second
    merged = msgspec.structs.replace(kept, start=first.start, end=second.end)
    return [*pieces[: min(i, j)], merged, *pieces[max(i, j) + 1 :]]


def _join_alike(pieces: list[Piece]) -> list[Piece]:
    """Join neighbours of the same text."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and joined[-1].text == piece.text:
            joined[-1] = msgspec.structs.replace(joined[-1], end=piece.end)
        else:
            joined.append(piece)
    return joined
