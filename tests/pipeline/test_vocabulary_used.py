"""The vocabulary in a whole run: found once, kept, edited by hand, left off; and what is not in it."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from annotator_store.log.events import VocabularyDiscovered, VocabularyEdited
from annotator_store.log.query import run_query
from tests.conftest import MakeDataset
from tests.datasets import Recording
from tests.pipeline.story import (
    BACK,
    GRIP,
    GRIPPED,
    LIFT,
    MEMORIES,
    MEMORY,
    PLACE,
    PLACED,
    REACH,
    RECORDINGS,
    SPARSELY,
    STORY,
    SUBTASKS,
    TOGETHER,
    USUAL,
    Command,
    Played,
    Told,
    annotated,
    asked,
    did_nothing,
    discovery,
    events,
    ever,
    memory,
    of,
    runs,
    segments,
)
from tests.vlm.conftest import RunningServer

FILE = "meta/canonical_vocabulary.json"
PLAN_ALONE = ("--vqa.enabled=false", "--interjections.enabled=false")
EPISODES = len(RECORDINGS)
BOUNDARIES = len(USUAL) - 1


@pytest.fixture
def played(make_dataset: MakeDataset, tmp_path: Path, teller: RunningServer, command: Command) -> Played:
    """Three tiny recordings, and a server that knows the story."""
    teller.tell(*STORY)
    return Played(make_dataset(tmp_path, RECORDINGS, **TOGETHER), teller, command, SPARSELY)


def words(played: Played, *styles: str) -> list[str]:
    """What the rows of some styles say, episode by episode."""
    return [row["content"] for rows in played.rows().values() for row in of(rows, *styles)]


def change_file(played: Played, old: str, new: str) -> bytes:
    """Edit the file as a person would, and leave it in another layout."""
    path = played.root / FILE
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new).replace("  ", "\t"), encoding="utf-8")
    return path.read_bytes()


def discoveries(root: Path) -> list[VocabularyDiscovered]:
    return [event for event in events(root) if isinstance(event, VocabularyDiscovered)]


def edits(root: Path) -> list[VocabularyEdited]:
    return [event for event in events(root) if isinstance(event, VocabularyEdited)]


def schemas(played: Played, name: str) -> list[dict[str, Any]]:
    """The schemas that the server was sent for a step, oldest first."""
    formats = [body["response_format"]["json_schema"] for body in played.server.bodies()]
    return [one["schema"]["properties"] for one in formats if one["name"] == name]


def test_it_is_found_written_recorded_and_every_call_is_held_to_it(played: Played) -> None:
    said = played.sync(*PLAN_ALONE, "--only_episodes", "0")

    file = json.loads((played.root / FILE).read_text(encoding="utf-8"))
    assert (file["subtasks"], file["memory_milestones"]) == ([*SUBTASKS], [*MEMORIES])
    (event,) = discoveries(played.root)
    assert (event.subtasks, event.memories) == (SUBTASKS, MEMORIES)
    query = "SELECT step FROM calls WHERE key = ?"
    assert run_query(played.root / ".annotator", query, [event.call]).to_pylist() == [{"step": "vocabulary.discover"}]
    (segment,) = schemas(played, "plan_segment")
    assert segment["subtasks"]["items"]["properties"]["subtask"] == {"enum": [*SUBTASKS]}
    assert [one["memories"]["items"] for one in schemas(played, "plan_milestones")] == [
        {"enum": [*MEMORIES]}
    ] * BOUNDARIES
    assert words(played, "subtask") == [*USUAL]
    assert words(played, "memory") == [GRIPPED]
    assert "finding the vocabulary in episodes" in said


def test_it_is_reused_by_later_runs_on_other_episodes_and_without_the_log(played: Played, tmp_path: Path) -> None:
    played.sync(*PLAN_ALONE, "--only_episodes", "0")
    held = (played.root / FILE).read_bytes()
    played.sync(*PLAN_ALONE)
    assert asked(played.root)["vocabulary.discover"] == 0
    played.sync(*PLAN_ALONE)
    assert did_nothing(played.root)
    shutil.rmtree(played.root / ".annotator")
    played.sync(*PLAN_ALONE)
    assert asked(played.root)["vocabulary.discover"] == 0
    assert (played.root / FILE).read_bytes() == held
    (event,) = edits(played.root)
    assert (event.before, event.subtasks) == (None, SUBTASKS)


def test_a_renamed_and_an_added_label_ask_the_segmentation_again_and_what_follows_from_it(played: Played) -> None:
    played.sync()
    played.server.tell(segments("go to the fruit", GRIP, LIFT, PLACE), memory("go to the fruit"), *STORY)
    text = change_file(played, f'"{REACH}"', '"go to the fruit", "wait"')

    played.sync()

    (event,) = edits(played.root)
    assert event.before == discoveries(played.root)[0].vocabulary
    assert (event.added, event.removed) == (("subtask: go to the fruit", "subtask: wait"), (f"subtask: {REACH}",))
    # Only the first boundary of each episode speaks of the renamed one; descriptions, wordings and vqa of none.
    once = ("plan.segment", "plan.milestones", "interjections.interjection")
    assert asked(played.root) == Counter(dict.fromkeys(once, EPISODES))
    assert words(played, "subtask") == ["go to the fruit", GRIP, LIFT, PLACE] * EPISODES
    assert (played.root / FILE).read_bytes() == text
    played.sync()
    assert did_nothing(played.root)
    assert len(edits(played.root)) == 1


def test_an_edited_milestone_asks_memory_again_and_no_segmentation(played: Played) -> None:
    played.sync()
    held = "I have the fruit in my hand."
    played.server.tell(memory(GRIP, held), memory(LIFT, held), *STORY)
    text = change_file(played, GRIPPED, held)

    played.sync()

    assert asked(played.root) == Counter({"plan.milestones": BOUNDARIES * EPISODES})
    (event,) = edits(played.root)
    assert (event.added, event.removed) == ((f"memory: {held}",), (f"memory: {GRIPPED}",))
    assert words(played, "memory") == [held] * EPISODES
    assert (played.root / FILE).read_bytes() == text
    played.sync()
    assert did_nothing(played.root)


def test_without_it_words_are_free_and_switching_costs_nothing(played: Played) -> None:
    played.server.tell(segments("Wiggle about!", "rest"), discovery(), segments(*USUAL), *MEMORY)
    off = ("--vocabulary.enabled=false", *PLAN_ALONE)
    played.sync(*off)
    assert not (played.root / FILE).exists()
    assert ever(played.root)["vocabulary.discover"] == 0
    assert words(played, "subtask") == ["Wiggle about!", "rest"] * EPISODES
    assert "enum" not in json.dumps(schemas(played, "plan_segment"))

    played.server.tell(*STORY)
    played.sync(*PLAN_ALONE)
    held, shards = (played.root / FILE).read_bytes(), [path.read_bytes() for path in played.shards]
    assert words(played, "subtask") == [*USUAL] * EPISODES

    played.sync(*off)
    assert asked(played.root).total() == 0
    assert words(played, "subtask") == ["Wiggle about!", "rest"] * EPISODES
    assert (played.root / FILE).read_bytes() == held
    played.sync(*PLAN_ALONE)
    assert asked(played.root).total() == 0
    assert [path.read_bytes() for path in played.shards] == shards


def test_a_paraphrase_is_taken_for_its_entry_and_a_stranger_for_none(played: Played) -> None:
    played.server.tell(segments(REACH, "Grip fruit firmly the", "juggle three oranges", PLACE), *STORY)
    played.sync(*PLAN_ALONE, "--only_episodes", "0")
    rows = of(played.rows()[0], "subtask")
    assert [(row["content"], round(row["timestamp"], 3)) for row in rows] == [(REACH, 0.0), (GRIP, 4.0), (PLACE, 12.0)]
    (event,) = annotated(played.root, "plan")
    (gap,) = event.gaps
    assert (gap.step, gap.reason) == ("plan.segment", "rejected")
    assert '"juggle three oranges" is not in the vocabulary' in gap.detail
    query = "SELECT step, outcome, detail, key, episode_index FROM failures"
    (shown,) = run_query(played.root / ".annotator", query).to_pylist()
    assert shown == {
        "step": "plan.segment", "outcome": "rejected", "detail": gap.detail, "key": gap.call, "episode_index": 0
    }  # fmt: skip
    assert "juggle" not in json.dumps(played.rows())


def test_a_memory_that_is_no_milestone_leaves_the_one_before_in_force(played: Played) -> None:
    played.server.tell(memory(LIFT, "The moon is made of cheese."), *STORY)
    played.sync(*PLAN_ALONE, "--only_episodes", "0")
    assert words(played, "memory") == [GRIPPED]
    (gap,) = annotated(played.root, "plan")[0].gaps
    assert (gap.step, gap.reason) == ("plan.milestones", "rejected")


def remembering(before: tuple[str, ...], *milestones: str) -> Told:
    """What is remembered after this was."""
    shown = "reached:\n\n" + "\n".join(before) + "\n\nIt has" if before else "it remembered nothing."
    return {"step": "plan_milestones", "contains": [shown], "answer": {"memories": [*milestones]}}


def test_what_was_achieved_stays_in_memory_and_validate_knows_it(played: Played) -> None:
    held = "I hold the fruit."
    again = (REACH, GRIP, PLACE, GRIP, PLACE, BACK)
    spans = [{"start": 2.0 * at, "end": 2.0 * at + 2, "subtask": text} for at, text in enumerate(again)]
    played.server.tell(
        discovery(memories=(held, PLACED)),
        {"step": "plan_segment", "answer": {"subtasks": spans}},
        memory(REACH),
        remembering((), held),
        remembering((held,), PLACED),
        remembering((PLACED,), PLACED, held),
        remembering((PLACED, held), PLACED, PLACED),
    )
    played.sync(*PLAN_ALONE, "--only_episodes", "0")
    assert words(played, "memory") == [held, PLACED, f"{PLACED} {held}", f"{PLACED} {PLACED}"]
    played.command("validate", played.root)


def test_a_vocabulary_without_memories_is_no_failure_and_writes_none(played: Played) -> None:
    played.server.tell(discovery(memories=()), *STORY)
    played.sync(*PLAN_ALONE)
    assert json.loads((played.root / FILE).read_bytes())["memory_milestones"] == []
    assert (words(played, "memory"), words(played, "subtask")) == ([], [*USUAL] * EPISODES)
    assert not [step for step in asked(played.root) if step in {"plan.memory", "plan.milestones"}]
    played.sync(*PLAN_ALONE)
    assert did_nothing(played.root)


def test_an_answer_of_strangers_alone_is_asked_again_and_then_recorded_as_rejected(played: Played) -> None:
    played.server.tell(segments("juggle three oranges"), *STORY)
    said = played.sync(*PLAN_ALONE, "--only_episodes", "0", status=1)
    assert '"juggle three oranges" is not in the vocabulary' in said
    query = "SELECT step, outcome, detail FROM failures"
    rejected = run_query(played.root / ".annotator", query).to_pylist()
    assert {(one["step"], one["outcome"]) for one in rejected} == {("plan.segment", "rejected")}
    assert len(rejected) == 2
    assert all("not in the vocabulary" in one["detail"] for one in rejected)
    assert played.rows()[0] == []


def test_finding_it_anew_in_an_unchanged_dataset_costs_nothing_and_undoes_edits(played: Played) -> None:
    played.sync(*PLAN_ALONE)
    held, shards = (played.root / FILE).read_bytes(), [path.read_bytes() for path in played.shards]
    played.server.tell(segments("go to the fruit", GRIP, LIFT, PLACE), *STORY)
    change_file(played, f'"{REACH}"', '"go to the fruit"')
    played.sync(*PLAN_ALONE)
    assert [path.read_bytes() for path in played.shards] != shards

    played.sync(*PLAN_ALONE, "--vocabulary.reuse_existing=false")

    assert asked(played.root).total() == 0
    assert json.loads((played.root / FILE).read_bytes()) == json.loads(held)
    assert [path.read_bytes() for path in played.shards] == shards
    played.sync(*PLAN_ALONE)
    assert did_nothing(played.root)


MANY = tuple(Recording(seed, frames=12) for seed in range(1, 6))


def test_the_same_recordings_are_sampled_however_they_are_numbered_and_whatever_is_asked_for(
    make_dataset: MakeDataset, tmp_path: Path, teller: RunningServer, command: Command
) -> None:
    teller.tell(discovery())
    flags = (*PLAN_ALONE, "--plan.emit_memory=false", "--plan.n_task_rephrasings=0")
    found: list[VocabularyDiscovered] = []
    for side, order, only in (("one", (0, 1, 2, 3, 4), "0-4"), ("two", (4, 2, 0, 3, 1), "0"), ("three", (3, 4), "0")):
        root = make_dataset(tmp_path / side, [MANY[at] for at in order])
        Played(root, teller, command, flags).sync("--only_episodes", only)
        found += discoveries(root)
    assert len(found[0].episodes) == 3
    assert found[0].episodes == found[1].episodes
    assert found[0].call == found[1].call
    assert found[2].episodes != found[0].episodes


def test_a_renumbered_dataset_finds_its_vocabulary_in_the_log(
    make_dataset: MakeDataset, tmp_path: Path, teller: RunningServer, command: Command
) -> None:
    teller.tell(discovery())
    store = ("--store", tmp_path / "log", "--plan.n_task_rephrasings=0", *PLAN_ALONE)
    one = Played(make_dataset(tmp_path / "one", MANY), teller, command, store)
    two = Played(make_dataset(tmp_path / "two", MANY[::-1]), teller, command, store)
    one.sync()
    answered = teller.counts["answered"]
    two.sync()
    assert teller.counts["answered"] == answered
    assert (two.root / FILE).read_bytes() == (one.root / FILE).read_bytes()


def test_a_file_that_cannot_be_read_is_refused_in_one_message_before_any_call(played: Played) -> None:
    (played.root / FILE).write_text('{"subtasks": ["grip the fruit",], "memories": []}', encoding="utf-8")
    said = played.sync(status=1)
    assert said.startswith("error: the vocabulary is not JSON")
    assert said.count("error") == said.count("hint: ") == 1
    assert played.server.counts["received"] == 0
    assert (runs(played.root)[-1]["outcome"], ever(played.root).total()) == ("failed", 0)


def test_a_discovery_without_an_answer_ends_the_run_and_the_next_one_goes_on(played: Played) -> None:
    played.sync("--vocabulary.enabled=false", *PLAN_ALONE)
    before, shards = ever(played.root), [path.read_bytes() for path in played.shards]
    played.server.set_faults({"fault": "http_500", "step": "vocabulary_discover"})
    played.server.tell(*STORY)

    said = played.sync(*PLAN_ALONE, status=1)

    assert "error: " in said
    assert "vocabulary" in said
    assert "hint: " in said
    assert "--vocabulary.enabled=false" in said
    assert "Traceback" not in said
    assert not (played.root / FILE).exists()
    assert (ever(played.root), [path.read_bytes() for path in played.shards]) == (before, shards)
    query = "SELECT step, kind FROM failures WHERE NOT superseded"
    assert run_query(played.root / ".annotator", query).to_pylist() == [
        {"step": "vocabulary.discover", "kind": "http_500"}
    ]
    played.server.set_faults()
    played.server.tell(*STORY)
    played.sync(*PLAN_ALONE)
    assert asked(played.root)["vocabulary.discover"] == 1
    assert words(played, "subtask") == [*USUAL] * EPISODES


def test_a_locked_run_does_not_look_for_one(played: Played) -> None:
    played.sync("--vocabulary.enabled=false", *PLAN_ALONE)
    before, received = {path: path.read_bytes() for path in played.shards}, played.server.counts["received"]
    said = played.sync(*PLAN_ALONE, "--locked", status=1)
    assert "the vocabulary would have to be found" in said
    assert "hint: annotator sync without --locked finds it" in said
    assert played.server.counts["received"] == received
    assert not (played.root / FILE).exists()
    assert {path: path.read_bytes() for path in played.shards} == before
