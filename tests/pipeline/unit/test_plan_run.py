"""Planning a run: what it would do and ask, found out without asking, recording or writing anything."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from annotator.config.settings import PlanSettings, SyncSettings, VlmSettings, VocabularySettings, VqaSettings
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.modules.vocabulary.file import FILE, write_vocabulary
from annotator.pipeline.plan_run import plan_run
from annotator.pipeline.progress import SilentProgress
from annotator.pipeline.sync import sync
from annotator.pipeline.work_plan import RunPlan
from annotator_store.log.log import Log
from tests.datasets import Recording, write_dataset

SCRIPTED = VlmSettings(backend="scripted")
SIGNALS = VlmSettings(backend="signals")
FREELY = VocabularySettings(enabled=False)


def dataset(folder: Path) -> Path:
    """Three episodes without a camera, of which the last is the recording of the first."""
    return write_dataset(folder / "tiny", [Recording(1), Recording(2), Recording(1)], cameras=())


@pytest.fixture(scope="module")
def annotated_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = dataset(tmp_path_factory.mktemp("annotated"))
    assert sync(SyncSettings(root=root, vlm=SIGNALS), SilentProgress()) == "done"
    return root


@pytest.fixture
def annotated(annotated_once: Path, tmp_path: Path) -> Path:
    """The dataset, annotated from its signals."""
    return Path(shutil.copytree(annotated_once, tmp_path / "tiny"))


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    return dataset(tmp_path)


def plan(root: Path, vlm: VlmSettings = SCRIPTED, **changes: Any) -> RunPlan:
    return plan_run(SyncSettings(root=root, vlm=vlm, **changes))


def test_behind_a_vocabulary_that_must_be_asked_for_every_module_of_every_episode_is_left(fresh: Path) -> None:
    first, freely = plan(fresh), plan(fresh, vocabulary=FREELY)
    assert (first.discovers_vocabulary, first.own_vocabulary) == (True, False)
    assert first.count_by_module() == {"plan": 3, "interjections": 3}
    assert first.count_by_reason() == {("plan", "new"): 3, ("interjections", "new"): 3}
    # Freely, the two episodes that are alike are asked about once.
    assert [work.copies for work in freely.work] == [(0, 2), (1,)]
    assert first.estimated_calls == freely.estimated_calls // 2 * 3 + 1


def test_what_is_left_is_counted_with_the_reason(fresh: Path) -> None:
    freely = plan(fresh, vocabulary=FREELY)
    assert not freely.discovers_vocabulary
    assert (freely.episodes, freely.episodes_to_ask, freely.episodes_up_to_date) == (3, 3, 0)
    assert freely.count_by_reason() == {("plan", "new"): 3, ("interjections", "follows"): 3}
    assert freely.count_by_module() == {"plan": 3, "interjections": 3}


def test_only_the_episodes_that_were_asked_for_are_planned(fresh: Path) -> None:
    some = plan(fresh, vocabulary=FREELY, only_episodes="1-2")
    assert (some.episodes, [work.copies for work in some.work]) == (2, [(1,), (2,)])
    assert plan(fresh, only_episodes="1-2").episodes == 2


def test_each_module_that_asks_has_its_part_in_the_estimate(fresh: Path) -> None:
    def estimate(settings: PlanSettings) -> int:
        return plan(fresh, vocabulary=FREELY, plan=settings).estimated_calls

    both, no_memory = estimate(PlanSettings()), estimate(PlanSettings(emit_memory=False))
    relabelled = estimate(PlanSettings(subtask_seeded_relabel=True))
    assert no_memory < both < relabelled
    assert relabelled - both == both - no_memory == 2 * PlanSettings().plan_max_steps


def journal(root: Path) -> Counter[str]:
    """How many events of each kind the log has."""
    with Log.open(root / ".annotator") as log:
        rows = log._cache.connection.execute("SELECT type FROM events").fetchall()  # pyright: ignore[reportPrivateUsage]
    return Counter(kind for (kind,) in rows)


def test_what_is_up_to_date_is_nothing_to_do(annotated: Path) -> None:
    done = plan(annotated, vlm=SIGNALS)
    assert (done.work, done.estimated_calls, done.episodes_up_to_date) == ((), 0, 3)


def test_answers_in_the_log_are_not_asked_for_again_by_a_module_that_must_run_again(annotated: Path) -> None:
    """Without its plan rows the module runs again, from the very answers that the log has."""
    again = plan(annotated, vlm=SIGNALS, plan=PlanSettings(emit_plan=False))
    assert again.count_by_reason() == {("plan", "changed"): 3, ("interjections", "follows"): 3}
    assert (again.count_by_module(), again.episodes_to_ask, again.estimated_calls) == ({}, 0, 0)
    assert not any(module.asks for work in again.work for module in work.modules.values())


def test_a_call_that_is_not_in_the_log_is_asked_for_by_its_module_and_what_follows_it(annotated: Path) -> None:
    asking = plan(annotated, vlm=SIGNALS, plan=PlanSettings(n_task_rephrasings=3))
    assert asking.count_by_module() == {"plan": 3, "interjections": 3}
    assert (asking.episodes_to_ask, asking.episodes_up_to_date) == (3, 0)


def test_a_module_asks_alone_where_no_other_depends_on_it(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "filmed", [Recording(1, frames=30)])
    assert sync(SyncSettings(root=root, vlm=SCRIPTED, vocabulary=FREELY), SilentProgress()) in ("done", "incomplete")
    twice = plan(root, vocabulary=FREELY, vqa=VqaSettings(K=2))
    assert (twice.count_by_reason(), twice.count_by_module()) == ({("vqa", "changed"): 1}, {"vqa": 1})
    reworded = plan(root, vocabulary=FREELY, vqa=VqaSettings(K=2), plan=PlanSettings(emit_plan=False))
    assert reworded.count_by_reason().keys() == {("plan", "changed"), ("interjections", "follows"), ("vqa", "changed")}
    assert reworded.count_by_module() == {"vqa": 1}
    assert reworded.estimated_calls == twice.estimated_calls


def test_another_seed_asks_everything_anew(annotated: Path) -> None:
    asking = plan(annotated, vlm=SIGNALS, seed=2)
    assert asking.count_by_module() == {"plan": 3, "interjections": 3}
    assert asking.count_by_reason() == {("plan", "changed"): 3, ("interjections", "follows"): 3}


def test_planning_records_no_event_and_writes_no_shard(annotated: Path) -> None:
    before = journal(annotated)
    shards = {path: path.read_bytes() for path in annotated.rglob("data/**/*.parquet")}
    plan(annotated, vlm=SIGNALS, seed=2)
    plan(annotated)
    assert journal(annotated) == before
    assert {path: path.read_bytes() for path in annotated.rglob("data/**/*.parquet")} == shards


def test_a_vocabulary_that_a_person_wrote_is_told_until_and_after_it_is_recorded(fresh: Path) -> None:
    words = Vocabulary(subtasks=("reach", "grasp"), memories=("I hold the cup.",))
    write_vocabulary(fresh / FILE, words)
    assert plan(fresh).own_vocabulary
    assert sync(SyncSettings(root=fresh, vlm=SCRIPTED), SilentProgress()) in ("done", "incomplete")
    assert plan(fresh).own_vocabulary
    assert not plan(fresh, vocabulary=FREELY).own_vocabulary
