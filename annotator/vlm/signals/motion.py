"""Motion and rest, from the robot's own signals.

Every threshold is relative to the episode itself, so units do not matter: each dimension is measured by its own
range, and speeds by the speeds this episode reaches. Nothing here loops over frames.
"""

import re

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.dataset.signals import Signals

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

GRIPPER_NAME = re.compile(r"grip|jaw|finger|claw", re.IGNORECASE)
_RATE_NAME = re.compile(r"vel|speed|rate|delta|(^|[^a-z])d[xyz]([^a-z]|$)|twist", re.IGNORECASE)
_NOT_POSE_NAME = re.compile(r"vel|speed|effort|torque|current|force|temp|load|volt|accel", re.IGNORECASE)

WINDOW_S = 0.15  # speed is taken over twice this time: encoder steps vanish, pauses of a quarter second stay
MIN_REST_S = 0.25  # a shorter stop is a change of direction
MIN_MOVE_S = 0.3  # a shorter movement is a twitch
_FAST, _FLOOR = 0.08, 3.0  # moving: 8% of the usual top speed, or 3 times the quietest frames, whichever is more
_CAP = 0.25  # but never more than a quarter of the usual top speed, for arms that never rest
_NEGLIGIBLE = 0.01  # a dimension this small beside the largest counts for little: joints creep under load
_GAINS = 2.0  # over several frames motion gets this much further than over one; noise does not
_FAR = (4, 6, 9, 12)  # frames; several, so that no rhythm of wiping or shaking falls on all


class Motion(msgspec.Struct, frozen=True, kw_only=True):
    """How an episode of T frames moved.

    `times`: (T,) float64 seconds. `path`: (T, D) float64, each dimension in units of its own range, D = 0 where no
    signal tells of the arm. `speed`: (T,) float64 path lengths a second. `moving`: (T,) bool, debounced.
    """

    times: Floats
    path: Floats
    speed: Floats
    moving: Bools

    @property
    def known(self) -> bool:
        """Whether any signal tells of the arm at all."""
        return self.path.shape[1] > 0


def runs(mask: Bools) -> npt.NDArray[np.int64]:
    """Return the runs of True in a (T,) mask: (R, 2) int64 half-open frame ranges, ascending."""
    padded = np.concatenate(([False], mask, [False])).astype(np.int8)
    edges = np.flatnonzero(np.diff(padded))
    return edges.reshape(-1, 2).astype(np.int64)


def fill_runs(mask: Bools, drop: npt.NDArray[np.int64], value: bool) -> Bools:
    """Return a copy of a (T,) mask with the frames of the (R, 2) runs `drop` set to `value`."""
    steps = np.zeros(len(mask) + 1, dtype=np.int64)
    np.add.at(steps, drop[:, 0], 1)
    np.add.at(steps, drop[:, 1], -1)
    return np.where(np.cumsum(steps[:-1]) > 0, value, mask)


def repair(values: npt.NDArray[np.float32]) -> Floats:
    """Return (T, D) values as float64, NaN and infinity bridged in time, glitches of one frame dropped.

    A dimension without any finite value becomes 0.
    """
    whole = values.astype(np.float64)
    frames = np.arange(len(whole))
    for d in range(whole.shape[1]):
        good = np.isfinite(whole[:, d])
        if not good.all():
            whole[:, d] = np.interp(frames, frames[good], whole[good, d]) if good.any() else 0.0
    if len(whole) < 3:
        return whole
    # A median over three frames drops a glitch and keeps every corner of the path.
    around = np.pad(whole, ((1, 1), (0, 0)), mode="reflect")
    return np.median(np.stack((around[:-2], around[1:-1], around[2:])), axis=0)


def own_range(column: Floats) -> Floats:
    """Return the range of each dimension of (T, D) values, (D,); 0 where it is constant up to float32 rounding."""
    reach = np.ptp(column, axis=0)
    return np.where(reach > 1e-6 * np.abs(column).max(axis=0, initial=0.0), reach, 0.0)


def names_of(names: tuple[str, ...], width: int) -> tuple[str, ...]:
    """Return the names if there is one for each dimension, else none: which is which could only be guessed."""
    return names if len(names) == width else ()


def analyse_motion(signals: Signals, grippers: frozenset[tuple[str, int]], side: str = "") -> Motion:
    """Return how the arm moved, by the state, or by the action where the state is missing or never changes.

    `grippers` are (source, dimension) pairs to leave out; with `side`, only dimensions named for that side count.
    """
    path = _path(signals, "state", grippers, side)
    if not path.shape[1] or not np.ptp(path, axis=0).any():
        # A stuck sensor looks like an arm at rest; where the command moved, the arm did.
        commanded = _path(signals, "action", grippers, side)
        path = commanded if commanded.shape[1] else path
    speed = _speed(path, signals.timestamps)
    return Motion(times=signals.timestamps, path=path, speed=speed, moving=_moving(speed, signals.timestamps))


def side_of(name: str) -> str:
    """Return `left`, `right`, or "" where the name names no side."""
    match = re.search(r"(^|[^a-z])(left|right|l|r)([^a-z]|$)", name.lower())
    return {"l": "left", "r": "right"}.get(match[2], match[2]) if match else ""


def _path(signals: Signals, source: str, grippers: frozenset[tuple[str, int]], side: str) -> Floats:
    values = signals.state if source == "state" else signals.action
    frames = len(signals.timestamps)
    if values is None:
        return np.zeros((frames, 0))
    names = names_of(signals.state_names if source == "state" else signals.action_names, values.shape[1])
    keep = [d for d in range(values.shape[1]) if (source, d) not in grippers]
    if names and side and any(side_of(names[d]) == side for d in keep):
        keep = [d for d in keep if side_of(names[d]) == side]
    whole = repair(values[:, keep])
    if source == "action" and _is_rate(whole, tuple(names[d] for d in keep) if names else ()):
        steps = np.diff(signals.timestamps, prepend=signals.timestamps[0])  # velocities add up to a path
        return _in_own_range(np.cumsum(whole * steps[:, None], axis=0))
    posed = [i for i, d in enumerate(keep) if not (names and _NOT_POSE_NAME.search(names[d]))]
    return _in_own_range(whole[:, posed])


def _is_rate(action: Floats, names: tuple[str, ...]) -> bool:
    """Whether an action is velocities or steps: by its names, else because it keeps falling back to zero abruptly."""
    if names:
        return any(_RATE_NAME.search(name) for name in names)
    size = np.linalg.norm(action / np.maximum(own_range(action), 1e-30), axis=1) if action.size else np.zeros(1)
    top = float(np.percentile(size, 95))
    if top <= 0 or len(size) < 3:
        return False
    rough = float(np.abs(np.diff(size)).mean()) / max(float(size.mean()), 1e-30)
    return float((size < 0.02 * top).mean()) > 0.1 and rough > 0.1


def _in_own_range(values: Floats) -> Floats:
    """Scale each dimension of (T, D) values by its range; zero the constant ones and those that only jitter."""
    reach = own_range(values)
    used = reach > 0
    if len(values) >= 2 * _FAR[-1]:
        # What jitters gets no further in many frames than in one.
        in_units = values / np.maximum(np.abs(values).max(axis=0, initial=0.0), 1e-300)
        near, *far = (np.square(in_units[lag:] - in_units[:-lag]).mean(axis=0) for lag in (1, *_FAR))
        used &= ~(np.max(far, axis=0) < _GAINS**2 * near)
    kept = np.where(used, values, 0.0)
    scale = np.hypot(reach, _NEGLIGIBLE * np.where(used, reach, 0.0).max(initial=0.0))
    return (kept - kept[:1]) / np.where(used, scale, 1.0)


def _speed(path: Floats, times: Floats) -> Floats:
    frames = len(times)
    if frames < 2 or not path.shape[1]:
        return np.zeros(frames)
    half = max(1, round(WINDOW_S / float(np.median(np.diff(times)))))
    frame = np.arange(frames)
    before, after = np.maximum(frame - half, 0), np.minimum(frame + half, frames - 1)
    return np.linalg.norm(path[after] - path[before], axis=1) / (times[after] - times[before])


def _moving(speed: Floats, times: Floats) -> Bools:
    """Return where the arm moves, (T,) bool, by a threshold with hysteresis, then debounced.

    A movement has a frame above the threshold and lasts while the speed is above half of it.
    """
    lively = speed[speed > 0.01 * speed.max(initial=0.0)]
    if not lively.size:
        return np.zeros(len(speed), dtype=np.bool_)
    top = float(np.percentile(lively, 90))
    upper = min(max(_FAST * top, _FLOOR * float(np.percentile(speed, 5))), _CAP * top)
    above = runs(speed > upper / 2)
    peaks = np.maximum.reduceat(speed, above[:, 0]) if len(above) else np.zeros(0)
    moving = fill_runs(np.zeros(len(speed), dtype=np.bool_), above[peaks > upper], True)
    moving = _drop_short(moving, times, MIN_REST_S, filled=True)
    return _drop_short(moving, times, MIN_MOVE_S, filled=False)


def _drop_short(mask: Bools, times: Floats, shortest_s: float, *, filled: bool) -> Bools:
    """Turn rests between movements (`filled`), or any movements, shorter than `shortest_s` into their opposite."""
    short = runs(~mask if filled else mask)
    if filled:
        short = short[(short[:, 0] > 0) & (short[:, 1] < len(mask))]
    lasted = times[np.minimum(short[:, 1], len(times) - 1)] - times[short[:, 0]]
    return fill_runs(mask, short[lasted < shortest_s], filled)
