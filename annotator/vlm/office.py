"""The office: one run's desk, and its engine, which is opened for the first call that must be made and not before."""

import asyncio

from annotator.errors import NoEngine, UsageError
from annotator.pipeline.progress import Progress
from annotator.pipeline.run import Run
from annotator.pipeline.run_stats import RunStats
from annotator.vlm.base import Engine
from annotator.vlm.client import VlmClient
from annotator.vlm.registry import choose_engine, looks
from annotator_store.log.log import Log


class Office:
    """One run's engine and desk. Close it when the run has asked everything."""

    def __init__(self, run: Run, log: Log, tally: RunStats, report: Progress) -> None:
        self.run = run
        self.log = log
        self.tally = tally
        self.report = report
        self.engine = "none needed"
        self.desk = VlmClient(
            log=log, open_engine=self._open, looks=looks(run.settings), model=run.model, seed=run.settings.seed,
            prompts=run.prompts, tally=tally, run_id=run.run_id, note=report.note,
            max_failures=run.settings.max_failures,
        )  # fmt: skip
        self._engine: Engine | None = None
        self._refusal: NoEngine | None = None
        self._opening = asyncio.Lock()

    async def _open(self) -> Engine:
        """Open the engine, or give the one that is open; who comes while it is opened waits.

        Raises:
            NoEngine: no engine was named and none was found, or what the settings name cannot be used.
        """
        async with self._opening:
            if self._refusal is not None:
                raise self._refusal  # a start that failed is not tried again for everyone who waited
            if self._engine is None:
                try:
                    self._engine = await self._chosen()
                except UsageError as error:
                    self._refusal = NoEngine(error.what, where=error.where, got=error.got, hint=error.hint)
                    raise self._refusal from error
                self.engine = f"{self._engine.name}, model {self.run.model.model_id}"
        return self._engine

    async def _chosen(self) -> Engine:
        settings, logs = self.run.settings, self.run.store / "serve"
        return await choose_engine(settings.vlm, self.report.note, offline=settings.offline, logs=logs)

    async def aclose(self) -> None:
        """Let go of the engine."""
        if self._engine is not None:
            await self._engine.aclose()
