# pyright: reportMissingImports=false
"""vLLM's own server, with a real, tiny model: started by `serve`, and found running by `openai`. One start for both."""

import asyncio
import json
import os
import sys
import urllib.request
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from annotator.config.settings import VlmSettings
from annotator.vlm.base import Engine
from annotator.vlm.openai.engine import OpenAIEngine
from annotator.vlm.openai.wire import PictureParts, request_body
from annotator.vlm.vllm_server.command import ServerPlan, default_command
from annotator.vlm.vllm_server.engine import ServeEngine, serve
from annotator_store.keys import Model
from tests.contracts.engine_contract import ModelContract, make_picture, make_request, wait_until
from tests.vlm.real.conftest import KeptEngine, server_options

T = TypeVar("T")

COMMAND = (sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", "{port}")
"""What `vllm serve` would run; the CPU build's own does not start."""


def test_vllm_itself_takes_every_flag_of_the_default_command() -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    command = default_command(VlmSettings(model_id="me/model", model_revision="abc", gpu_memory_utilization=0.8))
    taken = make_arg_parser(FlexibleArgumentParser()).parse_args([*command[2:6], "8001", *command[7:]])
    assert (taken.port, taken.revision, taken.max_model_len, taken.gpu_memory_utilization) == (8001, "abc", -1, 0.8)
    assert taken.structured_outputs_config.backend == "guidance"
    assert taken.limit_mm_per_prompt == {"image": 32, "video": 8}
    assert taken.default_chat_template_kwargs == {"enable_thinking": False}
    assert taken.trust_request_mm_kwargs
    assert taken.enable_prompt_tokens_details


@pytest.fixture(scope="module")
def server_loop() -> Iterator[asyncio.Runner]:
    """The event loop on which the server is watched."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def serving(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, server_loop: asyncio.Runner
) -> Iterator[ServeEngine]:
    """One server for all tests."""
    told = ("--model", str(tiny_model), "--served-model-name", "tiny", "--trust-request-mm-kwargs", *server_options())
    log = tmp_path_factory.mktemp("server") / "log"
    plan = ServerPlan(label="server 0", command=(*COMMAND, *told), environment=dict(os.environ), log=log)
    asking = OpenAIEngine(api_base=(), request_timeout_s=100, video_times=True)
    engine = server_loop.run(serve([plan], asking, "tiny", lambda _: None))
    yield engine
    server_loop.run(engine.aclose())


@pytest.fixture(scope="module")
def api_base(serving: ServeEngine, server_loop: asyncio.Runner) -> str:
    """Where it is, as a reply says."""
    request = msgspec.structs.replace(make_request(), model=Model(model_id="tiny", max_new_tokens=512))
    endpoint = server_loop.run(serving.generate(request)).endpoint
    assert endpoint is not None
    return endpoint


@pytest.fixture(autouse=True)
def _server(request: pytest.FixtureRequest, serving: ServeEngine, api_base: str, server_loop: asyncio.Runner) -> None:
    if request.instance is not None:
        request.instance.serving, request.instance.server_loop = serving, server_loop
        request.instance.api_base = api_base


async def wait_until_running(api_base: str) -> None:
    """Return once the server says in its metrics that it runs a request."""

    def running() -> float:
        with urllib.request.urlopen(f"{api_base.removesuffix('/v1')}/metrics", timeout=60) as metrics:
            lines = metrics.read().decode().splitlines()
        gauge = "vllm:num_requests_running{"
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(gauge))

    await wait_until(running)


class TestServe(ModelContract):
    refused = "http_400"
    serving: ServeEngine
    server_loop: asyncio.Runner

    api_base: str

    def make_engine(self) -> Engine:
        return KeptEngine(self.serving)

    async def wait_until_answering(self) -> None:
        await wait_until_running(self.api_base)

    def model(self) -> Model:
        return Model(model_id="tiny", temperature=0.7, max_new_tokens=2048)

    def run(self, scenario: Coroutine[Any, Any, T]) -> T:
        return self.server_loop.run(_within(scenario, 100))


class TestOpenAIAtVllm(ModelContract):
    refused = "http_400"
    api_base = ""

    def make_engine(self) -> Engine:
        return OpenAIEngine(api_base=self.api_base, request_timeout_s=100, video_times=True)

    async def wait_until_answering(self) -> None:
        await wait_until_running(self.api_base)

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


async def _within(scenario: Coroutine[Any, Any, T], seconds: float) -> T:
    return await asyncio.wait_for(scenario, seconds)
