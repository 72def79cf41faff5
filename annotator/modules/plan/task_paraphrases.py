"""The task, read off the footage where it says nothing, and other wordings of it: freely, or along five axes."""

from collections.abc import Sequence

import msgspec

from annotator.config.settings import PlanSettings
from annotator.modules.base import Ask, Gaps, ModuleInput
from annotator.modules.plan.segmentation import PlanContext
from annotator.modules.plan.timeline import tidy
from annotator.modules.views import windows_of
from annotator.prompting.answers import AxisRephrasings, Rephrasings, Task
from annotator_store.digests import Digest
from annotator_store.log.events import AnnotatedRow
from annotator_store.rows import Row

PLACEHOLDERS = frozenset(
    {"debug", "default", "demo", "dummy", "episode", "example", "foo", "n/a", "na", "none", "null", "placeholder"}
    | {"recording", "robot", "sample", "task", "tbd", "temp", "test", "testing", "tmp", "todo", "unknown"}
    | {"unnamed", "untitled", "xxx"}
)
"""Task texts that say nothing about the task, compared in lower case without punctuation."""

AXES = AxisRephrasings.__struct_fields__
"""The axes, in the order in which their wordings are written."""


class Paraphrases(msgspec.Struct, frozen=True):
    """The wordings of one call, in groups; of each group at most so many are taken."""

    call: Digest
    groups: list[tuple[list[str], int]]


def is_placeholder(task: str, min_words: int) -> bool:
    """Say whether a task text is too short or too generic to guide anyone."""
    words = "".join(c if c.isalnum() or c == "/" else " " for c in task.casefold()).split()
    return len(words) < min_words or all(word in PLACEHOLDERS or word.isdigit() for word in words)


async def task_of(episode: ModuleInput, ask: Ask, settings: PlanSettings, gaps: Gaps) -> str:
    """Find the task to go by: the dataset's, or the one read off the footage where the settings want that.

    Raises:
        CallError, FootageError: there was no reply.
    """
    given = tidy(episode.task)
    mode = settings.derive_task_from_video
    wanted = mode == "always" or (mode == "if_short" and is_placeholder(given, settings.derive_task_min_words))
    if not wanted or not episode.cameras:
        return given
    window = windows_of(episode, settings, whole=True)[0]
    inputs = {"view": window.view, "given": given}
    answered = await gaps.optional(ask, "plan.task", Task, inputs, window.media)
    return (tidy(answered.answer.task) if answered else "") or given


async def task_paraphrases(context: PlanContext) -> list[AnnotatedRow]:
    """Ask for other wordings; the task itself comes first, since training picks among task_aug rows alone.

    Those along axes stand in the order of the axes. No wording stands twice, on whichever axes it came.

    Raises:
        CallError: there was no reply.
    """
    if not context.task:
        return []
    paraphrases = await (_along_axes(context) if context.settings.task_aug_axes.enabled else _freely(context))
    if paraphrases is None:
        return []
    timestamp = float(context.episode.timestamps[0])
    return [
        AnnotatedRow(row=Row(role="user", content=text, style="task_aug", timestamp=timestamp), call=call)
        for text, call in _taken(context.task, paraphrases)
    ]


async def _freely(context: PlanContext) -> Paraphrases | None:
    count = context.settings.n_task_rephrasings
    if count == 0:
        return None
    inputs = {"task": context.task, "count": str(count)}
    answered = await context.gaps.optional(context.ask, "plan.task_rephrasings", Rephrasings, inputs)
    return answered and Paraphrases(answered.key, [(answered.answer.rephrasings, count)])


async def _along_axes(context: PlanContext) -> Paraphrases | None:
    counts: dict[str, int] = {axis: getattr(context.settings.task_aug_axes, axis) for axis in AXES}
    if not any(counts.values()):
        return None
    inputs = {"task": context.task} | {axis: str(count) for axis, count in counts.items()}
    answered = await context.gaps.optional(context.ask, "plan.task_aug_axes", AxisRephrasings, inputs)
    return answered and Paraphrases(answered.key, [(getattr(answered.answer, axis), counts[axis]) for axis in AXES])


def _taken(task: str, paraphrases: Paraphrases) -> Sequence[tuple[str, Digest | None]]:
    taken: dict[str, tuple[str, Digest | None]] = {task.casefold(): (task, None)}
    for texts, most in paraphrases.groups:
        full = len(taken) + most
        for text in filter(None, map(tidy, texts)):
            if len(taken) < full:
                taken.setdefault(text.casefold(), (text, paraphrases.call))
    return list(taken.values())
