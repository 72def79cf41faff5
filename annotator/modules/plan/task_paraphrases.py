"""The task, read off the footage where it says nothing, and its paraphrases: free ones, or along five axes."""

import msgspec

from annotator.config.settings import PlanSettings
from annotator.modules.base import Ask, Gaps, ModuleInput
from annotator.modules.plan.segmentation import PlanContext
from annotator.modules.views import windows_of
from annotator.prompting.answers import AxisRephrasings, Rephrasings, Task
from annotator.prompting.normalize import tidy_label
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
"""The axes, in the order in which their paraphrases are written."""


class Paraphrases(msgspec.Struct, frozen=True):
    """The paraphrases that one call gave, in groups, each with the count that was asked for."""

    call: Digest
    groups: list[tuple[list[str], int]]


def is_placeholder(task: str, min_words: int) -> bool:
    """Whether a task text is too short or too generic to say what is to be done."""
    words = "".join(c if c.isalnum() or c == "/" else " " for c in task.casefold()).split()
    return len(words) < min_words or all(word in PLACEHOLDERS or word.isdigit() for word in words)


async def task_of(episode: ModuleInput, ask: Ask, settings: PlanSettings, gaps: Gaps) -> str:
    """Return the task to use: the dataset's, or one read off the footage where the settings ask for that.

    Raises:
        CallError, FootageError: there was no reply.
    """
    given = tidy_label(episode.task)
    mode = settings.derive_task_from_video
    derive = mode == "always" or (mode == "if_short" and is_placeholder(given, settings.derive_task_min_words))
    if not derive or not episode.cameras:
        return given
    window = windows_of(episode, settings, whole=True)[0]
    inputs = {"view": window.view, "given": given}
    answered = await gaps.optional(ask, "plan.task", Task, inputs, window.media)
    return (tidy_label(answered.answer.task) if answered else "") or given


async def task_paraphrases(context: PlanContext) -> list[AnnotatedRow]:
    """Ask for paraphrases of the task; the task itself comes first, since training picks among task_aug rows alone.

    Those along axes stand in the order of the axes. No paraphrase stands twice, on whichever axes it came.

    Raises:
        CallError: there was no reply.
    """
    if not context.task:
        return []
    paraphrases = await (_along_axes(context) if context.settings.task_aug_axes.enabled else _freely(context))
    if paraphrases is None:
        return []
    taken: dict[str, tuple[str, Digest | None]] = {context.task.casefold(): (context.task, None)}
    for texts, count in paraphrases.groups:
        full = len(taken) + count
        for text in filter(None, map(tidy_label, texts)):
            if len(taken) < full:
                taken.setdefault(text.casefold(), (text, paraphrases.call))
    timestamp = float(context.episode.timestamps[0])
    return [
        AnnotatedRow(row=Row(role="user", content=text, style="task_aug", timestamp=timestamp), call=call)
        for text, call in taken.values()
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
