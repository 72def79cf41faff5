"""Statistics of signals and frames, in the shapes LeRobot keeps them: min, max, mean, std, count and five quantiles.

A scalar column gives (1,), a vector of D (D,), a camera (3, 1, 1) with values scaled to 0-1.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Stats = dict[str, npt.NDArray[np.float64] | npt.NDArray[np.int64]]

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
FRAMES_PER_EPISODE = 100
"""How many frames, evenly spaced, stand for an episode's footage. Source: LeRobot, for episodes of up to 500 frames."""
LEVELS = np.arange(256) / 255


def of_signal(values: npt.NDArray[np.float64]) -> Stats:
    """Return the statistics of a (T,) or (T, D) float64 column."""
    rows = values.reshape(len(values), -1)
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([len(rows)]),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def of_frames(frames: Sequence[npt.NDArray[np.uint8]]) -> Stats:
    """Return the statistics of (H, W, 3) uint8 frames per channel.

    At most `FRAMES_PER_EPISODE` of them are looked at, and of these every second pixel.
    """
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), FRAMES_PER_EPISODE)).round().astype(int).tolist()
    pixels = np.stack([frames[i][::2, ::2] for i in chosen]).reshape(-1, 3)
    channels = [_of_counts(np.bincount(pixels[:, channel], minlength=256)) for channel in range(3)]
    shaped = {name: np.array([c[name] for c in channels]).reshape(3, 1, 1) for name in channels[0]}
    return {name: np.array([len(chosen)]) if name == "count" else value for name, value in shaped.items()}


def _of_counts(counts: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return the statistics of a (256,) histogram of byte values."""
    seen = np.flatnonzero(counts)
    total = counts.sum()
    mean = float(counts @ LEVELS / total)
    below = np.cumsum(counts) / total
    return {
        "min": float(LEVELS[seen[0]]),
        "max": float(LEVELS[seen[-1]]),
        "mean": mean,
        "std": float(np.sqrt(counts @ (LEVELS - mean) ** 2 / total)),
        "count": float(total),
        **{name: float(LEVELS[np.searchsorted(below, q)]) for name, q in QUANTILES.items()},
    }


def merged(parts: Sequence[Stats]) -> Stats:
    """Return the statistics of several episodes together; quantiles become their weighted mean, as in LeRobot."""
    counts = np.array([part["count"][0] for part in parts])
    stacked = {
        name: np.stack([part[name] for part in parts]).astype(np.float64) for name in parts[0] if name != "count"
    }

    def average(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.average(values, axis=0, weights=counts)

    mean = average(stacked["mean"])
    return {
        "min": stacked["min"].min(axis=0),
        "max": stacked["max"].max(axis=0),
        "mean": mean,
        "std": np.sqrt(average(stacked["std"] ** 2 + (stacked["mean"] - mean) ** 2)),
        "count": np.array([counts.sum()]),
        **{name: average(stacked[name]) for name in QUANTILES},
    }
