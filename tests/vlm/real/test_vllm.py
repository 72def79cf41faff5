"""vLLM in this process, with a real, tiny model. One start serves all tests of the contract."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil
import pytest

from annotator.errors import CallError, NoEngine
from annotator.prompting import answers
from annotator.vlm.base import Engine, Reply, Stoppable
from annotator.vlm.vllm_local.engine import VllmEngine
from annotator.vlm.vllm_local.messages import render_prompt
from annotator_store.keys import Model
from tests.contracts.engine_contract import ModelContract, make_picture, make_request, wait_until
from tests.vlm.real.conftest import CONTEXT, ON_A_CPU, KeptEngine

T = TypeVar("T")

RUN = f"""
import asyncio, sys, time
from annotator.vlm.vllm_local.engine import VllmEngine

engine = VllmEngine(
    model_id=sys.argv[1], max_model_len={CONTEXT}, gpu_memory_utilization=0.3, engine_kwargs={ON_A_CPU}
)
asyncio.run(engine.start())
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="class")
def started(tiny_model: Path, loop: asyncio.Runner) -> Iterator[VllmEngine]:
    """A running engine; when it is closed, none of its processes is left."""
    engine = VllmEngine(
        model_id=str(tiny_model), max_model_len=CONTEXT, gpu_memory_utilization=0.3, engine_kwargs=ON_A_CPU
    )
    loop.run(engine.start())
    children = psutil.Process().children(recursive=True)
    assert children
    yield engine
    loop.run(engine.aclose())
    loop.run(engine.aclose())
    gone, alive = psutil.wait_procs(children, timeout=5)
    # Python's own tracker of shared resources stays until the interpreter ends.
    assert not [p for p in alive if "resource_tracker" not in " ".join(p.cmdline())]
    assert gone


@pytest.fixture(autouse=True)
def _engine(request: pytest.FixtureRequest) -> None:
    if request.instance is not None:
        request.instance.started = request.getfixturevalue("started")
        request.instance.loop = request.getfixturevalue("loop")


class TestVllm(ModelContract):
    refused = "bad_request"
    started: VllmEngine
    loop: asyncio.Runner

    def make_engine(self) -> Engine:
        return KeptEngine(self.started)

    def model(self) -> Model:
        return Model(model_id="tiny", temperature=0.7, max_new_tokens=2048)

    async def wait_until_answering(self) -> None:
        llm = await self.started.start()
        await wait_until(llm.get_num_unfinished_requests)

    def run(self, scenario: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(_within(scenario, 120))

    def test_a_reply_says_on_what_and_how_it_was_computed(self) -> None:
        versions = self.asked(make_request()).versions
        assert versions["hardware"]
        assert versions["batch_invariant"] == "false"
        assert {"vllm", "torch"} <= versions.keys()

    def test_stopping_lets_what_is_in_the_batch_end_and_begins_no_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self.started, "_slots", asyncio.Semaphore(2))
        monkeypatch.setattr(self.started, "_stopped", False)  # again after the test, for those that share the engine
        assert isinstance(self.started, Stoppable)

        async def scenario() -> list[Reply | BaseException]:
            requests = [msgspec.structs.replace(make_request(seed=seed), model=self.model()) for seed in range(40)]
            tasks = [asyncio.create_task(self.started.generate(request)) for request in requests]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self.started.stop()
            return await asyncio.gather(*tasks, return_exceptions=True)

        ended = self.run(scenario())
        replies = [one for one in ended if isinstance(one, Reply)]
        assert 1 <= len(replies) <= 4
        stopped = [(one.kind, one.attempts) for one in ended if isinstance(one, CallError)]
        assert stopped == [("stopped", 0)] * (40 - len(replies))

    def test_a_sheet_that_several_steps_look_at_is_processed_once(self) -> None:
        sheet = make_picture(width_px=320, shade=77)
        # Told by its digest, not by its pixels, which would have to be hashed each time.
        known = msgspec.structs.replace(make_picture(width_px=320, shade=78), media_digest=sheet.media_digest)
        asked = [(answers.Task, sheet), (answers.Memory, sheet), (answers.InitialSpeech, known)]

        async def scenario() -> tuple[int, int]:
            cache = (await self.started.start()).renderer.mm_processor_cache
            before = cache.make_stats()
            for answer, picture in asked:
                await self.ask(self.make_engine(), make_request(answer, text=answer.__name__, pictures=(picture,)))
            after = cache.make_stats()
            return after.total - before.total, after.hits - before.hits

        assert self.run(scenario()) == (3, 2)

    def test_a_video_is_told_at_its_own_times(self) -> None:
        async def prompt(first_s: float, step_s: float) -> str:
            times = tuple(first_s + i * step_s for i in range(6))
            video = _at(make_picture("video", frames=6), times)
            llm = await self.started.start()
            request = make_request(pictures=(video,))
            return llm.renderer.get_tokenizer().decode((await render_prompt(llm, request))["prompt_token_ids"])

        # Two frames make one block, said at the mean of their times.
        assert "<0.2 seconds>" in self.run(prompt(0.0, 0.5))
        shifted = self.run(prompt(60.0, 0.25))
        assert all(f"<{time} seconds>" in shifted for time in ("60.1", "60.6", "61.1"))


def test_a_run_that_is_killed_leaves_none_of_its_processes(tiny_model: Path) -> None:
    run = psutil.Popen([sys.executable, "-c", RUN, str(tiny_model)], stdout=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n"
    started = run.children(recursive=True)
    assert any("EngineCore" in " ".join(p.cmdline()) for p in started)
    run.stdout.close()
    run.kill()
    run.wait()
    end = time.monotonic() + 20
    while left := [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < end, left
        time.sleep(0.1)


def test_what_cannot_start_is_one_clear_problem_and_leaves_no_process(tmp_path: Path) -> None:
    async def scenario() -> str:
        engine = VllmEngine(model_id=str(tmp_path))
        with pytest.raises(NoEngine) as caught:
            await engine.start()
        await engine.aclose()
        return f"{caught.value}"

    said = asyncio.run(scenario())
    assert "vLLM does not start" in said
    assert str(tmp_path) in said
    assert "--vlm.model_id" in said


async def _within(scenario: Coroutine[Any, Any, T], seconds: float) -> T:
    return await asyncio.wait_for(scenario, seconds)


def _at(video: Any, times: tuple[float, ...]) -> Any:
    return msgspec.structs.replace(video, timestamps=times, media_digest=f"{int(times[0]):032x}")
