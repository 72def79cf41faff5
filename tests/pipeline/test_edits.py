"""Edit tables: after an edit of a prompt, just the calls that are stale are asked again. Seen from the log."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from annotator.cli.main import main
from annotator_store.log.query import run_query
from tests.pipeline.conftest import BANANA
from tests.pipeline.story import (
    BACK,
    ENDS,
    GRIP,
    LIFT,
    PLACE,
    REACH,
    STORY,
    USUAL,
    Told,
    asked,
    did_nothing,
    ever,
    memory,
    of,
    runs,
    segments,
    stored,
)
from tests.vlm.conftest import RunningServer

EPISODES = 6
BOUNDARIES = len(USUAL) - 1
VQA = ("vqa_bbox", "vqa_keypoint", "vqa_count", "vqa_attribute", "vqa_spatial")

Command = Callable[..., str]
Sync = Callable[..., str]
Edit = Callable[[str, str, str], None]


SPARSELY = ("--plan.frames_per_second", "1", "--vqa.vqa_emission_hz", "0.25")


def served(server: RunningServer) -> tuple[str, ...]:
    return "--vlm.api_base", server.api_base, "--vlm.model_id", "test-model", *SPARSELY


@pytest.fixture(scope="module")
def first(storyteller: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes, annotated once by every module, with a vocabulary and with the shipped prompts."""
    root = Path(shutil.copytree(BANANA, tmp_path_factory.mktemp("first") / "banana"))
    storyteller.tell(*STORY)
    assert main(["sync", str(root), "--only_episodes", "0-5", *served(storyteller)]) == 0
    storyteller.set_faults()
    return root


@pytest.fixture
def root(first: Path, tmp_path: Path) -> Path:
    """A copy of it, with its log."""
    return Path(shutil.copytree(first, tmp_path / "banana"))


@pytest.fixture
def prompts(command: Command, tmp_path: Path) -> Path:
    """The shipped prompts, copied out."""
    command("prompts", "eject", tmp_path / "prompts")
    return tmp_path / "prompts"


@pytest.fixture
def sync(command: Command, teller: RunningServer, root: Path, prompts: Path) -> Sync:
    """Sync the six episodes with these prompts."""
    teller.tell(*STORY)

    def run(*more: object, episodes: str = "0-5") -> str:
        return command("sync", root, "--only_episodes", episodes, "--prompts", prompts, *served(teller), *more)

    return run


@pytest.fixture
def edit(prompts: Path) -> Edit:
    """Change some words of a prompt."""

    def change(name: str, old: str, new: str) -> None:
        path = prompts / f"{name}.md"
        text = path.read_text(encoding="utf-8")
        assert text.count(old) >= 1
        path.write_text(text.replace(old, new), encoding="utf-8")

    return change


ALONE = [
    ("plan_task_rephrasings", "each at most 25 words", "each at most 20 words", EPISODES),
    ("plan_milestones", "Take no milestone that is", "Never take a milestone that is", BOUNDARIES * EPISODES),
    ("interjections_initial_speech", "at most 20 words", "at most 12 words", EPISODES),
    ("interjections_interjection", "at most 15 words", "at most 9 words", BOUNDARIES * EPISODES),
    ("plan_segment", "Cut where the state of the world changes", "Cut where the world changes", EPISODES),
]


@pytest.mark.parametrize(("name", "old", "new", "calls"), ALONE, ids=[line[0] for line in ALONE])
def test_an_edited_prompt_asks_its_own_calls_again_and_no_others(
    root: Path, sync: Sync, edit: Edit, name: str, old: str, new: str, calls: int
) -> None:
    step = name.replace("_", ".", 1)
    assert ever(root)[step] == calls
    edit(name, old, new)
    sync()
    assert asked(root) == Counter({step: calls})
    sync()
    assert did_nothing(root)


def test_interjections_and_memory_are_as_many_as_the_log_says(root: Path) -> None:
    """What the figures above stand for, counted on the rows of the shard."""
    rows = [row for found in stored(root).values() for row in found]
    assert len(of(rows, "interjection")) == ever(root)["interjections.interjection"]
    assert len(of(rows, None)) == EPISODES * (1 + BOUNDARIES)
    assert len(of(rows, "subtask")) == EPISODES * len(USUAL)


def test_each_vqa_prompt_asks_the_pairs_of_its_type_again_and_all_five_every_pair(
    root: Path, sync: Sync, edit: Edit
) -> None:
    before = ever(root)
    pairs = len(of([row for found in stored(root).values() for row in found], "vqa")) / 2
    again: Counter[str] = Counter()
    for name in VQA:
        step = name.replace("_", ".", 1)
        edit(name, "Ask one question about this frame", "Put one question about this frame")
        sync()
        assert asked(root) == Counter({step: before[step]})
        again += asked(root)
    assert again.total() == pairs
    sync()
    assert did_nothing(root)


def test_descriptions_that_lead_to_the_same_spans_end_the_edit_there(root: Path, sync: Sync, edit: Edit) -> None:
    edit("plan_describe", "one observation for each change", "an observation for every change")
    sync()
    assert asked(root) == Counter({"plan.describe": EPISODES, "plan.segment": EPISODES})
    assert runs(root)[-1]["shards_written"] == 0
    sync()
    assert did_nothing(root)


def again_by_episode(root: Path) -> Counter[tuple[str, int]]:
    """The calls of the last run, by step and episode."""
    query = "SELECT step, episode_index FROM calls WHERE run_id = ?"
    calls = run_query(root / ".annotator", query, [runs(root)[-1]["run_id"]]).to_pylist()
    return Counter((call["step"], call["episode_index"]) for call in calls)


def test_what_follows_from_spans_is_asked_again_only_where_they_changed(
    root: Path, sync: Sync, edit: Edit, teller: RunningServer
) -> None:
    """Episode 2 ends otherwise, so its last boundary and all that is still to come differ; episode 4 only begins so."""
    otherwise: list[Told] = [
        segments(REACH, GRIP, LIFT, BACK, end=ENDS[2]),
        segments(BACK, GRIP, LIFT, PLACE, end=ENDS[4]),
        memory(BACK),
    ]
    teller.tell(*otherwise, *STORY)
    before = stored(root)
    edit("plan_describe", "one observation for each change", "an observation for every change")
    sync()
    everywhere = {(step, episode): 1 for step in ("plan.describe", "plan.segment") for episode in range(EPISODES)}
    changed = {
        ("plan.milestones", 2): 1,
        ("plan.milestones", 4): 1,
        ("interjections.interjection", 2): 3,
        ("interjections.interjection", 4): 1,
    }
    assert again_by_episode(root) == Counter(everywhere | changed)
    assert asked(root).total() == 2 * EPISODES + 6
    after = stored(root)
    assert [episode for episode in before if after[episode] != before[episode]] == [2, 4]
    sync()
    assert did_nothing(root)


def test_prompts_of_settings_that_are_off_by_default_ask_their_own_calls_again(
    root: Path, sync: Sync, edit: Edit, teller: RunningServer
) -> None:
    same: list[Told] = [
        {"step": "plan_relabel", "contains": [f" s: {text}\n- the subtask after"], "answer": {"subtask": text}}
        for text in USUAL
    ]
    teller.tell({"step": "plan_task", "answer": {"task": "put the banana on the white plate"}}, *same, *STORY)
    relabel = ("--plan.subtask_seeded_relabel", "--plan.subtask_relabel_frames", "2")
    flags = (*relabel, "--plan.task_aug_axes.enabled", "--plan.derive_task_from_video=always")
    sync(*flags)
    for name, old, new, calls in (
        ("plan_relabel", "corrected as little as possible", "changed as little as possible", len(USUAL) * EPISODES),
        ("plan_task_aug_axes", "each at most 25 words", "each at most 20 words", EPISODES),
        ("plan_task", "of at most 15 words", "of at most 12 words", EPISODES),
    ):
        edit(name, old, new)
        sync(*flags)
        assert asked(root) == Counter({name.replace("_", ".", 1): calls})
    sync(*flags)
    assert did_nothing(root)


def test_the_discovery_is_asked_again_only_where_the_file_is_not_to_be_reused(
    root: Path, sync: Sync, edit: Edit
) -> None:
    edit("vocabulary_discover", "Write as many entries as", "Write just as many entries as")
    sync()
    assert did_nothing(root)
    sync("--vocabulary.reuse_existing=false")
    assert asked(root) == Counter({"vocabulary.discover": 1})
    sync("--vocabulary.reuse_existing=false")
    assert did_nothing(root)


def test_the_system_prompt_stands_in_every_call(root: Path, sync: Sync, edit: Edit) -> None:
    query = "SELECT step FROM calls WHERE episode_index = 4"
    own = Counter(call["step"] for call in run_query(root / ".annotator", query).to_pylist())
    edit("system", "You are precise, literal and brief", "You are precise and brief")
    sync(episodes="4")
    assert asked(root) == own
    sync(episodes="4")
    assert did_nothing(root)


def test_what_is_said_about_a_reply_that_does_not_fit_is_in_no_other_call(root: Path, sync: Sync, edit: Edit) -> None:
    edit("retry", "cannot be used", "is of no use")
    sync()
    assert (asked(root).total(), runs(root)[-1]["shards_written"]) == (0, 0)
    sync()
    assert did_nothing(root)


def test_words_that_no_call_was_sent_ask_nothing(root: Path, sync: Sync, edit: Edit) -> None:
    """With milestones, the prompt for free memory is not rendered."""
    edit("plan_memory", "Keep only what a later step may still need", "Keep what a later step may need")
    sync()
    assert (asked(root).total(), runs(root)[-1]["shards_written"]) == (0, 0)
    sync()
    assert did_nothing(root)


def test_comments_in_every_prompt_ask_nothing(root: Path, sync: Sync, prompts: Path) -> None:
    for path in sorted(prompts.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("+++\n", "+++\n# Another comment.\n", 1) + "{# and another #}", encoding="utf-8")
    sync()
    assert did_nothing(root)
