"""Footage that cannot be read: a fact of the log, said once, and over when it can be read again."""

from pathlib import Path
from typing import Any

import pytest

from annotator_store.log.events import EpisodeSeen
from annotator_store.log.query import run_query
from tests.conftest import MakeDataset
from tests.pipeline.story import RECORDINGS, STORY, Command, Played, events
from tests.vlm.conftest import RunningServer

PLAN_ALONE = ("--vqa.enabled=false", "--interjections.enabled=false", "--plan.n_task_rephrasings", "0")
FREELY = (*PLAN_ALONE, "--vocabulary.enabled=false")
FILM = "videos/observation.images.top/chunk-000/file-001.mp4"


@pytest.fixture
def played(make_dataset: MakeDataset, tmp_path: Path, teller: RunningServer, command: Command) -> Played:
    """Three recordings in one shard; the last one has a film of its own."""
    teller.tell(*STORY)
    return Played(make_dataset(tmp_path, RECORDINGS, shards=[[0, 1, 2]], films=[[0, 1], [2]]), teller, command)


def failures(root: Path) -> list[dict[str, Any]]:
    query = "SELECT outcome, kind, episode_index, detail, superseded FROM failures ORDER BY recorded_at, episode_index"
    return run_query(root / ".annotator", query).to_pylist()


def sightings(root: Path) -> int:
    return sum(isinstance(event, EpisodeSeen) for event in events(root))


def test_an_episode_whose_film_is_gone_is_missing_on_the_record_until_it_is_back(played: Played) -> None:
    film = (played.root / FILM).read_bytes()
    (played.root / FILM).unlink()
    played.sync(*FREELY, status=1)
    (gone,) = failures(played.root)
    assert (gone["outcome"], gone["kind"], gone["episode_index"], gone["superseded"]) == (
        "unreadable", "footage", 2, False,
    )  # fmt: skip
    assert gone["detail"].startswith("observation.images.top: ")
    assert FILM in gone["detail"]

    seen = sightings(played.root)
    played.sync(*FREELY, status=1)
    assert (failures(played.root), sightings(played.root)) == ([gone], seen), "it is said once"

    (played.root / FILM).write_bytes(film)
    played.sync(*FREELY)
    assert failures(played.root) == [gone | {"superseded": True}]
    played.command("verify", played.root)


def test_a_film_that_goes_after_its_episode_was_annotated_is_missing_until_it_is_back(played: Played) -> None:
    played.sync(*FREELY)
    assert failures(played.root) == []
    film = (played.root / FILM).read_bytes()
    for what in (b"", film[: len(film) // 2]):
        (played.root / FILM).write_bytes(what)
        played.sync(*FREELY, status=1)
    first, second = failures(played.root)
    assert (first["superseded"], second["superseded"]) == (True, False), "what is wrong now is not what was"
    (played.root / FILM).write_bytes(film)
    played.sync(*FREELY)
    assert [one["superseded"] for one in failures(played.root)] == [True, True]


def test_a_film_that_turns_out_damaged_only_as_it_is_decoded_is_a_call_that_failed(played: Played) -> None:
    film = bytearray((played.root / FILM).read_bytes())
    start = film.index(b"mdat") + 4
    film[start : start + 2000] = b"\x55" * 2000
    (played.root / FILM).write_bytes(film)
    played.sync(*FREELY, status=1)
    found = failures(played.root)
    assert {(one["outcome"], one["kind"], one["episode_index"]) for one in found} == {("failed", "footage", 2)}
    assert all(FILM in one["detail"] for one in found)


def test_episodes_that_the_vocabulary_is_not_found_in_are_named_with_the_reason(played: Played) -> None:
    (played.root / FILM).unlink()
    said = played.sync(*PLAN_ALONE, status=1)
    (note,) = [line for line in said.splitlines() if line.startswith("vocabulary: ")]
    assert note.startswith("vocabulary: episode 2 passed over: ")
    assert FILM in note


def test_where_no_episode_can_be_watched_the_first_file_in_the_way_is_named(played: Played) -> None:
    for path in (played.root / "videos").rglob("*.mp4"):
        path.write_bytes(path.read_bytes()[:100])
    said = played.sync(*PLAN_ALONE, status=1)
    assert "error: no episode can be watched – " in said
    assert "videos/observation.images.top/chunk-000/file-00" in said
    assert {one["episode_index"] for one in failures(played.root)} == {0, 1, 2}


def test_more_subtasks_than_are_wanted_are_asked_for_once_more_and_then_taken(played: Played) -> None:
    played.sync(*FREELY, "--only_episodes", "0", "--plan.plan_max_steps", "2")
    subtasks = [row for row in played.rows()[0] if row["style"] == "subtask"]
    assert len(subtasks) > 2, "which to leave out is not ours to say"
    query = "SELECT step, detail FROM failures"
    assert run_query(played.root / ".annotator", query).to_pylist() == [
        {"step": "plan.segment", "detail": "subtasks: 4 where at most 2 were asked for"}
    ]
    formats = [body["response_format"]["json_schema"] for body in played.server.bodies()]
    (first, second) = [one["schema"]["properties"] for one in formats if one["name"] == "plan_segment"]
    assert first["subtasks"]["maxItems"] == second["subtasks"]["maxItems"] == 2


def test_more_subtasks_than_an_answer_has_room_for_are_refused(played: Played) -> None:
    assert "--plan.plan_max_steps – 65" in played.sync(*FREELY, "--plan.plan_max_steps", "65", status=2)
