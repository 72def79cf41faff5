"""The `plan` module: subtasks, the plan of what is left, memory, and other wordings of the task.

[task from the footage] → describe → segment (by windows) → cover → [relabel] → plan rows, memory chain
                        → task rephrasings
"""

import asyncio
from collections.abc import Awaitable, Sequence

from annotator.config.settings import PlanSettings, SyncSettings
from annotator.modules.base import Ask, Gaps, GripperTime, ModuleInput, ModuleOutput
from annotator.modules.plan.memory import memories
from annotator.modules.plan.relabel import relabelled
from annotator.modules.plan.segmentation import PlanContext, Subtask, cut, row_at
from annotator.modules.plan.task_paraphrases import task_of, task_paraphrases
from annotator.modules.plan.timeline import tidy
from annotator_store.log.events import AnnotatedRow

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


async def annotate(episode: ModuleInput, ask: Ask, settings: SyncSettings) -> ModuleOutput:
    """Annotate one episode. Rows come by time, style and role; of wordings the task itself is the first.

    Raises:
        CallError, FootageError: something got no reply; what was answered is kept, the next run goes on from there.
        Rejected, Declined: there is no usable segmentation.
        DatasetError: the gripper's signals are wanted and cannot be read.
    """
    plan, gaps = settings.plan, Gaps()
    grippers = await _grippers(episode, plan)
    task = await task_of(episode, ask, plan, gaps)
    work = PlanContext(episode, ask, plan, task, gaps, grippers)
    said, cuts = await _both(task_paraphrases(work), _subtasks(work))
    rows = [*said, *_rows(work, cuts), *await memories(work, cuts)]
    rows.sort(key=lambda one: (one.row.timestamp, one.row.style or "", one.row.role))
    found = sorted(gaps.found, key=lambda gap: (gap.step, gap.call, gap.detail))
    return ModuleOutput(rows=tuple(rows), gaps=tuple(found), task=None if task == tidy(episode.task) else task)


async def _grippers(episode: ModuleInput, settings: PlanSettings) -> tuple[GripperTime, ...]:
    return await asyncio.to_thread(episode.grippers) if settings.gripper_hints else ()


async def _subtasks(work: PlanContext) -> list[Subtask]:
    return await relabelled(work, await cut(work))


async def _both(
    first: Awaitable[list[AnnotatedRow]], second: Awaitable[list[Subtask]]
) -> tuple[list[AnnotatedRow], list[Subtask]]:
    """Let both finish before the first error is raised, so that no answer under way is thrown away."""
    one, two = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(two, BaseException):
        raise two
    if isinstance(one, BaseException):
        raise one
    return one, two


def _rows(work: PlanContext, cuts: Sequence[Subtask]) -> list[AnnotatedRow]:
    rows = [row_at(work.episode, "subtask", cut.segment.text, cut, cut.call) for cut in cuts]
    if work.settings.emit_plan:
        rows += [row_at(work.episode, "plan", numbered(cuts[at:]), cut, None) for at, cut in enumerate(cuts)]
    return rows


def numbered(cuts: Sequence[Subtask]) -> str:
    """Number the subtasks that are left, one a line."""
    return "\n".join(f"{number}. {cut.segment.text}" for number, cut in enumerate(cuts, start=1))
