"""Turn whatever spans a model returns into a cover: contiguous, frame-exact, every frame in exactly one segment."""

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.media.sampling import nearest
from annotator.prompting.answers import Span
from annotator.prompting.normalize import sameness, tidy_label

LEAST_SECONDS = 0.2
"""No two segments start closer together than this.

Source: LeRobot 0.6.2 looks a persistent row up by its time within 0.1 s either way; closer ones would be confused.
"""


class Segment(msgspec.Struct, frozen=True):
    """A subtask from frame `first` up to (not including) frame `stop` of the episode.

    `source` is the index of the span whose text it has.
    """

    first: int
    stop: int
    text: str
    source: int


def cover(spans: Iterable[Span], timestamps: npt.NDArray[np.float32], *, min_seconds: float) -> list[Segment]:
    """Stitch spans into segments that cover every frame of `timestamps` ((T,) float32 seconds, ascending).

    Reversed spans are turned round; what lies outside is clipped; a gap goes to the span before it; where two overlap
    the later start wins; starts snap to the nearest frame and stay distinct; a segment shorter than `min_seconds`, or
    than `LEAST_SECONDS`, joins its longer neighbour; neighbours with equal text become one. Texts are kept as they
    are. Returns [] when no span is usable.
    """
    begin, finish = float(timestamps[0]), float(timestamps[-1])
    usable: list[tuple[int, Span]] = []
    for source, span in enumerate(spans):
        if not tidy_label(span.subtask) or not (math.isfinite(span.start) and math.isfinite(span.end)):
            continue
        start, end = min(span.start, span.end), max(span.start, span.end)
        if end >= begin and start <= finish:
            usable.append((source, Span(max(start, begin), min(end, finish), span.subtask)))
    usable.sort(key=lambda item: (item[1].start, item[1].end))
    segments = merge_equal(_distinct(usable, timestamps))
    return merge_equal(_merge_short(segments, timestamps, max(min_seconds, LEAST_SECONDS)))


def merge_equal(segments: Iterable[Segment]) -> list[Segment]:
    """Make one of neighbours whose texts differ at most in case, white space or a full stop; the first one's stays."""
    merged: list[Segment] = []
    for segment in segments:
        if merged and sameness(merged[-1].text) == sameness(segment.text):
            merged[-1] = msgspec.structs.replace(merged[-1], stop=segment.stop)
        else:
            merged.append(segment)
    return merged


def _distinct(spans: Sequence[tuple[int, Span]], timestamps: npt.NDArray[np.float32]) -> list[Segment]:
    """Return segments with a first frame of their own; of several spans on one frame the longest stays."""
    if not spans:
        return []
    firsts = nearest(timestamps.astype(np.float64), np.array([span.start for _, span in spans]))
    firsts[0] = 0
    best: dict[int, tuple[int, Span]] = {}
    for first, (source, span) in zip(firsts.tolist(), spans, strict=True):
        other = best.get(first)
        if other is None or span.end - span.start > other[1].end - other[1].start:
            best[first] = (source, span)
    order = sorted(best)
    stops = [*order[1:], len(timestamps)]
    return [Segment(a, b, best[a][1].subtask, best[a][0]) for a, b in zip(order, stops, strict=True)]


def _merge_short(segments: Sequence[Segment], timestamps: npt.NDArray[np.float32], min_seconds: float) -> list[Segment]:
    """Merge the shortest segment into its longer neighbour until none is shorter than `min_seconds`."""
    kept = list(segments)
    while len(kept) > 1:
        lengths = [_seconds(segment, timestamps) for segment in kept]
        shortest = int(np.argmin(lengths))
        if lengths[shortest] >= min_seconds:
            break
        neighbours = [place for place in (shortest - 1, shortest + 1) if 0 <= place < len(kept)]
        into = max(neighbours, key=lambda place: lengths[place])  # the one before, where both are as long
        low, high = min(shortest, into), max(shortest, into)
        kept[low : high + 1] = [msgspec.structs.replace(kept[into], first=kept[low].first, stop=kept[high].stop)]
    return kept


def _seconds(segment: Segment, timestamps: npt.NDArray[np.float32]) -> float:
    """Return how long a segment is in force: up to the next segment's first frame, or one frame past the last."""
    frames = len(timestamps)
    last = segment.stop if segment.stop < frames else frames - 1
    step = 0.0 if segment.stop < frames or frames < 2 else float(timestamps[-1]) - float(timestamps[-2])
    return float(timestamps[last]) - float(timestamps[segment.first]) + step
