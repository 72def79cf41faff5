"""On a dataset with all that the modules write, `verify` names each planted fault, and nothing else."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from annotator.cli.main import main
from annotator.prompting.loader import eject
from annotator_store.log.events import (
    CallAnswered,
    EpisodeAnnotated,
    EpisodeSeen,
    FramesChosen,
    ModelDescribed,
    PromptRendered,
    RunFinished,
    ShardWritten,
    VocabularyDiscovered,
)
from annotator_store.log.log import Log
from tests.conftest import MakeDataset
from tests.datasets import Recording, edit_parquet, film_path, set_column
from tests.pipeline.conftest import BANANA
from tests.pipeline.planted import SHARD, flip_row, flipped, plant_in_log, plant_in_shard
from tests.pipeline.told import telling

Findings = Callable[..., list[dict[str, str]]]
LOCK, WORDS = "meta/annotations.lock.json", "meta/canonical_vocabulary.json"
MODULES = {"plan": "subtask", "interjections": "interjection", "vqa": "vqa"}
STEPS = (
    *("vocabulary.discover", "plan.describe", "plan.segment", "plan.milestones", "plan.task_rephrasings"),
    *("interjections.initial_speech", "interjections.interjection"),
    *("vqa.bbox", "vqa.keypoint", "vqa.count", "vqa.attribute", "vqa.spatial"),
)
TEXTS: dict[type[Any], Callable[[Any], str]] = {
    PromptRendered: lambda event: event.text,
    FramesChosen: lambda event: event.text,
    ModelDescribed: lambda event: event.text,
    VocabularyDiscovered: lambda event: event.subtasks[0],
    EpisodeSeen: lambda event: event.tasks[0],
    ShardWritten: lambda event: event.path,
    RunFinished: lambda event: event.engine,
}
"""A text of each other kind of event that such a log holds."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real dataset that every module wrote to, with its log, its lock and its vocabulary; nobody changes it."""
    root = Path(shutil.copytree(BANANA.parent / "so101_static", tmp_path_factory.mktemp("verify") / "cups"))
    with telling():
        assert main(["sync", str(root), "--vlm.backend", "scripted"]) == 0
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """A copy of it to plant a fault in."""
    return Path(shutil.copytree(template, tmp_path / "cups"))


@pytest.fixture
def findings(capsys: pytest.CaptureFixture[str]) -> Findings:
    """Run `verify` as a person would; gives back what it found."""

    def run(root: Path, *flags: object) -> list[dict[str, str]]:
        capsys.readouterr()
        status = main(["verify", str(root), "--format", "json", *map(str, flags)])
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert status == (1 if found else 0)
        return found

    return run


def flip(text: Callable[[Any], str]) -> Callable[[bytes, Any], bytes]:
    """Change an event's body by one bit, in one of its texts."""

    def change(body: bytes, event: Any) -> bytes:
        old, new = (msgspec.json.encode(one) for one in (text(event), flipped(text(event))))
        assert old in body
        return body.replace(old, new, 1)

    return change


def test_what_was_written_is_right(root: Path, findings: Findings) -> None:
    assert findings(root, "--rebuild") == []


@pytest.mark.parametrize("step", STEPS)
def test_a_flipped_byte_of_a_reply_is_named_with_its_step_and_key(root: Path, findings: Findings, step: str) -> None:
    event: Any = plant_in_log(
        root, lambda event: isinstance(event, CallAnswered) and event.step == step, flip(lambda event: event.reply)
    )
    (found,) = findings(root)
    assert f"call_answered.v1 {step} {event.key}" in found["where"]
    assert found["where"].endswith("field reply")


@pytest.mark.parametrize("module", MODULES)
def test_a_flipped_row_of_an_annotation_is_named_with_its_module(root: Path, findings: Findings, module: str) -> None:
    def one(event: Any) -> bool:
        styles = [item.row.style for item in event.rows] if isinstance(event, EpisodeAnnotated) else []
        return MODULES[module] in styles

    def text(event: Any) -> str:
        return next(item.row.content for item in event.rows if item.row.style == MODULES[module])

    plant_in_log(root, one, flip(text))
    (found,) = findings(root)
    assert found["where"].endswith(f"episode_annotated.v1 {module}, field rows")


@pytest.mark.parametrize("kind", TEXTS, ids=lambda kind: kind.__name__)
def test_a_flipped_byte_of_any_other_event_is_named(root: Path, findings: Findings, kind: type[Any]) -> None:
    plant_in_log(root, lambda event: isinstance(event, kind), flip(TEXTS[kind]))
    (found,) = findings(root)
    assert kind.__struct_config__.tag in found["where"]


@pytest.mark.parametrize(
    ("style", "role"),
    [
        *(("subtask", "assistant"), ("plan", "assistant"), ("memory", "assistant"), ("task_aug", "user")),
        *(("interjection", "user"), (None, "assistant"), ("vqa", "user"), ("vqa", "assistant")),
    ],
)
def test_a_flipped_row_of_a_shard_is_named(root: Path, findings: Findings, style: str | None, role: str) -> None:
    episode, was = plant_in_shard(root, style, role)
    (found,) = findings(root)
    assert found["kind"] == "row"
    field = "tool_calls" if style is None else "content"
    assert found["where"].startswith(f"{SHARD}, episode {episode} (")
    assert f"{style or 'speech'} at {was.timestamp:g} s" in found["where"]
    assert found["where"].endswith(f"field {field}")
    assert found["expected"] == repr(getattr(was, field))
    assert found["found"] == repr(getattr(flip_row(was), field))


@pytest.mark.parametrize("field", ["seed", "log", "vocabulary", "shards", "prompts", "modules"])
def test_a_lock_that_says_something_else_is_named_with_the_field(root: Path, findings: Findings, field: str) -> None:
    lock = json.loads((root / LOCK).read_text(encoding="utf-8"))
    text = (root / LOCK).read_text(encoding="utf-8")
    first: Any = next(iter(lock[field].items())) if isinstance(lock[field], dict) else (field, lock[field])
    old = f'"{first[0]}": {json.dumps(first[1])}'
    new = str(first[1] + 1) if isinstance(first[1], int) else f'"{"0" * 32}"'
    assert old in text
    (root / LOCK).write_text(text.replace(old, f'"{first[0]}": {new}'), encoding="utf-8")
    (found,) = findings(root)
    assert found["kind"] == "lock"
    assert field in found["where"]


def test_an_edited_vocabulary_is_named_by_its_file(root: Path, findings: Findings) -> None:
    words = json.loads((root / WORDS).read_text(encoding="utf-8"))
    words["subtasks"][0] = flipped(words["subtasks"][0])
    (root / WORDS).write_text(json.dumps(words, indent=2), encoding="utf-8")
    (found,) = findings(root)
    assert (found["kind"], found["where"]) == ("vocabulary", WORDS)


def test_a_vocabulary_that_is_gone_is_named_and_one_with_another_note_is_none(root: Path, findings: Findings) -> None:
    words = json.loads((root / WORDS).read_text(encoding="utf-8"))
    (root / WORDS).write_text(json.dumps(words | {"note": "by hand"}), encoding="utf-8")
    assert findings(root) == []
    (root / WORDS).unlink()
    (found,) = findings(root)
    assert (found["kind"], found["where"]) == ("vocabulary", WORDS)


@pytest.mark.parametrize("step", ["plan.segment", "interjections.interjection", "vqa.count", "system", "retry"])
def test_an_edited_prompt_is_named_by_its_file(root: Path, findings: Findings, tmp_path: Path, step: str) -> None:
    eject(tmp_path / "prompts")
    path = tmp_path / "prompts" / f"{step.replace('.', '_')}.md"
    path.write_text(path.read_text(encoding="utf-8").rstrip() + "\nBe brief.\n", encoding="utf-8")
    (found,) = findings(root, "--prompts", tmp_path / "prompts")
    assert found["kind"] == "prompt"
    assert path.name in found["where"]


def nudge(root: Path, row: int) -> None:
    """Change one number of the robot's state in the shard; all other columns stay."""

    def nudged(table: pa.Table) -> pa.Table:
        states = table["observation.state"].to_pylist()
        states[row][0] += 5
        return set_column(table, "observation.state", states)

    edit_parquet(root / SHARD, nudged)


def test_a_number_of_the_robots_state_that_was_changed_is_named_with_its_episode(
    root: Path, findings: Findings
) -> None:
    nudge(root, 700)
    (found,) = findings(root)
    assert found["kind"] == "recording"
    assert found["where"].startswith(f"{SHARD}, episode 1 (rows 383–769), timestamps and signals")


def test_footage_of_another_robot_is_named_with_its_camera(root: Path, findings: Findings) -> None:
    (film,) = (root / "videos").rglob("*.mp4")
    longest = max((BANANA / "videos").rglob("*.mp4"), key=lambda path: path.stat().st_size)
    shutil.copyfile(longest, film)
    found = findings(root)
    assert {one["kind"] for one in found} == {"footage"}
    assert all("camera observation.images.wrist" in one["where"] for one in found)


def test_footage_that_is_cut_short_is_named_and_footage_that_is_not_here_is_a_note(
    root: Path, findings: Findings, command: Callable[..., str]
) -> None:
    (film,) = (root / "videos").rglob("*.mp4")
    film.write_bytes(film.read_bytes()[:1000])
    (found,) = findings(root)
    assert (found["kind"], found["expected"]) == ("footage", "footage that can be read")
    film.unlink()
    said = command("verify", root)
    assert f"note: footage that is not here was not compared: 1 files, the first {film}" in said


def test_a_sync_that_watched_other_footage_makes_it_the_one_that_counts(
    make_dataset: MakeDataset, tmp_path: Path, findings: Findings, command: Callable[..., str]
) -> None:
    one, other = (make_dataset(tmp_path / str(seed), [Recording(seed)]) for seed in (1, 2))
    flags = ("--vlm.backend", "scripted", "--vqa.enabled=false")
    command("sync", one, *flags)
    assert findings(one) == []
    shutil.copyfile(other / film_path(0), one / film_path(0))
    assert [found["kind"] for found in findings(one)] == ["footage"]
    command("sync", one, *flags)
    assert findings(one) == []


def test_a_log_that_knows_nothing_here_does_not_say_that_nothing_is_wrong(
    root: Path, findings: Findings, command: Callable[..., str]
) -> None:
    shutil.rmtree(root / ".annotator")
    with Log.open(root / ".annotator"):
        pass
    (found,) = findings(root)
    assert (found["kind"], found["found"]) == ("log", "none of them")
    (root / LOCK).unlink()
    said = command("verify", root, status=1)
    assert "nothing here that the log knows" in said
    assert "nothing is wrong" not in said


WITHOUT = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"av", "PIL", "openai", "httpx2", "vllm", "torch", "transformers"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
from annotator.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("validate", "ROOT"), "clean: "),
        (("verify", "ROOT"), "nothing is wrong\n"),
        (("verify", "ROOT"), "note: no footage was compared, since PyAV cannot be loaded: av is not installed here\n"),
        (("export", "ROOT", "--staging", "STAGING"), "18 "),
        (("query", "SELECT style FROM rows WHERE style = 'vqa' LIMIT 1", "--root", "ROOT"), "vqa"),
    ],
)
def test_what_only_reads_needs_no_decoder_and_no_engine(
    template: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    places = {"ROOT": str(template), "STAGING": str(tmp_path / "staging")}
    command = [sys.executable, "-c", WITHOUT, *(places.get(argument, argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout + done.stderr
