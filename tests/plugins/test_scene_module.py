"""A module that another package brings, with its own style, step, prompt and settings, in runs from end to end."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import MakeDataset
from tests.datasets import Recording
from tests.plugins.conftest import Environment

SCENES = "SELECT episode_index, role, content FROM rows WHERE style = 'scene' ORDER BY 1"
ALONE = ("--plan.enabled=false", "--interjections.enabled=false", "--vqa.enabled=false")
RUNS = "SELECT outcome, calls_answered, answered_by_step FROM runs ORDER BY finished_at"


@pytest.fixture(scope="module")
def process(start: "Callable[..., subprocess.Popen[str]]") -> "subprocess.Popen[str]":
    return start("scene_module")


@pytest.fixture
def environment(process: "subprocess.Popen[str]", tmp_path: Path) -> Environment:
    return Environment(process, tmp_path)


@pytest.fixture
def root(make_dataset: MakeDataset, tmp_path: Path) -> Path:
    return make_dataset(tmp_path, [Recording(1), Recording(2)])


def sync(environment: Environment, root: Path, *options: str) -> dict[str, Any]:
    """Run with made-up answers; returns what the log says of the run."""
    environment.run("sync", root, "--vlm.backend", "scripted", *options)
    return environment.query(root, RUNS)[-1]


def stored_scenes(root: Path) -> list[str]:
    """The scene of each episode, as the dataset's shards have it in the episode's first frame."""
    columns = ["episode_index", "frame_index", "language_persistent"]
    frames = pa.concat_tables(pq.read_table(shard, columns=columns) for shard in (root / "data").rglob("*.parquet"))
    firsts = [frame for frame in frames.sort_by("episode_index").to_pylist() if frame["frame_index"] == 0]
    return [row["content"] for frame in firsts for row in frame["language_persistent"] if row["style"] == "scene"]


def test_its_rows_are_annotated_validated_locked_exported_and_queried(environment: Environment, root: Path) -> None:
    assert sync(environment, root)["outcome"] == "done"

    scenes = stored_scenes(root)
    assert len(scenes) == 2 and all(scenes)
    assert environment.query(root, SCENES) == [
        {"episode_index": index, "role": "assistant", "content": scene} for index, scene in enumerate(scenes)
    ]
    environment.run("validate", root)
    environment.run("verify", root)
    lock = json.loads((root / "meta" / "annotations.lock.json").read_text())
    assert lock["modules"]["scene"] == 1 and "scene.describe" in lock["prompts"]
    assert "| scene | 2 |" in (root / "README.md").read_text()
    environment.run("export", root, "--staging", "staging")
    exported = (environment.folder / "staging" / "episode_000000" / "plan.jsonl").read_text().splitlines()
    assert [row["content"] for row in map(json.loads, exported) if row["style"] == "scene"] == scenes[:1]


def test_its_settings_are_options_stand_in_annotator_toml_and_enter_its_fingerprint_alone(
    environment: Environment, root: Path
) -> None:
    sync(environment, root)
    assert sync(environment, root)["calls_answered"] == 0

    shorter = sync(environment, root, "--scene.max_words", "7")
    assert json.loads(shorter["answered_by_step"]) == {"scene.describe": 2}
    lock = json.loads((root / "meta" / "annotations.lock.json").read_text())
    assert lock["settings"] == {"scene": {"scene.max_words": 7}}
    assert "--scene.max_words 7" in (root / "README.md").read_text()

    (environment.folder / "annotator.toml").write_text("[scene]\nmax_words = 7\n")
    assert sync(environment, root)["calls_answered"] == 0
    _, refused = environment.run("sync", root, "--scene.max_words", "0", status=2)
    assert "--scene.max_words" in refused and "1 to 60" in refused
    helped, _ = environment.run("sync", "--help")
    assert "--scene.max_words INT" in helped and "Words of a description at most." in helped


def test_switched_off_it_asks_nothing_and_its_rows_stay(environment: Environment, root: Path) -> None:
    assert sync(environment, root, *ALONE)["calls_answered"] == 2
    scenes = stored_scenes(root)
    off = sync(environment, root, "--scene.enabled=false", "--interjections.enabled=false", "--vqa.enabled=false")
    assert "scene.describe" not in json.loads(off["answered_by_step"])
    assert stored_scenes(root) == scenes


def test_its_prompt_is_listed_copied_out_and_replaced_like_a_shipped_one(environment: Environment, root: Path) -> None:
    sync(environment, root, *ALONE)
    assert "scene.describe" in environment.run("prompts")[0]
    environment.run("prompts", "eject", "own")
    path = environment.folder / "own" / "scene_describe.md"
    path.write_text(path.read_text().replace("Leave the robot out.", "Name the robot last."))
    edited = sync(environment, root, *ALONE, "--prompts", "own")
    assert json.loads(edited["answered_by_step"]) == {"scene.describe": 2}


def test_what_is_to_do_is_planned_with_it(environment: Environment, root: Path) -> None:
    code = f"""
import annotator
from pathlib import Path
from annotator.modules.third_party import sync_settings
settings = sync_settings()(root=Path({str(root)!r}), vlm=annotator.VlmSettings(backend="scripted"))
plan = annotator.plan_run(settings)
print(plan.count_by_module()["scene"])
annotator.sync(settings)
print(len(annotator.plan_run(settings).work))
"""
    assert environment.execute(code).split() == ["2", "0"]
