"""What the robot remembers, rewritten at every subtask boundary: freely, or as one milestone of the vocabulary."""

from collections.abc import Sequence
from itertools import pairwise

from annotator.answers import Memory
from annotator.modules.cuts import Cut, Work, row_at
from annotator.modules.worded import held_to, lines, worded
from annotator.vocabulary import tidy_memory
from store.events import AnnotatedRow

NOTHING_YET = "nothing yet"
"""What may be answered in place of a milestone while none has been reached; it is never written into a row."""


async def memories(work: Work, cuts: Sequence[Cut]) -> list[AnnotatedRow]:
    """Walk the chain: each memory is written from the one before it. A gap keeps the memory as it was.

    With milestones, each boundary has the one that was reached last, exactly as the vocabulary words it. A boundary
    at which none was reached repeats the milestone in force, or says `NOTHING_YET`, and writes no row.

    Raises:
        CallError: something got no reply.
    """
    rows: list[AnnotatedRow] = []
    memory = ""
    for before, cut in pairwise(cuts) if work.settings.emit_memory else ():
        inputs = {
            "task": work.task,
            "memory": memory,
            "completed": before.segment.text,
            "upcoming": cut.segment.text,
            "milestones": lines(work.milestones),
        }
        choice = _choice(work, memory)
        asked = await work.gaps.optional(work.ask, "plan.memory", Memory, inputs, allowed=held_to("memory", choice))
        if asked is None:
            continue
        text = worded(asked.answer.memory, choice, tidy_memory)
        if text.refusal:
            work.refuse("plan.memory", [text.refusal], asked.key)
        elif not work.milestones or text.text not in (memory, NOTHING_YET):
            memory = text.text
            rows.append(row_at(work.episode, "memory", memory, cut, asked.key))
    return rows


def _choice(work: Work, memory: str) -> tuple[str, ...]:
    """The texts that may be answered: the milestones, and before the first of them that there is none."""
    if not work.milestones or memory:
        return work.milestones
    return (*work.milestones, NOTHING_YET)
