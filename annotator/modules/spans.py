"""Turn whatever spans a model returns into a cover: contiguous, frame-exact, every frame in exactly one segment."""

import math
import re
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.answers import Span
from annotator.sampling import nearest


class Segment(msgspec.Struct, frozen=True):
    """A subtask from frame `first` up to (not including) frame `stop` of the episode."""

    first: int
    stop: int
    text: str


def tidy(text: str) -> str:
    """Fold white space and drop what ends a sentence, so that equal subtasks read equal."""
    return re.sub(r"\s+", " ", text).strip().rstrip(". ")


def cover(spans: Iterable[Span], clock: npt.NDArray[np.float32], *, min_seconds: float) -> list[Segment]:
    """Stitch spans into segments that cover every frame of `clock` ((T,) float32 seconds, ascending).

    Reversed spans are turned round; what lies outside is clipped; a gap goes to the span before it; where two overlap
    the later start wins; starts snap to the nearest frame and stay distinct; short segments join their longer
    neighbour; neighbours with equal text become one. Returns [] when no span is usable.
    """
    usable = sorted(_usable(spans, float(clock[0]), float(clock[-1])), key=lambda s: (s.start, s.end))
    segments = _distinct(usable, clock)
    segments = _merge_equal(segments)
    segments = _merge_short(segments, clock, min_seconds)
    return _merge_equal(segments)


def _usable(spans: Iterable[Span], begin: float, finish: float) -> Iterable[Span]:
    for span in spans:
        text = tidy(span.subtask)
        if not text or not (math.isfinite(span.start) and math.isfinite(span.end)):
            continue
        start, end = min(span.start, span.end), max(span.start, span.end)
        if end < begin or start > finish:
            continue
        yield Span(max(start, begin), min(end, finish), text)


def _distinct(spans: Sequence[Span], clock: npt.NDArray[np.float32]) -> list[Segment]:
    """Give each span a first frame of its own; of several on one frame the longest stays."""
    if not spans:
        return []
    firsts = nearest(clock.astype(np.float64), np.array([span.start for span in spans]))
    firsts[0] = 0
    best: dict[int, Span] = {}
    for first, span in zip(firsts.tolist(), spans, strict=True):
        held = best.get(first)
        if held is None or span.end - span.start > held.end - held.start:
            best[first] = span
    order = sorted(best)
    stops = [*order[1:], len(clock)]
    return [Segment(first, stop, best[first].subtask) for first, stop in zip(order, stops, strict=True)]


def _merge_equal(segments: Sequence[Segment]) -> list[Segment]:
    merged: list[Segment] = []
    for segment in segments:
        if merged and merged[-1].text.casefold() == segment.text.casefold():
            merged[-1] = Segment(merged[-1].first, segment.stop, merged[-1].text)
        else:
            merged.append(segment)
    return merged


def _merge_short(segments: Sequence[Segment], clock: npt.NDArray[np.float32], min_seconds: float) -> list[Segment]:
    """Merge the shortest segment into its longer neighbour until none is shorter than `min_seconds`."""
    kept = list(segments)
    while len(kept) > 1:
        lengths = [_seconds(segment, clock) for segment in kept]
        at = int(np.argmin(lengths))
        if lengths[at] >= min_seconds:
            break
        into = _longer_neighbour(lengths, at)
        low, high = min(at, into), max(at, into)
        kept[low : high + 1] = [Segment(kept[low].first, kept[high].stop, kept[into].text)]
    return kept


def _longer_neighbour(lengths: Sequence[float], at: int) -> int:
    if at == 0:
        return 1
    if at == len(lengths) - 1 or lengths[at - 1] >= lengths[at + 1]:
        return at - 1
    return at + 1


def _seconds(segment: Segment, clock: npt.NDArray[np.float32]) -> float:
    """How long a segment is in force: up to the next segment's first frame, or one frame past the last."""
    last = segment.stop if segment.stop < len(clock) else len(clock) - 1
    step = 0.0 if segment.stop < len(clock) or len(clock) < 2 else float(clock[-1] - clock[-2])
    return float(clock[last] - clock[segment.first]) + step
