"""The office: opens the engine and the desk when something first has to be asked, and not before."""

from annotator.desk import Desk
from annotator.engine.base import Engine
from annotator.engine.choose import choose_engine
from annotator.report import Report
from annotator.run import Run
from annotator.tally import Tally
from store.log import Log


class Office:
    """One run's engine and desk. Close it when the run has asked everything."""

    def __init__(self, run: Run, log: Log, tally: Tally, report: Report) -> None:
        self.run = run
        self.log = log
        self.tally = tally
        self.report = report
        self.engine = "none needed"
        self._engine: Engine | None = None
        self._desk: Desk | None = None

    async def desk(self) -> Desk:
        """Open the desk, or give the one that is open.

        Raises:
            NoEngine: no engine was named and none was found.
        """
        if self._desk is None:
            run = self.run
            self._engine = await choose_engine(
                run.settings.vlm, self.report.note, offline=run.settings.offline, logs=run.store / "serve"
            )
            self.engine = f"{self._engine.name}, model {run.model.model_id}"
            self._desk = Desk(
                log=self.log, engine=self._engine, model=run.model, seed=run.settings.seed, prompts=run.prompts,
                tally=self.tally, run_id=run.run_id, note=self.report.note, max_failures=run.settings.max_failures,
            )  # fmt: skip
        return self._desk

    async def aclose(self) -> None:
        """Let go of the engine."""
        if self._engine is not None:
            await self._engine.aclose()
