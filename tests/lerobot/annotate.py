"""Annotate a dataset with every module, by a server that tells the same story about every episode.

    python -m tests.lerobot.annotate DATASET_ROOT [more flags of `annotator sync`]

Four subtasks, a memory after each but the last, an interjection at every start that may have one, and VQA as drawn:
every style that the pipeline knows, whatever the prompts say today.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.vlm.conftest import running_server

SUBTASKS = ("reach for the object", "grip the object", "carry the object over", "put the object down")
MEMORIES = ("I reached the object.", "I gripped the object.", "I carried the object over.")
STYLES = frozenset({"subtask", "plan", "memory", "task_aug", "interjection", "vqa", None})
"""What the story leads to; speech has no style."""

Told = dict[str, Any]


def annotate(root: Path, *flags: str) -> None:
    """Run `annotator sync` on a dataset, as a process of its own.

    Raises:
        CalledProcessError: the command said no.
    """
    command = [sys.executable, "-m", "annotator", "sync", str(root), "--vlm.model_id", "test-model"]
    with running_server() as server:
        server.tell(*story(_span_s(root)))
        done = subprocess.run([*command, "--vlm.api_base", server.api_base, *flags], capture_output=True, check=False)
    if done.returncode:
        sys.stderr.buffer.write(done.stderr)
        done.check_returncode()


def story(span_s: float) -> list[Told]:
    """What the server is told: each subtask takes `span_s` seconds, the last one all that is left."""
    discovered = {"subtasks": [*SUBTASKS], "memories": [*MEMORIES]}
    spans = [
        {"start": number * span_s, "end": (number + 1) * span_s, "subtask": text}
        for number, text in enumerate(SUBTASKS)
    ]
    return [
        {"step": "vocabulary_discover", "answer": discovered},
        {"step": "plan_segment", "answer": {"subtasks": spans}},
        *(_remembered(*pair) for pair in zip(SUBTASKS, MEMORIES, strict=False)),
    ]


def _remembered(finished: str, text: str) -> Told:
    contains = [f"It has just finished: {finished}\n"]
    return {"step": "plan_milestones", "contains": contains, "answer": {"memories": [text]}}


def _span_s(root: Path) -> float:
    """So that four spans end a little before the shortest episodes do."""
    info = json.loads((root / "meta/info.json").read_text())
    return info["total_frames"] / info["total_episodes"] / info["fps"] / 5


if __name__ == "__main__":
    annotate(Path(sys.argv[1]), *sys.argv[2:])
