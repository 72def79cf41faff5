"""Real recordings, located."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from annotator.media.clips import Clip

CR5 = Path(__file__).parents[1] / "data" / "cr5_banana"


@pytest.fixture(scope="session")
def cr5_clips() -> list[Clip]:
    """The twelve episodes of the banana dataset, in order; they lie in three files."""
    camera = "observation.images.top"
    episodes = pq.read_table(CR5 / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    frames = pq.read_table(CR5 / "data/chunk-000/file-000.parquet", columns=["episode_index", "timestamp"])
    owner, seconds = frames["episode_index"].to_numpy(), frames["timestamp"].to_numpy()
    return [
        Clip(
            path=CR5 / f"videos/{camera}/chunk-000/file-{episode[f'videos/{camera}/file_index']:03d}.mp4",
            from_timestamp=episode[f"videos/{camera}/from_timestamp"],
            to_timestamp=episode[f"videos/{camera}/to_timestamp"],
            frame_timestamps=seconds[owner == episode["episode_index"]].astype(np.float32),
            fps=10,
            camera=camera,
        )
        for episode in episodes
    ]
