"""The engine, imported when a run opens it."""

import msgspec

from annotator.errors import Declined, UsageError
from annotator.prompting.answers import Segmentation, Span
from annotator.vlm.base import EngineContext, Reply, Request


class EchoEngine:
    """Answer `plan.segment` with the task, and decline every other step."""

    name = "echo"
    looks = False
    reads_evidence = True

    def __init__(self, version: str) -> None:
        self._version = version

    async def generate(self, request: Request) -> Reply:
        """Answer one request.

        Raises:
            Declined: the step does not ask for subtasks, or there is no task.
        """
        task = request.inputs.get("task", "")
        if request.step != "plan.segment" or not task:
            raise Declined("echo knows the task and nothing else", where=request.step)
        start_s, end_s = float(request.inputs["start_s"]), float(request.inputs["end_s"])
        answer = Segmentation(subtasks=[Span(start=start_s, end=end_s, subtask=task)])
        return Reply(text=msgspec.json.encode(answer).decode(), versions={"echo": self._version})

    async def aclose(self) -> None:
        """Nothing is open."""


async def check(context: EngineContext) -> None:
    """Refuse settings that the engine does not have.

    Raises:
        UsageError: `--vlm.engine_kwargs` holds another than `version`.
    """
    unknown = sorted(context.vlm.engine_kwargs.keys() - {"version"})
    if unknown:
        raise UsageError("echo has no such setting", where="--vlm.engine_kwargs", got=", ".join(unknown))


async def open_engine(context: EngineContext) -> EchoEngine:
    """Return the engine.

    Raises:
        UsageError: as `check`.
    """
    await check(context)
    context.note("engine: echo – no model; the task is the only subtask")
    return EchoEngine(str(context.vlm.engine_kwargs.get("version", "1")))
