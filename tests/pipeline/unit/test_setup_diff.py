"""How a run differs from the rows in the dataset: one line and a command, from a lock and a run on plain values."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from annotator.config.settings import (
    InterjectionsSettings,
    PlanSettings,
    SyncSettings,
    VlmSettings,
    VocabularySettings,
    VqaSettings,
)
from annotator.dataset.metadata import Dataset
from annotator.errors import NotInLog, OutOfDate
from annotator.modules.registry import SHIPPED
from annotator.pipeline.run import Run
from annotator.pipeline.setup_diff import diff_setup, explained, note_missing
from annotator.prompting.loader import load_prompts
from annotator.provenance.lock import FILE, Lock, lock_digest, prompt_digests, write_lock
from annotator.provenance.setups import OtherSetup, PinnedModel, PinnedSetup
from annotator.vlm.call_stats import CallStats
from annotator_store.keys import Model
from tests.pipeline.unit.values import CAMERAS, MODEL
from tests.store.facts import NOON, digest

PROMPTS = load_prompts(None)
OTHER_MODEL = Model(model_id="other/model")


def run_at(root: Path, *, model: Model = MODEL, off: tuple[str, ...] = (), **changes: Any) -> Run:
    """A run over a dataset without episodes; `off` are the modules that are switched off."""
    settings = SyncSettings(root=root, vlm=VlmSettings(backend="openai", model_id="some/model"))
    settings = msgspec.structs.replace(settings, **changes)
    dataset = Dataset(
        root=root, name="cups", version="v3.0", fps=10, info={}, cameras=(), tasks={}, episodes=(), shards=()
    )
    return Run(
        run_id="run-2",
        started_at=NOON,
        settings=settings,
        dataset=dataset,
        target_root=root,
        episodes=frozenset(),
        prompts=PROMPTS,
        model=model,
        cameras=CAMERAS,
        modules=tuple(module for module in SHIPPED if module.name not in off),
        notes=(),
        rules=(),
    )


def lock_at(root: Path, **changes: Any) -> Lock:
    """Write the lock of a dataset whose rows were made with the defaults, and in a vocabulary."""
    fields: dict[str, Any] = {
        "seed": 1729,
        "model": PinnedModel.of(MODEL),
        "prompts": prompt_digests(PROMPTS),
        "vocabulary": digest("vocabulary"),
        "modules": {module.name: module.version for module in SHIPPED},
        "settings": {},
        "others": (),
        "shards": {},
        "log": digest("log"),
    }
    lock = Lock(**fields | changes)
    lock = msgspec.structs.replace(lock, digest=lock_digest(lock))
    (root / FILE).parent.mkdir(exist_ok=True)
    write_lock(root / FILE, lock)
    return lock


def line(run: Run) -> str | None:
    diff = diff_setup(run, "--offline")
    return None if diff is None else diff.line


def test_a_run_like_the_one_that_made_the_rows_does_not_differ(tmp_path: Path) -> None:
    lock_at(tmp_path)
    assert diff_setup(run_at(tmp_path), "--locked") is None


def test_without_a_sound_lock_that_names_a_model_nothing_is_told(tmp_path: Path) -> None:
    different = run_at(tmp_path, seed=7)
    assert diff_setup(different, "--locked") is None
    lock = lock_at(tmp_path)
    assert diff_setup(different, "--locked") is not None
    write_lock(tmp_path / FILE, msgspec.structs.replace(lock, seed=3))
    assert diff_setup(different, "--locked") is None
    lock_at(tmp_path, model=None)
    assert diff_setup(different, "--locked") is None


def test_another_model_or_seed_is_told_alone_since_every_call_is_a_new_one(tmp_path: Path) -> None:
    lock_at(tmp_path, settings={"vqa": {"vqa.K": 2}})
    other_model = diff_setup(run_at(tmp_path, model=OTHER_MODEL), "--locked")
    other_seed = diff_setup(run_at(tmp_path, seed=7), "--locked")
    assert other_model is not None and other_seed is not None
    assert (other_model.anew, other_seed.anew) == (True, True)
    assert other_model.line == "the rows come from some/model, seed 1729; this run asks other/model, seed 1729"
    assert other_seed.line == "the rows come from some/model, seed 1729; this run asks some/model, seed 7"


def test_the_same_model_with_other_settings_is_told_apart_without_a_digest(tmp_path: Path) -> None:
    lock_at(tmp_path)
    warmer = run_at(tmp_path, model=msgspec.structs.replace(MODEL, temperature=0.5))
    assert line(warmer) == (
        "this run asks some/model with other settings, or in another revision, than the rows come from"
    )


def test_an_edited_prompt_of_a_module_that_runs_is_named_and_one_of_another_is_not(tmp_path: Path) -> None:
    lock_at(tmp_path, prompts=prompt_digests(PROMPTS) | {"vqa.bbox": digest("a"), "plan.segment": digest("b")})
    diff = diff_setup(run_at(tmp_path), "--locked")
    assert diff is not None
    assert (diff.anew, diff.line) == (False, "another prompt than the rows come from: plan.segment, vqa.bbox")
    assert line(run_at(tmp_path, off=("vqa",))) == "another prompt than the rows come from: plan.segment"
    assert line(run_at(tmp_path, off=("vqa", "plan"))) is None


@pytest.mark.parametrize("step", ["system", "retry"])
def test_the_system_and_the_retry_prompt_concern_every_run(tmp_path: Path, step: str) -> None:
    lock_at(tmp_path, prompts=prompt_digests(PROMPTS) | {step: digest("edited")})
    assert line(run_at(tmp_path, off=("plan", "interjections"))) == f"another prompt than the rows come from: {step}"


def test_rows_in_a_vocabulary_and_rows_worded_freely_are_told_apart(tmp_path: Path) -> None:
    freely: dict[str, Any] = {"vocabulary": VocabularySettings(enabled=False)}
    lock_at(tmp_path)
    assert line(run_at(tmp_path, **freely)) == "this run words them freely"
    assert line(run_at(tmp_path, off=("plan",), **freely)) is None
    lock_at(tmp_path, vocabulary=None)
    assert line(run_at(tmp_path, **freely)) is None
    assert line(run_at(tmp_path)) == "the rows are worded freely, this run's are not"


def test_other_settings_are_named_on_both_sides(tmp_path: Path) -> None:
    lock_at(tmp_path, settings={"plan": {"plan.view": "video"}, "vqa": {"vlm.coordinates": "pixels"}})
    assert line(run_at(tmp_path, vqa=VqaSettings(K=2))) == (
        "other settings than the rows come from: plan.view, vlm.coordinates, vqa.K"
    )
    like: dict[str, Any] = {
        "plan": PlanSettings(view="video"),
        "vlm": VlmSettings(backend="openai", model_id="some/model", coordinates="pixels"),
    }
    assert line(run_at(tmp_path, **like)) is None


def test_settings_that_no_row_depends_on_are_none_of_its_business(tmp_path: Path) -> None:
    lock_at(tmp_path)
    assert line(run_at(tmp_path, max_failures=3, interjections=InterjectionsSettings(enabled=False))) is None


def test_a_module_whose_rows_were_made_in_two_ways_is_compared_with_both(tmp_path: Path) -> None:
    made = PinnedSetup(
        seed=7,
        model=PinnedModel.of(OTHER_MODEL),
        prompts={"plan.segment": digest("edited")},
        vocabulary=digest("vocabulary"),
        version=1,
        settings={"plan.view": "video"},
    )
    lock_at(
        tmp_path,
        prompts=prompt_digests(PROMPTS),
        others=(OtherSetup(module="plan", episodes=2, made=made),),
    )
    like_the_others: dict[str, Any] = {"model": OTHER_MODEL, "seed": 7, "plan": PlanSettings(view="video")}
    assert line(run_at(tmp_path)) is None
    assert line(run_at(tmp_path, off=("interjections", "vqa"), **like_the_others)) is None
    assert line(run_at(tmp_path, off=("interjections",), **like_the_others)) is not None
    assert line(run_at(tmp_path, plan=PlanSettings(view="video"))) is None
    assert line(run_at(tmp_path, vqa=VqaSettings(K=2))) == "other settings than the rows come from: vqa.K"


def test_the_command_names_the_places_of_the_run_and_the_setup_of_the_rows(tmp_path: Path) -> None:
    lock_at(tmp_path, seed=9, settings={"vqa": {"vqa.K": 2}})
    diff = diff_setup(run_at(tmp_path, store=Path("a log")), "--offline")
    assert diff is not None
    assert diff.command.startswith(f"annotator sync {tmp_path} --offline --store 'a log' ")
    assert {"--seed 9", "--vqa.K 2"} <= {f"--{flag}" for flag in diff.command.split(" --")[1:]}


def test_what_locked_refuses_says_where_the_run_differs_and_what_checks_the_rows(tmp_path: Path) -> None:
    lock_at(tmp_path)

    def refused(run: Run, got: str) -> OutOfDate:
        with pytest.raises(OutOfDate) as error, explained(run):
            raise OutOfDate("annotations are missing", got=got, hint="annotator sync updates them")
        return error.value

    same = refused(run_at(tmp_path), "plan: 1 episode")
    assert (same.got, same.hint) == ("plan: 1 episode", "annotator sync updates them")
    other = refused(run_at(tmp_path, vqa=VqaSettings(K=2)), "vqa: 1 episode")
    assert other.got == "vqa: 1 episode; other settings than the rows come from: vqa.K"
    assert other.hint.startswith(f"annotator sync updates them\n      annotator sync {tmp_path} --locked")
    assert other.hint.endswith(" checks what stands here")
    anew = refused(run_at(tmp_path, seed=7), "")
    assert anew.got.startswith("the rows come from some/model")
    assert anew.hint.startswith("annotator sync without --locked asks every call anew\n")


def test_a_call_that_is_not_in_the_log_is_hinted_at_by_how_the_run_differs(tmp_path: Path) -> None:
    def hinted(run: Run) -> str:
        with pytest.raises(NotInLog) as error, explained(run):
            raise NotInLog("not in the log", kind="offline", retryable=False)
        return error.value.hint

    assert hinted(run_at(tmp_path)) == "run once without --offline, with the same settings"
    without = VlmSettings(backend="offline", model_id="some/model")
    assert hinted(run_at(tmp_path, vlm=without)) == "run once with another --vlm.backend than offline"
    lock_at(tmp_path)
    assert hinted(run_at(tmp_path, vqa=VqaSettings(K=2))).endswith(
        " finds what stands here\n      without --offline this run asks what is missing anew"
    )
    assert hinted(run_at(tmp_path, seed=7)).endswith("without --offline this run asks every call anew")


def test_missing_calls_are_told_once_with_their_number_by_step(tmp_path: Path) -> None:
    stats, notes = CallStats(), list[str]()
    note_missing(run_at(tmp_path), stats, notes.append)
    assert notes == []
    stats.missing("vqa.bbox")
    note_missing(run_at(tmp_path), stats, notes.append)
    stats.missing("plan.segment")
    stats.missing("vqa.bbox")
    lock_at(tmp_path)
    note_missing(run_at(tmp_path, seed=7), stats, notes.append)
    first, second = (note.partition("\nhint: ")[0] for note in notes)
    assert first == "failed: 1 call is not in the log, and nobody was asked – vqa.bbox 1"
    assert second == (
        "failed: 3 calls are not in the log, and nobody was asked – plan.segment 1, vqa.bbox 2; "
        "the rows come from some/model, seed 1729; this run asks some/model, seed 7"
    )
