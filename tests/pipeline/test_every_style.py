"""Every style that the pipeline knows is written, and held: how many rows of each, what they say, and what is pinned.

A scripted answer depends on the footage's bytes. Those of the real dataset are the same everywhere; those of the
sample are made by the encoder at hand, so for it every step has one answer.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pyarrow.parquet as pq
import pytest
from syrupy.assertion import SnapshotAssertion

from annotator.cli.main import main
from annotator.prompting.answers import (
    AttributeAnswer,
    BboxAnswer,
    CountAnswer,
    Description,
    Detection,
    Discovered,
    InitialSpeech,
    Interjection,
    KeypointAnswer,
    Milestones,
    Observation,
    Rephrasings,
    Segmentation,
    Span,
    SpatialAnswer,
)
from annotator.vlm.base import Request
from annotator.vlm.scripted.engine import Script
from annotator_store.keys import Text
from annotator_store.rows import EVENTS
from tests.pipeline.conftest import BANANA, REPO
from tests.pipeline.story import SHARD, stored
from tests.pipeline.told import telling

LOCK = "meta/annotations.lock.json"
TABLE = {
    ("subtask", "assistant"),
    ("plan", "assistant"),
    ("memory", "assistant"),
    ("task_aug", "user"),
    ("interjection", "user"),
    ("speech", "assistant"),
    ("vqa", "user"),
    ("vqa", "assistant"),
}
"""Every style the pipeline writes, with its roles; speech has none, and is known by its tool call."""

REACH, GRIP, PLACE = "reach for the object", "grip the object", "put the object on its goal"
GRIPPED, PLACED = "I gripped the object.", "I put the object on its goal."


def _memory(request: Request) -> Milestones:
    texts = [part.text for message in request.messages for part in message.parts if isinstance(part, Text)]
    finished = [line for text in texts for line in text.splitlines() if line.startswith("It has just finished: ")]
    return Milestones([GRIPPED] if finished[-1].endswith(GRIP) else [])


STORY: Script = {
    "vocabulary.discover": Discovered([REACH, GRIP, PLACE], [GRIPPED, PLACED]),
    "plan.describe": Description([Observation(0.5, "the hand moves down to the object")]),
    "plan.segment": Segmentation([Span(0.0, 2.0, REACH), Span(2.0, 4.0, GRIP), Span(4.0, 6.0, PLACE)]),
    "plan.milestones": _memory,
    "plan.task_rephrasings": Rephrasings(["put it there", "bring it to its goal"]),
    "interjections.initial_speech": InitialSpeech("I put it where it belongs."),
    "interjections.interjection": Interjection("preference", "Gently, please.", "I will be gentle."),
    "vqa.bbox": BboxAnswer("Where is the object?", [Detection("object", [400.0, 500.0, 600.0, 750.0])]),
    "vqa.keypoint": KeypointAnswer("Where is the hand?", "hand", [250.0, 500.0]),
    "vqa.count": CountAnswer("How many objects are there?", "object", 2, ""),
    "vqa.attribute": AttributeAnswer("Which colour is the object?", "object", "colour", "red"),
    "vqa.spatial": SpatialAnswer("Where is the object?", "object", "left of", "goal"),
}


@pytest.fixture(scope="module")
def banana(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real dataset, annotated by scripted answers. At a frame a second, no episode is cut into windows."""
    root = Path(copytree(BANANA, tmp_path_factory.mktemp("every") / "banana"))
    with telling():
        assert main(["sync", str(root), "--vlm.backend", "scripted", "--plan.frames_per_second", "1"]) == 0
    return root


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated dataset with its two cameras, annotated with the story."""
    root = tmp_path_factory.mktemp("every") / "sample"
    command = [sys.executable, str(REPO / "examples/make_sample.py"), str(root), "--fps", "10"]
    subprocess.run(command, check=True, capture_output=True)
    with telling(STORY):
        assert main(["sync", str(root), "--vlm.backend", "scripted"]) == 0
    return root


@pytest.fixture(params=["banana", "sample"])
def annotated(request: pytest.FixtureRequest) -> Path:
    """Each of the two."""
    return request.getfixturevalue(request.param)


def rows_of(root: Path) -> dict[int, list[dict[str, Any]]]:
    return stored(root, [path.relative_to(root).as_posix() for path in sorted(root.glob("data/*/*.parquet"))])


def kind(row: dict[str, Any]) -> tuple[str, str]:
    return row["style"] or "speech", row["role"]


def event_times(root: Path, episode: int) -> Iterator[float]:
    """The time of each event row of an episode, in the order of `stored`: the frame says it, the row does not."""
    for shard in sorted(root.glob("data/*/*.parquet")):
        for frame in pq.ParquetFile(shard).read(["episode_index", "timestamp", EVENTS]).to_pylist():
            yield from (frame["timestamp"] for _ in frame[EVENTS] if frame["episode_index"] == episode)


def test_every_style_is_written_and_nothing_else(annotated: Path) -> None:
    rows = [row for of_episode in rows_of(annotated).values() for row in of_episode]
    assert {kind(row) for row in rows} == TABLE
    assert all(bool(row["tool_calls"]) == (row["style"] is None) for row in rows)


def test_it_validates_and_verifies_clean(annotated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(annotated)]) == 0
    assert capsys.readouterr().out.startswith("clean: ")
    assert main(["verify", str(annotated)]) == 0
    assert capsys.readouterr().err.endswith("nothing is wrong\n")


def test_so_many_rows_of_each_style_are_written(annotated: Path, snapshot: SnapshotAssertion) -> None:
    rows = rows_of(annotated)
    counts = Counter(" ".join(kind(row)) for of_episode in rows.values() for row in of_episode)
    assert counts["vqa user"] == counts["vqa assistant"]
    assert counts["speech assistant"] == len(rows) + counts["interjection user"]
    assert counts["plan assistant"] == counts["subtask assistant"]
    assert dict(sorted(counts.items())) == snapshot


def test_the_lock_counts_the_same_shards_and_the_card_the_same_rows(annotated: Path) -> None:
    lock, card = json.loads((annotated / LOCK).read_text()), (annotated / "README.md").read_text()
    counts = Counter(row["style"] or "speech" for of_episode in rows_of(annotated).values() for row in of_episode)
    assert set(lock["shards"]) == {path.relative_to(annotated).as_posix() for path in annotated.glob("data/*/*")}
    assert all(f"| {style} | {count} |" in card.splitlines() for style, count in counts.items())


def test_what_an_episode_of_the_sample_is_given_is_held(sample: Path, snapshot: SnapshotAssertion) -> None:
    rows, times = rows_of(sample)[0], event_times(sample, 0)
    lines = [(row["timestamp"] if "timestamp" in row else next(times), *_told(row)) for row in rows]
    assert "\n".join(" | ".join([f"{time:5.2f}", *cells]) for time, *cells in lines) == snapshot


def _told(row: dict[str, Any]) -> tuple[str, str, str]:
    said = row["content"] if row["tool_calls"] is None else " ".join(row["tool_calls"])
    camera = (row["camera"] or "–").removeprefix("observation.images.")
    return " ".join(kind(row)), camera, said.replace("\n", " / ")


def test_the_lock_of_the_real_dataset_is_held(banana: Path, snapshot: SnapshotAssertion) -> None:
    """A changed prompt shows here twice: in its own digest, and in that of the log."""
    assert (banana / LOCK).read_text(encoding="utf-8") == snapshot
    assert SHARD in json.loads((banana / LOCK).read_text())["shards"]
