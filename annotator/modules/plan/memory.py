"""What the robot remembers, rewritten at every subtask boundary: freely, or as milestones of the vocabulary."""

from collections.abc import Sequence
from itertools import pairwise

from annotator.modules.plan.segmentation import PlanContext, Subtask, row_at
from annotator.modules.vocabulary.matching import allowed_values, lines, match_entry
from annotator.prompting.answers import Memory, Milestones
from annotator.prompting.normalize import tidy_memory
from annotator_store.log.events import AnnotatedRow


async def memories(context: PlanContext, subtasks: Sequence[Subtask]) -> list[AnnotatedRow]:
    """Walk the chain: each memory is written from the one before it. A gap keeps the memory as it was.

    With a vocabulary memory is the list of its milestones that hold, and one without milestones leaves none to write.

    Raises:
        CallError: something got no reply.
    """
    if not context.settings.emit_memory:
        return []
    if context.episode.vocabulary is None:
        return await _freely(context, subtasks)
    return await _in_milestones(context, subtasks) if context.milestones else []


async def _freely(context: PlanContext, subtasks: Sequence[Subtask]) -> list[AnnotatedRow]:
    rows: list[AnnotatedRow] = []
    memory = ""
    for before, subtask in pairwise(subtasks):
        inputs = _inputs(context, before, subtask) | {"memory": memory}
        answered = await context.gaps.optional(context.ask, "plan.memory", Memory, inputs)
        if answered is None:
            continue
        text = match_entry(answered.answer.memory, (), tidy_memory)
        if text.refusal:
            context.refuse("plan.memory", [text.refusal], answered.key)
        else:
            memory = text.text
            rows.append(row_at(context.episode, "memory", memory, subtask, answered.key))
    return rows


async def _in_milestones(context: PlanContext, subtasks: Sequence[Subtask]) -> list[AnnotatedRow]:
    """A row where the list changed. An empty list writes none: what stood before stays in force, and is shown next."""
    rows: list[AnnotatedRow] = []
    reached: list[str] = []
    allowed = allowed_values("memories", context.milestones)
    for before, subtask in pairwise(subtasks):
        inputs = _inputs(context, before, subtask) | {"memory": lines(reached), "milestones": lines(context.milestones)}
        answered = await context.gaps.optional(context.ask, "plan.milestones", Milestones, inputs, allowed=allowed)
        if answered is None:
            continue
        texts = [match_entry(memory, context.milestones, tidy_memory) for memory in answered.answer.memories]
        context.refuse("plan.milestones", [text.refusal for text in texts if text.refusal], answered.key)
        now = [text.text for text in texts if not text.refusal]
        if now and now != reached:
            reached = now
            rows.append(row_at(context.episode, "memory", " ".join(now), subtask, answered.key))
    return rows


def _inputs(context: PlanContext, before: Subtask, subtask: Subtask) -> dict[str, str]:
    return {"task": context.task, "completed": before.segment.text, "upcoming": subtask.segment.text}
