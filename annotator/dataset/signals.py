"""What the robot itself recorded over an episode: state and action, beside the footage."""

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.dataset.metadata import Dataset
from annotator.dataset.shard_scan import ACTION, STATE, EpisodeScan, column_matrix, column_vector, read_frames_table


class Signals(msgspec.Struct, frozen=True, kw_only=True):
    """What the robot's own sensors recorded over one episode of T frames.

    `timestamps`: (T,) float64 seconds, as stored, and as prompts and pictures say them. `state`: (T, S) float32,
    `action`: (T, A) float32, in the dataset's units; None where the dataset has none. Names are as in
    `meta/info.json`, empty where it gives none.
    """

    timestamps: npt.NDArray[np.float64]
    state: npt.NDArray[np.float32] | None
    action: npt.NDArray[np.float32] | None
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]


def read_signals(dataset: Dataset, episode: EpisodeScan) -> Signals:
    """Read what the robot's sensors recorded over an episode.

    Raises:
        DatasetError: the shard cannot be read, or a signal is not one vector a frame.
    """
    table = read_frames_table(dataset.root, episode, ["timestamp", STATE, ACTION])
    state, action = (column_matrix(dataset.root / episode.shard, table, name) for name in (STATE, ACTION))
    return Signals(
        timestamps=column_vector(table, "timestamp").astype(np.float64),
        state=None if state is None else state.astype(np.float32),
        action=None if action is None else action.astype(np.float32),
        state_names=dataset.names_of(STATE),
        action_names=dataset.names_of(ACTION),
    )
