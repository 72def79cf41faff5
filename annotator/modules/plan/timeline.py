"""Turn whatever spans a model returns into a cover: contiguous, frame-exact, every frame in exactly one segment."""

import math
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.media.sampling import nearest
from annotator.prompting.answers import Span
from annotator.prompting.normalize import sameness, tidy_subtask

LEAST_SECONDS = 0.2
"""No two segments start closer together than this.

Source: LeRobot 0.6.2 looks a persistent row up by its time within 0.1 s either way; closer ones would be confused.
"""


class Segment(msgspec.Struct, frozen=True):
    """A subtask from frame `first` up to (not including) frame `stop` of the episode.

    `source` is the place, among the spans that were covered, of the one whose text it has.
    """

    first: int
    stop: int
    text: str
    source: int


def tidy(text: str) -> str:
    """Fold white space and drop what ends a sentence, so that equal subtasks read equal."""
    return tidy_subtask(text)


def cover(spans: Iterable[Span], timestamps: npt.NDArray[np.float32], *, min_seconds: float) -> list[Segment]:
    """Stitch spans into segments that cover every frame of `timestamps` ((T,) float32 seconds, ascending).

    Reversed spans are turned round; what lies outside is clipped; a gap goes to the span before it; where two overlap
    the later start wins; starts snap to the nearest frame and stay distinct; a segment shorter than `min_seconds`, or
    than `LEAST_SECONDS`, joins its longer neighbour; neighbours with equal text become one. Texts are kept as they
    are. Returns [] when no span is usable.
    """
    usable = sorted(_usable(spans, float(timestamps[0]), float(timestamps[-1])), key=lambda s: (s[1].start, s[1].end))
    segments = _distinct(usable, timestamps)
    segments = merge_equal(segments)
    segments = _merge_short(segments, timestamps, max(min_seconds, LEAST_SECONDS))
    return merge_equal(segments)


def merge_equal(segments: Iterable[Segment]) -> list[Segment]:
    """Make one of neighbours whose texts differ at most in case, white space or a full stop; the first one's stays."""
    merged: list[Segment] = []
    for segment in segments:
        if merged and sameness(merged[-1].text) == sameness(segment.text):
            merged[-1] = msgspec.structs.replace(merged[-1], stop=segment.stop)
        else:
            merged.append(segment)
    return merged


def _usable(spans: Iterable[Span], begin: float, finish: float) -> Iterator[tuple[int, Span]]:
    for source, span in enumerate(spans):
        if not tidy(span.subtask) or not (math.isfinite(span.start) and math.isfinite(span.end)):
            continue
        start, end = min(span.start, span.end), max(span.start, span.end)
        if end < begin or start > finish:
            continue
        yield source, Span(max(start, begin), min(end, finish), span.subtask)


def _distinct(spans: Sequence[tuple[int, Span]], timestamps: npt.NDArray[np.float32]) -> list[Segment]:
    """Give each span a first frame of its own; of several on one frame the longest stays."""
    if not spans:
        return []
    firsts = nearest(timestamps.astype(np.float64), np.array([span.start for _, span in spans]))
    firsts[0] = 0
    best: dict[int, tuple[int, Span]] = {}
    for first, (source, span) in zip(firsts.tolist(), spans, strict=True):
        held = best.get(first)
        if held is None or span.end - span.start > held[1].end - held[1].start:
            best[first] = (source, span)
    order = sorted(best)
    stops = [*order[1:], len(timestamps)]
    return [Segment(a, b, best[a][1].subtask, best[a][0]) for a, b in zip(order, stops, strict=True)]


def _merge_short(segments: Sequence[Segment], timestamps: npt.NDArray[np.float32], min_seconds: float) -> list[Segment]:
    """Merge the shortest segment into its longer neighbour until none is shorter than `min_seconds`."""
    kept = list(segments)
    while len(kept) > 1:
        lengths = [_seconds(segment, timestamps) for segment in kept]
        at = int(np.argmin(lengths))
        if lengths[at] >= min_seconds:
            break
        into = _longer_neighbour(lengths, at)
        low, high = min(at, into), max(at, into)
        kept[low : high + 1] = [msgspec.structs.replace(kept[into], first=kept[low].first, stop=kept[high].stop)]
    return kept


def _longer_neighbour(lengths: Sequence[float], at: int) -> int:
    if at == 0:
        return 1
    if at == len(lengths) - 1 or lengths[at - 1] >= lengths[at + 1]:
        return at - 1
    return at + 1


def _seconds(segment: Segment, timestamps: npt.NDArray[np.float32]) -> float:
    """How long a segment is in force: up to the next segment's first frame, or one frame past the last."""
    frames = len(timestamps)
    last = segment.stop if segment.stop < frames else frames - 1
    step = 0.0 if segment.stop < frames or frames < 2 else float(timestamps[-1]) - float(timestamps[-2])
    return float(timestamps[last]) - float(timestamps[segment.first]) + step
