"""The `signals` engine: what the robot's own signals and the task's words prove, with no model and no pixels.

It is free, instant and deterministic, and never poses as a model: what the signals cannot tell, it declines.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
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
_MOST_STEPS = 64


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
        answer = _answer(request)
        text = msgspec.json.encode(answer).decode()
        return Reply(text=text, elapsed_s=perf_counter() - started)

    async def aclose(self) -> None:
        """Nothing is held."""


def _answer(request: Request) -> Answer:
    steps: dict[str, Callable[[Request], Answer]] = {
        "plan.describe": _describe,
        "plan.segment": _segment,
        "plan.memory": _memory,
        "plan.milestones": _milestones,
        "plan.task_rephrasings": _task_rephrasings,
        "interjections.initial_speech": _initial_speech,
        "interjections.interjection": _interjection,
    }
    answer = steps.get(request.step)
    if answer is None:
        raise Declined(
            "the signals engine sees no pixels, so it does not answer this step",
            where=request.step,
            hint="choose an engine with a model, or switch this step off",
        )
    return answer(request)


def _describe(request: Request) -> Description:
    signals = _signals(request)
    start_s, end_s = _window(request, signals)
    seen = observe(analyse(signals), start_s, end_s)
    return Description(observations=[Observation(time=time, event=event) for time, event in seen])


def _segment(request: Request) -> Segmentation:
    signals = _signals(request)
    start_s, end_s = _window(request, signals)
    min_s = _number(request, "min_seconds", 0.0)
    max_steps = min(max(1, int(_number(request, "max_steps", _MOST_STEPS))), _MOST_STEPS)
    phases = analyse(signals).phases
    texts = phase_texts(phases, request.inputs.get("task", ""))
    whole = pieces_of(phases, texts, _edges(signals), min_s)
    pieces = cut_window(whole, start_s, end_s, min_s, max_steps)
    return Segmentation(subtasks=[Span(start=p.start, end=p.end, subtask=p.text) for p in pieces])


def _memory(request: Request) -> Memory:
    values = request.inputs
    return Memory(memory=remember(values.get("task", ""), values.get("memory", ""), values.get("completed", "")))


def _milestones(request: Request) -> Milestones:
    task, completed = request.inputs.get("task", ""), request.inputs.get("completed", "")
    reached, known = (request.inputs.get(name, "").splitlines() for name in ("memory", "milestones"))
    return Milestones(memories=recount(task, reached, completed, known, MOST_MILESTONES))


def _task_rephrasings(request: Request) -> Rephrasings:
    task = request.inputs.get("task", "")
    count = min(int(_number(request, "count", 1)), 64)
    said = rephrase(task, count) if count > 0 else []
    if not said:
        raise Declined("there is no task to rephrase", where=request.step, got=repr(task[:60]),
                       hint="give the episode a task in meta/tasks.parquet")  # fmt: skip
    return Rephrasings(rephrasings=said)


def _initial_speech(request: Request) -> InitialSpeech:
    task = request.inputs.get("task", "")
    said = announce(task)
    if not said:
        raise Declined("there is no task to speak of", where=request.step, got=repr(task[:60]),
                       hint="give the episode a task in meta/tasks.parquet")  # fmt: skip
    return InitialSpeech(speech=said)


def _interjection(request: Request) -> Interjection:
    upcoming = request.inputs.get("upcoming", "")
    said = interject(upcoming, request.inputs.get("scenario", ""))
    if said is None:
        raise Declined("there is no subtask that one line could ask for", where=request.step, got=repr(upcoming[:60]),
                       hint="choose an engine with a model")  # fmt: skip
    return Interjection(scenario=said.scenario, interjection=said.interjection, reply=said.reply)


def _edges(signals: Signals) -> list[float]:
    """Frame i lasts from edge i to edge i + 1; the last frame as long as frames usually do."""
    usual = float(np.median(np.diff(signals.timestamps)))
    return [*signals.timestamps.tolist(), float(signals.timestamps[-1]) + usual]


def _number(request: Request, name: str, default: float) -> float:
    text = request.inputs.get(name, "").strip()
    value = _finite(text) if text else default
    if value is None:
        raise Declined("an input is not a number", where=f"{request.step}, {name}", got=repr(text[:60]))
    return value


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _window(request: Request, signals: Signals) -> tuple[float, float]:
    """The asked-for window, which must lie in the episode.

    Raises:
        Declined: it is empty, or no frame falls into it.
    """
    edges = _edges(signals)
    start_s = _number(request, "start_s", edges[0])
    end_s = _number(request, "end_s", edges[-1])
    inside = 0 <= start_s < end_s <= LONGEST_S and start_s < edges[-1] and end_s > edges[0]
    if not inside:
        raise Declined(
            "the window holds no frame of the episode",
            where=request.step,
            got=f"{start_s:g} to {end_s:g} s of {edges[0]:g} to {edges[-1]:g} s",
        )
    return start_s, end_s


def _signals(request: Request) -> Signals:
    """The episode's signals, fit to be analysed.

    Raises:
        Declined: there are none, they are too short, or their shapes or times disagree.
    """
    if request.signals is None:
        raise Declined("there are no signals to read", where=request.step, hint=_HINT)
    signals = request.signals()
    problem = _unfit(signals)
    if problem:
        raise Declined("the signals cannot be read", where=request.step, got=problem, hint=_HINT)
    return signals


_HINT = "choose an engine that looks at the footage"


def _unfit(signals: Signals) -> str:
    times = signals.timestamps
    if signals.state is None and signals.action is None:
        return "neither observation.state nor action"
    if times.ndim != 1 or len(times) < 2:
        return f"{times.size} frames"
    if not np.isfinite(times).all() or not (np.diff(times) > 0).all() or times[0] < 0 or times[-1] > LONGEST_S:
        return "timestamps that do not ascend within a day"
    tables: Mapping[str, np.ndarray | None] = {"state": signals.state, "action": signals.action}
    for name, values in tables.items():
        if values is not None and (values.ndim != 2 or len(values) != len(times)):
            return f"{name} of shape {values.shape} for {len(times)} frames"
    return ""


async def open_engine(context: EngineContext) -> SignalsEngine:
    """Return the engine, and note that no model answers."""
    context.note("engine: signals – no model; answers come from gripper and motion signals and the task's words")
    return SignalsEngine()
