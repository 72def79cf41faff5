"""The interjections module against a scripted `ask`: when someone speaks, what is asked for it, and what pairs up."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from annotator.config.settings import InterjectionsSettings, PlanSettings, SyncSettings
from annotator.errors import CallError, Declined, Rejected, StepError
from annotator.modules.base import CameraView, ModuleInput, ModuleOutput
from annotator.modules.interjections import INTERJECTIONS, KINDS, NAME, STEPS, STYLES, InterjectionPoint, points_of, say
from annotator.modules.views import NO_FOOTAGE
from annotator.prompting.answers import Answer, InitialSpeech, Interjection, schema_of
from annotator.prompting.loader import load_prompts
from annotator.vlm.scripted.schema_sampler import sample_text
from annotator_store.digests import Digest, digest_parts
from annotator_store.keys import Render, Text
from annotator_store.rows import Row
from tests.modules.scripted_ask import Question, Script, ScriptedAsk, annotated, with_settings

SPEECH, INTERJECTION = STEPS
TOP = CameraView(key="top", footage=digest_parts("footage", [b"top"]), width_px=640, height_px=480)
SIDE = CameraView(key="side", footage=digest_parts("footage", [b"side"]), width_px=640, height_px=480)
CALL = digest_parts("call", [b"x"])
TASK = "stack the red cups"
SUBTASKS = ((0, "reach for the cup"), (20, "grasp the cup"), (45, "place the cup"), (70, "withdraw the arm"))
"""Frames, a tenth of a second apart, and the subtasks that begin there."""
SCRIPT: Script = {
    SPEECH: InitialSpeech("Sure, I'll stack the cups."),
    INTERJECTION: lambda question: Interjection(
        "preference", f"Now {question.inputs['upcoming']}, please.", f"I will {question.inputs['upcoming']}."
    ),
}


def rows_of(subtasks: Sequence[tuple[float, str]], *, plans: bool = True, wordings: Sequence[str] = ()) -> list[Row]:
    rows = [Row(role="user", content=text, style="task_aug", timestamp=0.0) for text in wordings]
    for place, (time, text) in enumerate(subtasks):
        rows.append(Row(role="assistant", content=text, style="subtask", timestamp=time))
        if plans:
            left = "\n".join(f"{n}. {later}" for n, (_, later) in enumerate(subtasks[place:], start=1))
            rows.append(Row(role="assistant", content=left, style="plan", timestamp=time))
    return rows


def episode(
    subtasks: Sequence[tuple[int, str]] = SUBTASKS,
    *,
    frames: int = 100,
    task: str = TASK,
    name: bytes = b"one",
    cameras: tuple[CameraView, ...] = (TOP,),
    **upstream: Any,
) -> ModuleInput:
    timestamps = (np.arange(frames) / 10).astype(np.float32)
    starts = [(float(timestamps[frame]), text) for frame, text in subtasks]
    return ModuleInput(
        where="episode 0",
        digest=digest_parts("episode", [name]),
        task=task,
        timestamps=timestamps,
        cameras=cameras,
        upstream=tuple(rows_of(starts, **upstream)),
    )


def settings_of(*, seed: int = 1729, quality: int = 84, **interjections: Any) -> SyncSettings:
    plan = PlanSettings(contact_sheet_quality=quality)
    return SyncSettings(seed=seed, plan=plan, interjections=InterjectionsSettings(**interjections))


def run(view: ModuleInput, script: Script | None = None, /, **settings: Any) -> tuple[ModuleOutput, ScriptedAsk]:
    ask = ScriptedAsk({**SCRIPT, **(script or {})})
    return asyncio.run(annotated(INTERJECTIONS, view, ask, settings_of(**settings))), ask


def points(view: ModuleInput, settings: SyncSettings) -> list[InterjectionPoint]:
    return points_of(with_settings(INTERJECTIONS, view, settings), settings.interjections)


def shown(found: ModuleOutput, style: str | None) -> list[tuple[float, str]]:
    """When, and what: the content, or what is said."""
    return [(round(a.row.timestamp, 3), _words(a.row)) for a in found.rows if a.row.style == style]


def _words(row: Row) -> str:
    if row.content is not None:
        return row.content
    assert row.tool_calls is not None
    (call,) = row.tool_calls
    return json.loads(call)["function"]["arguments"]["text"]


def refused(kind: type[StepError], step: str) -> StepError:
    error = kind("it will not do", where=step, got=f"no {step}")
    error.call = CALL
    return error


def no_reply() -> CallError:
    return CallError("no reply", kind="timeout", retryable=True)


def test_an_episode_opens_with_speech_and_is_interrupted_where_subtasks_begin() -> None:
    found, ask = run(episode())
    assert Counter(ask.steps) == {SPEECH: 1, INTERJECTION: 3}
    assert shown(found, "interjection") == [
        (2.0, "Now grasp the cup, please."),
        (4.5, "Now place the cup, please."),
        (7.0, "Now withdraw the arm, please."),
    ]
    assert shown(found, None) == [
        (0.0, "Sure, I'll stack the cups."),
        (2.0, "I will grasp the cup."),
        (4.5, "I will place the cup."),
        (7.0, "I will withdraw the arm."),
    ]
    assert found.gaps == ()


def test_roles_columns_and_cameras_are_those_of_the_format() -> None:
    found, _ = run(episode())
    assert {(a.row.style, a.row.role, a.row.camera) for a in found.rows} == {
        ("interjection", "user", None),
        (None, "assistant", None),
        ("plan", "assistant", None),
    }
    assert NAME == "interjections"
    assert {a.row.style for a in found.rows} - STYLES == {"plan"}
    assert all((a.row.content is None) == (a.row.style is None) == (a.row.tool_calls is not None) for a in found.rows)


def test_speech_is_one_say_call_in_canonical_json() -> None:
    found, _ = run(episode((SUBTASKS[0],)), {SPEECH: InitialSpeech('  Sure,\n I\'ll  take the "Tasse" — grün. ')})
    (speech,) = [a.row for a in found.rows]
    expected = (
        '{"function":{"arguments":{"text":"Sure, I\'ll take the \\"Tasse\\" — grün."},"name":"say"},"type":"function"}'
    )
    assert speech.tool_calls == (expected,)
    assert say("hm") == json.dumps(json.loads(say("hm")), sort_keys=True, separators=(",", ":"))


def test_the_plan_at_an_interjection_is_the_one_the_plan_module_wrote_there() -> None:
    view = episode()
    found, ask = run(view)
    written = {round(row.timestamp, 3): row.content for row in view.upstream if row.style == "plan"}
    assert shown(found, "plan") == [(time, written[time]) for time in (2.0, 4.5, 7.0)]
    assert shown(found, "plan")[1] == (4.5, "1. place the cup\n2. withdraw the arm")
    assert {a.call for a in found.rows if a.row.style == "plan"} == {None}
    assert [q.inputs["remaining"] for q in ask.to(INTERJECTION)] == [text for _, text in shown(found, "plan")]


def test_without_plan_rows_upstream_the_plan_is_numbered_alike() -> None:
    assert run(episode(plans=False))[0] == run(episode())[0]


def test_a_plan_that_someone_corrected_is_kept_as_it_is() -> None:
    view = episode()
    corrected = tuple(
        msgspec.structs.replace(row, content="1. as a person wrote it") if row.style == "plan" else row
        for row in view.upstream
    )
    found, _ = run(msgspec.structs.replace(view, upstream=corrected))
    assert {text for _, text in shown(found, "plan")} == {"1. as a person wrote it"}


def test_interjection_and_reply_come_from_their_call_and_speech_from_its_own() -> None:
    found, ask = run(episode(), max_interjections_per_episode=1)
    (first,), (second,) = ask.to(SPEECH), ask.to(INTERJECTION)
    calls = {(a.row.style, a.row.timestamp > 0): a.call for a in found.rows}
    assert calls == {(None, False): first.key, (None, True): second.key, ("interjection", True): second.key,
                     ("plan", True): None}  # fmt: skip


def test_an_interjection_is_told_the_task_the_moment_and_what_is_done_around_it() -> None:
    _, ask = run(episode())
    inputs = ask.to(INTERJECTION)[1].inputs
    assert {name: inputs[name] for name in ("task", "time_s", "completed", "upcoming")} == {
        "task": TASK,
        "time_s": "4.5",
        "completed": "grasp the cup",
        "upcoming": "place the cup",
    }
    assert inputs["scenario"] in KINDS
    assert ask.to(SPEECH)[0].inputs == {"task": TASK}
    assert ask.to(SPEECH)[0].media == ()


def test_the_prompts_take_exactly_what_the_module_gives_and_say_all_of_it() -> None:
    _, ask = run(episode())
    prompts = load_prompts()
    for question in ask.asked:
        assert set(prompts[question.step].head.inputs) == set(question.inputs)
        text = prompts[question.step].text(question.inputs)
        assert all(value in text for value in question.inputs.values())
    for kind in KINDS:
        assert f"- {kind}: " in prompts[INTERJECTION].text(ask.to(INTERJECTION)[0].inputs)


def test_frames_straddle_the_moment_evenly_and_are_the_first_watched_camera_s() -> None:
    view = episode(cameras=(SIDE, TOP))
    _, ask = run(view, interjection_window_frames=5, interjection_window_seconds=2.0, frame_width=320, quality=70)
    media = ask.to(INTERJECTION)[1].media
    assert [item.timestamps for item in media] == [(float(view.timestamps[i]),) for i in (35, 40, 45, 50, 55)]
    assert {item.render for item in media} == {Render(kind="frame", width_px=320, quality=70, badge=True)}
    assert {item.footage for item in media} == {SIDE.footage}
    assert (
        "The 5 images above are single frames of one recording, in order, from 3.5 s to 5.5 s."
        in (ask.to(INTERJECTION)[1].inputs["view"])
    )


@pytest.mark.parametrize(
    ("frames", "seconds", "wanted"),
    [
        (4, 2.0, [89, 92, 96, 99]),  # the episode ends at 9.9 s
        (1, 2.0, [99]),
        (0, 2.0, []),
        (4, 0.0, [99]),
        (50, 0.4, [97, 98, 99]),
        (2, 1e6, [0, 99]),
    ],
)
def test_a_window_is_clipped_to_the_episode_and_shows_no_frame_twice(
    frames: int, seconds: float, wanted: list[int]
) -> None:
    view = episode(((0, "reach"), (99, "stay still")))
    _, ask = run(view, interjection_window_frames=frames, interjection_window_seconds=seconds)
    (question,) = ask.to(INTERJECTION)
    assert [t for item in question.media for t in item.timestamps] == [float(view.timestamps[i]) for i in wanted]
    assert {1: "a single frame", 0: NO_FOOTAGE}.get(len(wanted), f"{len(wanted)} images") in question.inputs["view"]


def test_without_a_camera_the_words_alone_are_asked_about() -> None:
    found, ask = run(episode(cameras=()))
    assert {question.media for question in ask.asked} == {()}
    assert {question.inputs["view"] for question in ask.to(INTERJECTION)} == {NO_FOOTAGE}
    assert len(shown(found, "interjection")) == 3


@pytest.mark.parametrize(("least", "expected"), [(0.0, 3), (2.0, 3), (2.1, 2), (4.5, 2), (6.9, 1), (7.1, 0)])
def test_nobody_speaks_before_min_t(least: float, expected: int) -> None:
    found, _ = run(episode(), interjection_min_t=least)
    assert len(shown(found, "interjection")) == expected


def test_min_t_is_met_by_the_stored_time_that_is_nearest_to_it() -> None:
    view = episode(((0, "reach"), (7, "grasp")))
    assert float(view.timestamps[7]) < 0.7  # what float32 makes of it
    assert len(shown(run(view, interjection_min_t=0.7)[0], "interjection")) == 1


@pytest.mark.parametrize("subtasks", [(), ((0, "reach"),), ((0, "reach"), (15, "grasp"))])
def test_where_no_boundary_is_late_enough_the_robot_speaks_once(subtasks: tuple[tuple[int, str], ...]) -> None:
    found, ask = run(episode(subtasks))
    assert ask.steps == [SPEECH]
    assert [(a.row.style, a.row.timestamp) for a in found.rows] == [(None, 0.0)]


@pytest.mark.parametrize("most", [0, 1, 2, 3, 9])
def test_there_are_no_more_interjections_than_allowed(most: int) -> None:
    found, ask = run(episode(), max_interjections_per_episode=most)
    assert len(shown(found, "interjection")) == len(ask.to(INTERJECTION)) == min(most, 3)


LONG = tuple((frame, f"step {frame}") for frame in range(0, 600, 30))


def moments_of(name: bytes = b"one", **settings: Any) -> list[tuple[float, str]]:
    view = episode(LONG, frames=600, name=name)
    return [(m.time, m.scenario) for m in points(view, settings_of(**settings))]


def test_the_choice_depends_on_the_seed_and_on_what_the_episode_is() -> None:
    assert moments_of() == moments_of()
    assert len({tuple(moments_of(name=str(i).encode())) for i in range(10)}) > 5
    assert len({tuple(moments_of(seed=seed)) for seed in range(10)}) > 5


def test_one_interjection_more_leaves_the_others_as_they_were() -> None:
    several = [set(moments_of(max_interjections_per_episode=most)) for most in range(6)]
    assert all(fewer < more for fewer, more in pairwise(several))


def test_the_choice_does_not_depend_on_where_the_episode_stands_or_what_it_is_called() -> None:
    view = episode(LONG, frames=600)
    elsewhere = msgspec.structs.replace(view, where="episode 77", task="another label")
    assert points(view, settings_of()) == points(elsewhere, settings_of())


def test_neighbouring_boundaries_prefer_different_kinds_and_all_kinds_come_up_alike() -> None:
    kinds = [kind for _, kind in moments_of(max_interjections_per_episode=99)]
    assert len(kinds) == 19
    assert all(set(kinds[i : i + 4]) == set(KINDS) for i in range(16))
    first = Counter(moments_of(name=str(i).encode(), max_interjections_per_episode=99)[0][1] for i in range(400))
    assert set(first) == set(KINDS)
    assert all(70 <= count <= 130 for count in first.values())


def test_another_kind_than_the_preferred_one_is_taken() -> None:
    def other(question: Question) -> Answer:
        kind = KINDS[KINDS.index(question.inputs["scenario"]) - 1]
        return Interjection(kind, "Leave the blue one.", "I will leave it.")

    found, ask = run(episode(), {INTERJECTION: other})
    assert len(shown(found, "interjection")) == 3
    assert {tuple(question.allowed) for question in ask.asked} == {()}


@pytest.mark.parametrize(("task", "expected"), [("stack the  red cups. ", "stack the red cups"), ("", "")])
def test_every_step_is_told_the_task(task: str, expected: str) -> None:
    _, ask = run(episode(task=task))
    assert {question.inputs["task"] for question in ask.asked} == {expected}


@pytest.mark.parametrize(("kind", "reason"), [(Rejected, "rejected"), (Declined, "declined")])
def test_an_interjection_that_is_refused_is_left_out_whole_and_is_a_gap(kind: type[StepError], reason: str) -> None:
    def answer(question: Question) -> Answer | Exception:
        if question.inputs["upcoming"] == "place the cup":
            return refused(kind, INTERJECTION)
        return Interjection("preference", "Now.", "Sure.")

    found, _ = run(episode(), {INTERJECTION: answer})
    assert {round(a.row.timestamp, 3) for a in found.rows} == {0.0, 2.0, 7.0}
    (gap,) = found.gaps
    assert (gap.step, gap.reason, gap.call) == (INTERJECTION, reason, CALL)


def test_a_refused_initial_speech_is_a_gap_and_the_rest_goes_on() -> None:
    found, _ = run(episode(), {SPEECH: refused(Declined, SPEECH)})
    assert [gap.step for gap in found.gaps] == [SPEECH]
    assert 0.0 not in {a.row.timestamp for a in found.rows}
    assert len(shown(found, "interjection")) == 3


@pytest.mark.parametrize("blank", [" ", "\n\t", "...", "\u200b", "\x00"])
@pytest.mark.parametrize("field", ["interjection", "reply"])
def test_half_an_exchange_without_words_does_not_fit(field: str, blank: str) -> None:
    said = {"interjection": "Now.", "reply": "Sure."} | {field: blank}
    found, _ = run(episode(), {INTERJECTION: Interjection("preference", **said), SPEECH: InitialSpeech(blank)})
    assert found.rows == ()
    assert Counter(gap.step for gap in found.gaps) == {SPEECH: 1, INTERJECTION: 3}
    assert {gap.detail for gap in found.gaps} == {f"no words in `$.{field}`", "no words in `$.speech`"}


@pytest.mark.parametrize("failing", STEPS)
def test_a_call_without_a_reply_ends_the_episode_after_the_others_were_asked(failing: str) -> None:
    ask = ScriptedAsk({**SCRIPT, failing: no_reply()})
    with pytest.raises(CallError):
        asyncio.run(annotated(INTERJECTIONS, episode(), ask, settings_of()))
    assert Counter(ask.steps) == {SPEECH: 1, INTERJECTION: 3}


def test_the_calls_of_an_episode_run_at_once_and_all_end_before_an_error_is_raised() -> None:
    begun: list[str] = []
    ended: list[tuple[str, int]] = []

    class SlowAsk(ScriptedAsk):
        async def __call__(self, step: str, *given: Any, **named: Any) -> Any:
            begun.append(step)
            await asyncio.sleep(0 if step == SPEECH else 0.01)  # the one that fails ends first
            ended.append((step, len(begun)))  # not reached by a call that is cancelled
            return await super().__call__(step, *given, **named)

    with pytest.raises(CallError):
        asyncio.run(annotated(INTERJECTIONS, episode(), SlowAsk({**SCRIPT, SPEECH: no_reply()}), settings_of()))
    assert ended == [(SPEECH, 4), (INTERJECTION, 4), (INTERJECTION, 4), (INTERJECTION, 4)]


def sampled(kind: type[Answer]) -> Callable[[Question], Answer]:
    """Answer with what the scripted engine would sample from the schema."""
    return lambda question: msgspec.json.decode(sample_text(schema_of(kind), seed=question.key), type=kind)


def test_answers_sampled_from_the_schemas_are_rows() -> None:
    found, _ = run(episode(), {SPEECH: sampled(InitialSpeech), INTERJECTION: sampled(Interjection)})
    assert Counter(a.row.style for a in found.rows) == {None: 4, "interjection": 3, "plan": 3}
    assert found.gaps == ()


WORDS = st.text(max_size=30) | st.sampled_from(["Wait.", " ", "", "…", "a  b\n", '"', "\\", "\x00", "\u2028", "é"])
EXCHANGES = st.builds(Interjection, st.sampled_from(KINDS), WORDS, WORDS)
STARTS = st.lists(st.integers(0, 59), max_size=12, unique=True).map(sorted)


@given(WORDS, st.lists(EXCHANGES, min_size=1), STARTS, st.integers(0, 12), st.binary(max_size=4), st.booleans())
@example("x", [Interjection("preference", "a", "b")], [0, 1, 2, 3, 4], 12, b"", True)
@hypothesis_settings(deadline=None, max_examples=150)
def test_whatever_the_words_every_interjection_has_its_reply_and_its_plan(
    speech: str, exchanges: list[Interjection], starts: list[int], most: int, name: bytes, plans: bool
) -> None:
    view = episode([(at, f"step {at}") for at in starts], frames=60, name=name, plans=plans)

    def answer(question: Question) -> Answer:
        return exchanges[int(question.inputs["upcoming"].split()[1]) % len(exchanges)]

    script: Script = {SPEECH: InitialSpeech(speech), INTERJECTION: answer}
    found, ask = run(view, script, max_interjections_per_episode=most, interjection_min_t=0.0)
    times = {style: [a.row.timestamp for a in found.rows if a.row.style == style] for style in ("interjection", "plan")}
    spoken = [a.row.timestamp for a in found.rows if a.row.style is None]
    assert times["interjection"] == times["plan"] == [time for time in spoken if time > 0]
    assert len(spoken) == len(set(spoken))
    assert set(spoken) <= {float(t) for t in view.timestamps}
    assert len(spoken) + len(found.gaps) == len(ask.asked) == 1 + min(most, max(0, len(starts) - 1))
    assert all(_words(a.row) == " ".join(_words(a.row).split()) != "" for a in found.rows if a.row.style != "plan")
    assert all(json.loads(call) for a in found.rows for call in a.row.tool_calls or ())


def test_what_is_asked_is_the_same_every_time() -> None:
    (first, one), (second, two) = run(episode()), run(episode())
    assert first == second
    assert [question.key for question in one.asked] == [question.key for question in two.asked]


def test_an_interjection_s_question_does_not_change_with_the_memory_or_the_wordings() -> None:
    """Else an edit of a prompt that only they follow would ask every interjection again."""
    plain, remembering = episode(), episode(wordings=(TASK, "pile the red cups"))
    memory = Row(role="assistant", content="I hold the cup.", style="memory", timestamp=float(plain.timestamps[45]))
    more = msgspec.structs.replace(remembering, upstream=(*remembering.upstream, memory))
    asked = [[question.key for question in run(view)[1].asked] for view in (plain, more)]
    assert asked[0] == asked[1]


def test_the_prompts_are_short_enough_to_be_read() -> None:
    _, ask = run(episode())
    for question in ask.asked:
        prompt = load_prompts().ask(question.step, question.inputs, {}, len(question.media))
        (said,) = [part.text for part in prompt.messages[1].parts if isinstance(part, Text)]
        assert len(said.splitlines()) < 40
        assert "{{" not in said


def test_two_episodes_that_differ_only_in_footage_share_no_question() -> None:
    other = (msgspec.structs.replace(TOP, footage=Digest("f" * 32)),)
    keys = [{question.key for question in run(episode(cameras=w))[1].to(INTERJECTION)} for w in ((TOP,), other)]
    assert not keys[0] & keys[1]
