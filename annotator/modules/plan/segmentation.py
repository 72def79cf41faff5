"""The subtasks of an episode: [describe] → segment, by windows → match the vocabulary → cover all frames."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from annotator.config.settings import PlanSettings
from annotator.errors import Declined, Rejected
from annotator.modules.base import Ask, Gaps, GripperTime, ModuleInput, gap_of, gather_all
from annotator.modules.plan.timeline import Segment, cover
from annotator.modules.views import Window, windows_of
from annotator.modules.vocabulary.matching import allowed_values, lines, match_entry
from annotator.prompting.answers import Description, Segmentation, Span
from annotator.prompting.normalize import tidy_label
from annotator_store.digests import Digest
from annotator_store.log.events import AnnotatedRow, Gap
from annotator_store.rows import Row


@dataclass(frozen=True)
class PlanContext:
    """What the steps of one episode's annotation share. `grippers` is empty unless the settings ask for hints."""

    episode: ModuleInput
    ask: Ask
    settings: PlanSettings
    task: str
    gaps: Gaps
    grippers: tuple[GripperTime, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that a subtask may have; empty where it may have any."""
        return self.episode.vocabulary.subtasks if self.episode.vocabulary else ()

    @property
    def milestones(self) -> tuple[str, ...]:
        """The milestones that a memory may be made of."""
        return self.episode.vocabulary.memories if self.episode.vocabulary else ()

    def refuse(self, step: str, details: Iterable[str], call: Digest) -> None:
        """Record why parts of an answer were dropped."""
        self.gaps.recorded.extend(Gap(step=step, reason="rejected", detail=detail, call=call) for detail in details)


class Subtask(msgspec.Struct, frozen=True):
    """A segment of the cover, and the call that its text comes from."""

    segment: Segment
    call: Digest


class WindowSpans(msgspec.Struct, frozen=True):
    """The spans of one window, each with the call that it comes from, or the error that left the window without any."""

    spans: list[tuple[Span, Digest]]
    error: Declined | Rejected | None = None


class Clipped(msgspec.Struct, frozen=True):
    """The spans of an answer that can be used in its window, and why others cannot."""

    spans: list[Span]
    refusals: list[str]

    def misfit(self, window: Window) -> str:
        """Say why the answer is asked for again, in the words of the prompt; "" where something in it can be used."""
        if self.spans:
            return ""
        nothing = f"no subtask lies between {seconds(window.start)} s and {seconds(window.end)} s"
        return f"no usable subtask: {self.refusals[0] if self.refusals else nothing}"


async def segmented(context: PlanContext) -> list[Subtask]:
    """Segment an episode into subtasks; at least one.

    A window without a usable subtask is a gap, and its time goes to the subtask before it.

    Raises:
        CallError, FootageError: something got no reply.
        Rejected, Declined: no window has a usable subtask.
    """
    windows = windows_of(context.episode, context.settings)
    answered = await gather_all(_spans(context, window) for window in windows)
    spans = [span for window in answered for span in window.spans]
    errors = [window.error for window in answered if window.error]
    if not spans:
        raise errors[0]
    context.gaps.recorded.extend(gap_of("plan.segment", error) for error in errors)
    timestamps, min_seconds = context.episode.timestamps, context.settings.min_subtask_seconds
    segments = cover([span for span, _ in spans], timestamps, min_seconds=min_seconds)
    return [Subtask(segment, spans[segment.source][1]) for segment in segments]


async def _spans(context: PlanContext, window: Window) -> WindowSpans:
    """Ask for the subtasks of one window. Whether having none fails the episode depends on the other windows."""
    inputs = await _inputs(context, window)
    try:
        answered = await context.ask(
            "plan.segment",
            Segmentation,
            inputs,
            window.media,
            allowed=allowed_values("subtask", context.labels),
            misfit=lambda answer: _clipped(answer, window, context.labels).misfit(window),
            most={"subtasks": context.settings.plan_max_steps},
        )
    except (Declined, Rejected) as error:
        return WindowSpans([], error)
    clipped = _clipped(answered.answer, window, context.labels)
    context.refuse("plan.segment", clipped.refusals, answered.key)
    return WindowSpans([(span, answered.key) for span in clipped.spans])


def _clipped(answer: Segmentation, window: Window, labels: Sequence[str]) -> Clipped:
    spans: list[Span] = []
    refusals: list[str] = []
    for span in window.clip(answer.subtasks):
        label = match_entry(span.subtask, labels, tidy_label)
        if label.refusal:
            refusals.append(label.refusal)
        else:
            spans.append(Span(span.start, span.end, label.text))
    return Clipped(spans, refusals)


async def _inputs(context: PlanContext, window: Window) -> dict[str, str]:
    settings = context.settings
    bounds = {"view": window.view, "start_s": seconds(window.start), "end_s": seconds(window.end)}
    description = ""
    if settings.subtask_describe_first and window.media:
        described = await context.gaps.optional(context.ask, "plan.describe", Description, bounds, window.media)
        if described:
            seen = described.answer.observations
            description = "\n".join(f"{seconds(item.time)} s: {tidy_label(item.event)}" for item in seen)
    times = [gripper for gripper in context.grippers if window.start <= gripper.time <= window.end]
    return bounds | {
        "task": context.task,
        "footage": "the footage" if window.media else "",
        "description": description,
        "max_steps": str(settings.plan_max_steps),
        "min_seconds": f"{settings.min_subtask_seconds:g}",
        "labels": lines(context.labels),
        "gripper": lines([gripper_line(gripper) for gripper in times if gripper.measured]),
        "commanded": lines([gripper_line(gripper) for gripper in times if not gripper.measured]),
    }


def gripper_line(gripper: GripperTime) -> str:
    """Return what a gripper did, or was told to do, as a line of the prompt: "2.1 s: the left gripper closes"."""
    name = f"the {gripper.side} gripper" if gripper.side else "the gripper"
    if not gripper.measured:
        return f"{seconds(gripper.time)} s: {name} is told to {gripper.kind}"
    return f"{seconds(gripper.time)} s: {name} {'closes' if gripper.kind == 'close' else 'opens'}"


def seconds(value: float) -> str:
    """Return a time as prompts and tiles show it: seconds with one decimal."""
    return f"{value:.1f}"


def row_at(episode: ModuleInput, style: str, content: str, subtask: Subtask, call: Digest | None) -> AnnotatedRow:
    """Return an assistant row at the start of a subtask."""
    timestamp = float(episode.timestamps[subtask.segment.first])
    return AnnotatedRow(row=Row(role="assistant", content=content, style=style, timestamp=timestamp), call=call)
