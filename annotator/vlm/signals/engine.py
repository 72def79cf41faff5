"""The `signals` engine: what the robot's own signals and the task's words prove, with no model and no pixels.

It is free, instant and deterministic, and never poses as a model: what the signals cannot tell, it declines.
"""

import asyncio
import math
from collections.abc import Callable
from time import perf_counter

import msgspec
import numpy as np

from annotator.dataset.signals import Signals
from annotator.errors import Declined
from annotator.prompting.answers import (
    MOST_MILESTONES,
    Answer,
    Description,
    InitialSpeech,
    Interjection,
    Memory,
    Milestones,
    Observation,
    Rephrasings,
    Segmentation,
    Span,
)
from annotator.vlm.base import EngineContext, Reply, Request
from annotator.vlm.signals.memory import recount, remember
from annotator.vlm.signals.observations import observe
from annotator.vlm.signals.paraphrase import rephrase
from annotator.vlm.signals.phases import analyse
from annotator.vlm.signals.segments import cut_window, pieces_of
from annotator.vlm.signals.speech import announce, interject
from annotator.vlm.signals.task_grammar import phase_texts

MODEL_ID = "signals.v1"
LONGEST_S = 86400.0
"""The latest time that an answer may name, in seconds; see `Seconds` in annotator/prompting/answers.py."""
_MOST_SUBTASKS = 64  # as `Segmentation` allows
_MOST_REPHRASINGS = 64  # as `Rephrasings` allows
_HINT = "choose an engine that looks at the footage"


class SignalsEngine:
    """Answer from gripper and motion signals and from the words that a step is given."""

    name = "signals"
    looks = False
    reads_evidence = True

    async def generate(self, request: Request) -> Reply:
        """Answer one request; the reply fits the step's answer type.

        Raises:
            Declined: the step needs eyes, or the signals prove nothing.
        """
        await asyncio.sleep(0)  # many requests take turns, and a cancelled one ends here
        started = perf_counter()
        step = _STEPS.get(request.step)
        if step is None:
            raise Declined(
                "the signals engine sees no pixels, so it does not answer this step",
                where=request.step,
                hint="choose an engine with a model, or switch this step off",
            )
        text = msgspec.json.encode(step(_Evidence(request))).decode()
        return Reply(text=text, elapsed_s=perf_counter() - started)

    async def aclose(self) -> None:
        """Nothing is open."""


class _Evidence:
    """The inputs and the signals of one request, read and checked, and the answer of each step to them."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def describe(self) -> Description:
        signals = self._signals()
        start_s, end_s = self._window(signals)
        events = observe(analyse(signals), start_s, end_s)
        return Description(observations=[Observation(time=time, event=event) for time, event in events])

    def segment(self) -> Segmentation:
        signals = self._signals()
        start_s, end_s = self._window(signals)
        min_s = self._number("min_seconds", 0.0)
        max_steps = min(max(1, int(self._number("max_steps", _MOST_SUBTASKS))), _MOST_SUBTASKS)
        phases = analyse(signals).phases
        texts = phase_texts(phases, self._text("task"))
        whole = pieces_of(phases, texts, _frame_edges(signals), min_s)
        pieces = cut_window(whole, start_s, end_s, min_s, max_steps)
        return Segmentation(subtasks=[Span(start=p.start, end=p.end, subtask=p.text) for p in pieces])

    def memory(self) -> Memory:
        return Memory(memory=remember(self._text("task"), self._text("memory"), self._text("completed")))

    def milestones(self) -> Milestones:
        reached, known = self._text("memory").splitlines(), self._text("milestones").splitlines()
        return Milestones(
            memories=recount(self._text("task"), reached, self._text("completed"), known, MOST_MILESTONES)
        )

    def task_rephrasings(self) -> Rephrasings:
        task = self._text("task")
        count = min(int(self._number("count", 1)), _MOST_REPHRASINGS)
        rephrasings = rephrase(task, count) if count > 0 else []
        if not rephrasings:
            raise self._declined("there is no task to rephrase", task, "give the episode a task in meta/tasks.parquet")
        return Rephrasings(rephrasings=rephrasings)

    def initial_speech(self) -> InitialSpeech:
        task = self._text("task")
        speech = announce(task)
        if not speech:
            raise self._declined("there is no task to speak of", task, "give the episode a task in meta/tasks.parquet")
        return InitialSpeech(speech=speech)

    def interjection(self) -> Interjection:
        upcoming = self._text("upcoming")
        exchange = interject(upcoming, self._text("scenario"))
        if exchange is None:
            what = "there is no subtask that one line could ask for"
            raise self._declined(what, upcoming, "choose an engine with a model")
        return Interjection(scenario=exchange.scenario, interjection=exchange.interjection, reply=exchange.reply)

    def _text(self, name: str) -> str:
        return self._request.inputs.get(name, "")

    def _number(self, name: str, default: float) -> float:
        text = self._text(name).strip()
        try:
            value = float(text) if text else default
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            where = f"{self._request.step}, {name}"
            raise Declined("an input is not a number", where=where, got=repr(text[:60]))
        return value

    def _signals(self) -> Signals:
        """Return the episode's signals, fit to be analysed."""
        if self._request.signals is None:
            raise Declined("there are no signals to read", where=self._request.step, hint=_HINT)
        signals = self._request.signals()
        problem = _unfit(signals)
        if problem:
            raise Declined("the signals cannot be read", where=self._request.step, got=problem, hint=_HINT)
        return signals

    def _window(self, signals: Signals) -> tuple[float, float]:
        """Return the requested window, (start, end) seconds, which must hold a frame of the episode."""
        edges = _frame_edges(signals)
        start_s = self._number("start_s", edges[0])
        end_s = self._number("end_s", edges[-1])
        inside = 0 <= start_s < end_s <= LONGEST_S and start_s < edges[-1] and end_s > edges[0]
        if not inside:
            raise Declined(
                "the window holds no frame of the episode",
                where=self._request.step,
                got=f"{start_s:g} to {end_s:g} s of {edges[0]:g} to {edges[-1]:g} s",
            )
        return start_s, end_s

    def _declined(self, what: str, text: str, hint: str) -> Declined:
        return Declined(what, where=self._request.step, got=repr(text[:60]), hint=hint)


_STEPS: dict[str, Callable[[_Evidence], Answer]] = {
    "plan.describe": _Evidence.describe,
    "plan.segment": _Evidence.segment,
    "plan.memory": _Evidence.memory,
    "plan.milestones": _Evidence.milestones,
    "plan.task_rephrasings": _Evidence.task_rephrasings,
    "interjections.initial_speech": _Evidence.initial_speech,
    "interjections.interjection": _Evidence.interjection,
}


def _frame_edges(signals: Signals) -> list[float]:
    """Return T + 1 seconds: frame i lasts from edge i to edge i + 1, the last frame as long as frames usually do."""
    usual = float(np.median(np.diff(signals.timestamps)))
    return [*signals.timestamps.tolist(), float(signals.timestamps[-1]) + usual]


def _unfit(signals: Signals) -> str:
    """Return what makes signals unfit to be analysed, "" where nothing does."""
    times = signals.timestamps
    if signals.state is None and signals.action is None:
        return "neither observation.state nor action"
    if times.ndim != 1 or len(times) < 2:
        return f"{times.size} frames"
    if not np.isfinite(times).all() or not (np.diff(times) > 0).all() or times[0] < 0 or times[-1] > LONGEST_S:
        return "timestamps that do not ascend within a day"
    for name, values in (("state", signals.state), ("action", signals.action)):
        if values is not None and (values.ndim != 2 or len(values) != len(times)):
            return f"{name} of shape {values.shape} for {len(times)} frames"
    return ""


async def open_engine(context: EngineContext) -> SignalsEngine:
    """Return the engine, and note that no model answers."""
    context.note("engine: signals – no model; answers come from gripper and motion signals and the task's words")
    return SignalsEngine()
