"""Rows that a run does not write anew: what is wrong with them is said, and stops nothing."""

from pathlib import Path

import pytest

from tests.conftest import MakeDataset
from tests.pipeline.story import (
    GRIP,
    LIFT,
    PLACE,
    REACH,
    RECORDINGS,
    SPARSELY,
    STORY,
    TOGETHER,
    USUAL,
    Command,
    Played,
    memory,
    of,
    runs,
    segments,
)
from tests.vlm.conftest import RunningServer


@pytest.fixture
def played(make_dataset: MakeDataset, tmp_path: Path, teller: RunningServer, command: Command) -> Played:
    """Three tiny recordings, annotated by a server that knows the story."""
    teller.tell(*STORY)
    played = Played(make_dataset(tmp_path, RECORDINGS, **TOGETHER), teller, command, SPARSELY)
    played.sync()
    return played


def rename(played: Played, old: str, new: str) -> None:
    """Edit the vocabulary as a person would; the server now segments by the new label."""
    path = played.root / "meta" / "canonical_vocabulary.json"
    path.write_text(path.read_text(encoding="utf-8").replace(f'"{old}"', f'"{new}"'), encoding="utf-8")
    played.server.tell(segments(new, GRIP, LIFT, PLACE), memory(new), *STORY)


def test_after_an_edit_one_failed_call_keeps_one_episode_as_it_was_and_the_others_are_written(played: Played) -> None:
    played.server.set_faults({"fault": "http_400", "step": "plan_segment", "times": 1})
    rename(played, REACH, "go to the fruit")

    said = played.sync("--vqa.question_types", "count", status=1)

    subtasks = [[row["content"] for row in of(rows, "subtask")] for rows in played.rows().values()]
    assert sorted(subtasks) == sorted([[*USUAL], *[["go to the fruit", GRIP, LIFT, PLACE]] * 2])
    assert runs(played.root)[-1]["outcome"] == "incomplete"
    assert "rows that were there before break rules: vocabulary_subtasks 1\n" in said
    assert "not in the vocabulary" not in said


def own_rule(folder: Path) -> Path:
    """A folder with a rule that no subtask keeps."""
    (folder / "rules").mkdir()
    rule = """-- severity: error
-- meaning: no
SELECT episode_index, "timestamp", content AS detail FROM rows WHERE style = 'subtask'"""
    (folder / "rules" / "no.sql").write_text(rule, encoding="utf-8")
    return folder / "rules"


def test_rows_of_a_module_that_is_off_stop_no_other(played: Played, tmp_path: Path) -> None:
    before = played.rows()
    more = ("--vqa.question_types", "count", "--plan.enabled=false", "--interjections.enabled=false")
    said = played.sync(*more, "--validation.rules", own_rule(tmp_path))
    assert "rows that were there before break rules: no 12\n" in said
    after = played.rows()
    for episode, rows in before.items():
        assert of(after[episode], "subtask") == of(rows, "subtask")
        assert of(after[episode], "vqa") != of(rows, "vqa")


def test_a_run_that_rules_end_still_says_what_it_cost(played: Played, tmp_path: Path) -> None:
    said = played.sync("--seed", 7, "--validation.rules", own_rule(tmp_path), status=1)
    table = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert "error: rows break rules, so no shard was written" in said
    assert "answered" in table["calls"]
    assert " in, " in table["tokens"]
