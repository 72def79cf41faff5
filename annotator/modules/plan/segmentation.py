"""An episode cut into subtasks: [describe] → segment, by windows → held to the vocabulary → one cover of all frames."""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from annotator.config.settings import PlanSettings
from annotator.errors import Declined, Rejected
from annotator.modules.base import Ask, Gaps, GripperTime, ModuleInput
from annotator.modules.plan.timeline import Segment, cover, tidy
from annotator.modules.views import Window, windows_of
from annotator.modules.vocabulary.matching import allowed_values, lines, match_entry
from annotator.prompting.answers import Description, Segmentation, Span
from annotator_store.digests import Digest
from annotator_store.log.events import AnnotatedRow, Gap
from annotator_store.rows import Row

T = TypeVar("T")


@dataclass(frozen=True)
class PlanContext:
    """One episode's annotation under way. `grippers` is empty unless the settings want them told."""

    episode: ModuleInput
    ask: Ask
    settings: PlanSettings
    task: str
    gaps: Gaps
    grippers: tuple[GripperTime, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The texts that a subtask may have; none where any will do."""
        return self.episode.vocabulary.subtasks if self.episode.vocabulary else ()

    @property
    def milestones(self) -> tuple[str, ...]:
        """The texts that a memory may be made of."""
        return self.episode.vocabulary.memories if self.episode.vocabulary else ()

    def refuse(self, step: str, details: Iterable[str], call: Digest) -> None:
        """Put on the record what an answer said in vain."""
        self.gaps.found.extend(Gap(step=step, reason="rejected", detail=detail, call=call) for detail in details)


class Subtask(msgspec.Struct, frozen=True):
    """A segment of the cover, and the call that its text comes from."""

    segment: Segment
    call: Digest


class Clipped(msgspec.Struct, frozen=True):
    """What an answer gives for its window: the spans that can be used, and why others cannot."""

    spans: list[Span]
    refusals: list[str]


async def cut(work: PlanContext) -> list[Subtask]:
    """Cut an episode into subtasks; at least one.

    A window without a usable subtask is a gap, and its time goes to the subtask before it.

    Raises:
        CallError, FootageError: something got no reply.
        Rejected, Declined: no window has a usable subtask.
    """
    windows = windows_of(work.episode, work.settings)
    asked = await asyncio.gather(*(_window(work, window) for window in windows), return_exceptions=True)
    spans: list[tuple[Span, Digest]] = []
    refused: list[Declined | Rejected] = []
    for result in asked:
        if isinstance(result, Declined | Rejected):
            refused.append(result)
        elif isinstance(result, BaseException):
            raise result
        else:
            spans.extend(result)
    if not spans:
        raise refused[0]
    for error in refused:
        work.gaps.found.append(gap_of("plan.segment", error))
    segments = cover([span for span, _ in spans], work.episode.clock, min_seconds=work.settings.min_subtask_seconds)
    return [Subtask(segment, spans[segment.source][1]) for segment in segments]


def gap_of(step: str, error: Declined | Rejected) -> Gap:
    """Say of a step that gave nothing what was wrong."""
    reason = "declined" if isinstance(error, Declined) else "rejected"
    return Gap(step=step, reason=reason, detail=error.got or error.what, call=Digest(error.call))


async def _window(work: PlanContext, window: Window) -> list[tuple[Span, Digest]]:
    inputs = await _inputs(work, window)
    asked = await work.ask(
        "plan.segment",
        Segmentation,
        inputs,
        window.media,
        allowed=allowed_values("subtask", work.labels),
        misfit=lambda answer: _misfit(_clipped(answer, window, work.labels), window),
        most={"subtasks": work.settings.plan_max_steps},
    )
    clipped = _clipped(asked.answer, window, work.labels)
    work.refuse("plan.segment", clipped.refusals, asked.key)
    return [(span, asked.key) for span in clipped.spans]


def _clipped(answer: Segmentation, window: Window, labels: Sequence[str]) -> Clipped:
    spans: list[Span] = []
    refusals: list[str] = []
    for span in window.clip(answer.subtasks):
        text = match_entry(span.subtask, labels, tidy)
        if text.refusal:
            refusals.append(text.refusal)
        else:
            spans.append(Span(span.start, span.end, text.text))
    return Clipped(spans, refusals)


def _misfit(clipped: Clipped, window: Window) -> str:
    """Say why an answer is asked for again: nothing in it can be used."""
    if clipped.spans:
        return ""
    nothing = f"no subtask lies between {seconds(window.start)} s and {seconds(window.end)} s"
    return f"no usable subtask: {clipped.refusals[0] if clipped.refusals else nothing}"


async def _inputs(work: PlanContext, window: Window) -> dict[str, str]:
    settings = work.settings
    bounds = {"view": window.view, "start_s": seconds(window.start), "end_s": seconds(window.end)}
    description = ""
    if settings.subtask_describe_first and window.media:
        seen = await work.gaps.optional(work.ask, "plan.describe", Description, bounds, window.media)
        if seen:
            description = "\n".join(f"{seconds(o.time)} s: {tidy(o.event)}" for o in seen.answer.observations)
    acts = [act for act in work.grippers if window.start <= act.time <= window.end]
    return bounds | {
        "task": work.task,
        "footage": "the footage" if window.media else "",
        "description": description,
        "max_steps": str(settings.plan_max_steps),
        "min_seconds": f"{settings.min_subtask_seconds:g}",
        "labels": lines(work.labels),
        "gripper": lines([said_of(act) for act in acts if act.measured]),
        "commanded": lines([said_of(act) for act in acts if not act.measured]),
    }


def said_of(act: GripperTime) -> str:
    """Say what a gripper did, as evidence: "2.1 s: the left gripper closes", or what it was told to do."""
    which = f"the {act.side} gripper" if act.side else "the gripper"
    if not act.measured:
        return f"{seconds(act.time)} s: {which} is told to {act.kind}"
    return f"{seconds(act.time)} s: {which} {'closes' if act.kind == 'close' else 'opens'}"


def seconds(value: float) -> str:
    """Write a time as prompts and tiles show it: seconds with one decimal."""
    return f"{value:.1f}"


def row_at(episode: ModuleInput, style: str, content: str, cut: Subtask, call: Digest | None) -> AnnotatedRow:
    """Write a row of the robot's at the start of a subtask."""
    timestamp = float(episode.clock[cut.segment.first])
    return AnnotatedRow(row=Row(role="assistant", content=content, style=style, timestamp=timestamp), call=call)


async def gather_all(asks: Iterable[Awaitable[T]]) -> list[T]:
    """Let all finish before the first error is raised, so that no answer under way is thrown away."""
    results = await asyncio.gather(*asks, return_exceptions=True)
    found: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        found.append(result)
    return found
