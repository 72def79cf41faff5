"""The OpenAI engine against vLLM's own server: a real process, with a real, tiny model."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from annotator.engine.base import Engine
from annotator.engine.openai import OpenAIEngine
from annotator.engine.wire import PictureParts, request_body
from store.keys import Model
from tests.contracts.engine_contract import ModelContract, make_picture, make_request
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
        return OpenAIEngine(api_base=self.api_base, request_timeout_s=100, video_times=True)

    def model(self) -> Model:
        return Model(model_id="tiny", temperature=0.7, max_new_tokens=2048)

    def test_a_video_is_told_at_its_own_times(self) -> None:
        """The server renders the very body that the engine sends, and says its tokens back as text."""

        async def body(first_s: float, step_s: float) -> dict[str, Any]:
            times = tuple(first_s + i * step_s for i in range(6))
            video = msgspec.structs.replace(
                make_picture("video", frames=6), timestamps=times, media_digest=f"{int(first_s):032x}"
            )
            request = msgspec.structs.replace(make_request(pictures=(video,)), model=self.model())
            return json.loads(request_body(request, [await PictureParts().get(video)], video_times=True))

        def prompt(first_s: float, step_s: float) -> str:
            sent = self.run(body(first_s, step_s))
            rendered = {name: sent[name] for name in ("model", "messages", "media_io_kwargs")}
            tokens = self._post("tokenize", rendered)["tokens"]
            return self._post("detokenize", {"model": sent["model"], "tokens": tokens})["prompt"]

        # Two frames make one block, said at the mean of their times.
        assert "<0.2 seconds>" in prompt(0.0, 0.5)
        shifted = prompt(60.0, 0.25)
        assert all(f"<{time} seconds>" in shifted for time in ("60.1", "60.6", "61.1"))

    def _post(self, page: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(
            f"{self.api_base.removesuffix('/v1')}/{page}", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.loads(answer.read())
