"""The `plan` module: subtasks, the plan of what is left, memory, and other wordings of the task.

[task from the footage] → describe → segment (by windows) → cover → plan rows, memory chain
                        → task rephrasings
"""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import msgspec

from annotator.answers import Description, Memory, Rephrasings, Segmentation, Span, Task
from annotator.config import PlanSettings
from annotator.errors import Rejected
from annotator.modules.base import Ask, EpisodeView, Gaps, ModuleRows
from annotator.modules.spans import Segment, cover, tidy
from annotator.modules.views import Window, windows_of
from store.digest import Digest
from store.events import AnnotatedRow, Gap
from store.rows import Row, order_key

NAME = "plan"
VERSION = 1
"""Raise it when rows change for the same answers; every episode is then folded anew, without a call."""
STEPS = ("plan.task", "plan.describe", "plan.segment", "plan.memory", "plan.task_rephrasings")
STYLES = frozenset({"subtask", "plan", "memory", "task_aug"})

PLACEHOLDERS = frozenset(
    {"debug", "default", "demo", "dummy", "episode", "example", "foo", "n/a", "na", "none", "null", "placeholder"}
    | {"recording", "robot", "sample", "task", "tbd", "temp", "test", "testing", "tmp", "todo", "unknown"}
    | {"unnamed", "untitled", "xxx"}
)
"""Task texts that say nothing about the task, compared in lower case without punctuation."""

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """One episode's annotation under way."""

    episode: EpisodeView
    ask: Ask
    settings: PlanSettings
    task: str
    gaps: Gaps


class Cut(msgspec.Struct, frozen=True):
    """A segment of the cover and the call whose span opened it."""

    segment: Segment
    call: Digest


async def annotate(episode: EpisodeView, ask: Ask, settings: PlanSettings) -> ModuleRows:
    """Annotate one episode.

    Raises:
        CallError, FootageError: something got no reply; what was answered is kept, the next run goes on from there.
        Rejected, Declined: there is no usable segmentation.
    """
    gaps = Gaps()
    task = await _task(episode, ask, settings, gaps)
    work = Work(episode, ask, settings, task, gaps)
    wordings, cuts = await _both(_rephrasings(work), _segments(work))
    memories = await _memories(work, cuts)
    rows = [*wordings, *_subtasks(episode, cuts), *_plans(work, cuts), *memories]
    rows.sort(key=lambda annotated: order_key(annotated.row))
    found = sorted(gaps.found, key=lambda gap: (gap.step, gap.call))
    return ModuleRows(rows=tuple(rows), gaps=tuple(found))


async def _both(first: Awaitable[T], second: Awaitable["list[Cut]"]) -> tuple[T, "list[Cut]"]:
    """Let both finish before the first error is raised, so that no answer under way is thrown away."""
    one, two = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(two, BaseException):
        raise two
    if isinstance(one, BaseException):
        raise one
    return one, two


def is_placeholder(task: str, min_words: int) -> bool:
    """Say whether a task text is too short or too generic to guide anyone."""
    words = "".join(c if c.isalnum() or c == "/" else " " for c in task.casefold()).split()
    return len(words) < min_words or all(word in PLACEHOLDERS or word.isdigit() for word in words)


async def _task(episode: EpisodeView, ask: Ask, settings: PlanSettings, gaps: Gaps) -> str:
    given = tidy(episode.task)
    mode = settings.derive_task_from_video
    wanted = mode == "always" or (mode == "if_short" and is_placeholder(given, settings.derive_task_min_words))
    if not wanted or episode.footage is None:
        return given
    window = windows_of(episode, settings, whole=True)[0]
    inputs = {"view": window.view, "given": given}
    found = await gaps.optional(ask, "plan.task", Task, inputs, window.media)
    return (tidy(found.answer.task) if found else "") or given


async def _segments(work: Work) -> list[Cut]:
    windows = windows_of(work.episode, work.settings)
    asked = await asyncio.gather(*(_window(work, window) for window in windows), return_exceptions=True)
    spans: list[tuple[Span, Digest]] = []
    for result in asked:
        if isinstance(result, BaseException):
            raise result
        spans.extend(result)
    return _cuts(work, spans)


def _cuts(work: Work, spans: Sequence[tuple[Span, Digest]]) -> list[Cut]:
    kept = [span for span, _ in spans]
    segments = cover(kept, work.episode.clock, min_seconds=work.settings.min_subtask_seconds)
    if not segments:
        got = f"{len(spans)} spans, none inside the episode with a text"
        rejected = Rejected("no usable subtask", where=f"{work.episode.where} plan.segment", got=got)
        rejected.call = spans[0][1] if spans else ""
        raise rejected
    by_text = {tidy(span.subtask).casefold(): call for span, call in reversed(spans)}
    return [Cut(segment, by_text[segment.text.casefold()]) for segment in segments]


async def _window(work: Work, window: Window) -> list[tuple[Span, Digest]]:
    settings = work.settings
    bounds = {"view": window.view, "start_s": seconds(window.start), "end_s": seconds(window.end)}
    description = ""
    if settings.subtask_describe_first and window.media:
        seen = await work.gaps.optional(work.ask, "plan.describe", Description, bounds, window.media)
        if seen:
            description = "\n".join(f"{seconds(o.time)} s: {tidy(o.event)}" for o in seen.answer.observations)
    inputs = bounds | {
        "task": work.task,
        "description": description,
        "max_steps": str(settings.plan_max_steps),
        "min_seconds": f"{settings.min_subtask_seconds:g}",
    }
    asked = await work.ask("plan.segment", Segmentation, inputs, window.media)
    inside = list(window.clip(asked.answer.subtasks))
    if not inside:
        missing = f"no subtask lies between {inputs['start_s']} s and {inputs['end_s']} s"
        work.gaps.found.append(Gap(step="plan.segment", reason="rejected", detail=missing, call=asked.key))
    return [(span, asked.key) for span in inside]


def seconds(value: float) -> str:
    """Write a time as prompts and tiles show it: seconds with one decimal."""
    return f"{value:.1f}"


def _subtasks(episode: EpisodeView, cuts: Sequence[Cut]) -> list[AnnotatedRow]:
    return [_row(episode, "subtask", cut.segment.text, cut, cut.call) for cut in cuts]


def _plans(work: Work, cuts: Sequence[Cut]) -> list[AnnotatedRow]:
    if not work.settings.emit_plan:
        return []
    return [_row(work.episode, "plan", numbered(cuts[index:]), cut, None) for index, cut in enumerate(cuts)]


def numbered(cuts: Sequence[Cut]) -> str:
    """Number the subtasks that are left, one a line."""
    return "\n".join(f"{number}. {cut.segment.text}" for number, cut in enumerate(cuts, start=1))


async def _memories(work: Work, cuts: Sequence[Cut]) -> list[AnnotatedRow]:
    """Walk the chain: each memory is written from the one before it. A gap keeps the memory as it was."""
    rows: list[AnnotatedRow] = []
    memory = ""
    for before, cut in pairwise(cuts) if work.settings.emit_memory else ():
        inputs = {"task": work.task, "memory": memory, "completed": before.segment.text, "upcoming": cut.segment.text}
        asked = await work.gaps.optional(work.ask, "plan.memory", Memory, inputs)
        if asked and not tidy_sentence(asked.answer.memory):
            work.gaps.found.append(Gap(step="plan.memory", reason="rejected", detail="a blank memory", call=asked.key))
        elif asked:
            memory = tidy_sentence(asked.answer.memory)
            rows.append(_row(work.episode, "memory", memory, cut, asked.key))
    return rows


def tidy_sentence(text: str) -> str:
    """Fold white space; a sentence keeps its full stop."""
    return " ".join(text.split())


async def _rephrasings(work: Work) -> list[AnnotatedRow]:
    """Ask for other wordings; the task itself comes first, since training picks among task_aug rows alone."""
    settings, task = work.settings, work.task
    if settings.n_task_rephrasings == 0 or not task:
        return []
    inputs = {"task": task, "count": str(settings.n_task_rephrasings)}
    asked = await work.gaps.optional(work.ask, "plan.task_rephrasings", Rephrasings, inputs)
    if asked is None:
        return []
    wordings: dict[str, tuple[str, Digest | None]] = {task.casefold(): (task, None)}
    for text in filter(None, map(tidy, asked.answer.rephrasings)):
        wordings.setdefault(text.casefold(), (text, asked.key))
    chosen = list(wordings.values())[: settings.n_task_rephrasings + 1]
    return [_wording(work.episode, text, call) for text, call in chosen]


def _wording(episode: EpisodeView, text: str, call: Digest | None) -> AnnotatedRow:
    row = Row(role="user", content=text, style="task_aug", timestamp=float(episode.clock[0]))
    return AnnotatedRow(row=row, call=call)


def _row(episode: EpisodeView, style: str, content: str, cut: Cut, call: Digest | None) -> AnnotatedRow:
    timestamp = float(episode.clock[cut.segment.first])
    return AnnotatedRow(row=Row(role="assistant", content=content, style=style, timestamp=timestamp), call=call)
