# pyright: reportMissingImports=false
"""What `annotator export --staging` wrote, by LeRobot's own validator, and beside what the shards hold."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

from lerobot.annotations.steerable_pipeline.validator import StagingValidator
from refusals import CheckFailed, short
from stored import Frame, Row, Subject


def staging(subject: Subject) -> str:
    """LeRobot's validator finds no error in the files, and together they hold each row of the shards once."""
    assert subject.staging is not None
    episodes: dict[int, list[Frame]] = {}
    for frame in subject.frames:
        episodes.setdefault(frame.episode, []).append(frame)
    records = [
        SimpleNamespace(episode_index=index, frame_timestamps=tuple(frame.timestamp for frame in frames))
        for index, frames in episodes.items()
    ]
    report = StagingValidator().validate(records, subject.staging)
    if report.errors:
        raise CheckFailed(f"{len(report.errors)} errors, the first: {short(report.errors[0])}")
    rows = sum(_compare(subject.staging / f"episode_{index:06d}", frames) for index, frames in episodes.items())
    return f"{report.summary()}, {rows} rows"


def _compare(folder: Path, frames: list[Frame]) -> int:
    stored = [*frames[0].persistent]
    stored += [{**row, "timestamp": frame.timestamp} for frame in frames for row in frame.events]
    staged = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    if _as_text(staged) != _as_text(stored):
        odd = sorted({*_as_text(staged)} ^ {*_as_text(stored)}) or ["rows that are there twice"]
        raise CheckFailed(f"{folder.name}: {len(staged)} rows, the shard has {len(stored)}: {short(odd[0])}")
    return len(staged)


def _as_text(rows: Iterable[Row]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)
