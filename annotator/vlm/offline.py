"""The engine of a run that may not ask: what is not in the log stays unanswered."""

from annotator.errors import NotInLog
from annotator.vlm.base import EngineContext, Reply, Request


class OfflineEngine:
    """Refuse every request: a run under --offline answers from the log alone."""

    name = "offline"
    looks = False
    reads_evidence = False

    async def generate(self, request: Request) -> Reply:
        """Refuse.

        Raises:
            NotInLog: always, of kind `offline`.
        """
        raise NotInLog(
            "a call is not in the log, and --offline allows no new ones",
            kind="offline",
            retryable=False,
            where=request.step,
            got=f"key {request.key}",
            hint="run once without --offline, with the same settings",
            attempts=0,
        )

    async def aclose(self) -> None:
        """Nothing is open."""


async def open_engine(context: EngineContext) -> OfflineEngine:
    """Return the engine that refuses every request; nothing of a run's settings concerns it."""
    return OfflineEngine()
