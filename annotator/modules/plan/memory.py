"""What the robot remembers, rewritten at every subtask boundary: freely, or as milestones of the vocabulary."""

from collections.abc import Sequence
from itertools import pairwise

from annotator.modules.plan.segmentation import PlanContext, Subtask, row_at
from annotator.modules.vocabulary.matching import allowed_values, lines, match_entry
from annotator.prompting.answers import Memory, Milestones
from annotator.prompting.normalize import tidy_memory
from annotator_store.log.events import AnnotatedRow


async def memories(context: PlanContext, subtasks: Sequence[Subtask]) -> list[AnnotatedRow]:
    """Write each memory from the one before it, at every start of a subtask but the first. A gap keeps the memory.

    With a vocabulary, memory is the list of its milestones that hold; one without milestones leaves none to write.

    Raises:
        CallError: something got no reply.
    """
    if not context.settings.emit_memory:
        return []
    if context.episode.vocabulary is None:
        return await _free_memories(context, subtasks)
    return await _milestones(context, subtasks) if context.milestones else []


async def _free_memories(context: PlanContext, subtasks: Sequence[Subtask]) -> list[AnnotatedRow]:
    rows: list[AnnotatedRow] = []
    memory = ""
    for before, subtask in pairwise(subtasks):
        inputs = {
            "task": context.task,
            "completed": before.segment.text,
            "upcoming": subtask.segment.text,
            "memory": memory,
        }
        answered = await context.gaps.optional(context.ask, "plan.memory", Memory, inputs)
        if answered is None:
            continue
        written = match_entry(answered.answer.memory, (), tidy_memory)
        if written.refusal:
            context.refuse("plan.memory", [written.refusal], answered.key)
        else:
            memory = written.text
            rows.append(row_at(context.episode, "memory", memory, subtask, answered.key))
    return rows


async def _milestones(context: PlanContext, subtasks: Sequence[Subtask]) -> list[AnnotatedRow]:
    """Return a row where the list changed. A row cannot be empty, so after an empty list the row before holds on."""
    rows: list[AnnotatedRow] = []
    reached: list[str] = []
    allowed = allowed_values("memories", context.milestones)
    for before, subtask in pairwise(subtasks):
        inputs = {
            "task": context.task,
            "completed": before.segment.text,
            "upcoming": subtask.segment.text,
            "memory": lines(reached),
            "milestones": lines(context.milestones),
        }
        answered = await context.gaps.optional(context.ask, "plan.milestones", Milestones, inputs, allowed=allowed)
        if answered is None:
            continue
        matches = [match_entry(memory, context.milestones, tidy_memory) for memory in answered.answer.memories]
        context.refuse("plan.milestones", [match.refusal for match in matches if match.refusal], answered.key)
        now = [match.text for match in matches if not match.refusal]
        if now and now != reached:
            reached = now
            rows.append(row_at(context.episode, "memory", " ".join(now), subtask, answered.key))
    return rows
