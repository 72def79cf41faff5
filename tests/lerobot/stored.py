"""What the shards hold, read with pyarrow alone: the reference that LeRobot's readers are compared with."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

Row = dict[str, Any]
COLUMNS = ("language_persistent", "language_events")
NEAR_S = 0.1
"""Two rows of a persistent style that one frame is this near to are one too many for LeRobot's `emitted_at`."""


class Frame(NamedTuple):
    """One frame as the shards have it, tool calls decoded. `row` is its number in the dataset."""

    row: int
    episode: int
    timestamp: float
    persistent: list[Row]
    events: list[Row]

    def __str__(self) -> str:
        return f"frame {self.row} of episode {self.episode}"


class Subject(NamedTuple):
    """The dataset under check. `sampled` are indices into `frames`; `whole` are all those of a few episodes.

    `full`: it is said to have every style, so that a recipe which gives nothing is a failure. `staging`: its export.
    """

    root: Path
    repo_id: str
    frames: list[Frame]
    sampled: list[int]
    whole: list[int]
    recipes: Path | None
    full: bool
    staging: Path | None = None


def shards(root: Path) -> list[Path]:
    """List the data shards as LeRobot finds them."""
    return sorted((root / "data").glob("*/*.parquet"))


def frames(shard: Path) -> Iterator[Frame]:
    """Read a shard frame by frame."""
    parquet = pq.ParquetFile(shard)
    for group in range(parquet.num_row_groups):
        table = parquet.read_row_group(group, columns=["index", "episode_index", "timestamp", *COLUMNS])
        for row in table.to_pylist():
            persistent, events = (_decoded(row[name]) for name in COLUMNS)
            yield Frame(row["index"], row["episode_index"], row["timestamp"], persistent, events)


def _decoded(rows: list[Row]) -> list[Row]:
    """Decode the JSON that pyarrow hands out as text."""
    return [{**row, "tool_calls": row["tool_calls"] and [json.loads(c) for c in row["tool_calls"]]} for row in rows]


def sample(of: Sequence[Frame], per_episode: int) -> list[int]:
    """Choose evenly spaced frames of each episode, and those at which something happens or about which it changes."""
    places: dict[int, list[int]] = {}
    for place, frame in enumerate(of):
        places.setdefault(frame.episode, []).append(place)
    chosen: set[int] = set()
    for members in places.values():
        steps = max(1, per_episode - 1)
        chosen |= {members[round(k * (len(members) - 1) / steps)] for k in range(steps + 1)}
        changes = {row["timestamp"] for row in of[members[0]].persistent}
        chosen |= {p for p in members if of[p].events or any(abs(of[p].timestamp - t) <= NEAR_S for t in changes)}
    return sorted(chosen)


def richest(of: Sequence[Frame], episodes: int) -> list[int]:
    """All frames of the episodes that have most styles, the first of them where many do."""
    styles: dict[int, set[tuple[str | None, str]]] = {}
    for frame in of:
        found = {(row["style"], row["role"]) for row in (*frame.persistent, *frame.events)}
        styles.setdefault(frame.episode, set()).update(found)
    chosen = sorted(styles, key=lambda episode: (-len(styles[episode]), episode))[:episodes]
    return [place for place, frame in enumerate(of) if frame.episode in chosen]
