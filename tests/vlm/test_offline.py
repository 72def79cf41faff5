"""The engine of `--offline`."""

from annotator.vlm.base import Engine
from annotator.vlm.offline import OfflineEngine
from tests.contracts.engine_contract import FailingContract


class TestOffline(FailingContract):
    kind = "offline"
    retryable = False

    def make_engine(self) -> Engine:
        return OfflineEngine()

    def test_it_wants_no_pixels_so_none_are_decoded(self) -> None:
        assert not self.make_engine().looks
