"""What the server is told about the real recordings, so that answers are known; and what the log says of a run."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from annotator_store.log.events import AnyEvent, EpisodeAnnotated, decode_event
from annotator_store.log.query import run_query
from annotator_store.log.segments import read_journal
from annotator_store.rows import EVENTS, PERSISTENT
from tests.datasets import Recording
from tests.vlm.conftest import RunningServer

Told = dict[str, Any]

SHARD = "data/chunk-000/file-000.parquet"
SPAN_S = 4.0
"""How long each subtask but the last takes."""

REACH, GRIP, LIFT, PLACE, BACK = SUBTASKS = (
    "reach for the fruit",
    "grip the fruit",
    "lift the fruit off the table",
    "put the fruit on the plate",
    "move the arm back",
)
GRIPPED, PLACED = MEMORIES = ("I gripped the fruit.", "I put the fruit on the plate.")
USUAL = (REACH, GRIP, LIFT, PLACE)
ENDS = ("19.6", "29.6", "19.8", "25.8", "17.5", "21.6")
"""Where the first six episodes of the real dataset end, seconds: a prompt about one of them says so."""


def discovery(subtasks: Sequence[str] = SUBTASKS, memories: Sequence[str] = MEMORIES) -> Told:
    """What recurs in the dataset."""
    return {"step": "vocabulary_discover", "answer": {"subtasks": [*subtasks], "memories": [*memories]}}


def segments(*texts: str, end: str | None = None) -> Told:
    """The subtasks of the episode that ends at `end`, or of any: each begins `SPAN_S` after the one before it."""
    spans = [
        {"start": at * SPAN_S, "end": (at + 1) * SPAN_S if at + 1 < len(texts) else 60.0, "subtask": text}
        for at, text in enumerate(texts)
    ]
    contains = [f"s to {end} s into the subtasks"] if end else []
    return {"step": "plan_segment", "contains": contains, "answer": {"subtasks": spans}}


def memory(completed: str, *milestones: str) -> Told:
    """What is remembered after a subtask."""
    contains = [f"It has just finished: {completed}\n"]
    return {"step": "plan_milestones", "contains": contains, "answer": {"memories": [*milestones]}}


MEMORY = (memory(GRIP, GRIPPED), memory(LIFT, GRIPPED), memory(PLACE, PLACED), memory(REACH))
STORY = (discovery(), segments(*USUAL), *MEMORY)
"""Every episode goes the usual way; descriptions, wordings, interjections and vqa are made up."""


def runs(root: Path) -> list[dict[str, Any]]:
    """All runs, oldest first."""
    found = run_query(root / ".annotator", "SELECT * FROM runs ORDER BY started_at").to_pylist()
    return [run | {"by_step": Counter(json.loads(run["answered_by_step"]))} for run in found]


def asked(root: Path) -> Counter[str]:
    """How many calls the last run had answered, by step; the run's own count and the calls of the log agree."""
    last = runs(root)[-1]
    query = "SELECT step, count(*) AS n FROM calls WHERE run_id = ? AND reply IS NOT NULL GROUP BY step"
    calls = run_query(root / ".annotator", query, [last["run_id"]]).to_pylist()
    assert Counter({row["step"]: row["n"] for row in calls}) == last["by_step"]
    assert last["calls_answered"] == last["by_step"].total()
    return last["by_step"]


def ever(root: Path) -> Counter[str]:
    """How many calls the log has answers to, by step."""
    query = "SELECT step, count(*) AS n FROM calls WHERE reply IS NOT NULL GROUP BY step"
    return Counter({row["step"]: row["n"] for row in run_query(root / ".annotator", query).to_pylist()})


def events(root: Path) -> list[AnyEvent]:
    """Everything in the journal, oldest first."""
    bodies = {e.id: e.body for _, entries in read_journal(root / ".annotator" / "journal") for e in entries}
    return sorted(map(decode_event, bodies.values()), key=lambda event: event.recorded_at)


def annotated(root: Path, module: str) -> list[EpisodeAnnotated]:
    """What was found for a module, oldest first."""
    return [one for one in events(root) if isinstance(one, EpisodeAnnotated) and one.module == module]


def stored(root: Path, shards: Sequence[str] = (SHARD,)) -> dict[int, list[dict[str, Any]]]:
    """The rows of each episode in the shards, as pyarrow reads them; an event has its frame's time."""
    found: dict[int, list[dict[str, Any]]] = {}
    for shard in shards:
        table = pq.ParquetFile(root / shard).read(["episode_index", "timestamp", PERSISTENT, EVENTS])
        for frame in table.to_pylist():
            rows = found.setdefault(frame["episode_index"], list(frame[PERSISTENT]))
            rows.extend(event | {"timestamp": frame["timestamp"]} for event in frame[EVENTS])
    return found


def of(rows: Sequence[dict[str, Any]], *styles: str | None) -> list[dict[str, Any]]:
    """The rows of some styles."""
    return [row for row in rows if row["style"] in styles]


def did_nothing(root: Path) -> bool:
    """Say whether the last run asked, decoded and wrote nothing, and found that all is done."""
    last = runs(root)[-1]
    work = ("calls_answered", "calls_hit", "calls_failed", "frames_decoded", "shards_written")
    return last["outcome"] == "done" and not any(last[name] for name in work)


Command = Callable[..., str]

RECORDINGS = (Recording(1, frames=150), Recording(2, frames=160), Recording(3, frames=170))
"""Three tiny recordings; they end at 14.9, 15.9 and 16.9 s."""
TOGETHER = {"shards": [[0, 1, 2]], "films": [[0, 1, 2]]}
"""All in one shard and, for each camera, in one film."""


SPARSELY = ("--vqa.question_types", "count,spatial", "--vqa.vqa_emission_hz", "0.3")
"""Few questions; and on pictures this small a made-up box may well be flat, and would be rejected."""


@dataclass(frozen=True)
class Played:
    """A dataset and a server that annotates it. `flags` go into every run."""

    root: Path
    server: RunningServer
    command: Command
    flags: tuple[object, ...] = ()

    def sync(self, *more: object, status: int = 0) -> str:
        """Sync the dataset; gives back what was said on stderr."""
        served = ("--vlm.api_base", self.server.api_base, "--vlm.model_id", "test-model", "--vlm.request_max_retries=0")
        return self.command("sync", self.root, *served, *self.flags, *more, status=status)

    def rows(self) -> dict[int, list[dict[str, Any]]]:
        """The rows of each episode in the shards."""
        return stored(self.root, [path.relative_to(self.root).as_posix() for path in self.shards])

    @property
    def shards(self) -> list[Path]:
        """The data shards."""
        return sorted((self.root / "data").rglob("*.parquet"))
