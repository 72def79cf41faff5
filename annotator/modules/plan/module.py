"""The `plan` module: subtasks, the plan of what is left, memory, and other wordings of the task.

[task from the footage] → describe → segment (by windows) → cover → [relabel] → plan rows, memory chain
                        → task rephrasings
"""

import asyncio
from collections.abc import Sequence

from annotator.config.settings import PlanSettings
from annotator.modules.base import Ask, Gaps, Module, ModuleInput, ModuleOutput, gather_all
from annotator.modules.plan.memory import memories
from annotator.modules.plan.relabel import relabelled
from annotator.modules.plan.segmentation import PlanContext, Subtask, row_at, segmented
from annotator.modules.plan.task_paraphrases import task_of, task_paraphrases
from annotator.prompting.normalize import tidy_label

NAME = "plan"
VERSION = 3
"""Raise it when rows change for the same answers; every episode is then folded anew, without a call."""
STEPS = (
    "plan.task",
    "plan.describe",
    "plan.segment",
    "plan.relabel",
    "plan.memory",
    "plan.milestones",
    "plan.task_rephrasings",
    "plan.task_aug_axes",
)
STYLES = frozenset({"subtask", "plan", "memory", "task_aug"})


async def annotate(episode: ModuleInput, ask: Ask, settings: PlanSettings) -> ModuleOutput:
    """Annotate one episode. Rows are ordered by time, style and role; of the paraphrases the task itself comes first.

    Raises:
        CallError, FootageError: something got no reply; what was answered is kept, the next run goes on from there.
        Rejected, Declined: there is no usable segmentation.
        DatasetError: the gripper's signals are needed and cannot be read.
    """
    gaps = Gaps()
    grippers = await asyncio.to_thread(episode.grippers) if settings.gripper_hints else ()
    task = await task_of(episode, ask, settings, gaps)
    context = PlanContext(episode, ask, settings, task, gaps, grippers)
    paraphrases = asyncio.ensure_future(task_paraphrases(context))
    segmenting = asyncio.ensure_future(_subtasks(context))
    await gather_all([segmenting, paraphrases])  # of two errors, that of the subtasks is raised
    subtasks = segmenting.result()
    rows = [*paraphrases.result(), *await memories(context, subtasks)]
    for index, subtask in enumerate(subtasks):
        rows.append(row_at(episode, "subtask", subtask.segment.text, subtask, subtask.call))
        if settings.emit_plan:
            rows.append(row_at(episode, "plan", numbered(subtasks[index:]), subtask, None))
    rows.sort(key=lambda annotated: (annotated.row.timestamp, annotated.row.style or "", annotated.row.role))
    return ModuleOutput(
        rows=tuple(rows),
        gaps=gaps.in_order(),
        task=None if task == tidy_label(episode.task) else task,
    )


async def _subtasks(context: PlanContext) -> list[Subtask]:
    return await relabelled(context, await segmented(context))


def numbered(subtasks: Sequence[Subtask]) -> str:
    """Return a plan: the subtasks that are left, numbered, one a line."""
    return "\n".join(f"{number}. {subtask.segment.text}" for number, subtask in enumerate(subtasks, start=1))


def estimate_calls(seconds: float, cameras: int, settings: PlanSettings) -> int:
    """Estimate the calls of one episode: rather too many, since how many subtasks there are depends on the answers."""
    shown = settings.max_frames_per_prompt if settings.view == "contact_sheets" else settings.max_video_frames
    windows = 1 + int(seconds * settings.frames_per_second) // shown
    subtasks = settings.plan_max_steps * windows
    task_and_paraphrases = 2
    return (
        windows * (1 + settings.subtask_describe_first)
        + subtasks * (settings.emit_memory + settings.subtask_seeded_relabel)
        + task_and_paraphrases
    )


PLAN = Module(
    name=NAME,
    version=VERSION,
    steps=STEPS,
    styles=STYLES,
    settings=PlanSettings,
    annotate=annotate,
    estimate_calls=estimate_calls,
    uses_vocabulary=True,
    uses_signals=lambda settings: settings.gripper_hints,
)
