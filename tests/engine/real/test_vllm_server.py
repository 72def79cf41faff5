"""The OpenAI engine against vLLM's own server: a real process, with a real, tiny model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from annotator.engine.base import Engine
from annotator.engine.openai import OpenAIEngine
from store.keys import Model
from tests.contracts.engine_contract import ModelContract
from tests.engine.real.conftest import vllm_server


@pytest.fixture(scope="module")
def api_base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for all tests."""
    with vllm_server(tiny_model, tmp_path_factory.mktemp("server") / "log") as base:
        yield base


@pytest.fixture(autouse=True)
def _server(request: pytest.FixtureRequest, api_base: str) -> None:
    if request.instance is not None:
        request.instance.api_base = api_base


class TestOpenAIAtVllm(ModelContract):
    refused = "http_400"
    api_base = ""

    def make_engine(self) -> Engine:
        return OpenAIEngine(api_base=self.api_base, request_timeout_s=100)

    def model(self) -> Model:
        return Model(model_id="tiny", temperature=0.7, max_new_tokens=2048)
