"""`sync --locked` passes where a sync would change nothing; else it says what would change, and changes nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from annotator.cli.main import main
from annotator.config.settings import VlmSettings
from annotator_store.log.log import Log
from tests.conftest import MakeDataset
from tests.datasets import Recording, snapshot
from tests.pipeline.conftest import BANANA, REPO
from tests.pipeline.planted import SHARD, plant_in_shard
from tests.pipeline.told import telling

Command = Callable[..., str]
SCRIPTED, SIGNALS = ("--vlm.backend", "scripted"), ("--vlm.backend", "signals")
LOCK, WORDS, INFO = "meta/annotations.lock.json", "meta/canonical_vocabulary.json", "meta/info.json"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real dataset with all that the modules write; nobody changes it."""
    root = Path(shutil.copytree(BANANA.parent / "so101_static", tmp_path_factory.mktemp("locked") / "cups"))
    with telling():
        assert main(["sync", str(root), *SCRIPTED]) == 0
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(template, tmp_path / "cups"))


@pytest.fixture
def refused(command: Command) -> Command:
    """Run `sync --locked`, which is to fail and to change nothing; gives back what it said."""

    def run(root: Path, *flags: object, engine: tuple[str, str] = SCRIPTED) -> str:
        before = snapshot(root)
        said = command("sync", root, *engine, "--locked", *flags, status=1)
        assert snapshot(root) == before
        assert "hint: annotator sync without --locked " in said
        return said

    return run


@pytest.mark.parametrize("flags", [(), ("--offline",), ("--only_episodes", "2"), ("--vqa.enabled", "false")])
def test_what_is_up_to_date_passes_and_stays(root: Path, command: Command, flags: tuple[str, ...]) -> None:
    before = snapshot(root)
    command("sync", root, *SCRIPTED, "--locked", *flags)
    (root / ".annotator" / "cache.duckdb").unlink()
    command("sync", root, *SCRIPTED, "--locked", *flags)
    assert snapshot(root) == before


@pytest.mark.parametrize(
    ("prompt", "left"),
    [("plan_memory.md", "plan: 6"), ("vqa_count.md", "vqa: 6"), ("interjections_interjection.md", "interjections: 6")],
)
def test_an_edited_prompt_is_refused_with_the_module_it_belongs_to(
    root: Path, refused: Command, tmp_path: Path, prompt: str, left: str
) -> None:
    text = (REPO / "prompts" / prompt).read_text(encoding="utf-8")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / prompt).write_text(text.rstrip() + "\nBe brief.\n", encoding="utf-8")
    said = refused(root, "--prompts", tmp_path / "prompts")
    assert f"annotations are missing or out of date – {root} – {left} episodes" in said


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        (("--plan.n_task_rephrasings", "3"), "– plan: 6 episodes"),
        (
            ("--vqa.vqa_emission_hz", "2"),
            "– vqa: 6 episodes; other settings than the rows come from: vqa.vqa_emission_hz\n",
        ),
        (("--interjections.interjection_min_t", "4"), "– interjections: 6 episodes; other settings"),
        (("--vocabulary.enabled", "false"), "this run words them freely\n"),
        (("--vocabulary.enabled", "false"), "– plan: 6 episodes"),
        (("--vocabulary.reuse_existing", "false", "--seed", "7"), "the vocabulary would have to be found"),
    ],
)
def test_a_changed_setting_is_refused_with_what_it_changes(
    root: Path, refused: Command, flags: tuple[str, ...], left: str
) -> None:
    assert left in refused(root, *flags)


@pytest.mark.parametrize(("style", "role"), [("memory", "assistant"), ("vqa", "user")])
def test_a_flipped_row_is_refused_with_its_shard(root: Path, refused: Command, style: str, role: str) -> None:
    plant_in_shard(root, style, role)
    assert f"shards would have to be written – {root} – {SHARD}\n" in refused(root)


@pytest.mark.parametrize(
    ("old", "new", "got"),
    [
        ('"seed": 1729', '"seed": 1730', "another seed"),
        ('"plan": ', '"plan": 1', "another modules"),
        ('"format"', ' "format"', "another form"),
        ('"digest": "', '"digest": "0', "another digest"),
    ],
)
def test_an_edited_lock_is_refused_with_the_field(root: Path, refused: Command, old: str, new: str, got: str) -> None:
    text = (root / LOCK).read_text(encoding="utf-8")
    assert old in text
    (root / LOCK).write_text(text.replace(old, new, 1), encoding="utf-8")
    assert f"the lock would have to be written – {root / LOCK} – {got}\n" in refused(root)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (LOCK, "the lock would have to be written"),
        (WORDS, "the vocabulary would have to be written"),
        ("README.md", "the section of the dataset card would have to be written"),
    ],
)
def test_a_file_that_is_gone_is_refused_and_not_made(root: Path, refused: Command, name: str, what: str) -> None:
    (root / name).unlink()
    assert f"{what} – {root / name}" in refused(root)


def test_an_edited_section_of_the_card_is_refused_and_the_users_text_is_not(
    root: Path, refused: Command, command: Command
) -> None:
    card = (root / "README.md").read_text(encoding="utf-8")
    (root / "README.md").write_text(f"# Cups\n\n{card}", encoding="utf-8")
    command("sync", root, *SCRIPTED, "--locked")
    (root / "README.md").write_text(card.replace("| vqa | ", "| vqa | 1"), encoding="utf-8")
    assert "the section of the dataset card" in refused(root)


def test_columns_that_are_not_declared_are_refused(root: Path, refused: Command) -> None:
    info = json.loads((root / INFO).read_text(encoding="utf-8"))
    del info["features"]["language_events"]
    (root / INFO).write_text(json.dumps(info, indent=4), encoding="utf-8")
    assert f"the language columns would have to be declared – {root / INFO}" in refused(root)


def test_an_edited_vocabulary_is_refused_with_what_it_changes(root: Path, refused: Command) -> None:
    words = json.loads((root / WORDS).read_text(encoding="utf-8"))
    words["subtasks"][0] += " slowly"
    (root / WORDS).write_text(json.dumps(words), encoding="utf-8")
    assert "annotations are missing or out of date" in refused(root)
    assert "– plan: 6 episodes" in refused(root)


def test_a_new_episode_is_refused_with_the_modules_that_lack_it(
    make_dataset: MakeDataset, command: Command, refused: Command, tmp_path: Path
) -> None:
    before, grown = (
        make_dataset(tmp_path / name, [Recording(seed) for seed in range(1, count)])
        for name, count in (("before", 4), ("grown", 5))
    )
    command("sync", before, *SIGNALS)
    command("sync", before, *SIGNALS, "--locked")
    shutil.copytree(before / ".annotator", grown / ".annotator")
    said = refused(grown, engine=SIGNALS)
    assert f"annotations are missing or out of date – {grown} – plan: 1 episode, interjections: 1 episode\n" in said


def files(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder, the log's too: when it was last changed, and what it holds."""
    return {
        path.relative_to(root).as_posix(): (path.stat().st_mtime_ns, b"" if path.is_dir() else path.read_bytes())
        for path in [root, *root.rglob("*")]
    }


@pytest.mark.parametrize("lacking", [None, "cache.duckdb"])
def test_not_even_the_log_is_written_and_none_of_it_need_be_writable(
    root: Path, command: Command, lacking: str | None
) -> None:
    if lacking:
        (root / ".annotator" / lacking).unlink()
    paths = [root, *root.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    before = files(root)
    for path in paths:
        path.chmod(modes[path] & ~0o222)
    try:
        command("sync", root, *SCRIPTED, "--locked")
        command("sync", root, *SCRIPTED, "--locked", "--seed", 7, status=1)
    finally:
        for path in paths:
            path.chmod(modes[path])
    assert files(root) == before


def test_a_log_that_another_process_is_writing_can_be_checked_all_the_same(root: Path, command: Command) -> None:
    with Log.open(root / ".annotator"):
        command("sync", root, *SCRIPTED, "--locked")


@pytest.mark.parametrize("flag", ["--locked", "--offline"])
def test_a_run_that_asks_another_model_is_told_whose_rows_these_are_and_what_finds_them(
    root: Path, command: Command, flag: str
) -> None:
    said = command("sync", root, flag, status=1)
    assert f"the rows come from scripted.v1, seed 1729; this run asks {VlmSettings().model_id}, seed 1729" in said
    assert f"annotator sync {root} {flag} --vlm.backend scripted " in said
    command("sync", root, flag, "--vlm.backend", "scripted")


def test_a_dataset_without_a_vocabulary_says_the_same_where_one_would_have_to_be_found(
    make_dataset: MakeDataset, command: Command, tmp_path: Path
) -> None:
    root = make_dataset(tmp_path, [Recording(1), Recording(2)])
    command("sync", root, *SIGNALS)
    for flag in ("--locked", "--offline"):
        said = command("sync", root, flag, status=1)
        assert f"annotator sync {root} {flag} --vlm.backend signals " in said


def test_a_dataset_that_was_never_annotated_is_refused_and_gets_no_log(
    make_dataset: MakeDataset, refused: Command, tmp_path: Path
) -> None:
    fresh = make_dataset(tmp_path)
    assert f"nothing was annotated here – {fresh}" in refused(fresh)
    assert not (fresh / ".annotator").exists()
    assert "nothing was annotated here" in refused(fresh, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
