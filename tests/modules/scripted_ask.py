"""An `ask` that answers from a script, in memory, and remembers what it was asked."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from annotator.config.settings import SyncSettings
from annotator.errors import Rejected
from annotator.modules.base import Module, ModuleInput, ModuleOutput
from annotator.prompting.answers import (
    Answer,
    AxisRephrasings,
    Description,
    Memory,
    Milestones,
    Observation,
    RelabelledSpan,
    Rephrasings,
    Segmentation,
    Span,
    Task,
)
from annotator.vlm.session import A, StepAnswer
from annotator_store.digests import Digest, digest_parts
from annotator_store.keys import MediaItem

Reply = Answer | Exception
Script = Mapping[str, Reply | Callable[["Question"], Reply]]


@dataclass(frozen=True)
class Question:
    """One ask."""

    step: str
    inputs: dict[str, str]
    media: tuple[MediaItem, ...]
    allowed: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    most: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def key(self) -> Digest:
        """A key that stands for this question."""
        media = msgspec.json.encode(self.media)
        return digest_parts("question", [self.step.encode(), repr(sorted(self.inputs.items())).encode(), media])


def spans(*parts: tuple[float, float, str]) -> Segmentation:
    return Segmentation([Span(*part) for part in parts])


DEFAULT: Script = {
    "plan.task": Task("stack the cups"),
    "plan.describe": Description([Observation(0.5, "the arm moves")]),
    "plan.segment": spans((0, 2, "reach"), (2, 5, "grasp"), (5, 9.9, "place")),
    "plan.memory": lambda question: Memory(f"I did {question.inputs['completed']}."),
    "plan.milestones": Milestones([]),
    "plan.task_rephrasings": Rephrasings(["Stack cups", "pile the cups up"]),
    "plan.relabel": lambda question: RelabelledSpan(question.inputs["current"]),
    "plan.task_aug_axes": AxisRephrasings(["pile up the cups"], ["stack the cups"], [], [], ["stack cups"]),
}


@dataclass
class ScriptedAsk:
    """Answers from the script over DEFAULT; `asked` is in the order of asking."""

    script: Script = field(default_factory=dict[str, Any])
    asked: list[Question] = field(default_factory=list[Question])

    async def __call__(
        self,
        step: str,
        answer: type[A],
        inputs: dict[str, str],
        media: tuple[MediaItem, ...] = (),
        *,
        allowed: Mapping[str, Sequence[str]] | None = None,
        misfit: Callable[[A], str] | None = None,
        most: Mapping[str, int] | None = None,
    ) -> StepAnswer[A]:
        held = {name: tuple(values) for name, values in (allowed or {}).items()}
        question = Question(step, dict(inputs), media, held, dict(most or {}))
        self.asked.append(question)
        await asyncio.sleep(0)
        reply = {**DEFAULT, **self.script}[step]
        reply = reply(question) if callable(reply) else reply
        if isinstance(reply, Exception):
            raise reply
        assert isinstance(reply, answer)
        wrong = misfit(reply) if misfit else ""
        if wrong:
            rejected = Rejected("two replies do not fit the answer", where=step, got=wrong)
            rejected.call = question.key
            raise rejected
        return StepAnswer(reply, question.key)

    @property
    def steps(self) -> list[str]:
        return [question.step for question in self.asked]

    def to(self, step: str) -> list[Question]:
        """What was asked of one step."""
        return [question for question in self.asked if question.step == step]


def with_settings(module: Module, episode: ModuleInput, settings: SyncSettings) -> ModuleInput:
    """The episode as a run with these settings gives it to the module."""
    return msgspec.structs.replace(episode, seed=settings.seed, borrowed=module.borrowed_values(settings))


async def annotated(module: Module, episode: ModuleInput, ask: ScriptedAsk, settings: SyncSettings) -> ModuleOutput:
    """What the module makes of the episode in a run with these settings."""
    return await module.annotate(with_settings(module, episode, settings), ask, module.own_settings(settings))
