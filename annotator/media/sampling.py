"""Which frames to look at. Times are seconds from the episode's first frame, ascending, as stored (float32)."""

import numpy as np
import numpy.typing as npt

Timestamps = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def sample(timestamps: Timestamps, fps_wanted: float) -> Indices:
    """Choose frames at a constant density: (N,) indices, ascending, distinct, the first and the last frame included.

    `timestamps`: (T,) float32 seconds, T >= 1, gaps allowed. Ticks start at the first frame, `1 / fps_wanted` s apart,
    and each takes its nearest frame; a tick within half a period of the last frame gives way to it.

    Raises:
        ValueError: there are no timestamps, or `fps_wanted` is not positive.
    """
    if not len(timestamps) or not fps_wanted > 0:
        raise ValueError(f"cannot sample {len(timestamps)} frames at {fps_wanted} per second")
    # Ticks are counted in float64 and by multiples: a running float32 sum drifts by frames within an hour.
    seconds = timestamps.astype(np.float64)
    period = 1 / fps_wanted
    count = max(1, int(np.ceil((seconds[-1] - seconds[0]) / period - 0.5)))
    ticks = seconds[0] + period * np.arange(count)
    return np.unique(np.append(nearest(seconds, ticks), len(seconds) - 1))


def windows(indices: Indices, max_frames: int) -> tuple[Indices, ...]:
    """Cut (N,) chosen frames into the fewest consecutive windows of at most `max_frames`, as even as possible.

    Every frame is in exactly one window: windows share none, and sizes differ by at most one, longer ones first.

    Raises:
        ValueError: `max_frames` is not positive.
    """
    if max_frames < 1:
        raise ValueError(f"a window of {max_frames} frames cannot hold any")
    if not len(indices):
        return ()
    return tuple(np.array_split(indices, -(-len(indices) // max_frames)))


def nearest(seconds: npt.NDArray[np.float64], times: npt.NDArray[np.float64]) -> Indices:
    """Return the index of the frame nearest to each time, of the shape of `times`; of two as near, the earlier.

    `seconds`: (T,) float64, T >= 1, ascending. `times`: any shape, float64 seconds of the same origin.
    """
    right = np.searchsorted(seconds, times).clip(0, len(seconds) - 1)
    left = (right - 1).clip(0)
    return np.where(np.abs(seconds[left] - times) <= np.abs(seconds[right] - times), left, right)
