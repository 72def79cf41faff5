"""What the robot remembers, rewritten at every subtask boundary: freely, or as milestones of the vocabulary."""

from collections.abc import Sequence
from itertools import pairwise

from annotator.modules.plan.segmentation import PlanContext, Subtask, row_at
from annotator.modules.vocabulary.matching import allowed_values, lines, match_entry
from annotator.prompting.answers import Memory, Milestones
from annotator.prompting.normalize import tidy_memory
from annotator_store.log.events import AnnotatedRow


async def memories(work: PlanContext, cuts: Sequence[Subtask]) -> list[AnnotatedRow]:
    """Walk the chain: each memory is written from the one before it. A gap keeps the memory as it was.

    With a vocabulary memory is the list of its milestones that hold, and one without milestones leaves none to write.

    Raises:
        CallError: something got no reply.
    """
    if not work.settings.emit_memory:
        return []
    if work.episode.vocabulary is None:
        return await _freely(work, cuts)
    return await _in_milestones(work, cuts) if work.milestones else []


async def _freely(work: PlanContext, cuts: Sequence[Subtask]) -> list[AnnotatedRow]:
    rows: list[AnnotatedRow] = []
    memory = ""
    for before, cut in pairwise(cuts):
        inputs = _inputs(work, before, cut) | {"memory": memory}
        asked = await work.gaps.optional(work.ask, "plan.memory", Memory, inputs)
        if asked is None:
            continue
        text = match_entry(asked.answer.memory, (), tidy_memory)
        if text.refusal:
            work.refuse("plan.memory", [text.refusal], asked.key)
        else:
            memory = text.text
            rows.append(row_at(work.episode, "memory", memory, cut, asked.key))
    return rows


async def _in_milestones(work: PlanContext, cuts: Sequence[Subtask]) -> list[AnnotatedRow]:
    """A row where the list changed. An empty list writes none: what stood before stays in force, and is shown next."""
    rows: list[AnnotatedRow] = []
    reached: list[str] = []
    allowed = allowed_values("memories", work.milestones)
    for before, cut in pairwise(cuts):
        inputs = _inputs(work, before, cut) | {"memory": lines(reached), "milestones": lines(work.milestones)}
        asked = await work.gaps.optional(work.ask, "plan.milestones", Milestones, inputs, allowed=allowed)
        if asked is None:
            continue
        texts = [match_entry(said, work.milestones, tidy_memory) for said in asked.answer.memories]
        work.refuse("plan.milestones", [text.refusal for text in texts if text.refusal], asked.key)
        now = [text.text for text in texts if not text.refusal]
        if now and now != reached:
            reached = now
            rows.append(row_at(work.episode, "memory", " ".join(now), cut, asked.key))
    return rows


def _inputs(work: PlanContext, before: Subtask, cut: Subtask) -> dict[str, str]:
    return {"task": work.task, "completed": before.segment.text, "upcoming": cut.segment.text}
