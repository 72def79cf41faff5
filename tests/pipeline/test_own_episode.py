"""What an episode is told comes from that episode: its own plan, its own task, its own words."""

from pathlib import Path

import pytest

from annotator_store.log.events import VocabularyEdited
from annotator_store.log.query import run_query
from tests.conftest import MakeDataset
from tests.datasets import TOP, WRIST, Recording
from tests.pipeline.story import (
    RECORDINGS,
    SPARSELY,
    STORY,
    TOGETHER,
    Command,
    Played,
    Told,
    annotated,
    asked,
    discovery,
    events,
    of,
)
from tests.vlm.conftest import RunningServer

TASKS = ("put the red cube into the bowl", "open the drawer")
NO_PLAN, NO_TALK, NO_VQA = "--plan.enabled=false", "--interjections.enabled=false", "--vqa.enabled=false"


def prompts(played: Played, step: str) -> list[str]:
    """Everything that was sent for a step, one text a prompt."""
    sql = "SELECT text FROM prompts WHERE step = ? ORDER BY text"
    return [row["text"] for row in run_query(played.root / ".annotator", sql, [step]).to_pylist()]


def test_interjections_follow_the_plan_of_their_own_episode_among_those_that_move_alike(
    make_dataset: MakeDataset, teller: RunningServer, command: Command, tmp_path: Path
) -> None:
    """Two episodes with one motion and two tasks: with the plan off, each goes by the plan in its own shard."""
    alike = [Recording(1, frames=150, task=task) for task in TASKS]
    first: Told = {"step": "plan_segment", "contains": [TASKS[0]], "answer": spans(0, 4)}
    second: Told = {"step": "plan_segment", "contains": [TASKS[1]], "answer": spans(0, 8)}
    teller.tell(discovery(), first, second, *STORY[2:])
    root = make_dataset(tmp_path, alike, shards=[[0, 1]], films=[[0, 1]])
    played = Played(root, teller, command)
    played.sync(NO_TALK, NO_VQA)

    played.sync(NO_PLAN, NO_VQA)

    rows = played.rows()
    assert [[row["timestamp"] for row in of(rows[e], "interjection")] for e in (0, 1)] == [[4.0], [8.0]]
    assert [[row["timestamp"] for row in of(rows[e], "subtask")] for e in (0, 1)] == [[0.0, 4.0], [0.0, 8.0]]
    speeches = prompts(played, "interjections.initial_speech")
    assert [sum(task in text for text in speeches) for task in TASKS] == [1, 1]
    command("validate", root)


def spans(*starts: float) -> dict[str, object]:
    """Subtasks that begin at these times, of alternating words."""
    words = ("grip the fruit", "lift the fruit off the table")
    bounds = zip(starts, (*starts[1:], 60.0), strict=True)
    return {"subtasks": [{"start": a, "end": b, "subtask": words[i % 2]} for i, (a, b) in enumerate(bounds)]}


@pytest.mark.parametrize("rephrasings", [0, 3])
def test_a_task_read_off_the_footage_is_the_one_that_interjections_go_by(
    make_dataset: MakeDataset, teller: RunningServer, command: Command, tmp_path: Path, rephrasings: int
) -> None:
    teller.tell({"step": "plan_task", "answer": {"task": "peel the fruit"}}, *STORY)
    root = make_dataset(tmp_path, [Recording(1, frames=150, task="test 3")], shards=[[0]], films=[[0]])
    played = Played(root, teller, command, SPARSELY)
    played.sync("--plan.n_task_rephrasings", rephrasings)
    for step in ("plan.segment", "interjections.initial_speech", "interjections.interjection"):
        texts = prompts(played, step)
        assert texts
        assert all("peel the fruit" in text and "test 3" not in text for text in texts)
    assert [one.task for one in annotated(root, "plan")] == ["peel the fruit"]
    questions = [text for kind in ("count", "spatial") for text in prompts(played, f"vqa.{kind}")]
    assert questions
    assert all("(not known)" in text and "test 3" not in text for text in questions)


def test_words_of_a_person_stay_on_the_record_when_the_vocabulary_is_found_anew(
    make_dataset: MakeDataset, teller: RunningServer, command: Command, tmp_path: Path
) -> None:
    teller.tell(*STORY)
    root = make_dataset(tmp_path, RECORDINGS, **TOGETHER)
    played = Played(root, teller, command, (NO_TALK, NO_VQA))
    played.sync()
    file = root / "meta" / "canonical_vocabulary.json"
    found = file.read_text()
    file.write_text(found.replace("move the arm back", "take the arm home"))

    played.sync("--vocabulary.reuse_existing=false")

    assert file.read_text() == found
    (edit,) = [one for one in events(root) if isinstance(one, VocabularyEdited)]
    assert edit.added == ("subtask: take the arm home",)
    assert edit.removed == ("subtask: move the arm back",)
    assert asked(root).total() == 0


def test_a_run_says_when_the_questions_of_all_cameras_do_not_fit(
    make_dataset: MakeDataset, teller: RunningServer, command: Command, tmp_path: Path
) -> None:
    teller.tell(*STORY)
    root = make_dataset(tmp_path, RECORDINGS[:1], cameras=(TOP, WRIST), shards=[[0]], films=[[0]])
    crowded = Played(root, teller, command, (NO_PLAN, NO_TALK, "--vqa.question_types", "count"))
    assert "need more than 10 frames a second" in crowded.sync("--vqa.vqa_emission_hz", "6")
    assert "frames a second" not in crowded.sync("--vqa.vqa_emission_hz", "5")
