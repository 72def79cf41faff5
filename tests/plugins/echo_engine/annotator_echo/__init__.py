"""An engine that says the episode's task back as its only subtask."""

from annotator.vlm.base import EngineSpec

ECHO = EngineSpec(
    name="echo",
    meaning="no model: the task is the only subtask",
    open="annotator_echo.engine:open_engine",
    check="annotator_echo.engine:check",
    options=frozenset({"engine_kwargs"}),
    model_id="echo.v1",
    looks=False,
    reads_evidence=True,
)
