"""Discovery of the vocabulary: which episodes are watched, what is asked, what is made of the answer."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from annotator.config.load import validated
from annotator.config.settings import PlanSettings, SyncSettings, VocabularySettings
from annotator.errors import CallError, Declined, Rejected, VocabularyError
from annotator.modules.base import CameraView, ModuleInput
from annotator.modules.vocabulary.discovery import (
    MOST_ENTRIES,
    STEPS,
    VIEW_SETTINGS,
    Discovery,
    discover,
    discovery_event,
    discovery_fingerprint,
    misfit,
    sample_episodes,
    vocabulary_of,
    watched_digest,
)
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.modules.vocabulary.file import read_vocabulary, write_vocabulary
from annotator.prompting.answers import Discovered
from annotator.prompting.loader import load_prompts
from annotator_store.digests import Digest, digest_parts
from annotator_store.log.events import decode_event, encode_event
from tests.modules.scripted_ask import Question, Reply, ScriptedAsk

ANSWER = Discovered(["pick up the cup", "place the cup"], ["I hold the cup.", "I put the cup down."])
MODEL = digest_parts("model", [b"x"])
PROMPTS = {"vocabulary.discover": digest_parts("prompt", [b"x"])}


def digest(name: object) -> Digest:
    return digest_parts("test", [str(name).encode()])


def camera(name: object, key: str = "observation.images.top") -> CameraView:
    return CameraView(key=key, footage=digest(("footage", name)), width_px=64, height_px=48)


def episode(name: object, *, frames: int = 100, task: str = "stack the cups", **changes: Any) -> ModuleInput:
    timestamps = (np.arange(frames) / 10).astype(np.float32)
    fields: dict[str, Any] = {"cameras": (camera(name),), "where": f"episode {name}"}
    return ModuleInput(digest=digest(name), task=task, timestamps=timestamps, **fields | changes)


def run(
    episodes: Sequence[ModuleInput],
    answer: Reply = ANSWER,
    *,
    seed: int = 1729,
    max_frames: int = 60,
    **plan: Any,
) -> tuple[Discovery, Question]:
    ask = ScriptedAsk({"vocabulary.discover": answer})
    words = VocabularySettings(max_frames=max_frames)
    found = asyncio.run(discover(episodes, ask, SyncSettings(seed=seed, plan=PlanSettings(**plan), vocabulary=words)))
    (question,) = ask.asked
    return found, question


def recipe(episodes: Sequence[ModuleInput], settings: SyncSettings | None = None, **changes: Any) -> Digest:
    fields: dict[str, Any] = {"prompts": PROMPTS, "model": MODEL}
    return discovery_fingerprint(episodes, settings or SyncSettings(), **fields | changes)


digests = st.lists(st.integers(0, 30).map(digest), max_size=12)


@given(digests, st.integers(0, 6), st.integers(0, 3), st.randoms(use_true_random=False))
def test_which_episodes_are_sampled_depends_on_no_order_and_no_repetition(
    some: list[Digest], count: int, seed: int, rng: random.Random
) -> None:
    chosen = sample_episodes(some, count, seed)
    listed = [*some, *rng.sample(some, len(some) // 2)]
    rng.shuffle(listed)
    assert sample_episodes(listed, count, seed) == chosen
    assert len(chosen) == min(count, len(set(some))) == len(set(chosen))
    assert set(chosen) <= set(some)


@given(digests, st.integers(1, 6))
def test_an_episode_that_goes_changes_the_sample_only_where_it_was_in_it(some: list[Digest], count: int) -> None:
    chosen = sample_episodes(some, count, 1)
    for gone in set(some):
        without = sample_episodes([one for one in some if one != gone], count, 1)
        assert [one for one in without if one in chosen] == [one for one in chosen if one != gone]


def test_one_more_episode_to_watch_leaves_the_first_ones_as_they_were() -> None:
    some = [digest(n) for n in range(20)]
    assert sample_episodes(some, 4, 1)[:3] == sample_episodes(some, 3, 1)


def test_another_seed_samples_other_episodes_and_all_are_equally_likely() -> None:
    some = [digest(n) for n in range(10)]
    assert sample_episodes(some, 3, 1) != sample_episodes(some, 3, 2)
    counts = [sum(one in sample_episodes(some, 3, seed) for seed in range(2000)) for one in some]
    assert all(500 < count < 700 for count in counts)
    assert [some.index(one) for one in sample_episodes(some, 3, 1729)] == [4, 0, 6]


def test_the_watched_digest_says_which_episodes_not_in_which_order() -> None:
    a, b, c = (digest(n) for n in "abc")
    assert watched_digest([a, b]) == watched_digest([b, a]) != watched_digest([a, c])
    assert len({watched_digest(some) for some in ([], [a], [a, b], [a, b, c])}) == 4
    assert watched_digest([digest(1), digest(2)]) == "1e533e3d1269819eaf9cf60bcff33155"


def test_all_episodes_are_watched_in_one_ask() -> None:
    found, question = run([episode(n) for n in range(3)])
    assert question.step == "vocabulary.discover"
    assert list(STEPS) == [question.step]
    assert found == Discovery(vocabulary=Vocabulary(subtasks=tuple(ANSWER.subtasks), memories=tuple(ANSWER.memories)),
                              call=question.key)  # fmt: skip
    assert {item.footage for item in question.media} == {digest(("footage", n)) for n in range(3)}


def test_the_prompt_says_which_images_are_which_recording() -> None:
    long, short = episode("long", frames=400, task=" stack\nthe cups. "), episode("short", frames=10, task="")
    shown = {digest("long"): long, digest("short"): short}
    order = [shown[one] for one in sample_episodes(shown, 2, 1729)]
    _, question = run([short, long], contact_sheet_frames_per_sheet=20)
    said = question.inputs["recordings"]
    at = 1
    for number, one in enumerate(order, start=1):
        sheets = 2 if one is long else 1
        images = f"image {at}" if sheets == 1 else f"images {at} to {at + sheets - 1}"
        task = "stack the cups." if one is long else "(not known)"
        assert f"Recording {number} of 2, {images}. Its task: {task}" in said.splitlines()
        assert {item.footage for item in question.media[at - 1 : at - 1 + sheets]} == {one.cameras[0].footage}
        at += sheets
    assert len(question.media) == at - 1 == 3
    assert said.count("printed in a corner") == said.count("taken alone") == 2


def test_how_to_read_the_images_is_said_once_for_all_recordings_that_are_shown_alike() -> None:
    _, question = run([episode(n, frames=1000) for n in range(3)])
    said = question.inputs["recordings"]
    assert said.count("printed in a corner") == 1
    assert "\n\nRecordings 1, 2, 3, taken alone: The image above is a contact sheet of one recording: 20 frames" in said
    _, question = run([episode(1)])
    assert "\n\nRecording 1, taken alone: The 2 images above are contact sheets" in question.inputs["recordings"]


def test_the_order_in_which_the_episodes_come_does_not_matter() -> None:
    some = [episode(n, task=f"task {n}") for n in range(4)]
    assert run(some)[1] == run(some[::-1])[1]
    assert recipe(some) == recipe(some[::-1])


@pytest.mark.parametrize("view", ["contact_sheets", "video"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_episodes_share_the_frames_that_one_prompt_may_hold(view: str, count: int) -> None:
    _, question = run([episode(n, frames=1000) for n in range(count)], max_frames=30, view=view)
    frames: dict[Digest, int] = {}
    for item in question.media:
        frames[item.footage] = frames.get(item.footage, 0) + len(item.timestamps)
    assert set(frames.values()) == {30 // count}
    assert {item.render.kind for item in question.media} == {"video" if view == "video" else "sheet"}
    assert ("video 1" if view == "video" else "image") in question.inputs["recordings"]


def test_an_episode_is_shown_from_its_first_frame_to_its_last_even_where_there_is_room_for_few() -> None:
    _, question = run([episode(n, frames=1000) for n in range(3)], max_frames=7)
    assert {(item.timestamps[0], item.timestamps[-1]) for item in question.media} == {(0.0, float(np.float32(99.9)))}
    _, question = run([episode(n, frames=1000) for n in range(3)], max_frames=2)
    assert [len(item.timestamps) for item in question.media] == [1, 1, 1]


def test_without_a_camera_the_tasks_alone_are_asked_about() -> None:
    _, question = run([episode(n, task=f"stack {n} cups", cameras=()) for n in range(2)])
    assert question.media == ()
    for n in range(2):
        assert f"Its task: stack {n} cups\n" in question.inputs["recordings"]
    assert "image" not in question.inputs["recordings"]
    assert "no footage" in question.inputs["recordings"]


@pytest.mark.parametrize("some", [[], [episode(1, task=" \n", cameras=())]], ids=["no episode", "nothing in it"])
def test_where_there_is_nothing_to_go_by_nothing_is_asked(some: list[ModuleInput]) -> None:
    ask = ScriptedAsk()
    with pytest.raises(VocabularyError, match=r"nothing to find a vocabulary from(.|\n)*hint: .*vocabulary.enabled"):
        asyncio.run(discover(some, ask, SyncSettings()))
    assert ask.asked == []


@pytest.mark.parametrize(
    "error",
    [CallError("gone", kind="timeout", retryable=True), Declined("sees no pixels"), Rejected("no JSON")],
    ids=lambda error: type(error).__name__,
)
def test_a_missing_answer_is_the_caller_s_to_know(error: Exception) -> None:
    with pytest.raises(type(error)):
        run([episode(1)], error)


def test_entries_are_tidied_and_said_once() -> None:
    answer = Discovered([" pick  up\nthe cup. ", "Pick up the cup", ".", "place it"], ["I did it. ", "i did it", " "])
    found, _ = run([episode(1)], answer)
    assert found.vocabulary == Vocabulary(subtasks=("pick up the cup", "place it"), memories=("I did it.",))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Discovered(["reach"], ["I did."]), ""),
        (Discovered(["."], ["I did."]), "no entry of subtasks says anything"),
        (Discovered(["reach"], [" ", "\t."]), "no entry of memories says anything"),
        (Discovered(["stay still"], []), ""),
        (Discovered(["."], ["."]), "no entry of subtasks and of memories says anything"),
    ],
)
def test_an_answer_with_a_list_that_says_nothing_is_a_misfit(answer: Discovered, said: str) -> None:
    assert misfit(answer) == said
    if said:
        with pytest.raises(Rejected, match=said):
            run([episode(1)], answer)


def test_where_nothing_is_achieved_there_are_no_milestones() -> None:
    reply = '{"subtasks":["stay still"],"memories":[]}'
    found, _ = run([episode(1)], msgspec.json.decode(reply, type=Discovered))
    assert found.vocabulary == Vocabulary(subtasks=("stay still",), memories=())


@pytest.mark.parametrize("task", ["debug", "Test_3", " TODO! "])
def test_a_task_that_is_a_placeholder_is_not_shown_and_not_gone_by(task: str) -> None:
    _, question = run([episode(1, task=task)])
    assert "Its task: (not known)" in question.inputs["recordings"]
    assert recipe([episode(1, task=task)]) == recipe([episode(1, task="")])
    with pytest.raises(VocabularyError, match="nothing to find a vocabulary from"):
        run([episode(1, task=task, cameras=())])


entries = st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=64)


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.builds(Discovered, entries, entries))
def test_any_answer_is_a_misfit_or_a_vocabulary_that_its_file_gives_back(
    tmp_path_factory: pytest.TempPathFactory, answer: Discovered
) -> None:
    if misfit(answer):
        return
    path = tmp_path_factory.mktemp("meta") / "canonical_vocabulary.json"
    vocabulary = vocabulary_of(answer)
    assert write_vocabulary(path, vocabulary)
    assert read_vocabulary(path) == vocabulary


def test_at_most_so_many_entries_are_taken() -> None:
    many = [f"step {n}" for n in range(MOST_ENTRIES + 5)]
    found = vocabulary_of(Discovered(many, many))
    assert found == Vocabulary(subtasks=tuple(many[:MOST_ENTRIES]), memories=tuple(many[:MOST_ENTRIES]))


def test_what_is_recorded_is_what_was_found() -> None:
    some = [episode(n) for n in range(2)]
    found, question = run(some)
    event = discovery_event(
        found, recipe=recipe(some), episodes=[e.digest for e in some], dataset="cups", run_id="run-1"
    )
    assert (event.subtasks, event.memories) == (tuple(ANSWER.subtasks), tuple(ANSWER.memories))
    assert (event.vocabulary, event.call, event.recipe) == (found.vocabulary.digest, question.key, recipe(some))
    assert (event.episodes, event.dataset, event.run_id) == ((digest(0), digest(1)), "cups", "run-1")
    assert decode_event(encode_event(event)) == event


SOME = [episode(n) for n in range(2)]
OTHER: dict[str, tuple[Sequence[ModuleInput], SyncSettings, dict[str, Any]]] = {
    "another episode": ([SOME[0], episode(7)], SyncSettings(), {}),
    "one more episode": ([*SOME, episode(7)], SyncSettings(), {}),
    "another task": ([SOME[0], episode(1, task="other")], SyncSettings(), {}),
    "other footage": ([SOME[0], episode(1, cameras=(camera("other"),))], SyncSettings(), {}),
    "another camera": ([SOME[0], episode(1, cameras=(camera(1, "observation.images.side"),))], SyncSettings(), {}),
    "two cameras": ([SOME[0], episode(1, cameras=(camera(1), camera(2, "side")))], SyncSettings(), {}),
    "no camera": ([SOME[0], episode(1, cameras=())], SyncSettings(), {}),
    "another seed": (SOME, SyncSettings(seed=1), {}),
    "another prompt": (SOME, SyncSettings(), {"prompts": {"vocabulary.discover": digest("x")}}),
    "another model": (SOME, SyncSettings(), {"model": digest("x")}),
    "other evidence": (SOME, SyncSettings(), {"evidence": digest("x")}),
}


@pytest.mark.parametrize("change", OTHER)
def test_what_an_answer_can_depend_on_participates_in_the_recipe(change: str) -> None:
    some, settings, more = OTHER[change]
    assert recipe(some, settings, **more) != recipe(SOME)


@pytest.mark.parametrize("name", VIEW_SETTINGS)
def test_every_setting_of_the_view_participates_in_the_recipe(name: str) -> None:
    value: Any = "video" if name == "view" else getattr(PlanSettings(), name) - 1
    settings = SyncSettings(plan=PlanSettings(**{name: value}))
    validated(settings)
    assert recipe(SOME, settings) != recipe(SOME)


def test_the_number_of_frames_shown_participates_in_the_recipe() -> None:
    settings = SyncSettings(vocabulary=VocabularySettings(max_frames=179))
    assert recipe(SOME, settings) != recipe(SOME)


OTHER_SETTINGS = sorted(set(PlanSettings.__struct_fields__) - set(VIEW_SETTINGS))


@pytest.mark.parametrize("view", ["contact_sheets", "video"])
def test_nothing_is_asked_differently_for_a_setting_that_is_not_in_the_recipe(view: str) -> None:
    odd: dict[str, Any] = {}
    for name in OTHER_SETTINGS:
        value = getattr(PlanSettings(), name)
        odd[name] = not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else value
    some = [episode(n, frames=1000) for n in range(2)]
    assert run(some, view=view, **odd)[1] == run(some, view=view)[1]
    settings = SyncSettings(plan=PlanSettings(**odd), vocabulary=msgspec.structs.replace(
        SyncSettings().vocabulary, sample_episodes=9))  # fmt: skip
    assert recipe(SOME, settings) == recipe(SOME)


def test_where_an_episode_stands_is_not_in_the_recipe() -> None:
    moved = [msgspec.structs.replace(one, where="episode 77") for one in SOME]
    assert recipe(moved) == recipe(SOME)
    assert run(moved)[1] == run(SOME)[1]


def test_the_shipped_prompt_is_of_the_dataset_and_takes_what_it_is_given() -> None:
    head = load_prompts()["vocabulary.discover"].head
    assert (head.answer, head.scope, head.frames) == ("Discovered", "dataset", "episode")
    _, question = run([episode(1)])
    assert set(head.inputs) == set(question.inputs)
