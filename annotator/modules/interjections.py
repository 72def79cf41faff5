"""The `interjections` module: what the robot says before it begins, and what a user might say in mid-task.

task → initial speech
starts of subtasks → a seeded few of them → interjection + spoken reply + the plan of what is left
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

import msgspec
import numpy as np

from annotator.config.settings import InterjectionsSettings
from annotator.media.sampling import nearest
from annotator.modules.base import Ask, Gaps, Module, ModuleInput, ModuleOutput, Refresh, gather_all
from annotator.modules.rng import choose, pick
from annotator.modules.views import NO_FOOTAGE
from annotator.prompting.answers import InitialSpeech, Interjection, Scenario
from annotator.prompting.normalize import folded, tidy_label
from annotator_store.digests import Digest
from annotator_store.keys import MediaItem, Render
from annotator_store.log.events import AnnotatedRow
from annotator_store.rows import Row, order_key

NAME = "interjections"
VERSION = 1
"""Raise it when rows change for the same answers; every episode is then folded anew, without a call."""
STEPS = ("interjections.initial_speech", "interjections.interjection")
STYLES = frozenset({"interjection", None})
"""What is written beside these, a plan at each interjection, is a style of the plan module."""

KINDS: tuple[Scenario, ...] = get_args(Scenario)


class InterjectionPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A start of a subtask at which a user may speak up.

    `time`: seconds, exactly as stored. `completed` is the subtask that ends there, `upcoming` the one that begins,
    `remaining` the numbered list of it and all after it. `scenario` is the kind of interjection to prefer.
    """

    time: float
    completed: str
    upcoming: str
    remaining: str
    scenario: Scenario


async def annotate(episode: ModuleInput, ask: Ask, settings: InterjectionsSettings) -> ModuleOutput:
    """Annotate one episode, at the boundaries of the subtasks in `episode.upstream`.

    Raises:
        CallError, FootageError: something got no reply; what was answered is kept, the next run goes on from there.
    """
    gaps = Gaps()
    task = tidy_label(episode.task)
    asks = [_initial_speech(episode, ask, gaps, task)]
    asks += [_interjection(episode, ask, gaps, settings, task, point) for point in points_of(episode, settings)]
    rows = [row for rows in await gather_all(asks) for row in rows]
    rows.sort(key=lambda annotated: order_key(annotated.row))
    return ModuleOutput(rows=tuple(rows), gaps=gaps.in_order())


def points_of(episode: ModuleInput, settings: InterjectionsSettings) -> list[InterjectionPoint]:
    """Choose the points of an episode's interjections: ascending in time, all at starts of subtasks but the first.

    The kinds take turns along the subtasks, from a drawn one on, so that an episode's interjections differ in kind,
    and one more or less leaves the others as they were.
    """
    seed, digest, earliest = episode.seed, episode.digest, settings.interjection_min_t
    first = pick(range(len(KINDS)), seed=seed, episode=digest, purpose="interjections.scenario")
    points = [
        InterjectionPoint(
            time=time,
            completed=completed,
            upcoming=upcoming,
            remaining=what_is_left(episode.upstream, time),
            scenario=KINDS[(first + place) % len(KINDS)],
        )
        for place, ((_, completed), (time, upcoming)) in enumerate(pairwise(_subtasks(episode.upstream)), start=1)
        # Stored times are float32: the one nearest to 0.7 is a little less than 0.7.
        if time >= earliest or math.isclose(time, earliest, rel_tol=1e-7)
    ]
    most = settings.max_interjections_per_episode
    chosen = choose(len(points), most, seed=seed, episode=digest, purpose="interjections.moment")
    return [points[index] for index in chosen]


def what_is_left(planned: Sequence[Row], time: float) -> str:
    """Return the plan at a time: the plan's own row there, else the subtask in force and all after it, numbered.

    "" where the rows in `planned` have neither.
    """
    own = next((row.content for row in planned if row.style == "plan" and row.timestamp == time and row.content), None)
    subtasks = _subtasks(planned)
    in_force = max((start for start, _ in subtasks if start <= time), default=None)
    if own is not None or in_force is None:
        return own or ""
    left = [text for start, text in subtasks if start >= in_force]
    return "\n".join(f"{number}. {text}" for number, text in enumerate(left, start=1))


def _subtasks(rows: Sequence[Row]) -> list[tuple[float, str]]:
    """Return the subtasks with their starts: ascending, one at a time."""
    return sorted({row.timestamp: row.content for row in rows if row.style == "subtask" and row.content}.items())


async def _initial_speech(episode: ModuleInput, ask: Ask, gaps: Gaps, task: str) -> list[AnnotatedRow]:
    step = "interjections.initial_speech"
    answered = await gaps.optional(ask, step, InitialSpeech, {"task": task}, misfit=misfit)
    return [_speech(float(episode.timestamps[0]), answered.answer.speech, answered.key)] if answered else []


async def _interjection(
    episode: ModuleInput, ask: Ask, gaps: Gaps, settings: InterjectionsSettings, task: str, point: InterjectionPoint
) -> list[AnnotatedRow]:
    """Ask for one interjection; its three rows come together or not at all."""
    times = _frame_times(episode, settings, point.time)
    render = Render(kind="frame", width_px=settings.frame_width, quality=episode.borrowed["quality"], badge=True)
    inputs = {
        "view": _view(times),
        "task": task,
        "time_s": f"{point.time:.1f}",
        "completed": point.completed,
        "upcoming": point.upcoming,
        "remaining": point.remaining,
        "scenario": point.scenario,
    }
    media = tuple(MediaItem(footage=episode.cameras[0].footage, timestamps=(time,), render=render) for time in times)
    answered = await gaps.optional(ask, "interjections.interjection", Interjection, inputs, media, misfit=misfit)
    if answered is None:
        return []
    text = folded(answered.answer.interjection)
    user = Row(role="user", content=text, style="interjection", timestamp=point.time)
    plan = Row(role="assistant", content=point.remaining, style="plan", timestamp=point.time)
    reply = _speech(point.time, answered.answer.reply, answered.key)
    return [AnnotatedRow(row=user, call=answered.key), reply, AnnotatedRow(row=plan)]


def _frame_times(episode: ModuleInput, settings: InterjectionsSettings, time: float) -> tuple[float, ...]:
    """Return the times of the frames to show: spread evenly over the window around `time`, within the episode."""
    if not episode.cameras:
        return ()
    timestamps = episode.timestamps.astype(np.float64)
    count = settings.interjection_window_frames
    half = settings.interjection_window_seconds / 2
    low, high = max(time - half, float(timestamps[0])), min(time + half, float(timestamps[-1]))
    spread = np.linspace(low, high, count) if count > 1 else np.full(count, time)
    return tuple(float(episode.timestamps[index]) for index in np.unique(nearest(timestamps, spread)))


def _view(times: Sequence[float]) -> str:
    """Return what the prompt says of the frames above it."""
    if not times:
        return NO_FOOTAGE
    stamp = "The time since the recording's start is printed in a corner"
    if len(times) == 1:
        return f"The image above is a single frame of one recording. {stamp}, in seconds."
    return (
        f"The {len(times)} images above are single frames of one recording, in order, "
        f"from {times[0]:.1f} s to {times[-1]:.1f} s. {stamp} of each, in seconds."
    )


def misfit(answer: InitialSpeech | Interjection) -> str:
    """Name a field that has no word in it; a schema lets white space and bare punctuation pass."""
    texts = {name: text for name, text in msgspec.structs.asdict(answer).items() if name != "scenario"}
    silent = [name for name, text in texts.items() if not any(letter.isalnum() for letter in text)]
    return f"no words in `$.{silent[0]}`" if silent else ""


def say(text: str) -> str:
    """Return the `say` tool call as canonical JSON: keys sorted, no white space between them."""
    call = {"type": "function", "function": {"name": "say", "arguments": {"text": text}}}
    return msgspec.json.encode(call, order="sorted").decode()


def _speech(time: float, text: str, call: Digest) -> AnnotatedRow:
    tool_calls = (say(folded(text)),)
    return AnnotatedRow(
        row=Row(role="assistant", content=None, style=None, timestamp=time, tool_calls=tool_calls), call=call
    )


INTERJECTIONS = Module(
    name=NAME,
    version=VERSION,
    steps=STEPS,
    styles=STYLES,
    settings=InterjectionsSettings,
    annotate=annotate,
    estimate_calls=lambda seconds, cameras, settings: 1 + settings.max_interjections_per_episode,
    borrowed={"quality": "plan.contact_sheet_quality"},
    follows="plan",
    refresh=Refresh(style="plan", beside="interjection", content=what_is_left),
)
