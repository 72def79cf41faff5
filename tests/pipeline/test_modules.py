"""The modules in a whole run: off, waiting for each other, by their cameras, by the seed, and where one call fails."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from annotator_store.log.query import run_query
from tests.conftest import MakeDataset
from tests.datasets import TOP, WRIST, edit_info, film_path
from tests.pipeline.conftest import REPO
from tests.pipeline.story import (
    PLACE,
    RECORDINGS,
    SPARSELY,
    STORY,
    TOGETHER,
    USUAL,
    Command,
    Played,
    asked,
    did_nothing,
    of,
    runs,
)
from tests.vlm.conftest import RunningServer

EPISODES = len(RECORDINGS)
STYLES: dict[str, tuple[str | None, ...]] = {
    "plan": ("subtask", "memory", "task_aug"),
    "interjections": ("interjection", None),
    "vqa": ("vqa",),
}


@pytest.fixture
def played(make_dataset: MakeDataset, tmp_path: Path, teller: RunningServer, command: Command) -> Played:
    """Three tiny recordings by two cameras, and a server that knows the story."""
    teller.tell(*STORY)
    root = make_dataset(tmp_path, RECORDINGS, cameras=(TOP, WRIST), **TOGETHER)
    return Played(root, teller, command, SPARSELY)


def off(*modules: str) -> list[str]:
    return [f"--{module}.enabled=false" for module in modules]


def others(module: str) -> list[str]:
    return [other for other in STYLES if other != module]


def shown(played: Played, *styles: str | None) -> dict[int, list[dict[str, Any]]]:
    """The rows of some styles, by episode."""
    return {episode: of(rows, *styles) for episode, rows in played.rows().items()}


def by_style(played: Played) -> Counter[str | None]:
    return Counter(row["style"] for rows in played.rows().values() for row in rows)


@pytest.mark.parametrize("module", STYLES)
def test_a_module_that_is_off_keeps_its_rows_and_one_that_is_on_alone_changes_its_own(
    played: Played, module: str
) -> None:
    played.sync()
    before = [path.read_bytes() for path in played.shards]
    rows = {name: shown(played, *styles) for name, styles in STYLES.items()}
    played.sync(*off(module))
    assert [path.read_bytes() for path in played.shards] == before

    played.sync("--seed", 7, *off(*others(module)))

    assert {step.partition(".")[0] for step in asked(played.root)} - {"vocabulary"} == {module}
    after = {name: shown(played, *styles) for name, styles in STYLES.items()}
    assert [name for name in STYLES if after[name] != rows[name]] == [module]
    played.command("validate", played.root)


def test_interjections_without_a_plan_are_left_out_and_that_is_said_once(played: Played) -> None:
    said = played.sync(*off("plan"))
    assert said.count("interjections: left out") == 1
    assert "interjections: left out, episodes 0-2 have no plan in the log" in said
    assert set(by_style(played)) == {"vqa"}
    played.sync(*off("plan"))
    assert did_nothing(played.root)


def test_interjections_follow_the_plan_that_the_log_has(played: Played) -> None:
    played.sync(*off("interjections", "vqa"), "--only_episodes", "0,2")
    said = played.sync(*off("plan", "vqa"))
    assert "interjections: left out, episode 1 has no plan in the log" in said
    steps = {"interjections.initial_speech": 2, "interjections.interjection": 6}
    assert asked(played.root) == Counter(steps)
    times = [[round(row["timestamp"], 3) for row in rows] for rows in shown(played, "interjection").values()]
    assert times == [[4.0, 8.0, 12.0], [], [4.0, 8.0, 12.0]]


def test_without_plans_of_its_own_every_interjection_brings_one(played: Played) -> None:
    played.sync("--plan.emit_plan=false")
    plans, interjections = shown(played, "plan"), shown(played, "interjection")
    for episode in range(EPISODES):
        times = [row["timestamp"] for row in interjections[episode]]
        assert len(times) == 3
        assert [row["timestamp"] for row in plans[episode]] == times
    assert plans[0][-1]["content"] == f"1. {PLACE}"
    played.command("validate", played.root)


def test_a_camera_that_is_missing_fails_only_what_needs_it(played: Played) -> None:
    (played.root / film_path(0, WRIST)).unlink()
    said = played.sync(status=1)
    (line,) = [line for line in said.splitlines() if "failed" in line and "episodes 0, 1, 2" in line]
    assert film_path(0, WRIST) in line
    assert by_style(played)["vqa"] == 0
    assert by_style(played)["subtask"] == EPISODES * len(USUAL)
    assert by_style(played)["interjection"] == EPISODES * 3
    played.sync("--vqa.restrict_to_default_camera")
    assert by_style(played)["vqa"] > 0


def pictures(body: dict[str, Any]) -> list[str]:
    """The pictures of a request, in order."""
    parts = [
        part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]
    ]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def requests(played: Played, name: str) -> list[dict[str, Any]]:
    """What the server was last asked of a step."""
    return [b for b in played.server.bodies() if b["response_format"]["json_schema"]["name"] == name]


def test_a_dataset_without_a_camera_gets_all_that_text_can_give(
    make_dataset: MakeDataset, tmp_path: Path, teller: RunningServer, command: Command
) -> None:
    teller.tell(*STORY)
    played = Played(make_dataset(tmp_path, RECORDINGS, cameras=(), **TOGETHER), teller, command)
    said = played.sync()
    assert said.count("the dataset has no camera: prompts are text only") == 1
    assert said.count("vqa: left out, the dataset has no camera to ask about") == 1
    assert set(by_style(played)) == {"subtask", "plan", "memory", "task_aug", "interjection", None}
    assert by_style(played)["interjection"] == EPISODES * 3
    assert "plan.describe" not in asked(played.root)
    assert not [picture for body in teller.bodies() for picture in pictures(body)]
    command("validate", played.root)
    played.sync()
    assert did_nothing(played.root)


def test_cameras_stored_as_images_are_asked_about_too(tmp_path: Path, teller: RunningServer, command: Command) -> None:
    root = tmp_path / "sample"
    script = [sys.executable, str(REPO / "examples/make_sample.py"), str(root), "--image-camera"]
    subprocess.run([*script, "--episodes", "1", "--fps", "5"], check=True, capture_output=True)
    played = Played(root, teller, command, (*SPARSELY, *off("plan", "interjections")))
    played.sync()
    counts = Counter(row["camera"] for row in shown(played, "vqa")[0])
    assert counts["observation.images.top"] == counts["observation.images.wrist"] > 0
    played.command("validate", played.root)
    played.sync()
    assert did_nothing(played.root)


def test_two_cameras_are_shown_side_by_side_in_the_order_they_are_named(played: Played) -> None:
    flags = (*off("vqa", "interjections"), "--only_episodes", "0", "--plan.frames_per_second", "1")
    seen: list[list[str]] = []
    for cameras in (TOP, f"{TOP},{WRIST}", f"{WRIST},{TOP}"):
        played.sync(*flags, "--vlm.camera_keys", cameras)
        seen.append(pictures(requests(played, "plan_describe")[-1]))
    one, both, other = seen
    assert (len(one), len(both), len(other)) == (1, 2, 2)
    assert both[:1] == one
    assert other == both[::-1]
    texts = [
        part["text"] for part in requests(played, "plan_describe")[-1]["messages"][-1]["content"] if "text" in part
    ]
    assert 'the first by the camera "wrist", the next by the camera "top"' in "".join(texts)


def test_a_camera_that_shows_depth_is_left_out_and_that_is_said(played: Played) -> None:
    info = json.loads((played.root / "meta/info.json").read_text(encoding="utf-8"))
    info["features"][WRIST]["info"] = {"video.is_depth_map": True}
    edit_info(played.root, features=info["features"])
    said = played.sync(*off("plan", "interjections"))
    assert said.count(f"{WRIST}: left out, it shows depth") == 1
    assert {row["camera"] for rows in shown(played, "vqa").values() for row in rows} == {TOP}


DRAWN = """
SELECT rows.episode, rows."timestamp", rows.style, calls.step FROM rows JOIN calls ON calls.key = rows.call
WHERE rows.style IN ('interjection', 'vqa') AND rows.role = 'user'
"""


def drawn(root: Path) -> dict[str, set[tuple[Any, ...]]]:
    """When there are interjections, and what was asked of which frame, by the episodes' identities."""
    found: dict[str, set[tuple[Any, ...]]] = {"interjection": set(), "vqa": set()}
    for row in run_query(root / ".annotator", DRAWN).to_pylist():
        found[row["style"]].add((row["episode"], row["timestamp"], row["step"]))
    return found


def test_the_seed_draws_times_and_questions_and_the_number_of_an_episode_does_not(
    make_dataset: MakeDataset, tmp_path: Path, teller: RunningServer, command: Command
) -> None:
    teller.tell(*STORY)
    flags = (*SPARSELY, "--interjections.max_interjections_per_episode", "1")
    one = Played(make_dataset(tmp_path / "one", RECORDINGS, **TOGETHER), teller, command, flags)
    two = Played(make_dataset(tmp_path / "two", RECORDINGS[::-1], **TOGETHER), teller, command, flags)
    one.sync()
    two.sync()
    first = drawn(one.root)
    assert len(first["interjection"]) == EPISODES
    assert drawn(two.root) == first
    one.sync("--seed", 7)
    second = drawn(one.root)
    assert {style: len(found) for style, found in second.items()} == {
        style: len(found) for style, found in first.items()
    }
    assert second["interjection"] != first["interjection"]
    assert second["vqa"] != first["vqa"]


def test_a_plan_that_fails_leaves_that_episode_without_interjections_and_with_its_vqa(played: Played) -> None:
    played.server.set_faults({"fault": "http_400", "step": "plan_segment", "times": 1})
    played.server.tell(*STORY)

    said = played.sync(status=1)

    query = "SELECT episode_index, step, kind FROM failures"
    (failure,) = run_query(played.root / ".annotator", query).to_pylist()
    assert (failure["step"], failure["kind"]) == ("plan.segment", "http_400")
    failed = failure["episode_index"]
    assert said.count(f"failed: episode {failed} plan") == 1
    for episode, rows in played.rows().items():
        assert of(rows, "vqa")
        assert (
            bool(of(rows, "subtask")) == bool(of(rows, "interjection")) == bool(of(rows, None)) == (episode != failed)
        )

    played.server.set_faults()
    played.server.tell(*STORY)
    played.sync()
    steps = {
        "plan.segment": 1,
        "plan.milestones": 3,
        "interjections.initial_speech": 1,
        "interjections.interjection": 3,
    }
    assert asked(played.root) == Counter(steps)
    assert by_style(played)["interjection"] == EPISODES * 3


RULE = """\
-- severity: error
-- meaning: the second episode is never right
SELECT episode_index, "timestamp", 'I do not like it' AS detail, call
FROM rows
WHERE episode_index = 1 AND style = 'subtask'
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A folder with a rule of one's own."""
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "never_right.sql").write_text(RULE, encoding="utf-8")
    return folder


def files(root: Path) -> dict[str, bytes]:
    """Every file of the dataset but the log's and the vocabulary."""
    kept = (p for p in root.rglob("*") if p.is_file() and ".annotator" not in p.parts and "vocab" not in p.name)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(kept)}


def test_rows_that_break_a_rule_keep_every_shard_as_it_was_and_cost_nothing_again(played: Played, rules: Path) -> None:
    before = files(played.root)

    said = played.sync("--validation.rules", rules, status=1)

    assert files(played.root) == before
    assert "error: never_right – the second episode is never right" in said
    assert said.count("I do not like it") == len(USUAL)
    assert "error: rows break rules, so no shard was written" in said
    assert "hint: --validation.on_error=quarantine" in said
    assert (runs(played.root)[-1]["outcome"], runs(played.root)[-1]["shards_written"]) == ("failed", 0)

    played.sync()
    assert asked(played.root).total() == 0
    assert runs(played.root)[-1]["shards_written"] == 1
    assert by_style(played)["subtask"] == EPISODES * len(USUAL)


def test_rows_that_break_a_rule_are_written_where_that_is_asked_for(played: Played, rules: Path) -> None:
    said = played.sync("--validation.rules", rules, "--skip_validation=true")
    assert "never_right" not in said
    assert by_style(played)["subtask"] == EPISODES * len(USUAL)


def test_in_quarantine_the_bad_episode_keeps_the_rows_it_had(played: Played, rules: Path) -> None:
    played.sync()
    before = played.rows()
    held = ("--seed", 7, "--validation.rules", rules, "--validation.on_error", "quarantine")

    said = played.sync(*held, status=1)

    assert "error: never_right – the second episode is never right" in said
    assert "not written: episode 1 keeps the rows it had" in said
    assert json.loads(runs(played.root)[-1]["broken_rules"]) == {"never_right": len(USUAL)}
    query = "SELECT episode_index, kind, detail, superseded FROM failures"
    (kept_out,) = run_query(played.root / ".annotator", query).to_pylist()
    assert kept_out == {"episode_index": 1, "kind": "quarantined", "detail": "never_right", "superseded": False}
    after = played.rows()
    assert [episode for episode in before if after[episode] != before[episode]] == [0, 2]
    assert runs(played.root)[-1]["outcome"] == "incomplete"
    played.command("verify", played.root)

    shards = [path.read_bytes() for path in played.shards]
    played.sync(*held, status=1)
    assert (asked(played.root).total(), runs(played.root)[-1]["shards_written"]) == (0, 0)
    assert [path.read_bytes() for path in played.shards] == shards

    played.sync("--seed", 7)
    assert asked(played.root).total() == 0
    assert played.rows()[1] != before[1]
    assert [one["superseded"] for one in run_query(played.root / ".annotator", query).to_pylist()] == [True]


def test_in_quarantine_a_bad_episode_that_had_no_rows_gets_none(played: Played, rules: Path) -> None:
    played.sync("--validation.rules", rules, "--validation.on_error", "quarantine", status=1)
    assert [bool(rows) for rows in played.rows().values()] == [True, False, True]
