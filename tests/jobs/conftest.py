"""Jobs run at the same stand-in for the Hub as its own tests."""

from tests.hub.conftest import hub, no_waiting, published, shared_hub, watched_closely

__all__ = ["hub", "no_waiting", "published", "shared_hub", "watched_closely"]
